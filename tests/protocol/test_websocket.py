import pytest
from websockets.frames import Frame, Opcode

from protocol.websocket import text_message


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_message_is_what_websockets_writes(size: int) -> None:
    text = "a" * size
    assert text_message(text) == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


def test_its_length_is_that_of_its_bytes() -> None:
    text = "믿" * 42  # 126 bytes
    assert text_message(text) == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)

"""Whatever anybody sends is understood or refused in words: nothing else can come of it.

A hundred thousand frames, and as many bodies and streams as are quick; `FUZZ_EXAMPLES` for more.
"""

import json
from collections.abc import Iterator, Mapping
from random import Random
from typing import TypeVar, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from protocol.chat import MAX_MESSAGE_CHARS, MAX_REQUEST_ID_CHARS, Model
from protocol.client_frames import ClientFrame, parse_client_frame
from protocol.cursor import Cursor
from protocol.errors import ErrorCode, Refusal
from protocol.invalid import MAX_DEPTH, MAX_FINDINGS, parse_json, refusal
from protocol.rest import CancelRequest, ChatRequest, CreateSession, HistoryQuery, SessionsQuery
from protocol.server_frames import Error
from protocol.sse import Decoder, EventTooLong
from tests.protocol.mutations import (
    any_body,
    any_frame,
    arbitrary_text,
    examples,
    nested,
    spoilt_bytes,
)

M = TypeVar("M", bound=Model)

BATCH = 100
"""So much is made of one seed: an example costs Hypothesis more than what is tested costs."""

MAX_SAID_CHARS = 3_000
OF_INPUT = {
    *(ErrorCode.BAD_JSON, ErrorCode.BAD_FRAME, ErrorCode.UNKNOWN_TYPE),
    ErrorCode.MESSAGE_TOO_LONG,
}
BODIES: dict[type[Model], Mapping[str, object]] = {
    CreateSession: {"metadata": {"a": [1, {"b": None}], "가": "😀"}},
    CancelRequest: {"turn": 3},
    ChatRequest: {
        "session_id": "s1",
        "message": "안녕",
        "request_id": "r1",
        "max_new_tokens": 9,
        "temperature": 0.5,
        "do_sample": True,
        "replaces": 1,
    },
}
QUERIES: dict[type[Model], Mapping[str, str]] = {
    HistoryQuery: {"limit": "20", "before": "m1", "include": "replaced"},
    SessionsQuery: {"limit": "20", "before": "s1"},
}
STREAM = (
    'data: {"a": "안"}\n\n: a comment of some length\nid: 1\r\ndata: b\r\ndata:c\r\n\r\n'.encode()
)
seeds = st.integers(0, 2**64 - 1)


def names(model: type[Model]) -> str:
    return model.__name__


def check_refusal(refused: Refusal) -> None:
    """A refusal has a code of its kind, and a text that fits on a line and harms no terminal."""
    assert refused.code in OF_INPUT
    assert 0 < len(refused.message) <= MAX_SAID_CHARS
    assert refused.message.isprintable(), ascii(refused.message)
    assert len(Error.of(refused).frame().message) < 2 * MAX_SAID_CHARS


def check_model(model: M) -> None:
    """What was understood can be stored and sent, and is understood the same again."""
    for text in texts(model.model_dump()):
        assert "\0" not in text
        text.encode()
    assert type(model).model_validate_json(model.model_dump_json()) == model


def texts(value: object) -> Iterator[str]:
    """Find every text in a value, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts([*value, *value.values()])
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def check_frame(text: str) -> ClientFrame | None:
    """Parse a frame; None if it is refused as it should be."""
    try:
        frame = parse_client_frame(text)
    except Refusal as refused:
        check_refusal(refused)
        return None
    assert type(frame) in get_args(ClientFrame)
    check_model(frame)
    assert len(getattr(frame, "message", "")) <= MAX_MESSAGE_CHARS
    assert len(getattr(frame, "request_id", None) or "") <= MAX_REQUEST_ID_CHARS
    return frame


def check_given(model: type[M], given: object) -> M | None:
    """Validate as the REST calls do; None if it is refused as it should be."""
    try:
        validated = model.model_validate({} if given is None else given)
    except ValidationError as error:
        check_refusal(refusal(error))
        return None
    check_model(validated)
    return validated


def check_body(model: type[M], data: bytes) -> M | None:
    """Read a body as the REST calls do; None if it is refused as it should be."""
    try:
        value = parse_json(data) if data.strip() else None
    except Refusal as refused:
        check_refusal(refused)
        return None
    return check_given(model, value)


@settings(max_examples=examples(1_200), deadline=None)
@given(seeds)
def test_a_spoilt_frame_is_understood_or_refused(seed: int) -> None:
    dice = Random(seed)
    for _ in range(BATCH):
        check_frame(any_frame(dice))


@settings(max_examples=examples(1_000), deadline=None)
@given(st.text(alphabet=st.characters()) | st.text(alphabet=st.characters()).map("{".__add__))
def test_any_text_is_understood_or_refused(text: str) -> None:
    check_frame(text)
    check_frame(f"/{text}")


@settings(max_examples=examples(300), deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["type", "message", "turn", "limit", "before", "request_id", "token"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    ),
    st.sampled_from(["chat", "regenerate", "cancel", "history", "auth", "ping", "help"]),
)
def test_a_frame_of_any_values_is_understood_or_refused(
    fields: dict[str, object], kind: str
) -> None:
    check_frame(json.dumps(fields))
    check_frame(json.dumps(fields | {"type": kind}, ensure_ascii=False))


def test_the_dice_make_frames_of_every_kind_and_of_every_fault() -> None:
    dice = Random(20)
    seen: set[object] = set()
    for _ in range(5_000):
        try:
            seen.add(type(parse_client_frame(any_frame(dice))))
        except Refusal as refused:
            seen.add(refused.code)
    assert seen == {*get_args(ClientFrame), *OF_INPUT}


@pytest.mark.parametrize("model", BODIES, ids=names)
@settings(max_examples=examples(100), deadline=None)
@given(seed=seeds)
def test_a_spoilt_body_is_understood_or_refused(model: type[Model], seed: int) -> None:
    dice = Random(seed)
    for _ in range(BATCH):
        check_body(model, any_body(BODIES[model], dice))


@pytest.mark.parametrize("model", BODIES, ids=names)
@settings(max_examples=examples(200), deadline=None)
@given(data=st.binary())
def test_any_bytes_are_a_body_or_refused(model: type[Model], data: bytes) -> None:
    check_body(model, data)


@pytest.mark.parametrize("model", QUERIES, ids=names)
@settings(max_examples=examples(100), deadline=None)
@given(seed=seeds)
def test_any_query_is_understood_or_refused(model: type[Model], seed: int) -> None:
    dice = Random(seed)
    for _ in range(BATCH):
        query = dict(QUERIES[model])
        query[dice.choice(list(query))] = arbitrary_text(dice)
        check_given(model, query)


@settings(max_examples=examples(300), deadline=None)
@given(seeds, st.integers(1, 7), st.sampled_from([10, 20, 40, 10_000]))
def test_any_bytes_are_a_stream_of_events_that_no_cut_changes(
    seed: int, size: int, limit: int
) -> None:
    data = b"".join(spoilt_bytes(STREAM, Random(seed + turn)) for turn in range(5))
    assert decoded(data, size=size, limit=limit) == decoded(data, size=len(data), limit=limit)


def decoded(data: bytes, *, size: int, limit: int) -> list[bytes] | None:
    """Decode a stream that comes in such pieces; None if something in it is too long."""
    decoder = Decoder(max_event_bytes=limit)
    try:
        return [
            event
            for at in range(0, len(data), size)
            for event in decoder.feed(data[at : at + size])
        ]
    except EventTooLong:
        return None


@settings(max_examples=examples(300), deadline=None)
@given(seeds)
def test_any_text_is_a_cursor_that_reads_the_same_or_none(seed: int) -> None:
    dice = Random(seed)
    for _ in range(BATCH):
        text = spoilt_cursor(dice)
        cursor = Cursor.parse(text)
        assert cursor is None or str(cursor) == text


def spoilt_cursor(dice: Random) -> str:
    """Make up something that is nearly a cursor, or is one."""
    parts = [dice.choice(("0", "7", "57", "end", "999999999", "1" * 16, "٣", "")) for _ in "..."]
    text = ".".join(parts)
    at = dice.randrange(len(text) + 1)
    return text[:at] + dice.choice(("", "", "\n", "\0", "0", "-", "\ud800", ".")) + text[at:]


def test_of_ten_thousand_fields_at_fault_a_few_are_named() -> None:
    adapter = TypeAdapter(dict[str, int])
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python({f"field{n}" * 50: "가" * 10_000 for n in range(10_000)})
    refused = refusal(caught.value)
    check_refusal(refused)
    assert refused.message.count("given 10000 characters") == MAX_FINDINGS
    assert refused.message.endswith(f"; and {10_000 - MAX_FINDINGS} more")


@pytest.mark.parametrize("kind", ["chat", "history", "auth", "ping", "nothing", "x" * 100_000])
def test_a_frame_with_ten_thousand_fields_is_refused_in_few_words(kind: str) -> None:
    fields = {f"field{n}": [n] for n in range(10_000)}
    faults = dict.fromkeys(["message", "token", "limit", "before", "request_id"], fields)
    assert check_frame(json.dumps(fields | faults | {"type": kind})) is None


@pytest.mark.parametrize("model", BODIES, ids=names)
def test_a_body_of_odd_fields_alone_is_refused_in_few_words(model: type[Model]) -> None:
    huge = {f"field{n}": ["x" * 100] for n in range(10_000)}
    body = json.dumps({name: [huge] for name in BODIES[model]}).encode()
    assert check_body(model, body) is None


@pytest.mark.parametrize("levels", [MAX_DEPTH - 2, MAX_DEPTH + 1, 1_000, 100_000])
def test_metadata_may_be_as_deep_as_json_may_and_no_deeper(levels: int) -> None:
    body = f'{{"metadata":{{"a":{nested(levels, Random(0))}}}}}'
    understood = check_body(CreateSession, body.encode())
    assert (understood is not None) == (levels < MAX_DEPTH)


@pytest.mark.parametrize(
    "text",
    [
        "/\x1b[31mred",
        "/a\u2028b",
        "/\x9b2J",
        "/\u202ecancel",
        "/" + "\0" * 100_000,
        '{"type": "\x9b2J"}',
        '{"type": "\\u001b[2J"}',
        '{"type": "cancel", "turn": "\u2028\u202e\x85\x7f"}',
        '{"type": "cancel", "turn": {"\ufeff\ud800": "\ue000"}}',
    ],
)
def test_what_a_terminal_would_obey_is_shown_and_not_repeated(text: str) -> None:
    assert check_frame(text) is None


def test_it_is_shown_as_json_escapes_it() -> None:
    with pytest.raises(Refusal, match=r"There is no /\\u001b\[31m"):
        parse_client_frame("/\x1b[31m")

"""What a reply may do to a terminal: be read."""

import pytest

from gateway.talk.shown import harmless, page, place_in_queue, way_back


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J", "␛]0;title␇␛[2J"),
        ("a\x9b31mb", "a\ufffd31mb"),
        ("safe\rEVIL", "safeEVIL"),
        ("\x08\x7f\0", "␈␡␀"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert harmless(text) == shown


@pytest.mark.parametrize(
    "text", ["줄\n\t바꿈", "👨\u200d👩\u200d👧", "\u3000넓은\u00a0칸", "ㅎ\u1161"]
)
def test_what_does_no_harm_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_a_place_in_the_queue_is_told_with_its_estimate() -> None:
    assert place_in_queue(3, None) == "place 3 in the queue"
    assert place_in_queue(1, 12_400) == "place 1 in the queue, about 12 s"


def test_history_is_written_for_people() -> None:
    at = "2026-11-27T12:00:00.123456Z"
    messages = [
        {"role": "user", "content": "하나\n둘", "created_at": at, "finish_reason": None},
        {"role": "assistant", "content": "셋\x1b", "created_at": at, "finish_reason": "cancelled"},
    ]
    lines = page({"messages": messages, "total_count": 7, "next_before": "m"}).split("\n")
    assert lines[0] == "(5 earlier messages)"
    assert lines[1].startswith("you, 2026-11-2")
    assert lines[2:4] == ["  하나", "  둘"]
    assert lines[4].endswith(" (cancelled)")
    assert lines[5] == "  셋␛"


def test_a_history_without_messages_says_so() -> None:
    assert page({"messages": [], "total_count": 0}) == "nothing has been said yet"


def test_what_is_to_be_copied_into_a_shell_does_nothing_else_there() -> None:
    session_id = "8308d7c7-aa27-4500-ab0c-89729caed6d0"
    assert way_back(session_id) == f"--session {session_id}"
    assert way_back("a; rm b") == "--session 'a; rm b'"

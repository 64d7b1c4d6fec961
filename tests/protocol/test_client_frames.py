"""Whatever a client sends is a frame, or a refusal that says what is wrong with it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.client_frames import (
    HELP,
    Auth,
    Cancel,
    Chat,
    ClientFrame,
    GetHelp,
    GetHistory,
    Ping,
    Regenerate,
    parse_client_frame,
)
from protocol.errors import Refusal
from protocol.server_frames import Error


def parse(**fields: Any) -> ClientFrame:
    return parse_client_frame(json.dumps(fields))


def refused(text: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse_client_frame(text)
    return caught.value


def refused_fields(**fields: Any) -> Refusal:
    return refused(json.dumps(fields))


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"type": "chat", "message": "안녕"}', Chat(message="안녕")),
        (
            '{"type": "chat", "message": "hi", "request_id": "r1", "max_new_tokens": 9,'
            ' "temperature": 0, "do_sample": false, "replaces": 3}',
            Chat(
                message="hi",
                request_id="r1",
                max_new_tokens=9,
                temperature=0.0,
                do_sample=False,
                replaces=3,
            ),
        ),
        ('{"type": "regenerate"}', Regenerate()),
        (
            '{"type": "regenerate", "turn": 3, "request_id": "r1", "temperature": 1.5}',
            Regenerate(turn=3, request_id="r1", temperature=1.5),
        ),
        ('{"type": "cancel"}', Cancel()),
        ('{"type": "cancel", "turn": 3}', Cancel(turn=3)),
        ('{"type": "history"}', GetHistory()),
        ('{"type": "history", "limit": 20, "before": "m1"}', GetHistory(limit=20, before="m1")),
        ('{"type": "auth", "token": "secret"}', Auth(token="secret")),
        ('{"type": "ping"}', Ping()),
        ('{"type": "ping", "request_id": "r1"}', Ping(request_id="r1")),
        ('{"type": "help"}', GetHelp()),
    ],
)
def test_every_frame_is_understood(text: str, frame: ClientFrame) -> None:
    assert parse_client_frame(text) == frame


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("안녕하세요", Chat(message="안녕하세요")),
        ("two\nlines\n", Chat(message="two\nlines\n")),
        (' {"type": "ping"}', Chat(message=' {"type": "ping"}')),
        ('["a list"]', Chat(message='["a list"]')),
        ("//text", Chat(message="/text")),
        ("///", Chat(message="//")),
        ("//cancel", Chat(message="/cancel")),
        ("/cancel", Cancel()),
        ("/cancel 3", Cancel(turn=3)),
        ("/regenerate", Regenerate()),
        ("/regenerate 3\n", Regenerate(turn=3)),
        ("/history", GetHistory()),
        ("/history 20", GetHistory(limit=20)),
        ("/history \t 20 ", GetHistory(limit=20)),
        ("/history\t20\r\n", GetHistory(limit=20)),
        ("/ping", Ping()),
        ("/ping are you there", Ping(request_id="are you there")),
        ("/help", GetHelp()),
        ("/help \n", GetHelp()),
    ],
)
def test_frames_may_be_typed_by_hand(text: str, frame: ClientFrame) -> None:
    assert parse_client_frame(text) == frame


@pytest.mark.parametrize("line", [line for line in HELP.splitlines() if line.startswith("/")])
def test_what_the_help_shows_works(line: str) -> None:
    assert parse_client_frame(line.split("  ")[0])


@pytest.mark.parametrize("typed", ["/", "/ ", "/dance", "/Cancel", "/cancel3", "/\ud800", "/\0"])
def test_an_unknown_shorthand_is_told_the_known_ones(typed: str) -> None:
    refusal = refused(typed)
    assert refusal.code == "unknown_type"
    assert "/cancel, /regenerate, /history, /ping, /help" in refusal.message


def test_a_shorthand_takes_what_its_field_takes() -> None:
    assert refused("/history many").message.startswith("limit: ")
    assert refused("/help me").code == "bad_frame"
    assert refused("/cancel 0").message.startswith("turn: ")


@pytest.mark.parametrize(
    "kind", ['"dance"', '""', "null", "5", '["chat"]', '{"chat": 1}', '"Chat"']
)
def test_an_unknown_type_is_named_beside_the_known_ones(kind: str) -> None:
    refusal = refused(f'{{"type": {kind}}}')
    assert refusal.code == "unknown_type"
    assert refusal.message == (
        "type: should be one of chat, regenerate, cancel, history, auth, ping, help, "
        f"given {json.dumps(json.loads(kind))}"
    )


def test_a_frame_without_a_type_is_of_none() -> None:
    assert refused("{}").code == "unknown_type"
    assert refused('{"message": "hi"}').code == "unknown_type"


@pytest.mark.parametrize("text", ["{", "{}}", "{oops", '{"type": "chat", "message": NaN}', "{\0}"])
def test_what_begins_with_a_brace_has_to_be_json(text: str) -> None:
    assert refused(text).code == "bad_json"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"type": "chat"}, "message: field required"),
        ({"type": "chat", "message": 5}, "message: input should be a valid string, given 5"),
        (
            {"type": "chat", "message": None},
            "message: input should be a valid string, given null",
        ),
        (
            {"type": "chat", "message": "hi", "max_new_tokens": 0},
            "max_new_tokens: input should be greater than or equal to 1, given 0",
        ),
        (
            {"type": "chat", "message": "hi", "max_new_tokens": 8_193},
            "max_new_tokens: input should be less than or equal to 8192, given 8193",
        ),
        (
            {"type": "chat", "message": "hi", "temperature": 2.1},
            "temperature: input should be less than or equal to 2, given 2.1",
        ),
        (
            {"type": "chat", "message": "hi", "request_id": ""},
            'request_id: string should have at least 1 character, given ""',
        ),
        (
            {"type": "chat", "message": "hi", "request_id": "x" * 65},
            "request_id: string should have at most 64 characters, given 65 characters",
        ),
        (
            {"type": "history", "limit": 1_001},
            "limit: input should be less than or equal to 1000, given 1001",
        ),
        (
            {"type": "cancel", "turn": -1, "request_id": []},
            "turn: input should be greater than or equal to 1, given -1; "
            "request_id: input should be a valid string, given []",
        ),
    ],
)
def test_a_refusal_says_which_field_what_is_allowed_and_what_was_given(
    fields: dict[str, Any], says: str
) -> None:
    refusal = refused_fields(**fields)
    assert (refusal.code, refusal.message) == ("bad_frame", says)


def test_a_token_is_never_shown() -> None:
    refusal = refused_fields(type="auth", token=["s3cret"])
    assert refusal.message.startswith("token: ")
    assert "s3cret" not in refusal.message


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "dance"},
        {"type": "chat"},
        {"type": "chat", "message": "x" * 32_001},
        {"type": "cancel", "turn": "x"},
        {"type": "history", "limit": 0},
        {"type": "auth"},
    ],
)
@pytest.mark.parametrize("request_id", ["r1", "x" * 64, "질문 1", "line\nbreak"])
def test_a_refusal_carries_the_request_id(fields: dict[str, Any], request_id: str) -> None:
    assert refused_fields(**fields, request_id=request_id).request_id == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 65, 5, None, ["r1"], {"r": 1}])
def test_a_request_id_that_is_none_is_not_carried(request_id: object) -> None:
    assert refused_fields(type="dance", request_id=request_id).request_id is None


def test_a_request_id_is_the_same_whether_its_request_is_taken_or_refused() -> None:
    written = "\ud800\0\ud83d\ude00"
    taken = parse(type="chat", message="hi", request_id=written)
    assert isinstance(taken, Chat)
    assert taken.request_id == "\ufffd\ufffd😀"
    assert refused_fields(type="dance", request_id=written).request_id == taken.request_id


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("a\0b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("a\u2028b\x85c", "a\u2028b\x85c"),
    ],
)
def test_a_message_is_made_storable(written: str, message: str) -> None:
    for text in (json.dumps({"type": "chat", "message": written}), written):
        frame = parse_client_frame(text)
        assert isinstance(frame, Chat)
        assert frame.message == message


@pytest.mark.parametrize("blank", ["", " ", "\n\t ", "\u3000", "\u2028"])
def test_a_blank_message_is_refused(blank: str) -> None:
    assert refused_fields(type="chat", message=blank).code == "bad_frame"
    assert refused(blank).message.startswith("message: ")


def test_a_message_keeps_the_white_space_around_it() -> None:
    frame = parse(type="chat", message="  code\n")
    assert isinstance(frame, Chat)
    assert frame.message == "  code\n"


@pytest.mark.parametrize("character", ["x", "안", "😀", "\0", "\\"])
def test_the_longest_message_has_32000_characters(character: str) -> None:
    frame = parse(type="chat", message=character * 32_000)
    assert isinstance(frame, Chat)
    assert len(frame.message) == 32_000
    refusal = refused_fields(type="chat", message=character * 32_001)
    assert refusal.code == "message_too_long"
    assert refusal.message == (
        "message: string should have at most 32000 characters, given 32001 characters"
    )


def test_a_long_message_may_be_typed_as_well() -> None:
    assert parse_client_frame("x" * 32_000)
    assert refused("x" * 32_001).code == "message_too_long"


@pytest.mark.parametrize("turn", [10**9, 2**63, 10**400, -(10**400)])
def test_a_huge_turn_is_refused(turn: int) -> None:
    for frame in ({"type": "cancel"}, {"type": "regenerate"}):
        assert refused_fields(**frame, turn=turn).message.startswith("turn: ")
    assert refused_fields(type="chat", message="hi", replaces=turn).code == "bad_frame"


def test_fields_that_are_not_known_are_ignored() -> None:
    assert parse(type="chat", message="hi", use_rag=False, top_k=5) == Chat(message="hi")


def test_of_a_field_that_is_given_twice_the_last_counts() -> None:
    text = '{"type": "ping", "type": "chat", "message": "one", "message": "two"}'
    assert parse_client_frame(text) == Chat(message="two")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters()), children),
    max_leaves=6,
)
fields = st.dictionaries(
    st.sampled_from(
        ["message", "request_id", "turn", "replaces", "limit", "before", "token", "temperature"]
    ),
    json_values,
)
kinds = st.sampled_from(["chat", "regenerate", "cancel", "history", "auth", "ping", "help", "x"])


def parsed_or_refused(text: str) -> None:
    try:
        frame = parse_client_frame(text)
    except Refusal as refusal:
        Error.of(refusal).frame().text.encode()
    else:
        frame.model_dump_json().encode()


@settings(deadline=None)
@given(st.text(st.characters()) | st.text(st.characters()).map("{".__add__))
def test_any_text_is_a_frame_or_a_refusal_that_can_be_sent(text: str) -> None:
    parsed_or_refused(text)


@settings(deadline=None)
@given(st.text(st.characters(), max_size=30).map("/".__add__))
def test_any_shorthand_is_a_frame_or_a_refusal_that_can_be_sent(text: str) -> None:
    parsed_or_refused(text)


@settings(deadline=None)
@given(kinds, fields)
def test_any_fields_are_a_frame_or_a_refusal_that_can_be_sent(
    kind: str, fields: dict[str, Any]
) -> None:
    parsed_or_refused(json.dumps({"type": kind, **fields}))

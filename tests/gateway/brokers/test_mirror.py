"""What of a turn is still to be sent: offsets, merging, and answers of every kind."""

import json
from typing import Any

import pytest

from gateway.brokers.layout import MISSING, NOT_HEARD, Layout
from gateway.brokers.mirror import Mirror
from tests.gateway.brokers.nodes import ending_of, live_turn

LAYOUT = Layout("p", "n1", ttl_ms=1_000)
FAILED = OSError("nobody knows")


def begun(*pieces: str) -> Mirror:
    """A mirror of which Redis has all so far, and nobody listens."""
    mirror = Mirror("s", live_turn(7, 2))
    say(mirror, *pieces)
    mirror.call(LAYOUT)
    mirror.took(0, listening=False)
    return mirror


def say(mirror: Mirror, *pieces: str) -> None:
    for piece in pieces:
        mirror.turn.append(piece, mirror.turn.token_count + 1)


def sent(mirror: Mirror) -> tuple[str, Any]:
    """The next call: the name of its script, and cursors and entries."""
    call = mirror.call(LAYOUT)
    rest = [str(arg) for arg in call.args[3:]]
    cursors = rest[: 2 if call.script.name == "go on" else 1]
    flat = iter(rest[len(cursors) :])
    entries = [(kind, _content(kind, body)) for kind, body in zip(flat, flat, strict=True)]
    return call.script.name, (*cursors, *entries)


def _content(kind: str, body: str) -> str:
    match kind:
        case "text":
            return str(json.loads(body)["content"])
        case "begin":
            return str(json.loads(body)["id"])
        case "end":
            return body.split(" ")[0]
    return body


def test_it_begins_with_all_there_is() -> None:
    mirror = Mirror("s", live_turn(7, 2))
    say(mirror, "one ", "two")
    mirror.place(2, 1_500)
    assert mirror.due
    assert mirror.urgent
    begin = ("begin", "7.2.0"), ("place", "2 1500"), ("text", "one two")
    assert sent(mirror) == ("begin", ("7.2.7", *begin))
    mirror.took(0, listening=False)
    assert not mirror.due


def test_it_goes_on_where_redis_is() -> None:
    mirror = begun("one ")
    say(mirror, "two ", "three")
    assert mirror.due
    assert sent(mirror) == ("go on", ("7.2.13", "7.2.4", ("text", "two three")))
    mirror.took(0, listening=False)
    assert not mirror.due


def test_what_comes_while_one_call_is_under_way_is_in_the_next() -> None:
    mirror = begun()
    say(mirror, "one ")
    mirror.call(LAYOUT)
    say(mirror, "two ")
    mirror.took(0, listening=False)
    assert mirror.due
    assert sent(mirror) == ("go on", ("7.2.8", "7.2.4", ("text", "two ")))


@pytest.mark.parametrize(
    ("heard", "listening", "eager"),
    [(0, False, False), (1, False, True), (1, True, False), (2, True, True)],
)
def test_it_is_eager_while_another_node_listens(heard: int, listening: bool, eager: bool) -> None:
    mirror = begun()
    say(mirror, "one ")
    mirror.call(LAYOUT)
    mirror.took(heard, listening=listening)
    say(mirror, "two ")
    assert (mirror.eager, mirror.urgent) == (eager, eager)
    # Refreshing tells nobody anything, so that nothing is learnt from it.
    mirror.took(NOT_HEARD, listening=listening)
    assert mirror.eager == eager


@pytest.mark.parametrize(("head", "since"), [("7.2.8", "7.2.8"), ("7.2.2", "7.2.2")])
def test_where_an_answer_was_lost_it_goes_on_from_the_head(head: str, since: str) -> None:
    mirror = begun("one ")
    say(mirror, "two ", "three")
    mirror.call(LAYOUT)
    assert mirror.took(head, listening=False) == "again"
    assert mirror.urgent or mirror.due
    _, (_, was, (_, text)) = sent(mirror)
    assert (was, text) == (since, "one two three"[int(since.split(".")[2]) :])


@pytest.mark.parametrize("head", [MISSING, "6.1.end", "7.1.5", "7.2.99", "nonsense"])
def test_where_redis_does_not_know_it_all_is_sent_again(head: str) -> None:
    mirror = begun("one ")
    mirror.place(1, None)
    say(mirror, "two")
    mirror.call(LAYOUT)
    assert mirror.took(head, listening=False) == "again"
    assert mirror.urgent
    begin = ("begin", "7.2.0"), ("place", "1 "), ("text", "one two")
    assert sent(mirror) == ("begin", ("7.2.7", *begin))


@pytest.mark.parametrize(
    ("head", "verdict"),
    [("7.3.0", "fenced"), ("8.1.0", "fenced"), ("7.2.end", "fenced"), ("deleted", "deleted")],
)
def test_it_falls_silent_where_it_is_outdated(head: str, verdict: str) -> None:
    mirror = begun("one ")
    say(mirror, "two")
    mirror.call(LAYOUT)
    assert mirror.took(head, listening=False) == verdict
    assert (mirror.over, mirror.due, mirror.open) == (True, False, False)


def test_where_nobody_knows_what_was_done_the_same_is_sent_again() -> None:
    mirror = begun("one ")
    say(mirror, "two")
    first = sent(mirror)
    assert mirror.took(FAILED, listening=False) == "fine"
    assert mirror.due
    assert sent(mirror) == first


def test_the_end_takes_along_what_was_not_sent_yet() -> None:
    mirror = begun("one ")
    say(mirror, "two")
    mirror.call(LAYOUT)
    say(mirror, " three")
    mirror.end(ending_of(mirror.turn), with_text=True)
    mirror.turn.finish(ending_of(mirror.turn))
    mirror.took(1, listening=False)
    assert not mirror.eager
    assert sent(mirror) == ("end", ("7.2.end", ("text", " three"), ("end", "13")))
    mirror.took(0, listening=False)
    assert mirror.over


def test_an_end_that_waits_for_redis_holds_no_text() -> None:
    mirror = begun("one ")
    say(mirror, "two")
    mirror.end(ending_of(mirror.turn), with_text=False)
    mirror.turn.finish(ending_of(mirror.turn))
    assert sent(mirror) == ("end", ("7.2.end", ("end", "7")))
    mirror.took(FAILED, listening=False)
    assert mirror.urgent
    assert mirror._tail == []


def test_a_turn_that_is_over_at_once_is_told_in_one_call() -> None:
    mirror = Mirror("s", live_turn(7, 2))
    say(mirror, "all of it")
    mirror.end(ending_of(mirror.turn), with_text=True)
    mirror.turn.finish(ending_of(mirror.turn))
    entries = ("begin", "7.2.0"), ("text", "all of it"), ("end", "9")
    assert sent(mirror) == ("end", ("7.2.end", *entries))


def test_a_place_is_told_once() -> None:
    mirror = begun()
    for position, eta_ms in ((2, 900), (1, None), (0, None)):
        mirror.place(position, eta_ms)
        assert mirror.due
        told = ("place", f"{position} {eta_ms or ''}")
        assert sent(mirror) == ("go on", ("7.2.0", "7.2.0", told))
        mirror.took(0, listening=False)
        assert not mirror.due


def test_a_long_reply_is_sent_in_parts() -> None:
    mirror = Mirror("s", live_turn(7, 2))
    say(mirror, "x" * 200_000)
    parts = []
    while mirror.due:
        name, (upto, *_) = sent(mirror)
        parts.append((name, upto))
        mirror.took(0, listening=False)
    assert parts[0][0] == "begin"
    assert {name for name, _ in parts[1:]} == {"go on"}
    assert len(parts) == 4
    assert parts[-1][1] == "7.2.200000"


def test_a_turn_that_became_void_is_sent_no_more() -> None:
    mirror = begun("one ")
    say(mirror, "two")
    mirror.turn.withdraw()
    assert not mirror.due
    assert not mirror.open

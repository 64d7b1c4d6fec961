"""What a node makes of what it hears, in whatever order: decided without a server."""

import json

import pytest

from gateway.brokers.layout import News
from gateway.brokers.memory import MemoryChannel
from gateway.brokers.mirror import Mirror
from gateway.brokers.replica import Advice, View
from tests.gateway.brokers.nodes import ending_of, live_turn


def view_of(turn: int = 7, attempt: int = 2, text: str = "one ") -> View:
    """A view of a turn that runs elsewhere."""
    view = View(MemoryChannel(), now=0.0)
    hear(view, f"{turn}.{attempt}", "begin", start(turn, attempt))
    if text:
        hear(view, f"{turn}.{attempt}", "text", token(f"{turn}.{attempt}.{len(text)}", text))
    return view


def start(turn: int, attempt: int) -> str:
    return live_turn(turn, attempt).start.text


def token(at: str, content: str) -> str:
    return json.dumps({"type": "token", "id": at, "content": content, "token_count": 9})


def hear(view: View, at: str, kind: str, body: str) -> Advice:
    turn, attempt = at.split(".")
    return view.hear(News("n2", int(turn), int(attempt), kind, body), now=1.0)


def shown(view: View) -> tuple[int, int, str] | None:
    live = view.channel.live
    return (live.turn, live.attempt, live.text()) if live else None


@pytest.mark.parametrize(
    ("at", "content", "advice", "text"),
    [
        ("7.2.7", "two", Advice.NOTHING, "one two"),
        ("7.2.7", "e two", Advice.NOTHING, "one two"),
        ("7.2.7", "one two", Advice.NOTHING, "one two"),
        ("7.2.4", "one ", Advice.NOTHING, "one "),
        ("7.2.3", "one", Advice.NOTHING, "one "),
        ("7.2.8", "two", Advice.READ, "one "),
    ],
)
def test_text_is_taken_where_it_fits(at: str, content: str, advice: Advice, text: str) -> None:
    view = view_of()
    assert hear(view, "7.2", "text", token(at, content)) == advice
    assert shown(view) == (7, 2, text)


@pytest.mark.parametrize(
    ("at", "advice"),
    [
        ("7.1", Advice.NOTHING),
        ("6.9", Advice.NOTHING),
        ("7.3", Advice.READ),
        ("8.1", Advice.READ),
    ],
)
def test_text_of_a_turn_that_did_not_begin_here(at: str, advice: Advice) -> None:
    view = view_of()
    assert hear(view, at, "text", token(f"{at}.4", "text")) == advice
    assert shown(view) == (7, 2, "one ")


@pytest.mark.parametrize("attempt", [1, 2])
def test_what_is_over_does_not_begin_again(attempt: int) -> None:
    view = view_of()
    hear(view, "7.2", "end", f"4 {ending_of(live_turn(7, 2)).text}")
    assert shown(view) is None
    hear(view, f"7.{attempt}", "begin", start(7, attempt))
    assert shown(view) is None
    assert hear(view, f"7.{attempt}", "text", token(f"7.{attempt}.9", "x")) == Advice.NOTHING
    view.replay([("begin", start(7, attempt)), ("text", token(f"7.{attempt}.9", "x" * 9))])
    assert shown(view) is None
    hear(view, "7.3", "begin", start(7, 3))
    assert shown(view) == (7, 3, "")


def test_an_older_attempt_does_not_replace_a_newer_one() -> None:
    view = view_of()
    for turn, attempt in ((7, 1), (6, 9)):
        hear(view, f"{turn}.{attempt}", "begin", start(turn, attempt))
        view.replay(
            [("begin", start(turn, attempt)), ("place", "3 "), ("text", token("7.1.4", "x"))]
        )
        hear(view, f"{turn}.{attempt}", "end", f"4 {ending_of(live_turn(7, 1)).text}")
        assert shown(view) == (7, 2, "one ")
        assert view.channel.live is not None
        assert view.channel.live.position == 0


def test_the_stream_fills_what_is_missing() -> None:
    view = view_of()
    before = view.channel.live
    view.replay([("begin", start(7, 2)), ("text", token("7.2.2", "on")), ("place", "0 ")])
    assert shown(view) == (7, 2, "one ")
    view.replay([("begin", start(7, 2)), ("text", token("7.2.7", "one two"))])
    assert shown(view) == (7, 2, "one two")
    assert view.channel.live is before
    view.replay([("begin", start(8, 1)), ("place", "2 1500"), ("text", token("8.1.3", "new"))])
    assert shown(view) == (8, 1, "new")
    view.replay([])
    assert shown(view) == (8, 1, "new")


def test_a_turn_whose_text_comes_is_out_of_the_queue() -> None:
    view = view_of(text="")
    hear(view, "7.2", "place", "2 1500")
    assert view.channel.live is not None
    assert view.channel.live.position == 2
    hear(view, "7.2", "text", token("7.2.3", "one"))
    assert view.channel.live.position == 0


@pytest.mark.parametrize(
    ("head", "advice"),
    [
        (None, Advice.NOTHING),
        ("nonsense", Advice.NOTHING),
        ("deleted", Advice.FORGET),
        ("7.1.99", Advice.NOTHING),
        ("7.1.end", Advice.NOTHING),
        ("6.1.end", Advice.NOTHING),
        ("7.2.3", Advice.NOTHING),
        ("7.2.4", Advice.NOTHING),
        ("7.2.5", Advice.READ),
        ("7.3.0", Advice.READ),
        ("8.1.0", Advice.READ),
    ],
)
def test_a_replica_is_compared_with_the_head(head: str | None, advice: Advice) -> None:
    view = view_of()
    assert view.compare(head) == advice
    assert shown(view) == (7, 2, "one ")
    assert view.channel.doubts == 0


@pytest.mark.parametrize("head", ["7.2.end", "7.3.end", "9.1.end"])
def test_what_is_over_by_the_head_is_found_in_storage(head: str) -> None:
    view = view_of()
    replica = view.channel.live
    assert view.compare(head) == Advice.NOTHING
    assert replica is not None
    assert replica.void
    assert shown(view) is None
    assert (view.channel.doubts, view.channel.newest) == (1, int(head[0]))
    view.compare(head)
    assert view.channel.doubts == 1, "once"


@pytest.mark.parametrize(
    ("head", "advice"),
    [
        (None, Advice.SEND),
        ("7.1.9", Advice.SEND),
        ("6.1.end", Advice.SEND),
        ("7.2.0", Advice.NOTHING),
        ("7.2.99", Advice.NOTHING),
        ("7.2.end", Advice.LOOK),
        ("7.3.0", Advice.READ),
    ],
)
def test_a_turn_that_runs_here_is_compared_with_the_head(head: str | None, advice: Advice) -> None:
    view = View(MemoryChannel(), now=0.0)
    turn = live_turn(7, 2)
    view.begin(Mirror("s", turn), lambda: None)
    view.channel.attach(turn)
    assert view.replica is None
    assert view.compare(head) == advice
    assert view.channel.live is turn


def test_a_newer_attempt_takes_over_what_runs_here() -> None:
    view = View(MemoryChannel(), now=0.0)
    turn = live_turn(7, 2)
    view.begin(Mirror("s", turn), lambda: None)
    view.channel.attach(turn)
    hear(view, "7.2", "text", token("7.2.4", "what"))
    hear(view, "7.1", "begin", start(7, 1))
    assert view.channel.live is turn
    hear(view, "7.3", "begin", start(7, 3))
    assert view.taken_over
    assert turn.void
    assert shown(view) == (7, 3, "")

"""The broker of many nodes: what readers on other nodes see, when all goes well."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.brokers.redis import BrokerTimes
from gateway.nodes.link import Call
from protocol.cursor import Cursor
from protocol.errors import ErrorCode
from protocol.server_frames import Error, Frame
from tests.gateway.brokers.nodes import SESSION, TIMES, Node, Nodes, some_nodes, until

LONG = BrokerTimes(lazy_s=0.2, compare_s=60.0)
"""Nothing is found out by comparing, within a test."""


async def keys(node: Node) -> dict[str, int]:
    """All keys of this deployment, and for how many milliseconds they will be there."""
    asking = node.link._connected()
    [names] = await asking.ask(("KEYS", f"{node.link.prefix}:*"))
    times = await asking.ask(*(("PTTL", name) for name in names)) if names else []
    return dict(zip(names, times, strict=True))


async def listening(node: Node, session_id: str = SESSION) -> None:
    """Wait until a node hears what is published of a session."""
    await until(lambda: node.broker._listens(session_id))


def spied_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many calls go to Redis in each go."""
    goes: list[int] = []
    run_all = node.link.run_all

    async def noted(calls: Sequence[Call]) -> list[Any]:
        goes.append(len(calls))
        return await run_all(calls)

    monkeypatch.setattr(node.link, "run_all", noted)
    return goes


# A tab on another node


async def test_a_tab_on_another_node_sees_a_turn_as_it_happens(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        await tab.until(lambda tab: tab.starts == [(1, 1)])
        for piece in ("안녕", "하세요", " 😀"):
            run.say(piece)
            await tab.shows(run.text)
        assert tab.token_frames == 3, "each as it came"
        run.end()
        await tab.sees_end()
        assert [frame.type for frame in tab.frames] == ["start", *["token"] * 3, "complete"]
        assert tab.frames[0].text == run.live.start.text
        assert json.loads(tab.frames[-2].text)["token_count"] == 3
        assert tab.stored.asked == 1, "when it joined"


async def test_a_tab_joins_in_the_middle_of_a_reply(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    run = here.begin()
    run.say("one ", "two ")
    await until(lambda: not here.broker._sending._due)
    run.say("three ")
    async with there.tab().open() as tab:
        await tab.shows("one two three ")
        run.say("four")
        await tab.shows("one two three four")
        run.end()
        await tab.sees_end()


async def test_a_tab_comes_back_on_another_node_where_it_was(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    async with here.tab().open() as tab:
        run = here.begin()
        run.say("one ", "two ")
        await tab.shows("one two ")
    back = there.tab()
    back.starts, back.texts = [(1, 1)], {1: "one two "}
    async with back.open(tab.reader.cursor):
        run.say("three")
        await back.shows("one two three")
        run.end()
        await back.sees_end()
    assert back.starts == [(1, 1)], "its start is not told again"


async def test_turns_follow_each_other_on_different_nodes(nodes: Nodes) -> None:
    one, two, three = [await nodes.open(LONG) for _ in range(3)]
    async with one.tab().open() as first, two.tab().open() as second, three.tab().open() as third:
        await asyncio.gather(listening(one), listening(two), listening(three))
        for turn, node in enumerate([one, two, three, two, one], start=1):
            run = node.begin(turn)
            run.say(f"turn {turn}")
            run.end()
            for tab in (first, second, third):
                await tab.sees_end(turn)
                assert tab.texts[turn] == f"turn {turn}"


async def test_a_turn_that_is_over_at_once_is_seen_whole(nodes: Nodes) -> None:
    """Begun, said and ended in one step, as a reply that comes in one piece is."""
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    seen: list[str | None] = []

    def look() -> None:
        seen.append(channel.live.text() if channel.live else None)

    async with there.tab().open() as tab:
        with there.broker.watch(SESSION, look) as channel:
            await listening(there)
            run = here.begin()
            run.say("all of it")
            run.end()
            await tab.sees_end()
            assert tab.text == "all of it"
            assert seen == ["", "all of it", None], "by those who look in the very step"


async def test_text_that_piles_up_is_merged(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        run.say("first ")
        await tab.shows("first ")
        run.say(*["word "] * 1_000)
        await tab.shows(run.text)
        assert tab.token_frames <= 3
        run.say("x" * 200_000)
        await tab.shows(run.text)
        run.end()
        await tab.sees_end()


async def test_the_place_in_the_queue_is_seen_everywhere(nodes: Nodes) -> None:
    def queue(event: dict[str, object]) -> tuple[object, object]:
        return event["position"], event.get("eta_ms")

    here, there = await nodes.open(LONG), await nodes.open(LONG)
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        run.publisher.place(position=2, eta_ms=1_500)
        await tab.until(lambda tab: [*map(queue, tab.asides)] == [(2, 1_500)])
        run.publisher.place(position=1, eta_ms=None)
        await tab.until(lambda tab: [*map(queue, tab.asides)] == [(2, 1_500), (1, None)])
        async with there.tab().open() as late, (await nodes.open(LONG)).tab().open() as later:
            for other in (late, later):
                await other.until(lambda tab: [*map(queue, tab.asides)] == [(1, None)])
        run.publisher.place(position=0, eta_ms=None)
        await until(lambda: there.broker.live(SESSION).status == "running")  # type: ignore[union-attr]


async def test_notices_are_seen_everywhere(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    trouble = Error(code=ErrorCode.STORAGE_ERROR, message="broken", retryable=True).frame()
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        run.publisher.notice(trouble)
        await tab.until(lambda tab: tab.asides == [json.loads(trouble.text)])
        run.publisher.notice(trouble)
        await tab.until(lambda tab: len(tab.asides) == 2)


# Who runs it, and who is deleted


async def test_whoever_runs_a_turn_is_asked_to_look_from_anywhere(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    run = here.begin()
    await listening(here)
    there.broker.ask_to_look("another session")
    there.broker.ask_to_look(SESSION)
    await asyncio.wait_for(run.looked.wait(), 5)


async def test_a_session_that_is_deleted_is_deleted_everywhere(nodes: Nodes) -> None:
    one, two, three = [await nodes.open(LONG) for _ in range(3)]
    async with one.tab().open() as first, two.tab().open() as second:
        await asyncio.gather(listening(one), listening(two))
        run = one.begin()
        run.say("text")
        await second.shows("text")
        three.broker.drop(SESSION)
        for tab in (first, second):
            await tab.until(lambda tab: tab.refusal)
            assert tab.refusal.code == ErrorCode.SESSION_NOT_FOUND  # type: ignore[union-attr]
        await asyncio.wait_for(run.looked.wait(), 5)
        run.say("more")
        run.end()
    assert {name.split(":")[1] for name in await keys(three)} == {"head"}
    await until(lambda: all(node.is_empty() for node in (one, two, three)))


async def test_a_turn_of_a_session_that_is_deleted_already_ends_there(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    there.broker.drop(SESSION)
    await until(lambda: there.broker._sending.idle)
    async with here.tab().open() as tab:
        await tab.until(lambda tab: tab.refusal)
    run = here.begin()
    await asyncio.wait_for(run.looked.wait(), 5)
    await until(here.is_empty)


# Attempts


async def test_a_higher_attempt_elsewhere_takes_over(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    async with here.tab().open() as near, there.tab().open() as far:
        await asyncio.gather(listening(here), listening(there))
        old = here.begin()
        old.say("first try")
        await far.shows("first try")
        new = there.begin(attempt=2)
        await asyncio.wait_for(old.looked.wait(), 5)
        old.say(" goes on")
        assert old.live.void
        new.say("second try")
        for tab in (near, far):
            await tab.shows("second try")
            assert tab.starts == [(1, 1), (1, 2)]
        old.publisher.withdraw()
        old.publisher.end(Frame("complete", Cursor(1, 1, 2**53), "{}"))
        new.end()
        for tab in (near, far):
            await tab.sees_end()
        assert here.broker.fenced == 1
        assert there.broker.fenced == 0


async def test_an_attempt_that_is_outdated_is_refused_by_the_script(nodes: Nodes) -> None:
    """Even if its node hears nothing at all."""
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    old = here.begin()
    old.say("first try")
    await listening(here)
    here.link.unsubscribe(here.broker._layout.news(SESSION))
    async with there.tab().open() as far:
        await far.shows("first try")
        new = there.begin(attempt=2)
        new.say("second try")
        await far.shows("second try")
        assert not old.looked.is_set()
        old.say(" goes on")
        await asyncio.wait_for(old.looked.wait(), 5)
        assert here.broker.fenced == 1
        # It learns of the newer attempt from the stream, and its own readers with it.
        await until(lambda: old.live.void)
        assert here.broker.live(SESSION).attempt == 2  # type: ignore[union-attr]
        new.say(" ends")
        await far.shows("second try ends")


async def test_an_outdated_attempt_is_no_news(nodes: Nodes) -> None:
    """Not its beginning, its text nor its end."""
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    async with there.tab().open() as tab:
        await listening(there)
        new = here.begin(turn=3, attempt=2)
        new.say("text")
        tab.reader.cursor = Cursor(2, 1, 2**53)
        await tab.shows("text", turn=3)
        view = there.broker._views[SESSION]
        replica = view.channel.live
        for at in ("3.1", "2.7"):
            turn, attempt = at.split(".")
            start = new.live.start.text.replace('"turn":3', f'"turn":{turn}').replace(
                '"attempt":2', f'"attempt":{attempt}'
            )
            token = json.dumps({"id": f"{at}.9", "content": "x" * 5, "token_count": 9})
            for kind, body in (("begin", start), ("text", token), ("end", f"9 {token}")):
                there.broker._hear(SESSION, f"nx {at} {kind} {body}")
        assert view.channel.live is replica
        new.say(" goes on")
        await tab.shows("text goes on", turn=3)
        assert tab.starts == [(3, 2)]


async def test_a_turn_that_is_withdrawn_is_followed_where_it_goes_on(nodes: Nodes) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    async with here.tab().open() as near:
        old = here.begin()
        old.say("first try")
        await near.shows("first try")
        old.publisher.withdraw()
        new = there.begin(attempt=2)
        new.say("second try")
        await near.shows("second try")
        assert near.starts == [(1, 1), (1, 2)]
        assert here.broker.fenced == 0


# What it costs


async def test_text_is_sent_lazily_until_somebody_listens(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sent_at_once() -> int:
        # Else it would be merged into what follows the go that is under way.
        await until(lambda: not run.publisher._mirror.due)
        before = len(sent)
        run.say("word ")
        for _ in range(3):
            await asyncio.sleep(0)
        return len(sent) - before

    here = await nodes.open(BrokerTimes(lazy_s=0.5, compare_s=60.0, refresh_s=60.0))
    there = await nodes.open(LONG)
    sent = spied_on(here, monkeypatch)
    run = here.begin()
    await listening(here)
    await until(lambda: not run.publisher._mirror.due)
    assert await sent_at_once() == 0
    run.say(*["word "] * 100)
    async with there.tab().open() as tab:
        await listening(there)
        run.say("word ")
        await tab.shows(run.text)
        for _ in range(3):
            assert await sent_at_once() == 1
            await tab.shows(run.text)
    await until(there.is_empty)
    run.say("nobody hears")
    assert await sent_at_once() == 0, "lazily again"


async def test_a_turn_of_many_pieces_is_read_whole(nodes: Nodes) -> None:
    here, there, late = [await nodes.open(LONG) for _ in range(3)]
    async with there.tab().open() as tab:
        await listening(there)
        run = here.begin()
        await until(lambda: run.publisher._mirror.eager)
        for n in range(1_100):
            run.say(f"{n} ")
            await tab.shows(run.text)
        [entries] = await here.link._connected().ask(("XLEN", here.broker._layout.turn(SESSION)))
        assert entries > 1_024, "more than two pages"
        async with late.tab().open() as joined:
            await joined.shows(run.text)


async def test_all_that_is_due_goes_in_one_go(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await nodes.open(LONG), await nodes.open(LONG)
    tabs = [there.tab(f"s{n}") for n in range(20)]
    calls = spied_on(here, monkeypatch)
    async with asyncio.TaskGroup() as group:
        done = asyncio.Event()

        async def follow(n: int) -> None:
            async with tabs[n].open():
                await done.wait()

        for n in range(20):
            group.create_task(follow(n))
        await until(lambda: all(there.broker._listens(f"s{n}") for n in range(20)))
        runs = [here.begin(session_id=f"s{n}") for n in range(20)]
        for run, tab in zip(runs, tabs, strict=True):
            run.say("first ")
            await tab.shows("first ")
        calls.clear()
        for run in runs:
            run.say("second")
        for tab in tabs:
            await tab.shows("first second")
        assert calls == [20]
        done.set()


# What is left


async def test_nothing_is_left_when_all_is_over(nodes: Nodes) -> None:
    here, there = await nodes.open(TIMES), await nodes.open(TIMES)
    async with here.tab().open() as near, there.tab().open() as far:
        for turn in (1, 2):
            run = here.begin(turn)
            run.say("some ", "text")
            await far.shows(run.text, turn=turn)
            found = await keys(here)
            assert {name.split(":")[1] for name in found} == {"head", "turn"}
            assert all(0 < ttl <= 20_000 for ttl in found.values())
            run.end()
            await near.sees_end(turn)
            await far.sees_end(turn)
    await until(lambda: here.is_empty() and there.is_empty())
    [(name, ttl)] = (await keys(here)).items()
    assert name == f"{nodes.prefix}:head:{{{SESSION}}}"
    assert 0 < ttl <= 20_000
    assert await here.link.get_all([name]) == ["2.1.end"]
    assert not any(await here.link._connected().ask(("PUBSUB", "CHANNELS", f"{nodes.prefix}:*")))


async def test_what_is_not_refreshed_expires_and_what_runs_is(nodes: Nodes) -> None:
    short = BrokerTimes(lazy_s=0.02, compare_s=60.0, refresh_s=0.1, keep_s=0.5)
    here, there = await nodes.open(short), await nodes.open(short)
    run = here.begin()
    run.publisher.place(position=1, eta_ms=None)  # and nothing else, for long
    with pytest.raises(TimeoutError):
        await until(lambda: there.broker.live(SESSION), within_s=1.5)
    assert len(await keys(here)) == 2
    run.end()
    await until(lambda: here.broker._sending.idle)
    assert len(await keys(here)) == 1
    [ttl] = (await keys(here)).values()
    assert ttl <= 500


async def test_closing_tells_what_is_still_to_be_told(nodes: Nodes, redis_prefix: str) -> None:
    there = await nodes.open(LONG)
    async with there.tab().open() as tab:
        await listening(there)
        async with some_nodes(nodes.url, redis_prefix, stored=nodes.stored) as others:
            run = (await others.open(LONG)).begin()
            run.say("the last words")
            run.end()
        await tab.sees_end()
        assert tab.text == "the last words"

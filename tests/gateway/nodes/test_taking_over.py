"""A turn whose node does not keep it is made the next attempt of by another, and only there."""

import asyncio
from contextlib import suppress

import anyio
import pytest
from sqlalchemy import update

from gateway.nodes.keeper import Keeper
from gateway.settings import Settings
from storage import leases, turns
from storage.claims import Claim
from storage.operations import Operation, StorageError
from storage.tables import leases as table_of_leases
from storage.turns import StoredTurn
from tests.gateway.harness import WITHIN_S, Gateway, Tab, call_of, in_process, new_turn
from tests.llm.scripted import Call, ScriptedModel

Nodes = tuple[Gateway, Gateway]


async def begun(tab: Tab, model: ScriptedModel) -> Call:
    """Ask, and let the reply begin."""
    await tab.chat("안녕", request_id="a1")
    call = await call_of(model)
    await call.say("stale ")
    await tab.text_until("stale ")
    return call


async def take_over(nodes: Nodes, session_id: str) -> None:
    """Let the lease of the first turn lapse, as when its node stands still, and its next take it.

    The node is well in truth and may renew its lease just then: then it lapses again.
    """
    here, there = nodes
    while not there.house.turns.running:
        await here.house.database.write(leases.let_go(session_id, 1, attempt=1))
        await there.house.turns.take_up()


async def at_rest(gateway: Gateway) -> None:
    """Wait until no turn runs on a node."""
    with anyio.fail_after(WITHIN_S):
        while gateway.house.turns.running:
            await anyio.lowlevel.checkpoint()


def keeper_of(gateway: Gateway) -> Keeper:
    house = gateway.house
    assert house.node is not None
    return Keeper(
        node=house.node,
        turns=house.turns,
        broker=house.broker,
        database=house.database,
        news=asyncio.Event(),
    )


async def test_every_reader_gets_the_next_attempt_and_nothing_of_the_last(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        stale = await begun(phone, model)
        await laptop.text_until("stale ")
        await take_over(nodes, phone.session_id)
        fresh = await call_of(model)
        with suppress(OSError):  # it may have been hung up on already
            await stale.say("more of it ")
            await stale.complete()
        await fresh.say("fresh")
        await fresh.complete()
        for tab in (phone, laptop):
            ending = await tab.ends()
            assert ending["id"] == "1.2.end"
            starts = [frame for frame in tab.frames if frame["type"] == "start"]
            assert [start["attempt"] for start in starts] == [1, 2]
            assert starts[0]["message_id"] == starts[1]["message_id"]
            assert tab.text() == "fresh"
        [_, reply] = (await phone.history())["messages"]
        assert (reply["content"], reply["finish_reason"]) == ("fresh", "stop")
        await at_rest(here)


async def test_who_comes_back_with_a_cursor_of_the_lost_attempt_gets_the_next_one_whole(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab() as tab:
        await begun(tab, model)
    await take_over(nodes, tab.session_id)
    fresh = await call_of(model)
    await fresh.say("fresh")
    async with there.tab(tab.session_id, after=tab.cursor) as back:
        assert back.ready["resumed"] is True
        await fresh.complete()
        await back.ends()
        assert back.text() == "fresh"


async def test_a_repeat_after_the_node_was_lost_is_still_the_same_turn(
    nodes: Nodes, model: ScriptedModel
) -> None:
    here, there = nodes
    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        await begun(phone, model)
        await take_over(nodes, phone.session_id)
        fresh = await call_of(model)
        repeated = await laptop.chat("안녕", request_id="a1")
        assert (repeated["turn"], repeated["duplicate"]) == (1, True)
        await fresh.complete()
        await laptop.ends()


async def test_a_turn_that_was_cancelled_as_its_node_died_ends_cancelled_with_what_was_kept(
    nodes: Nodes, model: ScriptedModel
) -> None:
    _, there = nodes
    async with there.tab() as tab:
        session_id = tab.session_id
        kept = await there.house.database.write(turns.accept(new_turn(session_id, "gone-1")))
        await there.house.database.write(turns.leave(kept, "half of "))
        assert await there.house.turns.cancel(Claim(session_id), None) == 1
        await there.house.turns.take_up()
        ending = await tab.ends()
        assert (ending["type"], ending["finish_reason"]) == ("complete", "cancelled")
        assert tab.text() == "half of "
        assert there.house.admission.calls == 0, "the model is not asked for it"


async def test_a_turn_that_was_handed_over_often_is_run_again_all_the_same(
    member: Settings, model: ScriptedModel
) -> None:
    # As when all nodes are deployed anew, one after another, while a long reply is written.
    once = member.model_copy(update={"max_attempts": 1})
    async with in_process(once) as gateway, gateway.tab() as tab:
        turn: StoredTurn | None = await gateway.house.database.write(
            turns.accept(new_turn(tab.session_id, "gone-1"))
        )
        for number in range(2, 5):
            assert turn is not None
            await gateway.house.database.write(turns.leave(turn, "half of "))
            if number < 4:
                again = turns.take_up(turn, node=f"gone-{number}")
                turn = await gateway.house.database.write(again)
        await gateway.house.turns.take_up()
        await (await call_of(model)).complete()
        assert (await tab.ends())["id"] == "1.4.end"


async def test_a_turn_whose_node_died_too_often_ends_interrupted_for_whoever_reads(
    member: Settings, model: ScriptedModel
) -> None:
    once = member.model_copy(update={"max_attempts": 1})
    async with in_process(once) as gateway, gateway.tab() as tab:
        new = new_turn(tab.session_id, "gone-1")
        kept = await gateway.house.database.write(turns.accept(new))
        await gateway.house.database.write(turns.checkpoint(kept, "half of "))
        await gateway.house.database.write(all_lapse())
        await gateway.house.turns.take_up()
        ending = await tab.ends()
        assert (ending["type"], ending["code"]) == ("error", "interrupted")
        assert ending["id"] == "1.2.end"
        assert tab.text() == "half of "


async def test_a_cancel_holds_even_if_the_node_that_ran_the_turn_is_lost_at_once(
    nodes: Nodes, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    write = here.house.database.write

    async def store_no_end(operation: Operation[object]) -> object:
        if getattr(operation, "__name__", "") == "end":
            operation.close()
            raise StorageError("cut off")
        return await write(operation)

    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        await begun(phone, model)
        monkeypatch.setattr(here.house.database, "write", store_no_end)
        answer = await here.http.post(f"/api/sessions/{phone.session_id}/cancel", json={})
        assert answer.status_code == 202
        while not await there.house.turns.take_up() and laptop.kinds().count("complete") == 0:
            await here.house.database.write(leases.let_go(phone.session_id, 1, attempt=1))
            if await there.house.database.read(turns.is_cancelled(phone.session_id, 1)):
                break
        ending = await laptop.ends()
        assert (ending["id"], ending["finish_reason"]) == ("1.2.end", "cancelled")
        monkeypatch.undo()
        await at_rest(here)


async def test_a_second_cancel_finds_nothing_on_any_node(
    nodes: Nodes, model: ScriptedModel
) -> None:
    async with nodes[0].tab() as tab:
        await begun(tab, model)
        await tab.send(type="cancel")
        await tab.ends()
        for gateway in nodes:
            for body in ({}, {"turn": 1}):
                path = f"/api/sessions/{tab.session_id}/cancel"
                answer = await gateway.http.post(path, json=body)
                assert answer.json()["code"] == "nothing_to_cancel"


async def test_a_reply_that_ends_as_it_is_cancelled_elsewhere_is_cancelled(
    nodes: Nodes, model: ScriptedModel
) -> None:
    # Whoever cancelled was told so, and the node that runs it has not heard of it yet.
    here, _ = nodes
    async with here.tab() as tab:
        call = await begun(tab, model)
        asked = leases.ask_to_stop(tab.session_id, 1, why="cancelled")
        assert await here.house.database.write(asked) == 1
        await call.complete()
        assert (await tab.ends())["finish_reason"] == "cancelled"
        assert tab.text() == "stale "


async def test_a_turn_that_nobody_runs_although_its_node_lives_is_let_go(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    session_id = await here.new_session()
    node = here.house.node
    assert node is not None
    # As when the answer to the commit that stored it was lost on the way.
    await here.house.database.write(turns.accept(new_turn(session_id, node)))
    keeper = keeper_of(here)
    await keeper.renew()
    await keeper.renew()
    assert await there.house.database.read(turns.lapsed(most=1)) == [], "it may be about to run"
    monkeypatch.setattr("gateway.nodes.keeper.STRAY_S", 0.0)
    await keeper.renew()
    assert len(await there.house.database.read(turns.lapsed(most=1))) == 1


async def test_an_end_whose_commit_was_never_heard_of_is_stored_and_told_once(
    nodes: Nodes, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = nodes
    database = here.house.database
    write = database.write
    lost = anyio.Event()

    async def lose_the_answer(operation: Operation[object]) -> object:
        outcome = await write(operation)
        if not lost.is_set() and getattr(operation, "__name__", "") == "end":
            lost.set()
            raise StorageError("the connection was lost")
        return outcome

    async with here.tab() as phone, there.tab(phone.session_id) as laptop:
        call = await begun(phone, model)
        monkeypatch.setattr(database, "write", lose_the_answer)
        await call.complete()
        for tab in (phone, laptop):
            assert (await tab.ends())["finish_reason"] == "stop"
            assert tab.text() == "stale "
        assert lost.is_set()


def all_lapse() -> Operation[None]:
    """Let as much time pass as a lease lasts."""
    yield update(table_of_leases).values(expires_at=0), {}

"""Asking again: `regenerate`, and edits through `replaces`; hidden turns stay, unseen."""

from typing import Any

import pytest

from tests.gateway.harness import Gateway, Json, Tab, call_of
from tests.llm.scripted import ScriptedModel


def shown(page: Json) -> list[tuple[int, str, str]]:
    return [(m["turn"], m["role"], m["content"]) for m in page["messages"]]


async def three_turns(gateway: Gateway, model: ScriptedModel, tab: Tab) -> None:
    for number in (1, 2, 3):
        await gateway.exchange(tab, model, f"q{number}", f"a{number}")


async def test_regenerate_asks_the_last_question_again(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await three_turns(gateway, model, tab)
        await tab.send(type="regenerate", request_id="r4")
        start = await tab.next("start")
        assert (start["turn"], start["replaces"], start["request_id"]) == (4, 3, "r4")
        assert start["user_message"]["content"] == "q3"
        call = await call_of(model)
        assert [m["content"] for m in call.messages[1:]] == ["q1", "a1", "q2", "a2", "q3"]
        await call.say("better")
        await call.complete()
        await tab.ends(4)
    assert shown(await gateway.messages(tab.session_id)) == [
        *((1, "user", "q1"), (1, "assistant", "a1")),
        *((2, "user", "q2"), (2, "assistant", "a2")),
        *((4, "user", "q3"), (4, "assistant", "better")),
    ]


async def test_regenerate_takes_settings_of_its_own(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q1", "a1", max_new_tokens=5)
        await tab.send(type="regenerate", max_new_tokens=9, temperature=1.25)
        call = await call_of(model)
    assert (call.body["max_new_tokens"], call.body["temperature"]) == (9, 1.25)


@pytest.mark.parametrize("spelling", ["json", "typed"])
async def test_regenerate_of_a_named_turn_hides_it_and_all_that_follow(
    gateway: Gateway, model: ScriptedModel, spelling: str
) -> None:
    async with gateway.tab() as tab:
        await three_turns(gateway, model, tab)
        frame = '{"type": "regenerate", "turn": 2}' if spelling == "json" else "/regenerate 2"
        await tab.say(frame)
        assert (await tab.next("start"))["replaces"] == 2
        call = await call_of(model)
        assert [m["content"] for m in call.messages[1:]] == ["q1", "a1", "q2"]
        await call.complete()
        await tab.ends(4)
    page = await gateway.messages(tab.session_id)
    assert [m["turn"] for m in page["messages"]] == [1, 1, 4, 4]


async def test_an_edit_hides_a_turn_and_all_that_follow_and_has_a_message_of_its_own(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, gateway.tab(tab.session_id) as other:
        await three_turns(gateway, model, tab)
        before = await gateway.messages(tab.session_id)
        await tab.send(type="chat", message="q1, but better", replaces=1)
        for each in (tab, other):
            start = await each.next("start")
            while start["turn"] != 4:
                start = await each.next("start")
            assert start["replaces"] == 1
            assert start["user_message"]["content"] == "q1, but better"
        call = await call_of(model)
        assert [m["content"] for m in call.messages[1:]] == ["q1, but better"]
        await call.say("new")
        await call.complete()
        await tab.ends(4)
        assert shown(await tab.history()) == [
            (4, "user", "q1, but better"),
            (4, "assistant", "new"),
        ]
    page = await gateway.messages(tab.session_id)
    assert page["total_count"] == 2
    known = {message["message_id"] for message in before["messages"]}
    assert known.isdisjoint(message["message_id"] for message in page["messages"])


async def test_nothing_is_deleted_and_hidden_messages_are_listed_on_request(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await three_turns(gateway, model, tab)
        await gateway.exchange(tab, model, "q2 again", "a2 again", replaces=2)
        await gateway.exchange(tab, model, "q4 again", "a4 again", replaces=4)
    everything = await gateway.messages(tab.session_id, include="replaced")
    hidden = {m["turn"]: m.get("replaced_by") for m in everything["messages"]}
    # Hidden stays hidden: what turn 4 hid is not 5's to hide again.
    assert hidden == {1: None, 2: 4, 3: 4, 4: 5, 5: None}
    assert len(everything["messages"]) == 10
    assert everything["total_count"] == 4, "the count is of active messages"
    active = await gateway.messages(tab.session_id)
    assert all("replaced_by" not in message for message in active["messages"])


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "regenerate", "turn": 2},
        {"type": "regenerate", "turn": 9},
        {"type": "chat", "message": "edit", "replaces": 2},
        {"type": "chat", "message": "edit", "replaces": 9},
    ],
)
async def test_a_hidden_or_missing_turn_is_not_found(
    gateway: Gateway, model: ScriptedModel, frame: dict[str, Any]
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q1", "a1")
        await gateway.exchange(tab, model, "q2", "a2")
        await gateway.exchange(tab, model, "q2 again", "a3", replaces=2)
        error = await tab.refused(**frame, request_id="r")
        assert (error["code"], error["request_id"]) == ("turn_not_found", "r")
        assert "turn" not in error
        await tab.settle()
    assert len(gateway.rows("SELECT * FROM turns")) == 3


async def test_there_is_nothing_to_regenerate_in_an_empty_session(gateway: Gateway) -> None:
    async with gateway.tab() as tab:
        assert (await tab.refused(type="regenerate"))["code"] == "turn_not_found"


async def test_an_open_turn_cannot_be_replaced(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await tab.chat("q1")
        await call_of(model)
        assert (await tab.refused(type="regenerate"))["code"] == "turn_in_progress"
        edit = await tab.refused(type="chat", message="no", replaces=1)
        assert edit["code"] == "turn_in_progress"


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_a_turn_that_did_not_end_well_can_be_asked_again(
    gateway: Gateway, model: ScriptedModel, ending: str
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("q1")
        call = await call_of(model)
        if ending == "failed":
            await call.error()
        else:
            await tab.say("/cancel")
        await tab.ends(1)
        await tab.say("/regenerate")
        again = await call_of(model)
        assert [m["content"] for m in again.messages[1:]] == ["q1"]
        await again.say("a1")
        await again.complete()
        await tab.ends(2)
    assert shown(await gateway.messages(tab.session_id)) == [
        (2, "user", "q1"),
        (2, "assistant", "a1"),
    ]


async def test_a_reader_of_the_log_gets_replaced_turns_too(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q1", "a1")
        await gateway.exchange(tab, model, "q1 again", "a2", replaces=1)
        async with gateway.tab(tab.session_id, after="0.0.end") as late:
            await late.ends(2)
            assert [f.get("replaces") for f in late.frames if f["type"] == "start"] == [None, 1]
            assert (late.text(1), late.text(2)) == ("a1", "a2")

"""Every rule of the cursor, over the socket: what follows a place, no gap and no repeat."""

from pathlib import Path

import anyio
import pytest

from storage.log import PAGE_TURNS
from tests.gateway.harness import Gateway, Tab, call_of, in_process, settings_for
from tests.llm.scripted import ScriptedModel


async def two_turns(gateway: Gateway, model: ScriptedModel, tab: Tab) -> None:
    await gateway.exchange(tab, model, "q1", "답변 하나")
    await gateway.exchange(tab, model, "q2", "two")


@pytest.mark.parametrize(
    ("after", "kinds", "texts"),
    [
        ("0.0.end", ["start", "token", "complete"] * 2, ("답변 하나", "two")),
        ("1.1.0", ["token", "complete", "start", "token", "complete"], ("답변 하나", "two")),
        ("1.1.3", ["token", "complete", "start", "token", "complete"], ("하나", "two")),
        ("1.1.5", ["complete", "start", "token", "complete"], ("", "two")),
        ("1.1.end", ["start", "token", "complete"], ("", "two")),
        ("2.1.2", ["token", "complete"], ("", "o")),
        ("2.1.3", ["complete"], ("", "")),
        ("2.1.end", [], ("", "")),
    ],
)
async def test_a_connection_goes_on_exactly_behind_its_cursor(
    gateway: Gateway, model: ScriptedModel, after: str, kinds: list[str], texts: tuple[str, str]
) -> None:
    async with gateway.tab() as tab:
        await two_turns(gateway, model, tab)
    async with gateway.tab(tab.session_id, after=after) as back:
        assert back.ready["resumed"] is True
        assert back.ready["cursor"] == after
        await back.settle()
        assert back.kinds("pong") == kinds
        assert (back.text(1), back.text(2)) == texts
        assert back.cursor == "2.1.end"


@pytest.mark.parametrize(
    "after",
    [
        *("nonsense", "", "1", "1.1", "1.1.", "-1.1.0", "01.1.0", "1.1.END", "1.1.0 ", "1.1.0.0"),
        *("1.1.99999999999999999999", "٣.1.0", "0.0.0", "0.1.end"),
        # A turn and an attempt of the future, an offset beyond an ended text.
        *("3.1.0", "2.2.0", "1.2.end", "1.0.end", "1.1.6", "2.1.4"),
    ],
)
async def test_a_cursor_that_cannot_be_is_as_if_it_had_not_been_given(
    gateway: Gateway, model: ScriptedModel, after: str
) -> None:
    async with gateway.tab() as tab:
        await two_turns(gateway, model, tab)
    async with gateway.tab(tab.session_id, after=after) as back:
        assert back.ready["resumed"] is False
        assert back.ready["cursor"] == "2.1.end"
        await back.settle()
        assert back.kinds("pong") == []


async def test_more_than_a_page_of_turns_behind_is_not_resumed(
    tmp_path: Path, model: ScriptedModel
) -> None:
    model.autoreply(lambda _: ["a"])
    async with in_process(settings_for(tmp_path / "chat.db", model.url)) as gateway:
        async with gateway.tab() as tab:
            for turn in range(1, PAGE_TURNS + 2):
                await tab.say("q")
                await tab.ends(turn)
        async with gateway.tab(tab.session_id, after="0.0.end") as back:
            assert back.ready["resumed"] is False
            assert back.ready["cursor"] == "101.1.end"
        async with gateway.tab(tab.session_id, after="1.1.end") as back:
            assert back.ready["resumed"] is True
            await back.ends(PAGE_TURNS + 1)
            assert [f["turn"] for f in back.frames if f["type"] == "start"] == [*range(2, 102)]


async def test_without_a_cursor_a_connection_joins_at_the_end(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await two_turns(gateway, model, tab)
        async with gateway.tab(tab.session_id) as late:
            assert (late.ready["resumed"], late.ready["cursor"]) == (False, "2.1.end")
            await gateway.exchange(tab, model, "q3", "three")
            await late.ends(3)
            assert late.kinds() == ["start", "token", "complete"]


async def test_without_a_cursor_an_open_turn_is_delivered_from_its_start(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q1", "a1")
        await tab.chat("q2")
        call = await call_of(model)
        await call.say("one ", "two ")
        await tab.text_until("one two ", turn=2)
        async with gateway.tab(tab.session_id) as late:
            assert late.ready["cursor"] == "1.1.end"
            assert late.ready["turn"] == {"turn": 2, "status": "running"}
            await late.text_until("one two ", turn=2)
            await call.say("three")
            await call.complete()
            await late.ends(2)
            assert late.kinds() == ["start", "token", "complete"]
            assert late.text(2) == "one two three"


async def test_tabs_that_join_at_any_moment_see_the_same_text(
    gateway: Gateway, model: ScriptedModel
) -> None:
    pieces = ["안녕", "하세요! ", "\n\n", "😀", " ", "<b>", "끝"]
    async with gateway.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        late: list[Tab] = []

        async def join(joined: anyio.Event) -> None:
            async with gateway.tab(tab.session_id) as other:
                late.append(other)
                joined.set()
                await other.ends()

        async with anyio.create_task_group() as tasks:
            for piece in pieces:
                await call.say(piece)
                await tab.next("token")
                joined = anyio.Event()
                tasks.start_soon(join, joined)
                await joined.wait()
            await call.complete()
        await tab.ends()
    assert {other.text() for other in [tab, *late]} == {"".join(pieces)}
    assert len(late) == len(pieces)


async def test_a_place_in_the_future_of_an_open_reply_is_waited_for(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        await call.say("one ")
        await tab.text_until("one ")
        async with gateway.tab(tab.session_id, after="1.1.8") as ahead:
            assert (ahead.ready["resumed"], ahead.ready["cursor"]) == (True, "1.1.8")
            await call.say("two ")
            await tab.text_until("one two ")
            await ahead.settle()
            assert ahead.kinds("pong") == []
            await call.say("three")
            await call.complete()
            await ahead.ends()
            assert ahead.text() == "three"


async def test_a_place_that_an_open_reply_never_reaches_ends_with_its_turn(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        async with gateway.tab(tab.session_id, after="1.1.500") as ahead:
            await call.say("short")
            await call.complete()
            await ahead.ends()
            assert ahead.kinds() == ["complete"]
            await gateway.exchange(tab, model, "next", "answer")
            await ahead.ends(2)
            assert ahead.text(2) == "answer"


async def test_the_end_of_an_open_turn_is_in_the_future(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        await call_of(model)
        async with gateway.tab(tab.session_id, after="1.1.end") as back:
            assert (back.ready["resumed"], back.ready["cursor"]) == (False, "0.0.end")
            assert (await back.next("start"))["turn"] == 1


async def test_a_reconnect_after_the_end_gets_the_rest_from_storage(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab, gateway.tab(tab.session_id) as watcher:
        await tab.chat("hi")
        call = await call_of(model)
        await call.say("one ", "two ")
        await tab.text_until("one two ")
        cursor = tab.cursor
        await call.say("three")
        await call.complete()
        complete = await watcher.ends()
        async with gateway.tab(tab.session_id, after=cursor) as back:
            again = await back.ends()
            assert back.text() == "three"
            # What a terminal event says is stored with the turn: it reads the same later.
            assert again == complete


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
async def test_however_a_turn_ended_it_reads_the_same_later(
    gateway: Gateway, model: ScriptedModel, ending: str
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi", request_id="r1")
        call = await call_of(model)
        await call.say("part ")
        await tab.text_until("part ")
        if ending == "failed":
            await call.error("boom")
        else:
            await tab.say("/cancel")
        live = await tab.ends()
        start = tab.frames[1]
        async with gateway.tab(tab.session_id, after="0.0.end") as back:
            assert await back.ends() == live
            assert back.frames[0] == start
            assert back.text() == "part "


async def test_a_session_is_resumed_by_another_process(
    tmp_path: Path, model: ScriptedModel
) -> None:
    settings = settings_for(tmp_path / "chat.db", model.url)
    async with in_process(settings) as gateway, gateway.tab() as tab:
        await two_turns(gateway, model, tab)
    async with (
        in_process(settings) as gateway,
        gateway.tab(tab.session_id, after="1.1.2") as back,
    ):
        assert back.ready["resumed"] is True
        await back.ends(2)
        assert (back.text(1), back.text(2)) == (" 하나", "two")


async def test_one_event_carries_at_most_16384_characters(
    gateway: Gateway, model: ScriptedModel
) -> None:
    long = "가나다라" * 10_000
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "q", long)
        async with gateway.tab(tab.session_id, after="0.0.end") as late:
            await late.ends()
    for each in (tab, late):
        sizes = [len(f["content"]) for f in each.frames if f["type"] == "token"]
        assert max(sizes) <= 16_384
        assert each.text() == long
        counts = [f["token_count"] for f in each.frames if f["type"] == "token"]
        assert counts == sorted(counts)


async def test_text_is_made_storable_before_it_enters_the_log(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.say('{"type": "chat", "message": "a\\u0000b\\ud800c\\ud83d\\ude00"}')
        start = await tab.next("start")
        assert start["user_message"]["content"] == "a\ufffdb\ufffdc😀"
        call = await call_of(model)
        # A pair cut in two by the tokenizer is joined; what stays alone is replaced.
        await call.raw(
            b'data: {"type": "chunk", "content": "x\\ud83d", "accumulated": "", '
            b'"token_count": 1}\n\n'
        )
        await call.raw(
            b'data: {"type": "chunk", "content": "\\ude00\\u0000\\udc00", "accumulated": "", '
            b'"token_count": 2}\n\n'
        )
        await call.complete()
        await tab.ends()
        assert tab.text() == "x😀\ufffd\ufffd"
        assert tab.frames[-2]["id"] == "1.1.4"
    assert gateway.replies() == [("stop", "x😀\ufffd\ufffd")]

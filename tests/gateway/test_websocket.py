"""A chat over one WebSocket, frame by frame."""

from tests.gateway.harness import Gateway
from tests.llm.scripted import ScriptedModel


async def test_a_typed_message_is_answered_piece_by_piece(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.say("안녕하세요")
        call = await model.call()
        assert call.messages[-1] == {"role": "user", "content": "안녕하세요"}
        await call.say("안녕하세요! ")
        await tab.text_until("안녕하세요! ")
        await call.say("저는 ", "믿음입니다.")
        await call.complete()
        complete = await tab.next("complete")
    assert [frame["type"] for frame in tab.frames][:3] == ["accepted", "start", "token"]
    assert tab.text() == "안녕하세요! 저는 믿음입니다."
    assert complete["finish_reason"] == "stop"
    assert gateway.replies() == [("stop", "안녕하세요! 저는 믿음입니다.")]


async def test_any_tab_can_cancel(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as phone, gateway.tab(phone.session_id) as laptop:
        await phone.chat("안녕")
        call = await model.call()
        await call.say("안녕하")
        await laptop.text_until("안녕하")
        await laptop.say("/cancel")
        assert (await phone.next("complete"))["finish_reason"] == "cancelled"
        assert (await laptop.next("complete"))["finish_reason"] == "cancelled"
        await call.closed()
    assert gateway.replies() == [("cancelled", "안녕하")]


async def test_a_cursor_resumes_in_the_middle_of_a_reply(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hello")
        call = await model.call()
        await call.say("one ", "two ")
        await tab.text_until("one two ")
    await call.say("three ", "four")
    await call.complete()
    async with gateway.tab(tab.session_id, after=tab.cursor) as back:
        assert back.ready["resumed"] is True
        await back.next("complete")
    assert back.text() == "three four"

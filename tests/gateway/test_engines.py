"""OpenAI-compatible engines, and several model servers, through the whole gateway."""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.settings import Settings
from llm.simulator import SimulatorSettings, serve_simulator
from tests.gateway.harness import (
    WITHIN_S,
    Gateway,
    Json,
    call_of,
    in_process,
    on_sockets,
    settings_for,
)
from tests.llm.scripted import ScriptedModel
from tests.llm.scripted_openai import USAGE, EngineCall, ScriptedEngine, delta, piece

KEY = "sk-very-secret-key"


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as engine:
        yield engine


def engine_settings(tmp_path: Path, *urls: str, **overrides: Any) -> Settings:
    return settings_for(tmp_path / "chat.db", ",".join(urls), **{"llm_api": "openai", **overrides})


@pytest.fixture
async def gateway(tmp_path: Path, engine: ScriptedEngine) -> AsyncIterator[Gateway]:
    settings = engine_settings(tmp_path, engine.url, llm_api_key=KEY)
    async with in_process(settings) as gateway:
        yield gateway


async def called(engine: ScriptedModel) -> EngineCall:
    call = await call_of(engine)
    assert isinstance(call, EngineCall)
    return call


# One engine


async def test_a_streamed_reply_has_its_usage_and_keeps_it(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("안녕 <|eot_id|>", max_new_tokens=64, temperature=0.5)
        call = await called(engine)
        assert call.path == "/v1/chat/completions"
        assert call.headers["authorization"] == f"Bearer {KEY}"
        assert (call.body["model"], call.body["max_tokens"]) == ("midm", 64)
        assert [each["role"] for each in call.messages] == ["system", "user"]
        assert call.messages[-1]["content"] == "안녕 < |eot_id|>"
        await call.say("안녕", "하세요!")
        await call.complete("length")
        end = await tab.next("complete")
        assert tab.text() == "안녕하세요!"
        assert (end["finish_reason"], end["token_usage"]) == ("length", USAGE)
        [_, reply] = (await gateway.messages(tab.session_id))["messages"]
    assert (reply["content"], reply["token_usage"]) == ("안녕하세요!", USAGE)


async def test_a_whole_reply(gateway: Gateway, engine: ScriptedEngine) -> None:
    body = {"session_id": await gateway.new_session(), "message": "안녕", "do_sample": False}
    answers: list[Any] = []

    async def post() -> None:
        answers.append(await gateway.http.post("/api/chat", json=body))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        call = await called(engine)
        assert (call.body["stream"], call.body["temperature"]) == (False, 0)
        await call.answer("네.")
    [answer] = answers
    assert answer.status_code == 200
    assert (answer.json()["content"], answer.json()["token_usage"]) == ("네.", USAGE)


async def test_a_stream_of_events(tmp_path: Path, engine: ScriptedEngine) -> None:
    async with on_sockets(engine_settings(tmp_path, engine.url + "/v1")) as gateway:
        body = {"session_id": await gateway.new_session(), "message": "안녕"}
        async with gateway.sse("POST", "/api/chat/stream", json=body) as sse:
            call = await called(engine)
            await call.say("안녕!")
            await sse.next("token")
            await call.complete()
            end = await sse.next("complete")
    assert (sse.text(), end["token_usage"]) == ("안녕!", USAGE)


async def test_cancelling_closes_the_engines_connection_and_frees_its_place(
    tmp_path: Path, engine: ScriptedEngine
) -> None:
    settings = engine_settings(tmp_path, engine.url, llm_max_concurrency=1, llm_cool_down_s=None)
    async with in_process(settings) as gateway, gateway.tab() as tab:
        await tab.chat("안녕")
        call = await called(engine)
        await call.say("반쯤")
        await tab.text_until("반쯤")
        await tab.send(type="cancel")
        assert (await tab.next("complete"))["finish_reason"] == "cancelled"
        with anyio.fail_after(WITHIN_S):
            await call.closed()
        await tab.chat("다시")
        call = await called(engine)
        await call.complete()
        await tab.ends(2)
        assert "queued" not in tab.kinds()


async def refuse_401(call: EngineCall) -> None:
    await call.refuse(401, {"error": f"bad key {KEY}"})


async def refuse_404(call: EngineCall) -> None:
    await call.refuse(404, {"error": {"message": "The model `x` does not exist."}})


async def refuse_context(call: EngineCall) -> None:
    await call.refuse(400, {"error": {"message": "maximum context length is 8 tokens"}})


async def fail_inside(call: EngineCall) -> None:
    await call.say("반쯤")
    await call.error()


async def finish_without_a_reason(call: EngineCall) -> None:
    await call.raw(piece("반쯤") + b"data: [DONE]\n\n")
    await call.end()


async def vanish(call: EngineCall) -> None:
    await call.say("반쯤")
    await call.vanish()


async def empty(call: EngineCall) -> None:
    await call.wire(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    await call.vanish()


@pytest.mark.parametrize(
    ("fails", "code", "kept", "logged"),
    [
        (refuse_401, "upstream_error", "", "LLM_API_KEY"),
        (refuse_404, "upstream_error", "", "LLM_MODEL"),
        (refuse_context, "context_too_long", "", "too long"),
        (fail_inside, "upstream_error", "반쯤", "reports an error"),
        (finish_without_a_reason, "upstream_error", "반쯤", "without an end"),
        (empty, "upstream_error", "", "without an end"),
        (vanish, "upstream_unavailable", "반쯤", "ended before the response"),
    ],
)
async def test_failures_have_a_code_and_a_line_in_the_log(
    gateway: Gateway,
    engine: ScriptedEngine,
    caplog: pytest.LogCaptureFixture,
    fails: Any,
    code: str,
    kept: str,
    logged: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with gateway.tab() as tab:
        await tab.chat("안녕")
        await fails(await called(engine))
        end = await tab.ends()
        assert (end["type"], end["code"]) == ("error", code)
        [_, reply] = (await gateway.messages(tab.session_id))["messages"]
    assert (reply["content"], reply["finish_reason"]) == (kept, "error")
    assert logged in caplog.text
    assert KEY not in caplog.text + str(tab.frames)


async def test_an_overloaded_engine_is_asked_again(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("안녕")
        for status in (503, 429):
            await (await called(engine)).refuse(status, {})
        call = await called(engine)
        await call.say("이제.")
        await call.complete()
        assert (await tab.ends())["type"] == "complete"


async def test_what_follows_the_reason_is_no_matter(
    gateway: Gateway, engine: ScriptedEngine
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("안녕")
        call = await called(engine)
        await call.raw(piece("끝") + delta({}, "stop"))
        await call.cut()
        end = await tab.ends()
    assert (end["type"], end["token_usage"]) == ("complete", None)


async def test_health_tells_whether_the_model_is_served(
    tmp_path: Path, engine: ScriptedEngine
) -> None:
    for model, well in (("midm", True), ("other", False)):
        settings = engine_settings(tmp_path, engine.url, llm_model=model)
        async with in_process(settings) as gateway:
            health: Json = (await gateway.http.get("/api/health")).json()
        assert health["llm_server_available"] is well
        assert health["llm_servers"] == {"available": int(well), "total": 1}


async def test_the_built_in_simulated_model_speaks_it_too(tmp_path: Path) -> None:
    settings = engine_settings(tmp_path, llm_model="some/model")
    async with in_process(settings) as gateway, gateway.tab() as tab:
        await tab.chat("hello #sim pieces=3 interval_ms=0 first_token_ms=0#")
        end = await tab.next("complete")
        assert end["token_usage"]["completion_tokens"] == 4
        assert (await gateway.http.get("/api/health")).json()["llm_server_available"] is True


# Several servers


QUICK = SimulatorSettings(interval_ms=0, first_token_ms=0)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@dataclass
class Visitor:
    """Asks twice in a session of its own; what came of it."""

    accepted: anyio.Event = field(default_factory=anyio.Event)
    hears: anyio.Event = field(default_factory=anyio.Event)
    goes_on: anyio.Event = field(default_factory=anyio.Event)
    gone: anyio.Event = field(default_factory=anyio.Event)
    ends: list[Json] = field(default_factory=list)
    text: str = ""

    async def visit(self, gateway: Gateway) -> None:
        async with gateway.tab() as tab:
            await tab.chat("안녕")
            self.accepted.set()
            await tab.next("token")
            self.hears.set()
            self.ends.append(await tab.ends())
            self.text = tab.text()
            await self.goes_on.wait()
            await tab.chat("다시")
            self.ends.append(await tab.ends(2))
        self.gone.set()


class Mortal:
    """An engine that lives in a task of its own, so that it can end before what uses it."""

    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.lives, self._dies, self._dead = anyio.Event(), anyio.Event(), anyio.Event()

    async def live(self) -> None:
        async with self.engine:
            self.lives.set()
            await self._dies.wait()
        self._dead.set()

    async def die(self) -> None:
        self._dies.set()
        await self._dead.wait()


async def test_when_one_of_two_is_killed_no_turn_fails_that_had_not_begun(tmp_path: Path) -> None:
    mortal, visitors = Mortal(), [Visitor() for _ in range(12)]
    async with ScriptedEngine() as well, anyio.create_task_group() as tasks:
        tasks.start_soon(mortal.live)
        await mortal.lives.wait()
        killed = mortal.engine
        settings = engine_settings(tmp_path, killed.url, well.url, llm_max_concurrency=3)
        async with in_process(settings) as gateway:
            for visitor in visitors:
                tasks.start_soon(visitor.visit, gateway)
                await visitor.accepted.wait()
            calls = [await called(engine) for engine in (killed, well) for _ in range(3)]
            for call in calls:
                await call.say("반")
            for visitor in visitors[:6]:  # three on each; the others wait in line
                await visitor.hears.wait()
            await mortal.die()
            well.autoreply(lambda _: ["네."])
            for call in calls[3:]:
                await call.complete()
            for visitor in visitors:
                await visitor.hears.wait()
                visitor.goes_on.set()
            for visitor in visitors:
                await visitor.gone.wait()
            assert gateway.house.admission.calls == 0
    ends = [visitor.ends[0] for visitor in visitors]
    failed = [end["code"] for end in ends[:6] if end["type"] == "error"]
    assert failed == ["upstream_unavailable"] * 3
    assert {end["type"] for end in ends[6:]} == {"complete"}
    assert [visitor.text for visitor in visitors] == ["반"] * 6 + ["네."] * 6
    assert [visitor.ends[1]["type"] for visitor in visitors] == ["complete"] * 12


async def test_a_server_that_is_back_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.health.PROBE_EVERY_S", 0.02)
    async with ScriptedEngine() as well:
        back = ScriptedEngine()
        async with back:
            port = port_of(back.url)
        urls = f"http://127.0.0.1:{port}", well.url
        async with in_process(engine_settings(tmp_path, *urls)) as gateway, gateway.tab() as tab:
            await gateway.exchange(tab, well, "하나", "1")
            await gateway.exchange(tab, well, "둘", "2")
            health = (await gateway.http.get("/api/health")).json()
            assert health["llm_servers"] == {"available": 1, "total": 2}
            assert health["status"] == "healthy"
            async with serve_simulator(QUICK, port=port):
                with anyio.fail_after(WITHIN_S):
                    while health["llm_servers"]["available"] < 2:
                        await anyio.sleep(0.01)
                        health = (await gateway.http.get("/api/health")).json()
                await tab.chat("#sim pieces=1#")
                await tab.ends(3)
                assert "simulated" in tab.text(3)


async def test_while_a_server_of_midm_cools_down_the_other_is_asked(tmp_path: Path) -> None:
    async with ScriptedModel() as first, ScriptedModel() as second:
        settings = settings_for(
            tmp_path / "chat.db", f"{first.url},{second.url}", llm_cool_down_s=60
        )
        async with in_process(settings) as gateway, gateway.tab() as tab:
            await tab.chat("하나")
            call = await call_of(first)
            await call.say("반")
            await tab.text_until("반")
            await tab.send(type="cancel")
            await tab.ends()
            for turn in (2, 3):
                await tab.chat("둘")
                call = await call_of(second)
                await call.complete()
                assert (await tab.ends(turn))["type"] == "complete"


async def test_a_turn_that_finds_nobody_fails_and_then_turns_are_refused_at_once(
    tmp_path: Path, free_port: int
) -> None:
    urls = f"http://127.0.0.1:{free_port}/a", f"http://127.0.0.1:{free_port}/b"
    async with in_process(engine_settings(tmp_path, *urls)) as gateway:
        codes: list[str] = []

        async def ask() -> None:
            body = {"session_id": await gateway.new_session(), "message": "안녕"}
            answer: Json = (await gateway.http.post("/api/chat", json=body)).json()
            assert "turn" in answer
            codes.append(answer["code"])

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
        assert codes == ["upstream_unavailable"] * 5
        async with gateway.tab() as tab:
            refused = await tab.refused(type="chat", message="안녕")
        assert refused["code"] == "upstream_unavailable"
        assert "turn" not in refused

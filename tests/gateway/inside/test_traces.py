"""Traces: a span for each turn and its stages, part of whoever asked, and no words in it."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.log_lines import FORMAT, OneLine
from gateway.logging import MAX_A_MINUTE, Seldom
from gateway.settings import BadSettings, load_settings
from gateway.tracing import otel
from tests.gateway.harness import WITHIN_S, Gateway, call_of, in_process, on_sockets, settings_for
from tests.gateway.peers import until
from tests.llm.scripted import ScriptedModel

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
WORDS = "8f14e45f 말"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    """Wait for the threads that send: what they log belongs to no later test."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("Otel"):
            thread.join(WITHIN_S)
            assert not thread.is_alive()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What a gateway sends, kept here instead."""
    memory = InMemorySpanExporter()
    monkeypatch.setattr(otel, "BatchSpanProcessor", lambda _, **__: SimpleSpanProcessor(memory))
    return memory


@pytest.fixture
async def traced(
    tmp_path: Path, model: ScriptedModel, spans: InMemorySpanExporter
) -> AsyncIterator[Gateway]:
    """A gateway that traces into `spans`."""
    settings = settings_for(tmp_path / "c.db", model.url, otel_exporter_otlp_endpoint=NOWHERE)
    async with in_process(settings) as gateway:
        yield gateway


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """A span's trace, its own id and its parent's."""
    context = span.get_span_context()
    assert context is not None
    parent = format(span.parent.span_id, "016x") if span.parent else None
    return format(context.trace_id, "032x"), format(context.span_id, "016x"), parent


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_turn_is_a_span_and_its_stages_are_within(
    traced: Gateway, model: ScriptedModel, spans: InMemorySpanExporter
) -> None:
    async with traced.tab() as tab, traced.tab() as other:
        await tab.chat("hi", max_new_tokens=7, temperature=0.5)
        call = await call_of(model)
        await other.chat("waits")
        await other.next("queued")
        await call.say("one")
        await call.complete()
        complete = await tab.ends()
        await (await call_of(model)).complete()
        await other.ends()
    first, second = named(spans, "chat midm")
    said = attributes(first)
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "midm",
        "gen_ai.request.model": "midm",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.id": complete["message_id"],
        "gen_ai.response.finish_reasons": ("stop",),
        "server.address": "127.0.0.1",
        "midm.turn": 1,
        "midm.attempt": 1,
    }
    assert first.kind is trace.SpanKind.CLIENT
    assert [event.name for event in first.events] == ["first_token"]
    assert first.status.status_code is trace.StatusCode.UNSET
    within: dict[str | None, list[str]] = {}
    for span in spans.get_finished_spans():
        within.setdefault(ids(span)[2], []).append(span.name)
    assert within[ids(first)[1]] == ["call", "store"]
    assert within[ids(second)[1]] == ["queue", "call", "store"]
    assert ids(first)[0] != ids(second)[0]
    assert dict(first.resource.attributes)["service.name"] == "midm-chat-gateway"


async def test_what_the_model_counted_is_told(
    traced: Gateway, model: ScriptedModel, spans: InMemorySpanExporter
) -> None:
    session_id = await traced.new_session()
    async with anyio.create_task_group() as tasks:
        body = {"session_id": session_id, "message": "hi"}
        tasks.start_soon(lambda: traced.http.post("/api/chat", json=body))
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        await (await call_of(model)).answer("one", usage=usage)
    [span] = named(spans, "chat midm")
    assert attributes(span)["gen_ai.usage.input_tokens"] == 3
    assert attributes(span)["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("transport", ["rest", "websocket"])
async def test_a_turn_is_part_of_the_trace_it_was_asked_in_and_so_is_the_call(
    traced: Gateway, model: ScriptedModel, spans: InMemorySpanExporter, transport: str
) -> None:
    headers = {"traceparent": TRACEPARENT}
    if transport == "rest":
        session_id = await traced.new_session()
        body = {"session_id": session_id, "message": "hi"}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: traced.http.post("/api/chat", json=body, headers=headers))
            call = await call_of(model)
            await call.answer("one")
    else:
        async with traced.tab(headers=headers) as tab:
            await tab.chat("hi")
            call = await call_of(model)
            await call.complete()
            await tab.ends()
    [turn], [called] = named(spans, "chat midm"), named(spans, "call")
    assert (ids(turn)[0], ids(turn)[2]) == (TRACE, PARENT)
    assert call.headers["traceparent"] == f"00-{TRACE}-{ids(called)[1]}-01"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "nonsense")],
        [("traceparent", "00-" + "x" * 10_000)],
        [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)],
    ],
)
async def test_a_request_of_no_trace_begins_one(
    traced: Gateway,
    model: ScriptedModel,
    spans: InMemorySpanExporter,
    headers: list[tuple[str, str]],
) -> None:
    session_id = await traced.new_session()
    body = {"session_id": session_id, "message": "hi"}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: traced.http.post("/api/chat", json=body, headers=headers))
        call = await call_of(model)
        await call.answer("one")
    [turn] = named(spans, "chat midm")
    assert ids(turn)[2] is None
    assert call.headers["traceparent"].split("-")[1] == ids(turn)[0] != TRACE


async def test_how_a_turn_fails_and_is_stopped_is_seen_and_no_word_of_it(
    traced: Gateway, model: ScriptedModel, spans: InMemorySpanExporter
) -> None:
    async with traced.tab() as tab:
        await tab.chat(WORDS)
        call = await call_of(model)
        await call.say(WORDS)
        await call.error(f"cannot say {WORDS}")
        await tab.ends()
        await tab.chat(WORDS)
        call = await call_of(model)
        await call.say(WORDS)
        await tab.next("token")
        await tab.send(type="cancel")
        await tab.ends(2)
        await tab.chat(WORDS)
        await call_of(model)
        await traced.http.delete(f"/api/sessions/{tab.session_id}")
        await tab.closed()
    await until(lambda: len(named(spans, "chat midm")) == 3)
    failed, cancelled, deleted = named(spans, "chat midm")
    assert attributes(failed)["error.type"] == "upstream_error"
    assert attributes(failed)["gen_ai.response.finish_reasons"] == ("error",)
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert attributes(cancelled)["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert "gen_ai.response.finish_reasons" not in attributes(deleted)
    calls = [attributes(span)["error.type"] for span in named(spans, "call")]
    assert calls == ["upstream_error", "cancelled", "cancelled"]
    told = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "8f14e45f" not in told
    assert tab.session_id not in told
    for span in spans.get_finished_spans():
        assert all(not event.attributes for event in span.events)
        assert span.status.description is None


async def test_without_tracing_nothing_is_told_to_the_model_server(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab(headers={"traceparent": TRACEPARENT}) as tab:
        await tab.chat("hi")
        call = await call_of(model)
        await call.complete()
        await tab.ends()
    assert "traceparent" not in call.headers


# Sent


class Collector:
    """Takes traces over OTLP/HTTP, on a port of 127.0.0.1."""

    def __init__(self) -> None:
        self.taken: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.append(self.path)
                collector.taken.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator["Collector"]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    @property
    def names(self) -> list[str]:
        return [
            span.name
            for request in self.taken
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


async def one_turn(settings: Any, model: ScriptedModel) -> None:
    """Run a gateway for one turn, from its start to its end."""
    with anyio.fail_after(WITHIN_S):
        async with on_sockets(settings) as gateway, gateway.tab() as tab:
            await gateway.exchange(tab, model, WORDS, "one")


async def test_a_collector_gets_what_was_traced_at_the_latest_when_the_gateway_ends(
    tmp_path: Path, model: ScriptedModel
) -> None:
    with Collector().serving() as collector:
        settings = settings_for(
            tmp_path / "c.db",
            model.url,
            otel_exporter_otlp_endpoint=f"{collector.url}/",
            otel_service_name="chat-7",
        )
        await one_turn(settings, model)
    assert set(collector.paths) == {"/v1/traces"}
    assert sorted(collector.names) == ["call", "chat midm", "store"]
    [resource] = [r for request in collector.taken for r in request.resource_spans][:1]
    said = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert said["service.name"] == "chat-7"
    assert said["service.version"]
    assert b"8f14e45f" not in b"".join(each.SerializeToString() for each in collector.taken)


@asynccontextmanager
async def mute() -> AsyncIterator[str]:
    """A collector that takes connections and never answers."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)

    async def stay(stream: Any) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, stay)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


async def test_a_collector_that_is_mute_is_not_waited_for(
    tmp_path: Path, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel, "CLOSE_WITHIN_S", 0.1)
    monkeypatch.setattr(otel, "EXPORT_S", 0.5)
    async with mute() as url:
        settings = settings_for(tmp_path / "c.db", model.url, otel_exporter_otlp_endpoint=url)
        await one_turn(settings, model)


async def test_the_loop_goes_on_while_the_rest_is_sent_and_then_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otel, "CLOSE_WITHIN_S", 0.05)
    enough = threading.Event()

    class Stuck(SpanProcessor):
        sent = False

        def shutdown(self) -> None:
            self.sent = not enough.wait(WITHIN_S)

    stuck = Stuck()
    async with otel.tracing_to(stuck, {}, model="midm", server="127.0.0.1"):
        pass
    assert not stuck.sent
    enough.set()


async def test_a_collector_that_is_away_is_said_to_be_and_nobody_else_notices(
    tmp_path: Path,
    model: ScriptedModel,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(otel, "EXPORT_EVERY_MS", 10)
    monkeypatch.setattr(otel, "EXPORT_S", 0.2)
    url = f"http://127.0.0.1:{free_port}"
    settings = settings_for(tmp_path / "c.db", model.url, otel_exporter_otlp_endpoint=url)
    await one_turn(settings, model)
    await until(lambda: any(each.name.startswith("opentelemetry") for each in caplog.records))
    told = next(each for each in caplog.records if each.name.startswith("opentelemetry"))
    seldom = Seldom()
    assert sum(seldom.filter(told) for _ in range(100)) == MAX_A_MINUTE
    assert " WARNING opentelemetry" in OneLine(FORMAT).format(told)


def test_a_collector_without_the_packages_for_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.settings.find_spec", lambda _: None)
    with pytest.raises(BadSettings) as refused:
        load_settings(_env_file=None, otel_exporter_otlp_endpoint=NOWHERE)
    assert str(refused.value) == (
        "OTEL_EXPORTER_OTLP_ENDPOINT: needs more packages: pip install 'midm-chat-gateway[otel]'"
    )


def test_a_collector_that_is_no_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(_env_file=None, otel_exporter_otlp_endpoint="user:secret@host")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT: should be a URL" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_process_has_no_tracing_of_its_own() -> None:
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

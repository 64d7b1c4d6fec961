"""Traces turns with OpenTelemetry, and sends them to a collector over OTLP/HTTP.

A span stands for an attempt at a turn and is named as the semantic conventions for generative AI
have it (`chat` and the model); its children are the wait, each call of the model server and the
storing of the end. No word of what was asked or answered is in any of them, nor the session, whose
id is all that an anonymous caller needs to read it: the id of the reply leads there from within.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from gateway.errors import code_of
from gateway.outcome import Outcome
from gateway.tracing.base import Headers, Stage
from llm.trace import TRACEPARENT
from protocol.errors import ErrorCode
from storage.turns import StoredTurn

EXPORT_S = 5.0
"""How long one export may take, its repetitions included."""

EXPORT_EVERY_MS = 1_000
MAX_WAITING_SPANS = 2_048
"""So many wait for a collector that is away; then the oldest are dropped."""

CLOSE_WITHIN_S = 2.0

_HEADER = "traceparent"
_MAX_HEADER_BYTES = 256
_PROPAGATOR = TraceContextTextMapPropagator()


class OtelTracing:
    """Implements `gateway.tracing.base.Tracing`.

    `server` is the model server's address, empty where there are several.
    """

    def __init__(self, tracer: Tracer, *, model: str, server: str) -> None:
        self._tracer = tracer
        self._model = model
        self._server = server

    def enter(self, headers: Headers) -> None:
        """Note which trace a request is part of; who sends two is part of none."""
        found = [value for name, value in headers if name.lower() == _HEADER.encode()]
        fits = len(found) == 1 and len(found[0]) <= _MAX_HEADER_BYTES
        TRACEPARENT.set(found[0].decode("latin-1") if fits else "")

    def begin(self, turn: StoredTurn) -> "OtelTurn":
        """Begin the span of an attempt at a turn."""
        # What is no traceparent leads nowhere, and a new trace begins.
        parent = _PROPAGATOR.extract({_HEADER: TRACEPARENT.get()}, Context())
        asked: dict[str, AttributeValue] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "midm",
            "gen_ai.request.model": self._model,
            "gen_ai.response.id": turn.reply_message_id,
            "midm.turn": turn.turn,
            "midm.attempt": turn.attempt,
        }
        if self._server:
            asked["server.address"] = self._server
        for name, said in (("max_tokens", "max_new_tokens"), ("temperature", "temperature")):
            if isinstance(value := turn.generation.get(said), int | float):
                asked[f"gen_ai.request.{name}"] = value
        span = self._tracer.start_span(
            f"chat {self._model}", parent, kind=SpanKind.CLIENT, attributes=asked
        )
        return OtelTurn(self._tracer, span)


class OtelTurn:
    """Implements `gateway.tracing.base.TurnTrace`."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._within = trace.set_span_in_context(span, Context())
        self._ended = False

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Trace a stage of the turn."""
        with self._child(name, SpanKind.INTERNAL):
            yield

    @contextmanager
    def call(self) -> Iterator[None]:
        """Trace a call of the model server, and tell it so."""
        with self._child("call", SpanKind.CLIENT) as span:
            carried: dict[str, str] = {}
            _PROPAGATOR.inject(carried, trace.set_span_in_context(span, Context()))
            before = TRACEPARENT.set(carried.get(_HEADER, ""))
            try:
                yield
            finally:
                TRACEPARENT.reset(before)

    def say(self) -> None:
        """Note that there is a first piece of text."""
        self._span.add_event("first_token")

    def end(self, outcome: Outcome | None) -> None:
        """Note how the turn ended."""
        if self._ended:
            return
        self._ended = True
        if outcome is not None:
            self._note(outcome)
        self._span.end()

    def _note(self, outcome: Outcome) -> None:
        self._span.set_attribute("gen_ai.response.finish_reasons", [outcome.finish_reason])
        if outcome.error is not None:
            _fail(self._span, str(outcome.error.code))
        if outcome.usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", outcome.usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", outcome.usage.completion_tokens)

    @contextmanager
    def _child(self, name: str, kind: SpanKind) -> Iterator[Span]:
        span = self._tracer.start_span(name, self._within, kind=kind)
        try:
            yield span
        except asyncio.CancelledError:
            _fail(span, "cancelled")
            raise
        except Exception as error:
            # Its text is for the log, and not recorded here.
            _fail(span, str(code_of(type(error)) or ErrorCode.INTERNAL))
            raise
        finally:
            span.end()


def _fail(span: Span, code: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR))


@asynccontextmanager
async def open_tracing(
    endpoint: str, *, service: str, version: str, node: str | None, model: str, server: str
) -> AsyncIterator[OtelTracing]:
    """Send spans to the collector at `endpoint` until the exit, from a thread of its own.

    A collector that is away, or slow, is waited for by nobody: what it does not take is dropped. At
    the exit it gets `CLOSE_WITHIN_S` seconds for the rest.
    """
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S)
    processor = BatchSpanProcessor(
        exporter, max_queue_size=MAX_WAITING_SPANS, schedule_delay_millis=EXPORT_EVERY_MS
    )
    attributes = {SERVICE_NAME: service, SERVICE_VERSION: version}
    if node is not None:
        attributes[SERVICE_INSTANCE_ID] = node
    async with tracing_to(processor, attributes, model=model, server=server) as tracing:
        yield tracing


@asynccontextmanager
async def tracing_to(
    processor: SpanProcessor, attributes: dict[str, str], *, model: str, server: str
) -> AsyncIterator[OtelTracing]:
    """Hand spans to a processor until the exit; no provider is made the one of the process."""
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    try:
        yield OtelTracing(provider.get_tracer("midm-chat-gateway"), model=model, server=server)
    finally:
        await _shut_down(provider)


async def _shut_down(provider: TracerProvider) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # nobody waited so long, and the loop is closed
            loop.call_soon_threadsafe(over.set)

    # A daemon, and none of the loop's threads, which the process would wait for.
    threading.Thread(target=shut_down, name="OtelShutDown", daemon=True).start()
    with anyio.move_on_after(CLOSE_WITHIN_S, shield=True):
        await over.wait()

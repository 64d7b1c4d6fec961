"""`GET /metrics`: what a gateway counts and sees of itself, as Prometheus reads it.

Nothing here is counted as it happens: at each scrape the figures are read, and whatever can be
looked up is looked up. Labels come from fixed sets, never from what a client says.
"""

import hmac
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.auth.credentials import Bearer, credentials_of
from gateway.entrance import authorization_of
from gateway.errors import code_of
from gateway.figures import Spread
from gateway.hosts import host_of
from gateway.house import House, house_of
from gateway.problems import forbidden
from gateway.rest import is_from_here
from llm.client import UpstreamFailed, UpstreamStalled, UpstreamTimeout, UpstreamUnavailable
from protocol.about import VERSION
from protocol.errors import ErrorCode, Refusal
from protocol.lifecycle import FIRST

PREFIX = "midm_gateway"

OUTCOMES = (
    *("stop", "length", "cancelled", "deleted", "lost", "left_open"),
    ErrorCode.UPSTREAM_UNAVAILABLE,
    ErrorCode.UPSTREAM_TIMEOUT,
    ErrorCode.UPSTREAM_STALLED,
    ErrorCode.UPSTREAM_ERROR,
    ErrorCode.TURN_TIMEOUT,
    ErrorCode.INTERRUPTED,
    ErrorCode.INTERNAL,
)
"""How a turn ends, as a rule: these are there from the start, so that the first one is a rise."""

_UPSTREAM = (UpstreamUnavailable, UpstreamTimeout, UpstreamStalled, UpstreamFailed)

Labelled = Mapping[tuple[str, ...], float]


def registry_of(house: House) -> CollectorRegistry:
    """Make the registry of one gateway: its figures, and its process as the kernel sees it.

    Of Python's own collectors that of the process alone: what the garbage collector did, and which
    Python this is, say nothing that helps.
    """
    registry = CollectorRegistry()
    registry.register(GatewayCollector(house))
    ProcessCollector(registry=registry)
    return registry


async def metrics(request: Request) -> Response:
    """Show the metrics to whoever may see them, in the format that they ask for."""
    house = house_of(request)
    if house.settings.metrics == "off":
        raise HTTPException(404)
    if not may_read(request, house):
        return forbidden("Metrics are for this machine alone; see METRICS and METRICS_TOKEN.")
    encode, content_type = _encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.registry), headers={"content-type": content_type})


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except (ValueError, TypeError):  # a version that is none; whatever is asked for is a wish
        return choose_encoder("")


def may_read(request: Request, house: House) -> bool:
    """Whether a request is of one who may read the metrics.

    With a token that is whoever has it, wherever they are, and nobody else: raises `Refusal`
    (`unauthorized`). Without one it is everybody, or this machine, by a name that it has.
    """
    settings = house.settings
    if settings.metrics_token:
        said = authorization_of(request)
        match credentials_of(authorization=said, subprotocols=(), ticket=None):
            case Bearer(token) if hmac.compare_digest(token, settings.metrics_token):
                return True
        raise Refusal(ErrorCode.UNAUTHORIZED, "Metrics need the token of METRICS_TOKEN.")
    named = house.entrance.hosts.allow(host_of(request.scope["headers"]))
    return settings.metrics == "all" or (named and is_from_here(request))


class GatewayCollector(Collector):
    """Reads one gateway whenever it is scraped."""

    def __init__(self, house: House) -> None:
        self._house = house

    def describe(self) -> list[Metric]:
        """Promise nothing: what is asked here is asked of a gateway that is open."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read all there is to tell."""
        for read in (_present, _turns, _clients, _upstream, _storage):
            yield from read(self._house)


def _present(house: House) -> Iterator[Metric]:
    version: Labelled = {(VERSION, platform.python_version()): 1.0}
    yield _gauge("build_info", "Which release this is.", version, "version", "python")
    yield _gauge(
        "ready",
        "Whether new work finds what it needs, by what; accepting is 0 while it drains: 1 or 0.",
        {
            ("broker",): house.broker.ready and house.admission.ready,
            ("database",): not house.database.in_trouble,
            ("accepting",): not house.turns.draining,
        },
        "part",
    )
    kinds: Labelled = {
        ("websocket",): len(house.connections),
        ("sse",): house.figures.streams,
    }
    yield _gauge("connections", "Connections of clients that are open now.", kinds, "kind")


def _turns(house: House) -> Iterator[Metric]:
    figures = house.figures
    runs = house.turns.runs()
    queued = sum(run.turn.status == FIRST for run in runs)
    states: Labelled = {("queued",): queued, ("running",): len(runs) - queued}
    yield _gauge("open_turns", "Turns of this node that have not ended.", states, "state")
    yield _counter(
        "turns",
        "Turns that ended here, by finish reason or error code; left_open and lost ones go on"
        " elsewhere, or at the next start.",
        _by_name(dict.fromkeys(OUTCOMES, 0) | figures.turns),
        "outcome",
    )
    attempts = "Attempts at turns that were begun here; a turn that is taken up again is one more."
    yield _counter("turn_attempts", attempts, {(): figures.attempts})
    yield _histogram(
        "queue_wait_seconds", "From the moment a turn is stored to its call.", figures.queue_s
    )
    yield _histogram(
        "first_token_seconds", "From the call to the first text of a reply.", figures.first_token_s
    )
    yield _histogram("token_gap_seconds", "Between two pieces of a reply.", figures.gap_s)
    yield _histogram(
        "turn_duration_seconds",
        "From the moment a turn is stored to that at which its end is.",
        figures.turn_s,
    )


def _clients(house: House) -> Iterator[Metric]:
    figures = house.figures
    resumes: Labelled = {
        ("honoured",): figures.resumes[True],
        ("refused",): figures.resumes[False],
    }
    yield _counter("resumes", "Connections that came with a cursor.", resumes, "result")
    delivered: Labelled = {
        ("live",): figures.live_tokens,
        ("merged",): figures.merged_tokens,
    }
    text = "Token frames for clients: the newest piece as it came, or what had piled up, merged."
    yield _counter("token_frames", text, delivered, "delivery")
    sent = {"websocket": figures.websocket, "sse": figures.sse}
    frames: Labelled = {(kind,): each.frames for kind, each in sent.items()}
    size: Labelled = {(kind,): each.size for kind, each in sent.items()}
    yield _counter("frames_sent", "Frames handed to sockets.", frames, "kind")
    yield _counter("sent_bytes", "The size of those frames, as encoded.", size, "kind")
    received = "Messages that came in over WebSockets."
    yield _counter("frames_received", received, {(): figures.received})
    refused = _by_name(dict.fromkeys(ErrorCode, 0) | figures.refusals)
    yield _counter("refusals", "What clients asked for in vain, by code.", refused, "code")
    yield _counter("sessions_created", "Sessions that were begun here.", {(): figures.sessions})
    failures = "Credentials that were missing or no good."
    yield _counter("auth_failures", failures, {(): figures.auth_failures})
    requests: Labelled = {
        (method, route, str(status)): count
        for (method, route, status), count in figures.requests.items()
    }
    labels = ("method", "route", "status")
    yield _counter("http_requests", "Responses to HTTP requests.", requests, *labels)


def _upstream(house: House) -> Iterator[Metric]:
    up = house.probe.available
    yield _single("upstream_up", "Whether the model server was well when last asked.", up)
    well = house.probe.servers_well
    servers: Labelled = {("well",): well, ("away",): house.probe.servers - well}
    counted = "How many model servers were well when last asked, and how many were not."
    yield _gauge("upstream_servers", counted, servers, "state")
    yield _single(
        "upstream_circuit_open",
        "Whether calls are refused, for too many failed in a row: 1 or 0.",
        house.probe.circuit_open,
    )
    calls = "Calls that the model server is busy with, those of other nodes included."
    yield _single("upstream_calls", calls, house.admission.calls)
    waiting = "Turns that wait for the model server, those of other nodes included."
    yield _single("upstream_waiting", waiting, house.admission.waiting)
    failed: Counter[str | None] = Counter(dict.fromkeys(map(code_of, _UPSTREAM), 0))
    for kind, count in house.figures.upstream_errors.items():
        failed[code_of(kind)] += count
    yield _counter(
        "upstream_errors",
        "Calls of the model server that failed, those that were repeated included.",
        _by_name(failed),
        "code",
    )


def _storage(house: House) -> Iterator[Metric]:
    figures = house.figures
    took = "From asking the database for a commit to its answer."
    yield _histogram("storage_commit_seconds", took, figures.commit_s)
    writes = "Writes in one commit; on PostgreSQL always one."
    yield _histogram("storage_commit_writes", writes, figures.commit_writes)
    refused = "Writes that the database did not take."
    yield _counter("storage_failed_writes", refused, {(): figures.failed_writes})


def _by_name(counted: Mapping[Any, int]) -> dict[tuple[str, ...], float]:
    return {(str(name),): count for name, count in counted.items()}


def _single(name: str, text: str, value: float) -> Metric:
    return _gauge(name, text, {(): value})


def _gauge(name: str, text: str, values: Labelled, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels), values)


def _counter(name: str, text: str, values: Labelled, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Labelled) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, float(value))
    return family


def _histogram(name: str, text: str, spread: Spread) -> Metric:
    below = 0
    buckets = []
    for bound, count in zip((*spread.bounds, float("inf")), spread.counts, strict=True):
        below += count
        told = floatToGoString(bound)  # type: ignore[no-untyped-call]  # prometheus_client's own
        buckets.append((told, float(below)))
    return HistogramMetricFamily(f"{PREFIX}_{name}", text, buckets, spread.total)

"""`GET /metrics` tells what happened: exactly that, to those who may know, and of nobody."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_of,
)

from gateway.auth.api_keys import new_key
from gateway.settings import BadSettings, load_settings
from tests.gateway.harness import Gateway, call_of, in_process, on_sockets, settings_for
from tests.gateway.inside.scrape import PREFIX, Scrape, read, scrape
from tests.gateway.peers import until
from tests.llm.scripted import ScriptedModel

TOKEN = "a-token-of-those-who-watch"


async def test_what_was_done_is_what_is_told(served: Gateway, model: ScriptedModel) -> None:
    async with served.tab() as tab:
        for reply in ("one", "two", "three"):
            await served.exchange(tab, model, "hi", reply)
        await tab.chat("cancel me")
        call = await call_of(model)
        await call.say("half ")
        await tab.next("token")
        await tab.send(type="cancel")
        assert (await tab.ends(4))["finish_reason"] == "cancelled"
        await tab.chat("fail")
        await (await call_of(model)).error("CUDA out of memory")
        assert (await tab.ends(5))["code"] == "upstream_error"
        await tab.refused(type="cancel")
        await tab.refused(type="nonsense")
        await tab.settle()
        told = await scrape(served)
        received, sent = len(tab.frames) + 1, told.value("frames_sent_total", kind="websocket")
        assert sent == received  # `ready` is not among the frames of a tab
        assert told.by("connections", "kind") == {"websocket": 1}
    for after in ("3.1.2", "99.1.end"):
        async with served.tab(tab.session_id, after):
            pass
    told = await until_scraped(served, "connections", {})

    assert told.by("turns_total", "outcome") == {"stop": 3, "cancelled": 1, "upstream_error": 1}
    assert told.value("turn_attempts_total") == 5
    assert told.by("open_turns", "state") == {}
    assert told.by("upstream_errors_total", "code") == {"upstream_error": 1}
    assert told.by("resumes_total", "result") == {"honoured": 1, "refused": 1}
    assert told.by("refusals_total", "code") == {"nothing_to_cancel": 1, "unknown_type": 1}
    assert told.value("sessions_created_total") == 1
    assert told.value("queue_wait_seconds_count") == 5
    assert told.value("first_token_seconds_count") == 4
    assert told.value("token_gap_seconds_count") == 0
    assert told.value("turn_duration_seconds_count") == 5
    assert told.value("frames_received_total") == 10  # with two pings
    assert told.value("storage_failed_writes_total") == 0
    # A session, five turns and their ends at the least; each was waited for.
    assert told.value("storage_commit_seconds_count") >= 11
    assert told.value("storage_commit_writes_sum") >= 11


async def test_pieces_and_the_gaps_between_them_are_counted(
    served: Gateway, model: ScriptedModel
) -> None:
    async with served.tab() as tab, served.tab(tab.session_id) as other:
        await tab.chat("hi")
        call = await call_of(model)
        for piece in ("a", "b", "c", "d"):
            await call.say(piece)
            await tab.next("token")
            await other.next("token")
        await call.complete()
        await tab.ends()
        await other.ends()
        told = await scrape(served)
    assert told.value("first_token_seconds_count") == 1
    assert told.value("token_gap_seconds_count") == 3
    assert told.by("token_frames_total", "delivery") == {"live": 8}


async def test_what_had_piled_up_counts_as_merged(served: Gateway, model: ScriptedModel) -> None:
    async with served.tab() as tab:
        await tab.chat("hi")
        call = await call_of(model)
        for piece in ("a", "b", "c"):
            await call.say(piece)
            await tab.next("token")
        before = await scrape(served)
        async with served.tab(tab.session_id, "1.1.1") as late:
            assert (await late.next("token"))["content"] == "bc"
            told = await scrape(served)
        assert before.by("token_frames_total", "delivery") == {"live": 3}
        assert told.by("token_frames_total", "delivery") == {"live": 3, "merged": 1}
        await call.complete()
        await tab.ends()
    async with served.tab(tab.session_id, "1.1.0") as later:
        await later.ends()
        told = await scrape(served)
    assert told.by("token_frames_total", "delivery") == {"live": 3, "merged": 2}


async def test_event_streams_are_connections_of_their_own(
    served: Gateway, model: ScriptedModel
) -> None:
    session_id = await served.new_session()
    body = {"session_id": session_id, "message": "hi"}
    async with served.sse("POST", "/api/chat/stream", json=body) as stream:
        call = await call_of(model)
        await call.say("a")
        await stream.next("token")
        told = await scrape(served)
        assert told.by("connections", "kind") == {"sse": 1}
        assert told.by("token_frames_total", "delivery") == {"live": 1}
        await call.complete()
        events = await stream.all()
    after = {"Last-Event-ID": "1.1.0"}
    path = f"/api/sessions/{session_id}/events"
    async with served.sse("GET", path, headers=after) as stream:
        await stream.next("complete")
    told = await until_scraped(served, "connections", {})
    assert told.by("resumes_total", "result") == {"honoured": 1}
    assert told.value("frames_sent_total", kind="sse") == len(events) + len(stream.events)
    assert told.value("sent_bytes_total", kind="sse") >= len(stream.raw)
    assert told.value("frames_sent_total", kind="websocket") == 0


async def test_who_waits_is_seen_waiting(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab, gateway.tab() as other:
        await tab.chat("hi")
        call = await call_of(model)
        await other.chat("waits")
        await other.next("queued")
        told = await scrape(gateway)
        assert told.by("open_turns", "state") == {"running": 1, "queued": 1}
        assert told.value("upstream_calls") == 1
        assert told.value("upstream_waiting") == 1
        assert told.value("queue_wait_seconds_count") == 1
        await call.complete()
        await tab.ends()
        await (await call_of(model)).complete()
        await other.ends()
        told = await scrape(gateway)
    assert told.by("open_turns", "state") == {}
    assert told.value("queue_wait_seconds_count") == 2


async def test_a_model_server_that_is_away_is_seen(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.retry.Backoff.wait_s", lambda *_, **__: 0.0)
    settings = settings_for(tmp_path / "chat.db", f"http://127.0.0.1:{free_port}")
    async with in_process(settings) as gateway:
        await gateway.house.probe.model()
        async with gateway.tab() as tab:
            for turn in range(1, 6):
                await tab.chat("hi")
                assert (await tab.ends(turn))["code"] == "upstream_unavailable"
            assert (await tab.refused(type="chat", message="hi"))["code"] == "upstream_unavailable"
        told = await scrape(gateway)
    assert told.value("upstream_up") == 0
    assert told.value("upstream_circuit_open") == 1
    assert told.by("turns_total", "outcome") == {"upstream_unavailable": 5}
    # Each was tried four times.
    assert told.by("upstream_errors_total", "code") == {"upstream_unavailable": 20}
    assert told.by("refusals_total", "code") == {"upstream_unavailable": 1}


async def test_a_call_that_failed_at_one_of_two_servers_is_counted(
    tmp_path: Path, free_port: int, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def well(_: Any) -> bool:
        return True

    monkeypatch.setattr("llm.midm.Midm.healthy", well)
    servers = f"http://127.0.0.1:{free_port},{model.url}"
    async with in_process(settings_for(tmp_path / "chat.db", servers)) as gateway:
        async with gateway.tab() as tab:
            assert (await gateway.exchange(tab, model, "hi", "hello"))["finish_reason"] == "stop"
        told = await scrape(gateway)
    assert told.by("turns_total", "outcome") == {"stop": 1}
    assert told.by("upstream_errors_total", "code") == {"upstream_unavailable": 1}


async def test_one_of_two_servers_that_is_away_is_seen(
    tmp_path: Path, free_port: int, model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway.health")
    servers = f"http://127.0.0.1:{free_port},{model.url}"
    async with in_process(settings_for(tmp_path / "chat.db", servers)) as gateway:
        await gateway.house.probe.model()
        told = await scrape(gateway)
    assert told.value("upstream_up") == 1
    assert told.by("upstream_servers", "state") == {"well": 1, "away": 1}
    assert "the model server is ready: 1 of 2 are well" in caplog.text


async def test_a_model_server_that_is_well_is_seen(gateway: Gateway) -> None:
    await gateway.house.probe.model()
    told = await scrape(gateway)
    assert told.value("upstream_up") == 1
    assert told.value("upstream_circuit_open") == 0
    assert told.by("ready", "part") == {"broker": 1, "database": 1, "accepting": 1}


async def test_a_turn_of_a_session_that_is_deleted_counts_as_that(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await tab.chat("hi")
        await call_of(model)
        await gateway.http.delete(f"/api/sessions/{tab.session_id}")
        assert await tab.closed() == 4504
    told = await until_scraped(gateway, "open_turns", {}, label="state")
    assert told.by("turns_total", "outcome") == {"deleted": 1}
    assert told.value("turn_duration_seconds_count") == 0


async def test_requests_are_counted_by_route_and_never_by_path(gateway: Gateway) -> None:
    session_id = await gateway.new_session()
    for _ in range(2):
        await gateway.messages(session_id)
    await gateway.http.get("/api/sessions/secret-one/messages")
    await gateway.http.get("/not/a/route")
    await gateway.http.request("BREW", "/")
    await gateway.http.put("/api/sessions")
    await gateway.http.post("/api/sessions", headers={"Origin": "https://evil.example"})
    told = await scrape(gateway)
    counted = {
        tuple(dict(labels)[name] for name in ("method", "route", "status")): value
        for labels, value in told.samples[f"{PREFIX}http_requests_total"].items()
    }
    assert counted == {
        ("POST", "/api/sessions", "201"): 1,
        ("GET", "/api/sessions/{session_id}/messages", "200"): 2,
        ("GET", "/api/sessions/{session_id}/messages", "404"): 1,
        ("GET", "none", "404"): 1,
        ("other", "/", "405"): 1,
        ("PUT", "/api/sessions", "405"): 1,
        ("POST", "none", "403"): 1,
    }
    assert session_id not in told.text


async def test_a_request_that_fails_unforeseen_counts_as_500(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("gateway.rest.begin_session", fails)
    with pytest.raises(RuntimeError):
        await gateway.http.post("/api/sessions")
    told = await scrape(gateway)
    labels = {"method": "POST", "route": "/api/sessions", "status": "500"}
    assert told.value("http_requests_total", **labels) == 1


async def test_credentials_that_are_no_good_are_counted(tmp_path: Path) -> None:
    key, kept = new_key("alice")
    wrong, _ = new_key("alice")
    settings = settings_for(tmp_path / "chat.db", "", api_keys=kept.line)
    async with in_process(settings) as gateway:
        for token, status in ((key, 200), (wrong, 401), ("nonsense", 401)):
            bearer = {"Authorization": f"Bearer {token}"}
            listed = await gateway.http.get("/api/sessions", headers=bearer)
            assert listed.status_code == status
        told = await scrape(gateway)
    assert told.value("auth_failures_total") == 2
    assert told.by("refusals_total", "code") == {"unauthorized": 2}


async def test_each_gateway_counts_for_itself(tmp_path: Path) -> None:
    async with (
        in_process(settings_for(tmp_path / "a.db", "")) as one,
        in_process(settings_for(tmp_path / "b.db", "")) as two,
    ):
        await one.new_session()
        assert (await scrape(one)).value("sessions_created_total") == 1
        assert (await scrape(two)).value("sessions_created_total") == 0


# What it looks like


async def test_the_metrics_are_as_prometheus_wants_them(
    gateway: Gateway, model: ScriptedModel
) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "hi", "one")
    await gateway.http.get("/")
    told = await scrape(gateway)
    ours = {name for name in told.kinds if name.startswith(PREFIX)}
    assert len(ours) > 25
    for name in ours:
        assert re.fullmatch(r"[a-z_]+", name)
        assert told.helps[name].endswith("."), name
        assert len(told.helps[name]) > 20
        assert "_ms" not in name
        if told.kinds[name] == "counter":
            assert f"{name}_total" in told.samples
    assert told.kinds.keys() - ours == {
        *("process_virtual_memory_bytes", "process_resident_memory_bytes"),
        *("process_start_time_seconds", "process_cpu_seconds", "process_open_fds"),
        "process_max_fds",
    }


async def test_a_histogram_adds_up(gateway: Gateway, model: ScriptedModel) -> None:
    async with gateway.tab() as tab:
        await gateway.exchange(tab, model, "hi", "one")
    told = await scrape(gateway)
    for name, kind in told.kinds.items():
        if kind != "histogram":
            continue
        buckets = {
            float(dict(labels)["le"]): value
            for labels, value in told.samples[f"{name}_bucket"].items()
        }
        assert list(buckets) == sorted(buckets)
        assert list(buckets.values()) == sorted(buckets.values())
        assert buckets[float("inf")] == told.samples[f"{name}_count"][()]


async def test_who_asks_for_openmetrics_gets_them(gateway: Gateway) -> None:
    wanted = "application/openmetrics-text; version=1.0.0"
    answer = await gateway.http.get("/metrics", headers={"Accept": wanted})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in open_metrics_of(answer.text)}  # type: ignore[no-untyped-call]
    assert "midm_gateway_turns" in names
    plain = await gateway.http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert read(plain.text).kinds


@pytest.mark.parametrize(
    "wanted",
    [
        "application/openmetrics-text; version=x; escaping=allow-utf-8",
        "application/openmetrics-text; version=1..0",
        "text/plain; version=; q=oops",
        ";;;,=",
    ],
)
async def test_who_asks_for_what_there_is_not_gets_the_default(
    gateway: Gateway, wanted: str
) -> None:
    answer = await gateway.http.get("/metrics", headers={"Accept": wanted})
    assert (answer.status_code, read(answer.text).kinds != {}) == (200, True)


# Who may read them


async def asked(gateway: Gateway, **headers: str) -> httpx.Response:
    return await gateway.http.get("/metrics", headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "192.0.2.7"},
        {"Via": "1.1 proxy"},
        {"Host": "evil.example"},
    ],
)
async def test_by_default_this_machine_alone_may_read_them(
    served: Gateway, headers: dict[str, str]
) -> None:
    assert (await asked(served)).status_code == 200
    refused = await asked(served, **headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert PREFIX not in refused.text


@pytest.mark.parametrize("place", [{}, {"X-Forwarded-For": "192.0.2.7", "Host": "gateway-1:8080"}])
async def test_with_a_token_whoever_has_it_may_and_nobody_else(
    tmp_path: Path, place: dict[str, str]
) -> None:
    for who in ("local", "all"):
        settings = settings_for(tmp_path / "chat.db", "", metrics=who, metrics_token=TOKEN)
        async with on_sockets(settings) as gateway:
            for wrong in ({}, {"Authorization": "Bearer nope"}, {"Authorization": TOKEN}):
                refused = await asked(gateway, **place, **wrong)
                assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
                assert TOKEN not in refused.text
            for scheme in ("Bearer", "bearer"):  # RFC 9110, section 11.1: in any case
                let_in = await asked(gateway, **place, Authorization=f"{scheme} {TOKEN}")
                assert let_in.status_code == 200


async def test_all_may_read_them_where_that_is_said(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "chat.db", "", metrics="all")
    async with on_sockets(settings) as gateway:
        elsewhere = {"X-Forwarded-For": "192.0.2.7", "Host": "gateway-1:8080"}
        assert (await asked(gateway, **elsewhere)).status_code == 200


async def test_they_can_be_turned_off(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "chat.db", "", metrics="off", metrics_token=TOKEN)
    async with in_process(settings) as gateway:
        gone = await asked(gateway, Authorization=f"Bearer {TOKEN}")
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "token", ["short", "한국어" * 6, "with a space in it", "a,comma,in,the,middle"]
)
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(_env_file=None, metrics_token=token)
    assert "METRICS_TOKEN" in str(refused.value)
    assert token not in str(refused.value)


# Alive


async def test_it_is_alive_whatever_else_is_wrong(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(*_: Any) -> bool:
        raise AssertionError("nothing is asked")

    monkeypatch.setattr("gateway.health.Probe.database", hangs)
    monkeypatch.setattr("gateway.health.Probe.model", hangs)
    gateway.house.turns.refuse_new()
    alive = await gateway.http.get("/livez")
    assert (alive.status_code, alive.json()) == (200, {"alive": True})


async def until_scraped(
    gateway: Gateway, name: str, expected: dict[str, float], *, label: str = "kind"
) -> Scrape:
    """Scrape until a metric is as expected."""
    told = await scrape(gateway)

    def as_expected() -> bool:
        return counted() == expected

    def counted() -> dict[str, float]:
        house = gateway.house
        if name == "open_turns":
            return {"any": house.turns.running} if house.turns.running else {}
        found = {"websocket": len(house.connections), "sse": house.figures.streams}
        return {kind: count for kind, count in found.items() if count}

    await until(as_expected)
    told = await scrape(gateway)
    assert told.by(name, label) == expected
    return told

"""`midm-gateway check` against things that are well, and against each of them broken."""

import json
import os
import resource
import shutil
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.checks.access import check_access
from gateway.checks.broker import check_broker
from gateway.checks.database import check_database
from gateway.checks.finding import Finding, State
from gateway.checks.machine import check_files, check_port
from gateway.checks.model import check_answer, check_model
from gateway.server import url_here
from gateway.settings import Settings, load_settings
from llm.simulator import SimulatorSettings, serve_simulator
from storage.database import open_database
from storage.inspecting import postgres_server, sqlite_schema
from storage.migrations import migrate
from tests.servers.postgres import PostgresServer, sql
from tests.servers.redis import RedisServer, redis_server
from tests.storage.original import ORIGINAL
from tests.whole.processes import MODULE, gateway, running


def settings(**given: Any) -> Settings:
    return load_settings(_env_file=None, **given)


def only(findings: list[Finding], about: str) -> Finding:
    [found] = [finding for finding in findings if finding.about == about]
    return found


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that answers whatever it is asked with these bytes."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            yield f"http://127.0.0.1:{port}"
            tasks.cancel_scope.cancel()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def changed_at(folder: Path) -> dict[str, int]:
    return {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}


# The command


async def test_all_that_is_needed_is_there_and_nothing_is_made(tmp_path: Path) -> None:
    async with running(*MODULE, "check", directory=tmp_path, PORT="0") as program:
        assert await program.ended() == 0
    assert program.out[0].split() == ["ok", "settings", "can", "be", "used"]
    assert any("SIMULATED" in line for line in program.out)
    assert program.complaints == []
    assert os.listdir(tmp_path) == []


async def test_what_is_wrong_is_a_line_each_and_the_exit_code(tmp_path: Path) -> None:
    broken = {"LLM_SERVER_URL": "http://127.0.0.1:9", "API_KEYS_FILE": "none", "PORT": "0"}
    (tmp_path / "chatbot.db").mkdir()
    async with running(*MODULE, "check", "--json", directory=tmp_path, **broken) as program:
        assert await program.ended() == 1
    found = {each["about"]: each for each in json.loads("".join(program.out))}
    assert {name for name, each in found.items() if each["state"] == "wrong"} == {
        "model server",
        "database",
        "API keys",
    }
    assert all(each["do"] for each in found.values() if each["state"] != "ok")


async def test_a_wrong_setting_is_the_one_finding(tmp_path: Path) -> None:
    async with running(*MODULE, "check", directory=tmp_path, PORT="eighty") as program:
        assert await program.ended() == 1
    [line] = program.out
    assert line.startswith("wrong")
    assert "PORT: " in line


async def test_beside_a_running_gateway_it_says_so_and_disturbs_nothing(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        same = {"PORT": server.url.rpartition(":")[2], "DATABASE_URL": "chat.db"}
        async with running(*MODULE, "check", directory=tmp_path, **same) as program:
            assert await program.ended() == 0
        assert await server.stop() == 0
    said = "\n".join(program.out)
    assert "chat.db is in use by a gateway" in said
    assert "a gateway listens on 127.0.0.1:" in said
    assert "up to date" in said


async def test_who_is_waited_for_is_told_after_a_second(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        there = {"LLM_SERVER_URL": url, "PORT": "0"}
        async with running(*MODULE, "check", directory=tmp_path, **there) as program:
            assert await program.ended() == 0
    assert program.err[0].startswith("waiting for: model server")
    assert any(f"{url} is mute" in line for line in program.out)


# The model server


async def test_a_model_server_that_is_ready_says_a_token() -> None:
    async with serve_simulator(SimulatorSettings(first_token_ms=0, interval_ms=0)) as url:
        real = settings(llm_server_url=url)
        assert only(await check_model(real), "model server").state is State.OK
        answer = only(await check_answer(real), "model answer")
    assert answer.state is State.OK
    assert answer.says.startswith("one token after ")


async def test_a_model_server_that_fails_to_answer_is_wrong() -> None:
    broken = SimulatorSettings(faults="status=500")
    async with serve_simulator(broken) as url:
        answer = only(await check_answer(settings(llm_server_url=url)), "model answer")
    assert (answer.state, "status 500" in answer.says) == (State.WRONG, True)


async def test_what_is_no_model_server_is_wrong() -> None:
    async with answering(http(b"<html>")) as url:
        found = only(await check_model(settings(llm_server_url=url)), "model server")
    assert (found.state, "not as a server of midm" in found.says) == (State.WRONG, True)


async def test_each_of_several_model_servers_is_told_of_by_itself() -> None:
    async with serve_simulator(SimulatorSettings()) as url:
        found = await check_model(settings(llm_server_url=f"{url},http://me:hunter2@127.0.0.1:9"))
    assert [(each.about, each.state) for each in found] == [
        ("model server", State.OK),
        ("model server", State.WRONG),
    ]
    assert url in found[0].says
    assert "127.0.0.1:9 cannot be reached" in found[1].says
    assert "hunter2" not in found[1].says


async def test_an_engine_that_does_not_serve_the_model_is_wrong() -> None:
    async with serve_simulator(SimulatorSettings()) as url:
        there = settings(llm_server_url=url, llm_api="openai")
        assert only(await check_model(there), "model server").state is State.OK
        other = there.model_copy(update={"llm_model": "another"})
        found = only(await check_model(other), "model server")
    assert (found.state, "the model another" in found.says) == (State.WRONG, True)


async def test_a_password_of_the_model_server_is_not_shown() -> None:
    found = await check_model(settings(llm_server_url="http://me:hunter2@127.0.0.1:9"))
    assert only(found, "model server").state is State.WRONG
    assert "hunter2" not in str(found)


# The database: a file


async def test_a_file_that_is_up_to_date_is_well_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with open_database(path) as database:
        await migrate(database)
    before = changed_at(tmp_path)
    found = await check_database(settings(database_url=str(path)))
    assert {finding.state for finding in found if finding.about != "disk"} == {State.OK}
    assert only(found, "database tables").says == "up to date"
    assert changed_at(tmp_path) == before


async def test_a_file_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    sqlite3.connect(path).close()
    path.touch()
    path.chmod(0o644)
    found = only(await check_database(settings(database_url=str(path))), "database")
    assert (found.state, found.do) == (State.WARNING, f"chmod 600 {path}")


async def test_a_database_of_the_original_is_to_be_copied_first(tmp_path: Path) -> None:
    path = tmp_path / "chatbot.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(ORIGINAL)
    connection.close()
    found = only(await check_database(settings(database_url=str(path))), "database tables")
    assert (found.state, "adopts" in found.says) == (State.WARNING, True)
    assert sqlite_schema(path).is_original


async def test_tables_of_a_newer_version_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with open_database(path) as database:
        await migrate(database)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migrations VALUES ('from_the_future', '2030-01-01')")
    connection.close()
    found = only(await check_database(settings(database_url=str(path))), "database tables")
    assert (found.state, "from_the_future" in found.says) == (State.WRONG, True)


@pytest.mark.parametrize("kind", ["a directory", "no database", "below a file"])
async def test_what_cannot_be_a_database_is_wrong(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    if kind == "a directory":
        path.mkdir()
    else:
        path.write_bytes(b"no database at all" * 1_000)
    where = path / "chat.db" if kind == "below a file" else path
    found = only(await check_database(settings(database_url=str(where))), "database")
    assert found.state is State.WRONG
    assert "DATABASE_URL" in found.do


async def test_a_file_that_may_not_be_written_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.db"
    path.touch()
    # Root may write anything: the answer for somebody else.
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    found = only(await check_database(settings(database_url=str(path))), "database")
    assert (found.state, f"{path} cannot be written" in found.says) == (State.WRONG, True)


@pytest.mark.parametrize(("free", "state"), [(1024, State.WRONG), (10**9, State.WARNING)])
async def test_a_disk_that_is_nearly_full_is_told(
    free: int, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    found = await check_database(settings(database_url=str(tmp_path / "chat.db")))
    assert only(found, "disk").state is state


# The database: a server


def shared(url: str, **more: Any) -> Settings:
    return settings(database_url=url, broker_url="redis://127.0.0.1:9/0", **more)


async def test_a_server_is_well_and_gets_no_table(postgres_url: str) -> None:
    found = await check_database(shared(postgres_url))
    assert {finding.state for finding in found} == {State.OK}
    assert "the next start applies create_tables" in only(found, "database tables").says
    assert (await postgres_server(postgres_url)).schema.applied == frozenset()


async def test_more_connections_than_the_server_has_are_wrong(postgres_url: str) -> None:
    found = only(await check_database(shared(postgres_url, database_connections=900)), "database")
    assert (found.state, "DATABASE_CONNECTIONS is 900" in found.says) == (State.WRONG, True)


async def test_a_database_that_is_not_there_is_wrong(postgres_server_url: str) -> None:
    url = postgres_server_url.rpartition("/")[0] + "/nothing"
    found = only(await check_database(shared(url)), "database")
    assert (found.state, "does not exist" in found.says) == (State.WRONG, True)


async def test_a_wrong_password_is_said_and_not_shown(own_postgres: PostgresServer) -> None:
    sql(own_postgres.url(), "CREATE ROLE locked LOGIN PASSWORD 'right'")
    hba = own_postgres.sql("SHOW hba_file")[0]
    rules = "host all postgres all trust\nhost all all all scram-sha-256\n"
    await anyio.Path(hba).write_text(rules)
    own_postgres.sql("SELECT pg_reload_conf()")
    url = own_postgres.url().replace("postgres@", "locked:hunter2@")
    found = await check_database(shared(url))
    assert only(found, "database").state is State.WRONG
    assert "password authentication failed" in only(found, "database").says
    assert "hunter2" not in str(found)


async def test_no_server_at_all_is_wrong() -> None:
    found = only(await check_database(shared("postgresql://127.0.0.1:9/chat")), "database")
    assert (found.state, "DATABASE_URL" in found.do) == (State.WRONG, True)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:9,127.0.0.1:11/chat",
        "postgresql://me@127.0.0.1:9/chat?password=hunter2",
    ],
)
async def test_no_password_is_shown_wherever_an_address_holds_it(url: str) -> None:
    found = await check_database(shared(url))
    assert only(found, "database").state is State.WRONG
    assert "hunter2" not in str(found)


# The broker


def beside(url: str) -> Settings:
    return settings(database_url="postgresql://127.0.0.1:9/chat", broker_url=url)


async def test_a_broker_that_is_there_is_well(redis_url: str) -> None:
    assert only(await check_broker(beside(redis_url)), "broker").state is State.OK


async def test_a_broker_that_throws_keys_out_is_a_warning(own_redis: RedisServer) -> None:
    from redis import Redis

    with Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    found = only(await check_broker(beside(own_redis.url)), "broker")
    assert (found.state, "allkeys-lru" in found.says) == (State.WARNING, True)


async def test_a_broker_that_is_away_or_locked_is_wrong() -> None:
    with redis_server(password="right") as server:
        locked = only(await check_broker(beside(server.url.replace("right", "hunter2"))), "broker")
        server.kill()
        away = only(await check_broker(beside(server.url)), "broker")
    assert (locked.state, away.state) == (State.WRONG, State.WRONG)
    assert "password" in locked.do
    assert "hunter2" not in str(locked)
    away = only(await check_broker(beside("redis://127.0.0.1:9/0?password=hunter2")), "broker")
    assert "hunter2" not in str(away)


# Keys, tokens, port, files


async def test_keys_are_read_and_published_ones_fetched(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("no key\n")
    bad = only(await check_access(settings(api_keys_file=tmp_path / "keys")), "API keys")
    assert (bad.state, "line 1" in bad.says) == (State.WRONG, True)
    tokens = {"jwt_issuer": "me", "jwt_audience": "chat"}
    for answer, says in (
        (http(b"{}"), "it is no set of keys"),
        (http(b'{"keys": []}'), "has no key"),
        (http(b"", "404 Not Found"), "status 404"),
        (http(b"[" * 300_000), "sends more than 262144 bytes"),
    ):
        async with answering(answer) as url:
            found = only(await check_access(settings(jwt_jwks_url=url, **tokens)), "tokens")
        assert (found.state, says in found.says) == (State.WRONG, True), found
    pem = only(await check_access(settings(jwt_public_key_file="none", **tokens)), "tokens")
    assert (pem.state, "No such file" in pem.says) == (State.WRONG, True)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"<html>"),
        http(b'"llm_server_available"'),
        http(b"[" * 50_000),
        http(b'{"llm_server_available": true}' + b" " * 100_000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
        b"220 mail.example.org ESMTP\r\n",
    ],
)
async def test_a_port_of_another_program_is_wrong(answer: bytes) -> None:
    async with answering(answer) as url:
        found = only(await check_port(settings(port=int(url.rpartition(":")[2]))), "port")
    assert (found.state, "another program" in found.says) == (State.WRONG, True)


async def test_another_program_that_never_ends_its_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def trickle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 200 OK\r\n")
            while True:
                await stream.send(b"X: Y\r\n")
                await anyio.sleep(0.01)

    monkeypatch.setattr("gateway.checks.machine.ANSWER_S", 0.1)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, trickle)
            with anyio.fail_after(5):
                found = only(await check_port(settings(port=port)), "port")
            tasks.cancel_scope.cancel()
    assert (found.state, "another program" in found.says) == (State.WRONG, True)


async def test_a_gateway_on_an_ipv6_address_is_known_as_one(tmp_path: Path) -> None:
    async with gateway(tmp_path, HOST="::1") as server:
        port = int(server.url.rpartition(":")[2])
        found = only(await check_port(settings(host="::1", port=port)), "port")
    assert (found.state, "a gateway listens" in found.says) == (State.WARNING, True)


async def test_more_connections_than_open_files_are_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    for wanted, state in ((0, State.OK), (3_000, State.OK), (4_096, State.WARNING)):
        found = only(await check_files(settings(max_connections=wanted)), "open files")
        assert found.state is state
        assert "4096" in found.says


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("gpu", "http://gpu:80"),
    ],
)
def test_what_listens_is_asked_by_an_address_that_can_be_opened(host: str, url: str) -> None:
    assert url_here(host, 80) == url

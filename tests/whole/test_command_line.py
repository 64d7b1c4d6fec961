"""The command line, as somebody meets it who starts the gateway for the first time."""

import os
import re
import shlex
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.whole.processes import MODULE, SCRIPT, gateway, running

STOPPED = (signal.SIGTERM, signal.SIGINT)


def _get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False)


async def _done(*command: str, directory: Path) -> str:
    """Run a command that comes to its end; return its last line."""
    async with running(*command, directory=directory) as program:
        assert await program.ended() == 0, program.err
    return program.out[-1]


async def _refused(*command: str, directory: Path, **settings: str) -> tuple[int, str]:
    """Run a command that must not start; return its exit code and its one line."""
    async with running(*command, directory=directory, **settings) as program:
        code = await program.ended()
    assert program.out == []
    assert len(program.err) == 1, program.err
    return code, program.err[0]


@pytest.mark.parametrize("command", [MODULE, SCRIPT, (*MODULE, "serve")])
async def test_it_serves_and_says_where_and_what_and_how_to_try_it(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    async with running(*command, directory=tmp_path, PORT="0") as program:
        url = await program.listens()
        said = "\n".join(program.err)
        await program.said(rf"try it: open {re.escape(url)}  or, .*midm-gateway chat --url {url}$")
        health = _get(f"{url}/api/health").json()
        assert await program.stop() == 0
    assert re.search(r"model: SIMULATED .*LLM_SERVER_URL", said)
    assert f"database: {tmp_path / 'chatbot.db'}" in said
    assert health["status"] == "healthy"
    assert health["simulated"] is True
    assert program.out == []
    assert program.complaints == []


async def test_host_and_port_may_be_options_which_go_before_the_settings(tmp_path: Path) -> None:
    serve = (*MODULE, "serve", "--host=127.0.0.1", "--port=0")
    async with running(*serve, directory=tmp_path, HOST="no such host", PORT="1") as program:
        assert (await program.listens()).startswith("http://127.0.0.1:")
        assert await program.stop() == 0


async def test_a_command_that_is_misspelt_is_guessed(tmp_path: Path) -> None:
    async with running(*MODULE, "sreve", directory=tmp_path) as program:
        assert await program.ended() == 2
    assert program.err[-1].endswith("; did you mean 'serve'?")


@pytest.mark.parametrize(
    "command", [(), ("serve",), ("chat",), ("check",), ("simulate",), ("copy",), ("key", "create")]
)
async def test_help_has_examples_and_fits_a_terminal(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    help_of = (*MODULE, *command, "--help")
    async with running(*help_of, directory=tmp_path, COLUMNS="80") as program:
        assert await program.ended() == 0
    assert "exit codes" in "\n".join(program.out)
    assert [line for line in program.out if len(line) > 80] == []


async def test_a_real_model_is_named_and_not_called_simulated(tmp_path: Path) -> None:
    async with gateway(tmp_path, LLM_SERVER_URL="http://127.0.0.1:9") as program:
        await program.said("model: http://127.0.0.1:9$")
        assert await program.stop() == 0
    assert not any("SIMULATED" in line for line in program.err)


async def test_several_engines_are_named_without_their_passwords(tmp_path: Path) -> None:
    urls = "http://one:hush@127.0.0.1:9,http://two:hush@127.0.0.1:10/v1"
    async with gateway(tmp_path, LLM_SERVER_URL=urls, LLM_API="openai") as program:
        named = "http://one:[secret]@127.0.0.1:9, http://two:[secret]@127.0.0.1:10/v1"
        await program.said(f"model: {re.escape(named)} by OpenAI's API$")
        assert await program.stop() == 0
    assert not any("hush" in line for line in program.err)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "65536"),
        ("DATABASE_URL", "postgresql://127.0.0.1/chat"),
        ("DATABASE_URL", ":memory:"),
        ("LLM_SERVER_URL", "localhost:8000"),
        ("HEARTBEAT_S", "0"),
        ("SESSION_TIMEOUT_HOURS", "1"),
        ("CORS_ORIGINS", "chat.example.org"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_named_in_one_line(
    name: str, value: str, tmp_path: Path
) -> None:
    code, line = await _refused(*MODULE, directory=tmp_path, **{name: value})
    assert code == 2
    assert line.startswith(f"midm-gateway: {name}")


async def test_settings_are_read_from_a_file_and_checked_alike(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=eighty\n")
    code, line = await _refused(*MODULE, directory=tmp_path)
    assert code == 2
    assert "'eighty'" in line


async def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = await _refused(*MODULE, directory=tmp_path, PORT=str(port))
    assert code == 1
    assert line == f"midm-gateway: cannot listen on 127.0.0.1:{port}: address already in use"
    assert not (tmp_path / "chatbot.db").exists(), "it opened the database for nothing"


async def test_a_host_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    there = {"PORT": "0", "HOST": "no such host", "ALLOW_ANONYMOUS": "true"}
    code, line = await _refused(*MODULE, directory=tmp_path, **there)
    assert code == 1
    assert line.startswith("midm-gateway: cannot listen on no such host:0: ")


async def test_a_second_gateway_on_the_same_file_is_one_line_and_disturbs_nothing(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path) as first:
        code, line = await _refused(*MODULE, directory=tmp_path, PORT="0", DATABASE_URL="chat.db")
        assert _get(f"{first.url}/api/health").json()["database_connected"] is True
        assert await first.stop() == 0
    assert code == 1
    assert line == "midm-gateway: chat.db is in use by another gateway"


async def test_a_database_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, line = await _refused(*MODULE, directory=tmp_path, PORT="0", DATABASE_URL="file/chat.db")
    assert code == 1
    assert line.startswith("midm-gateway: cannot open file/chat.db: ")


@pytest.mark.parametrize("kind", ["a directory", "no database"])
async def test_a_file_that_is_no_database_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.mkdir() if kind == "a directory" else path.write_bytes(b"no database at all" * 1_000)
    code, line = await _refused(*MODULE, directory=tmp_path, PORT="0", DATABASE_URL="chat.db")
    assert code == 1
    assert line.startswith("midm-gateway: cannot open chat.db: ")


@pytest.mark.parametrize("number", STOPPED)
async def test_the_simulator_alone_answers_and_stops(
    number: signal.Signals, tmp_path: Path
) -> None:
    async with running(*SCRIPT, "simulate", "--port=0", directory=tmp_path) as program:
        url = await program.listens()
        assert _get(f"{url}/health").json()["model_loaded"] is True
        assert await program.stop(number) == 0
    [line] = program.out
    assert "no model, its answers are made up" in line
    assert program.err == []


async def test_the_simulator_says_in_one_line_that_its_port_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = await _refused(*MODULE, "simulate", f"--port={port}", directory=tmp_path)
    assert code == 1
    assert line == f"midm-gateway: cannot listen on 127.0.0.1:{port}: address already in use"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("simulate", "--port=65536"), "argument --port: should be from 0 to 65535"),
        (("simulate", "--interval-ms=-1"), "argument --interval-ms: should be from 0 to 600000"),
        (("simulate", "--interval-ms=nan"), "argument --interval-ms: should be from 0 to 600000"),
        (("fly",), "invalid choice: 'fly'"),
    ],
)
async def test_arguments_that_make_no_sense_are_explained(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    async with running(*MODULE, *arguments, directory=tmp_path) as program:
        assert await program.ended() == 2
    assert complaint in program.err[-1]
    assert program.complaints == []


async def test_help_names_the_commands(tmp_path: Path) -> None:
    async with running(*MODULE, "--help", directory=tmp_path) as program:
        assert await program.ended() == 0
    said = "\n".join(program.out)
    assert "serve" in said
    assert "simulate" in said
    assert program.err == []


@pytest.mark.parametrize("command", [("check",), ("check", "--json"), ("schema", "openapi")])
async def test_what_cannot_be_written_is_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    full = shlex.join((*MODULE, *command)) + " >/dev/full"
    code, line = await _refused("sh", "-c", full, directory=tmp_path, PORT="0")
    assert code == 1
    assert line == "midm-gateway: stdout: cannot be written: No space left on device"


async def test_a_key_that_cannot_be_shown_is_no_traceback(tmp_path: Path) -> None:
    command = shlex.join((*MODULE, "key", "create", "a", "--file", "k")) + " >/dev/full"
    async with running("sh", "-c", command, directory=tmp_path) as program:
        assert await program.ended() == 1
    assert program.err[1:] == ["midm-gateway: stdout: cannot be written: No space left on device"]


@pytest.mark.parametrize("command", [("chat", "--help"), ("check",)])
async def test_a_terminal_that_cannot_say_all_letters_is_no_trouble(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    settings = {"PYTHONIOENCODING": "latin-1", "PORT": "0", "DATABASE_URL": "대화.db"}
    async with running(*MODULE, *command, directory=tmp_path, **settings) as program:
        assert await program.ended() == 0, program.err
    assert "??" in "".join(program.out)


async def test_a_contract_is_written_in_utf8_whatever_the_terminal_speaks(tmp_path: Path) -> None:
    command = shlex.join((*MODULE, "schema", "openapi")) + " >openapi.json"
    latin = {"PYTHONIOENCODING": "latin-1"}
    async with running("sh", "-c", command, directory=tmp_path, **latin) as program:
        assert await program.ended() == 0, program.err
    assert "안녕하세요" in (tmp_path / "openapi.json").read_text("utf-8")


async def test_conversations_are_copied_into_another_database(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server, httpx.AsyncClient(trust_env=False) as client:
        created = await client.post(f"{server.url}/api/sessions")
        assert created.status_code == 201
    copy = (*MODULE, "copy", "chat.db", "other.db")
    assert await _done(*copy, directory=tmp_path) == "1 sessions copied, 0 were there already"
    assert await _done(*copy, directory=tmp_path) == "0 sessions copied, 1 were there already"


async def test_a_copy_of_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    code, line = await _refused(*MODULE, "copy", "typo.db", "other.db", directory=tmp_path)
    assert (code, line) == (1, "midm-gateway: there is no database typo.db")
    assert not os.listdir(tmp_path)

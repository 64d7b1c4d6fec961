"""`midm-gateway chat` in pipes and scripts: the real program, its streams and its exit code."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve

from gateway.talk.dialogue import Dialogue
from gateway.talk.line import Gateway, HungUp, Line
from gateway.talk.shown import Shown
from tests.whole.processes import MODULE, gateway, running
from tests.whole.proxy import Scissors, forwarding

CHAT = (*MODULE, "chat")


async def started(directory: Path, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *CHAT,
        *arguments,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", **settings},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def chat(
    directory: Path, *arguments: str, stdin: bytes | None = None, **settings: str
) -> tuple[int, str, str]:
    """Run it to its end; return its exit code, and all of stdout and stderr."""
    process = await started(directory, *arguments, **settings)
    out, err = await asyncio.wait_for(process.communicate(stdin), 30)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return process.returncode, out.decode(), err.decode()


def session_of(err: str) -> str:
    return err.rpartition("--session ")[2].strip()


async def stored(url: str, session_id: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{url}/api/sessions/{session_id}/messages")
    messages: list[dict[str, Any]] = answer.json()["messages"]
    return messages


async def test_all_of_stdin_is_one_message_and_stdout_is_the_reply(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        code, out, err = await chat(
            tmp_path, stdin="안녕\n둘째 줄 #sim interval_ms=0#\n".encode(), MIDM_URL=server.url
        )
        question, reply = await stored(server.url, session_of(err))
    assert code == 0
    assert question["content"] == "안녕\n둘째 줄 #sim interval_ms=0#"
    assert out == reply["content"] + "\n"


async def test_a_conversation_goes_on_by_its_session(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        there = ("--url", server.url)
        _, _, err = await chat(tmp_path, *there, "안녕 #sim interval_ms=0#")
        session = session_of(err)
        code, out, err = await chat(tmp_path, *there, "--session", session, "그리고?")
    assert (code, err) == (0, "")
    assert "2번째 질문" in out


async def test_frames_are_lines_of_json(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        code, out, _ = await chat(tmp_path, "--url", server.url, "--json", "#sim u2028=1# 안녕")
    frames = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [frames[0]["type"], frames[-1]["type"]] == ["ready", "complete"]
    assert "\u2028" in "".join(frame.get("content", "") for frame in frames)


async def test_a_whole_reply_is_printed_at_its_end(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        there = ("--url", server.url, "--whole")
        code, out, _ = await chat(tmp_path, *there, "hello #sim interval_ms=0#")
        failed, nothing, _ = await chat(tmp_path, *there, "hello #sim error_at=2#")
    assert (code, out[:11]) == (0, "[simulated]")
    assert (failed, nothing) == (1, "")


async def test_a_reply_that_fails_is_said_on_stderr(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        code, out, err = await chat(tmp_path, "--url", server.url, "x #sim error_at=2#")
    assert (code, out) == (1, "[simulated] You \n")
    assert "midm-gateway: The model server could not answer this." in err


@pytest.mark.parametrize(
    ("stdin", "says"),
    [
        (b"", "stdin: is empty"),
        (b" \n\n", "stdin: is empty"),
        ("안녕".encode("euc-kr"), "stdin: should be text in UTF-8; byte 0 is not"),
        (b"a\0b", "stdin: should be text in UTF-8, without NUL"),
        (b"a" * 32_001, "stdin: should have at most 32000 characters, and has 32001"),
        (b"a" * 200_000, "stdin: should hold at most 32000 characters"),
    ],
)
async def test_what_cannot_be_a_message_is_refused_by_name(
    stdin: bytes, says: str, tmp_path: Path
) -> None:
    code, out, err = await chat(tmp_path, stdin=stdin)
    assert (code, out) == (2, "")
    assert says in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--url", "nowhere", "hi"), "--url: should be a URL such as http://127.0.0.1:8080"),
        (("--session", "", "hi"), "--session: is empty"),
        (("--temperature", "3", "hi"), "should be from 0 to 2.0, given '3'"),
        (("--max-new-tokens", "0", "hi"), "should be from 1 to 8192, given '0'"),
        (("--key-file", "none.txt", "hi"), "--key-file none.txt: cannot be read"),
    ],
)
async def test_arguments_that_make_no_sense_are_named(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    code, out, err = await chat(tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert says in err


async def test_a_key_that_cannot_be_one_is_not_repeated(tmp_path: Path) -> None:
    code, _, err = await chat(tmp_path, "hi", MIDM_KEY="se\ncret")
    assert code == 2
    assert "MIDM_KEY: should hold one API key or token" in err
    assert "cret" not in err


async def test_a_key_from_the_environment_or_a_file_opens_the_gateway(tmp_path: Path) -> None:
    async with running(*MODULE, "key", "create", "a", "--file=k", directory=tmp_path) as made:
        assert await made.ended() == 0
    (tmp_path / "mine").write_text(f"{made.out[0]}\n")
    async with gateway(tmp_path, API_KEYS_FILE="k") as server:
        ask = ("--url", server.url, "--max-new-tokens=1", "hello")
        refused, _, why = await chat(tmp_path, *ask, MIDM_KEY="midm_wrong")
        by_name, _, _ = await chat(tmp_path, *ask, MIDM_KEY=made.out[0])
        by_file, _, _ = await chat(tmp_path, *ask, "--key-file=mine")
    assert (refused, by_name, by_file) == (1, 0, 0)
    assert why == "midm-gateway: The API key is not valid.\n"


async def test_nobody_there_and_no_gateway_there_are_told_apart(tmp_path: Path) -> None:
    code, _, err = await chat(tmp_path, "--url", "http://127.0.0.1:9", "hi")
    assert (code, "nobody listens there" in err) == (1, True)
    async with running(*MODULE, "simulate", "--port=0", directory=tmp_path) as model:
        code, _, err = await chat(tmp_path, "--url", await model.listens(), "hi")
    assert (code, "there is a server, but no gateway" in err) == (1, True)


async def test_a_session_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        code, out, err = await chat(tmp_path, "--url", server.url, "--session=none", "hi")
    assert (code, out, err) == (1, "", "midm-gateway: There is no such session.\n")


async def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        command = f"{sys.executable} -m gateway chat --url {server.url} hello"
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            f"{command} | head -c 5; echo ${{PIPESTATUS[0]}}",
            cwd=Path(__file__).parents[2],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert out == b"[simu141\n"
    assert len(err.splitlines()) == 1


async def test_a_full_disk_is_said(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        process = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m gateway chat --url {server.url} hello >/dev/full",
            cwd=Path(__file__).parents[2],
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert b"stdout: cannot be written: No space left on device" in err


@pytest.mark.parametrize(
    ("closed", "code", "out", "err"),
    [
        ("<&-", 0, b"[simulated] \n", b"midm-gateway: go on with"),
        (">&-", 1, b"", b"stdout: cannot be written: Bad file descriptor"),
        ("2>&-", 0, b"[simulated] \n", b""),
        ("2>/dev/full", 0, b"[simulated] \n", b""),
    ],
)
async def test_a_stream_that_is_closed_is_no_trouble_for_the_others(
    closed: str, code: int, out: bytes, err: bytes, tmp_path: Path
) -> None:
    async with gateway(tmp_path) as server:
        process = await asyncio.create_subprocess_shell(
            f"{sys.executable} -m gateway chat --url {server.url} 'hello #sim pieces=1#' {closed}",
            cwd=Path(__file__).parents[2],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, said = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, printed) == (code, out)
    assert err in said
    assert b"Traceback" not in said


async def test_without_a_message_and_with_stdin_closed_nothing_is_asked(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m gateway chat <&-",
        cwd=Path(__file__).parents[2],
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, err[:29]) == (2, b"midm-gateway: stdin: is empty")


@pytest.mark.parametrize(
    "says",
    [
        *("hello", "[]", "5", "{}", "[" * 100_000, b"\x00\xff"),
        *('{"type":"ready"}', '{"type":"error","code":5}'),
    ],
)
async def test_a_server_that_speaks_otherwise_is_no_gateway(
    says: str | bytes, tmp_path: Path
) -> None:
    async def answer(socket: ServerConnection) -> None:
        await socket.send(says)
        await socket.wait_closed()

    async with serve(answer, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        code, out, err = await chat(tmp_path, "--url", f"http://127.0.0.1:{port}", "hi")
    assert (code, out) == (1, "")
    assert "there is a server, but no gateway: what it says is no frame of one" in err


async def test_a_server_that_never_says_that_it_is_ready_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async def unseen(shown: Shown) -> None:
        raise AssertionError(shown)

    monkeypatch.setattr("gateway.talk.line.READY_WITHIN_S", 0.05)
    async with serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        line = Line(Gateway(f"ws://127.0.0.1:{port}/ws", str), Dialogue(), unseen)
        with pytest.raises(HungUp, match="no answer in time"):
            await asyncio.wait_for(line.run(), 10)


async def test_ctrl_c_stops_the_reply_on_the_server_too(tmp_path: Path) -> None:
    async with gateway(tmp_path) as server:
        ask = (*CHAT, "--url", server.url, "--json", "hello #sim pieces=1000#")
        async with running(*ask, directory=tmp_path) as program:
            ready = json.loads((await program.said('"ready"')).string)
            await program.said('"token"')
            assert await program.stop(signal.SIGINT) == 130
        _, reply = await stored(server.url, ready["session_id"])
    assert reply["finish_reason"] == "cancelled"


async def test_cut_again_and_again_it_prints_every_letter_once(tmp_path: Path) -> None:
    scissors = Scissors(Random(7), up_bytes=1_500, down_bytes=4_000)
    async with gateway(tmp_path) as server, forwarding(server.url, scissors) as url:
        made = await _session(server.url)
        question = "안녕 #sim pieces=250 interval_ms=8#"
        code, out, err = await _in_spite_of_cuts(tmp_path, url, made, question)
        messages = await stored(server.url, made)
    assert (code, scissors.cuts > 0) == (0, True), err
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert out == messages[1]["content"] + "\n"


async def _session(url: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        session: str = (await client.post(f"{url}/api/sessions")).json()["session_id"]
        return session


async def _in_spite_of_cuts(
    directory: Path, url: str, session: str, question: str
) -> tuple[int, str, str]:
    """Ask until the very first connection gets through: what never was there is not waited for."""
    while True:
        found = await chat(directory, "--url", url, "--session", session, question)
        if found[0] != 1 or "http://" not in found[2]:
            return found


async def test_a_gateway_that_is_restarted_under_a_reply_is_no_fault_of_its_reader(
    tmp_path: Path,
) -> None:
    question = "안녕 #sim pieces=120 interval_ms=20#"
    async with gateway(tmp_path, DRAIN_SECONDS="0") as first:
        there = first.url.rpartition(":")[2]
        process = await started(tmp_path, "--url", first.url, question)
        assert process.stdout is not None
        begun = await process.stdout.readexactly(60)
        assert await first.stop() == 0
        async with gateway(tmp_path, PORT=there) as second:
            rest, err = await asyncio.wait_for(process.communicate(), 30)
            _, reply = await stored(second.url, session_of(err.decode()))
    assert process.returncode == 0
    assert "the reply is begun again" in err.decode()
    assert (begun + rest).decode() == reply["content"] + "\n"
    assert reply["finish_reason"] == "stop"

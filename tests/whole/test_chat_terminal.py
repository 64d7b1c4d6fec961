"""`midm-gateway chat` at a terminal: keys are pressed, and the screen is looked at."""

import asyncio
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.whole.processes import MODULE, gateway
from tests.whole.proxy import Cut, Tap, forwarding
from tests.whole.terminal import (
    ALT_ENTER,
    BACKSPACE,
    CTRL_C,
    CTRL_D,
    ENTER,
    UP,
    Terminal,
    terminal,
)

ENDLESS = "#sim pieces=2000 interval_ms=20#"
MODE = re.compile(r"\x1b\[\?25[lh]")


@dataclass(frozen=True)
class Server:
    """A gateway that all tests here share."""

    url: str
    directory: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("gateway")
    settings = {"PORT": "0", "DATABASE_URL": "chat.db", "DRAIN_SECONDS": "0"}
    with (
        open(directory / "log", "wb") as log,
        subprocess.Popen(
            MODULE, cwd=directory, env={"PATH": os.environ["PATH"], **settings}, stderr=log
        ) as process,
    ):
        try:
            yield Server(_listens(directory / "log", process), directory)
        finally:
            process.terminate()


def _listens(log: Path, process: "subprocess.Popen[bytes]") -> str:
    while (found := re.search(r"listening on (\S+)\n", log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    return found[1]


@contextmanager
def chat(url: str, *arguments: str, **more: Any) -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory() as directory:
        command = (*MODULE, "chat", "--url", url, *arguments)
        with terminal(*command, directory=Path(directory), **more) as opened:
            opened.shows("/help says.*^>")
            yield opened


async def at_terminal(use: Any, *arguments: Any) -> Any:
    """Look and press keys in a thread: servers and proxies have the loop."""
    return await asyncio.to_thread(use, *arguments)


async def stored(url: str, session_id: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{url}/api/sessions/{session_id}/messages")
    messages: list[dict[str, Any]] = answer.json()["messages"]
    return messages


def leave(screen: Terminal) -> str:
    """Leave with Ctrl-D; return the id of the session."""
    screen.type(CTRL_D)
    assert screen.ended() == 0
    found = re.search(r"--session([0-9a-f-]{36})", flat(screen.text))
    assert found is not None
    return found[1]


def typed_lines(screen: Terminal) -> list[str]:
    """The lines that begin as what is typed does: what was sent, and no leftover of a drawing."""
    return [line for line in screen.text.split("\n") if line.startswith(">")]


def flat(text: str) -> str:
    """Text without where lines are broken: a terminal breaks them anywhere."""
    return re.sub(r"\s+", "", text)


async def test_korean_is_typed_corrected_and_answered(server: Server) -> None:
    with chat(server.url) as screen:
        screen.type("안넝" + BACKSPACE + "녕하세요")
        screen.shows("^> 안녕하세요$")
        screen.type(ENTER)
        screen.shows(r"^> 안녕하세요\n\[모의 응답\] 반갑습니다!.*마세요\.\n>$")
        session = leave(screen)
    question, reply = await stored(server.url, session)
    assert question["content"] == "안녕하세요"
    assert flat(reply["content"]) in flat(screen.text)
    assert typed_lines(screen) == ["> 안녕하세요"]


async def test_what_is_typed_while_a_reply_is_written_stays_whole(server: Server) -> None:
    with chat(server.url) as screen:
        screen.type(f"안녕 {ENDLESS}{ENTER}")
        screen.shows("모의 응답")
        for key in "이것은 아직 보내지 않은 글":
            screen.type(key)
            screen.shows("응답")
        screen.shows("^> 이것은 아직 보내지 않은 글$")
        screen.type(CTRL_C)  # drops what is typed
        screen.shows("^>$")
        screen.type(f"/cancel{ENTER}")
        screen.shows(r"^\(cancelled\)$")
        session = leave(screen)
    _, reply = await stored(server.url, session)
    assert reply["finish_reason"] == "cancelled"
    assert flat(reply["content"]) in flat(screen.text)
    assert typed_lines(screen) == [f"> 안녕 {ENDLESS}"]


async def test_ctrl_c_stops_the_reply_and_once_more_leaves(server: Server) -> None:
    with chat(server.url) as screen:
        screen.type(f"hello {ENDLESS}{ENTER}")
        screen.shows("simulated")
        screen.type(CTRL_C)
        screen.shows(r"^\(cancelled\)$")
        assert screen.process.poll() is None
        screen.type(CTRL_C)
        assert screen.ended() == 130


async def test_a_question_typed_too_early_is_asked_when_the_reply_is_over(server: Server) -> None:
    with chat(server.url) as screen:
        screen.type(f"hello #sim pieces=20#{ENTER}")
        screen.shows("simulated")
        screen.type(f"hi #sim pieces=2#{ENTER}")
        screen.shows(r"^> hello.*^> hi #sim pieces=2#\n\[simulated\] \S+$")
        leave(screen)


async def test_shorthands_and_history_are_for_people(server: Server) -> None:
    with chat(server.url) as screen:
        screen.type(f"hello #sim pieces=3#{ENTER}")
        screen.shows(r"simulated\] \S+ \S+\n>$")
        screen.type(f"/regenerate{ENTER}")
        screen.type(f"hi #sim pieces=1#{ENTER}")
        screen.shows(r"(hello #sim pieces=3#\n\[simulated\] \S+ \S+\n> ){2}hi")
        screen.type(f"/history 4{ENTER}")
        screen.shows(r"^you, \d{4}-\d\d-\d\d \d\d:\d\d\n  hello.*^model, .*\n  \[simulated\]")
        screen.type(f"/nonsense{ENTER}")
        screen.shows("There is no /nonsense")
        screen.type(f"/help{ENTER}")
        screen.shows("/session .*/quit")
        screen.type(f"//help #sim pieces=1#{ENTER}")
        screen.shows("^> /help #sim pieces=1#\n.simulated")
        screen.type(f"/quit{ENTER}")
        assert screen.ended() == 0


async def test_lines_are_edited_recalled_and_may_be_several(server: Server) -> None:
    with chat(server.url) as screen:
        screen.type(f"하나{ALT_ENTER}둘 #sim pieces=1#{ENTER}")
        screen.shows(r"^> 하나\n> 둘 #sim pieces=1#\n\[모의 *$")
        screen.type(UP)
        screen.shows(r"^> 하나\n둘 #sim pieces=1#$")
        screen.type(CTRL_C)
        session = leave(screen)
    question, _ = await stored(server.url, session)
    assert question["content"] == "하나\n둘 #sim pieces=1#"


async def test_what_another_tab_asks_is_shown_too(server: Server) -> None:
    with chat(server.url) as screen:
        screen.type(f"hello #sim pieces=1#{ENTER}")
        screen.shows("simulated")
        screen.type(f"/session{ENTER}")
        session = screen.shows(r"--session (\S{36})")[1]
        async with httpx.AsyncClient(trust_env=False) as client:
            body = {"session_id": session, "message": "from elsewhere\x1b[2J #sim pieces=1#"}
            assert (await client.post(f"{server.url}/api/chat", json=body)).status_code == 200
        screen.shows(r"> from elsewhere␛\[2J.*\[simulated\]")
        assert b"\x1b[2J" not in screen.raw
        leave(screen)


async def test_a_narrow_low_terminal_shows_a_long_paragraph_whole(server: Server) -> None:
    with chat(server.url, size=(30, 8)) as screen:
        screen.type(f"안녕 #sim pieces=150 interval_ms=2#{ENTER}")
        screen.shows(r"모의 응답")
        screen.type(f"끝 #sim pieces=1#{ENTER}")
        screen.shows(r"^> 끝")
        session = leave(screen)
    reply = (await stored(server.url, session))[1]
    assert flat(reply["content"]) in flat(screen.text)


async def test_a_restart_under_a_reply_is_gone_through_without_a_repeat(tmp_path: Path) -> None:
    async with gateway(tmp_path, DRAIN_SECONDS="0") as first:
        there = first.url.rpartition(":")[2]
        with chat(first.url) as screen:
            screen.type(f"안녕 #sim pieces=100 interval_ms=20#{ENTER}")
            await at_terminal(screen.shows, "모의 응답")
            assert await first.stop() == 0
            await at_terminal(screen.shows, "about to restart")
            async with gateway(tmp_path, PORT=there) as second:
                await at_terminal(screen.shows, "connected again")
                await at_terminal(screen.shows, r"begun again.*^>$")
                screen.type(f"/cancel{ENTER}")
                await at_terminal(screen.shows, r"there is no reply to stop|\(cancelled\)")
                session = await at_terminal(leave, screen)
                _, reply = await stored(second.url, session)
    shown = flat(screen.text)
    for note in ("thegatewayisabouttorestart", "connectedagain", "thereplyisbegunagain"):
        shown = shown.replace(note, "")
    assert flat(reply["content"]) in shown


async def test_a_cut_wire_is_mended_and_what_was_typed_meanwhile_is_sent(server: Server) -> None:
    cut = asyncio.Event()

    def taps() -> tuple[Tap, Tap]:
        def tap(data: bytes) -> bytes:
            if cut.is_set():
                cut.clear()
                raise Cut(b"")
            return data

        return (lambda data: data), tap

    async with forwarding(server.url, taps) as url:
        with chat(url) as screen:
            screen.type(f"hello #sim pieces=60 interval_ms=20#{ENTER}")
            await at_terminal(screen.shows, "simulated")
            cut.set()
            await at_terminal(screen.shows, "connection lost")
            screen.type(f"hi #sim pieces=2#{ENTER}")
            await at_terminal(screen.shows, "connected again")
            await at_terminal(screen.shows, r"^> hi #sim pieces=2#\n\[simulated\] \S+\n")
            session = await at_terminal(leave, screen)
    messages = await stored(server.url, session)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    shown = flat(screen.text).replace("connectedagain", "")
    assert flat(messages[1]["content"]) in shown


async def test_replies_go_to_a_file_and_all_else_to_the_terminal(
    server: Server, tmp_path: Path
) -> None:
    file = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    with chat(server.url, stdout=file) as screen:
        os.close(file)
        screen.type(f"hello #sim pieces=3#{ENTER}")
        screen.shows("^> hello #sim pieces=3#$")
        screen.type(f"hi #sim pieces=1#{ENTER}")
        screen.shows("^> hi #sim pieces=1#$")
        session = leave(screen)
    reply = (await stored(server.url, session))[1]
    assert (tmp_path / "out").read_text().startswith(reply["content"] + "\n")


async def test_no_color_is_honoured(server: Server) -> None:
    with chat(server.url, NO_COLOR="1") as screen:
        screen.type(f"hello #sim pieces=1#{ENTER}")
        screen.shows("simulated")
        leave(screen)
        colours = re.findall(rb"\x1b\[(?!0?m)[0-9;]+m", screen.raw)
    assert colours == []


async def test_what_a_terminal_cannot_say_is_a_question_mark(server: Server) -> None:
    with chat(server.url, PYTHONIOENCODING="latin-1", LC_ALL="C") as screen:
        screen.type(f"hi #sim pieces=12#{ENTER}")
        screen.shows(r"today\? \? You")
        leave(screen)


async def test_a_terminal_of_one_place_is_enough(server: Server) -> None:
    with terminal(
        *(*MODULE, "chat", "--url", server.url), directory=server.directory, size=(1, 1)
    ) as screen:
        screen.type(f"안녕 #sim pieces=5#{ENTER}")
        screen.shows("응\\n.*답")
        screen.type(f"/quit{ENTER}")
        assert screen.ended() == 0


async def test_it_gives_the_terminal_back_when_it_is_told_to_end(server: Server) -> None:
    with chat(server.url) as screen:
        screen.process.send_signal(signal.SIGTERM)
        assert screen.ended() == 0
    assert b"\x1b[?2004l" in screen.raw, "pasting is still bracketed"


async def test_nobody_there_is_said_and_ends_it(tmp_path: Path) -> None:
    command = (*MODULE, "chat", "--url", "http://127.0.0.1:9")
    with terminal(*command, directory=tmp_path) as screen:
        assert screen.ended() == 1
        assert "nobody listens there" in flat(screen.text).replace(
            "nobodylistensthere", "nobody listens there"
        )


async def test_a_terminal_that_cannot_be_drawn_on_is_told_what_to_do(tmp_path: Path) -> None:
    with terminal(*MODULE, "chat", directory=tmp_path, TERM="dumb") as screen:
        assert screen.ended() == 2
        screen.shows("ask with a MESSAGE")

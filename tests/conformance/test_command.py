"""`python -m tests.conformance`, as an author of another server runs it."""

import asyncio
import sys
from pathlib import Path

from tests.whole.processes import gateway

COMMAND = (sys.executable, "-m", "tests.conformance")


async def run(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_it_says_what_holds_and_what_it_leaves_out(tmp_path: Path) -> None:
    async with gateway(tmp_path) as program:
        code, said = await run(program.url, "connecting", "access")
        assert (code, said.splitlines()[-1]) == (2, "0 of 0 hold")
        code, said = await run(program.url, "connecting")
        assert code == 0
        assert "holds     connecting: a connection without a session begins one" in said
        code, said = await run(program.url, "access")
        assert code == 2
        assert "left out  access: the header opens a WebSocket: needs two keys" in said
        code, said = await run(program.url, "chatting", "--real-model")
        assert (code, said.count("needs the simulated model")) == (2, said.count("left out"))


async def test_it_says_what_is_broken(tmp_path: Path) -> None:
    # A server that keeps to less than the contract: it takes five characters.
    async with gateway(tmp_path, MAX_MESSAGE_CHARS="5") as program:
        code, said = await run(program.url, "chatting: turns are numbered")
    assert code == 1
    assert "BROKEN    chatting: turns are numbered one after the other" in said
    assert "message_too_long" in said
    assert said.endswith("0 of 1 hold\n")


async def test_where_nobody_answers_it_says_so_once() -> None:
    code, said = await run("http://127.0.0.1:9")
    assert (code, said) == (2, "")

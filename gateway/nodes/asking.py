"""Asking Redis over one connection: many ask at once, and the answers come in order.

Whoever asks waits for a future of its own, while the tasks of the link write and read. So giving
up waiting leaves the connection in step: the answer still comes, and is thrown away.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, Never

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

from gateway.nodes.away import BrokerAway, ScriptFailed

MAX_WAITING = 4_096
IDLE_TICKS = 4
ANSWER_TICKS = 8
_NO_PRIMARY = ("READONLY", "MASTERDOWN")
"""Answers of a server that was the primary once: reconnecting finds the one that is now."""

Argument = str | int | float
Command = tuple[Argument, ...]


@dataclass(frozen=True)
class Script:
    """A script that Redis runs in one step; `name` is for people."""

    name: str
    lua: str

    @cached_property
    def sha(self) -> str:
        """By what Redis knows the script once it is loaded."""
        return hashlib.sha1(self.lua.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Call:
    """A script, the keys it touches and its arguments."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument] = ()

    @property
    def command(self) -> Command:
        """The call as it is sent."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)


class ServerLost(Exception):
    """The connection is of no use any more."""


class Asking:
    """One connection's questions; `send`, `listen` and `tick` are run by the link."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._outbox: list[_Question] = []
        self._asked: deque[_Question] = deque()
        self._work = asyncio.Event()
        self._loaded: set[Script] = set()
        self._tick = 0
        self._over = False

    async def ask(self, *commands: Command) -> list[Any]:
        """Send commands in one go and wait for all answers; errors are in their places.

        Raises `BrokerAway`. Cancelling stops the waiting; the commands may be run all the same.
        """
        if self._over or len(self._asked) + len(self._outbox) >= MAX_WAITING:
            raise BrokerAway("the connection is lost" if self._over else "too much is asked")
        question = _Question(commands, self._tick)
        self._outbox.append(question)
        self._work.set()
        return await question.answer

    async def call(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in order, loading those that are missing; a script's error is in its place.

        Raises `BrokerAway`.
        """
        answers = await self._load_and_call(calls)
        missing = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:  # somebody has flushed the scripts
            self._loaded.clear()
            again = await self._load_and_call([calls[at] for at in missing])
            for at, answer in zip(missing, again, strict=True):
                answers[at] = answer
        return [_judged(call, answer) for call, answer in zip(calls, answers, strict=True)]

    async def _load_and_call(self, calls: Sequence[Call]) -> list[Any]:
        # In the same go, so that what follows finds them, and in order. Not by EVAL: what was
        # loaded by that alone may be thrown out (Redis 7.4).
        new = {call.script for call in calls} - self._loaded
        self._loaded |= new
        loads: list[Command] = [("SCRIPT", "LOAD", script.lua) for script in new]
        answers = await self.ask(*loads, *(call.command for call in calls))
        return answers[len(loads) :]

    async def send(self) -> Never:
        """Send what is asked, all that has piled up at once."""
        while True:
            await self._work.wait()
            self._work.clear()
            questions, self._outbox = self._outbox, []
            self._asked += questions
            piled_up = b"".join([question.packed for question in questions])
            await self._connection.send_packed_command(piled_up, check_health=False)

    async def listen(self) -> Never:
        """Hand the answers to those who asked."""
        while True:
            self._take(await answer_of(self._connection))

    def _take(self, answer: Any) -> None:
        if isinstance(answer, ResponseError) and any(why in str(answer) for why in _NO_PRIMARY):
            raise ServerLost(str(answer))
        if not self._asked:
            raise ServerLost("an answer that nobody asked for")
        if self._asked[0].take(answer):
            self._asked.popleft()

    def tick(self) -> None:
        """Ask something from time to time; raise `ServerLost` if an answer is overdue.

        Time is counted in ticks: while the whole process stands still no answer is overdue.
        """
        self._tick += 1
        if not self._asked:
            if self._tick % IDLE_TICKS == 0 and not self._outbox:
                self._outbox.append(_Question((("PING",),), self._tick))
                self._work.set()
        elif self._tick - self._asked[0].tick > ANSWER_TICKS:
            raise ServerLost("no answer")

    def end(self) -> None:
        """Fail whatever is unanswered."""
        self._over = True
        for question in (*self._asked, *self._outbox):
            question.fail()
        self._asked.clear()
        self._outbox.clear()


class _Question:
    """Commands that were sent in one go, and their answers so far."""

    __slots__ = ("_answers", "_missing", "answer", "packed", "tick")

    def __init__(self, commands: Sequence[Command], tick: int) -> None:
        self.packed = b"".join([packed(*command) for command in commands])
        self.tick = tick
        self.answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._answers: list[Any] = []
        self._missing = len(commands)

    def take(self, answer: Any) -> bool:
        """Take the next answer; return whether it was the last."""
        self._answers.append(answer)
        self._missing -= 1
        if self._missing == 0 and not self.answer.done():
            self.answer.set_result(self._answers)
        return self._missing == 0

    def fail(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(BrokerAway("the connection was lost"))
            # Marks it as seen, where nobody waits.
            self.answer.exception()


def packed(*command: Argument) -> bytes:
    """Encode a command as it is sent; redis-py's own way of it is several times slower."""
    # The stub speaks of a tuple of exactly one argument.
    encoded: bytes = pack_command(command)  # type: ignore[arg-type]
    return encoded


async def answer_of(connection: AbstractConnection) -> Any:
    """Wait for the next answer, however long; an error is an answer too."""
    try:
        return await connection.read_response(timeout=inf)
    except ResponseError as error:
        return error


def _judged(call: Call, answer: Any) -> Any:
    if isinstance(answer, ResponseError):
        return ScriptFailed(f"{call.script.name}: {answer}")
    return answer

"""One attempt of one turn: wait for the model, stream its reply, store how it ended."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio

from gateway.brokers.base import Broker, Publisher, Ring
from gateway.brokers.live import LiveTurn
from gateway.checkpoints import Checkpoints
from gateway.errors import TurnTimeout, as_refusal, code_of
from gateway.figures import Figures
from gateway.log_lines import of_turn
from gateway.outcome import Outcome, start_event, turn_end
from gateway.stopwatch import Stopwatch
from gateway.tracing.base import Tracing
from llm.admission import Place
from llm.circuit import Circuit
from llm.client import (
    Driver,
    Ending,
    Generation,
    PromptMessage,
    UpstreamError,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnavailable,
    left_at_work,
)
from llm.prompt import DEFAULT_SYSTEM_PROMPT, ContextLimits, build_prompt
from llm.retry import Backoff, retried
from protocol.errors import ErrorCode, Refusal
from protocol.lifecycle import FIRST, after
from protocol.server_frames import Error
from storage import turns
from storage.context import Exchange
from storage.database import Database
from storage.leases import StopAsked
from storage.operations import StorageError
from storage.turns import StoredTurn, TurnEnd

log = logging.getLogger(__name__)

Stop = Literal["cancelled", "deleted", "shutdown", "lost"]
"""Why a turn is to end early; `lost`: another node has made the next attempt of it."""

_UNWELL = (UpstreamUnavailable, UpstreamTimeout, UpstreamStalled)
"""Failures that say something of the model server rather than of what it was asked."""


@dataclass(frozen=True)
class TurnLimits:
    """How turns are run; times in seconds."""

    turn_s: float = 600.0
    checkpoint_s: float = 1.0
    cool_down_s: float = 0.0
    storage_retry_s: float = 0.5
    max_storage_retry_s: float = 5.0
    backoff: Backoff = field(default_factory=Backoff)
    context: ContextLimits = field(default_factory=ContextLimits)
    system_prompt: str = DEFAULT_SYSTEM_PROMPT


def _alone() -> None:
    """Nobody else could want anything of a turn."""


@dataclass(frozen=True)
class Ports:
    """What a turn needs of the rest of the house.

    Where there are many nodes, `node` is this one, and `look` has it ask storage what has become
    of its turns.
    """

    database: Database
    broker: Broker
    driver: Driver
    circuit: Circuit
    limits: TurnLimits
    figures: Figures
    tracing: Tracing
    node: str | None = None
    look: Ring = _alone


@dataclass(frozen=True)
class Opened:
    """A turn that is stored and to be run, and what was said before it, newest first."""

    turn: StoredTurn
    context: Sequence[Exchange]


class Run:
    """An open turn that this process is answering."""

    _publisher: Publisher  # from the moment the turn is announced

    def __init__(
        self, opened: Opened, *, place: Place, ports: Ports, checkpoints: Checkpoints
    ) -> None:
        self.turn = opened.turn
        self._context = opened.context
        self._place = place
        self._database = ports.database
        self._broker = ports.broker
        self._driver = ports.driver
        self._circuit = ports.circuit
        self._limits = ports.limits
        self._node = ports.node
        self._look = ports.look
        self._live = LiveTurn(start_event(opened.turn))
        self._figures = ports.figures
        self._watch = Stopwatch(ports.figures)
        self._trace = ports.tracing.begin(opened.turn)
        self._limit: asyncio.Timeout | None = None
        self._stopped: Stop | None = None
        self._finishing = False
        self._leaving = asyncio.Event()
        self._left_at_work = False
        self._checkpoints = checkpoints
        self._keeping: asyncio.Future[None] | None = None
        self._grown = False

    @property
    def _fields(self) -> dict[str, object]:
        """What its lines in the log belong to."""
        return of_turn(self.turn, node=self._node)

    def stop(self, why: Stop) -> bool:
        """End the turn early; False if it is ending already, and too late to stop."""
        if why == "shutdown":
            self._leaving.set()
        if self._finishing or self._stopped:
            return False
        self._stopped = why
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0)
        return True

    async def run(self) -> None:
        """See the turn through to its stored end; raises nothing but cancellation."""
        try:
            await self._run()
        finally:
            self._trace.end(None)

    async def _run(self) -> None:
        self._begin()
        outcome = await self._reply()
        self._finishing = True
        self._checkpoints.forget(self._keep)
        match self._stopped:
            case "shutdown":
                await self._leave_open()
            case "lost":
                self._lose()
            case "deleted":
                self._figures.turns["deleted"] += 1
            case None | "cancelled":
                await self._finish(outcome)

    async def conclude(self, outcome: Outcome) -> None:
        """End the turn with what is known of it already, without asking the model."""
        self._finishing = True
        self._begin()
        if outcome.text:
            self._publisher.append(outcome.text, token_count=outcome.total_tokens)
        try:
            await self._finish(outcome)
        finally:
            self._trace.end(None)

    def _begin(self) -> None:
        self._figures.attempts += 1
        self._publisher = self._broker.begin(self.turn.session_id, self._live, self._look)

    async def _reply(self) -> Outcome:
        ending: Ending | None = None
        error: Exception | None = None
        try:
            ending = await self._answer()
        except Exception as caught:  # whatever it is, the turn ends and says so
            error = caught
        if error is not None and self._stopped is None:
            code = code_of(type(error)) or ErrorCode.INTERNAL
            fields = self._fields | {"code": code}
            log.warning("a turn failed: %s: %s", type(error).__name__, error, extra=fields)
        self._judge(ending, error)
        # midm goes on generating for a while after its client has left.
        self._place.release(cool_down_s=self._limits.cool_down_s if self._left_at_work else 0.0)
        # A reply may come to its own end in the very moment it is stopped. At shutdown it is kept;
        # else whoever was told that it is being stopped was told the truth.
        if self._stopped == "shutdown" and ending is not None:
            self._stopped = None
        elif self._stopped is not None:
            ending = error = None
        return self._outcome(ending, error)

    async def _answer(self) -> Ending:
        # Stopping the turn is reaching its limit of time early: one timer serves for both.
        try:
            async with asyncio.timeout(None if self._stopped is None else 0) as self._limit:
                if self._place.waits:
                    with self._trace.stage("queue"):
                        await self._place.admitted(self._moved)
                    self._publisher.place(position=0, eta_ms=None)
                self._admit(self._limit)
                return await self._call_model()
        except TimeoutError as error:
            raise TurnTimeout from error

    def _admit(self, limit: asyncio.Timeout) -> None:
        if self._stopped is None:
            limit.reschedule(asyncio.get_running_loop().time() + self._limits.turn_s)
        self._watch.admit()
        self._place.call()
        # A place that was free when the turn was accepted has been stored with it.
        if self.turn.status == FIRST:
            self.turn = replace(self.turn, status=after(self.turn.status, "admit"))
            self._store_aside(self.turn.checkpoint)

    async def _call_model(self) -> Ending:
        options: dict[str, Any] = dict(self.turn.generation)
        call = self._driver.stream if options.pop("streamed") else self._driver.complete
        prompt = self._prompt()
        generation = Generation(**options)

        async def ask() -> Ending:
            try:
                with self._trace.call():
                    return await call(prompt, generation, self._say)
            except BaseException as error:
                self._left_at_work = left_at_work(error)
                if isinstance(error, UpstreamError):
                    self._figures.call_failed(error)
                raise

        return await retried(ask, backoff=self._limits.backoff)

    def _prompt(self) -> list[PromptMessage]:
        return build_prompt(
            self.turn.user_message.content,
            self._context,
            limits=self._limits.context,
            system_prompt=self._limits.system_prompt,
        )

    def _say(self, text: str, token_count: int) -> None:
        self._watch.text()
        if not self._grown:  # since the last checkpoint
            self._grown = True
            if not self._live.length:
                self._trace.say()
            self._checkpoints.ask(self._keep)
        self._publisher.append(text, token_count=token_count)

    def _moved(self, position: int, eta_ms: int | None) -> None:
        self._publisher.place(position=position, eta_ms=eta_ms)

    def _keep(self) -> None:
        if self._keeping is not None and not self._keeping.done():
            # On a database that runs several writes at once one could overtake another.
            self._checkpoints.ask(self._keep)
            return
        self._grown = False
        self._store_aside(self._live.text())

    def _store_aside(self, text: str) -> None:
        """Checkpoint without waiting; a failure is made up for by the next one, or the end."""
        self._keeping = self._database.submit(turns.checkpoint(self.turn, text))

    def _judge(self, ending: Ending | None, error: Exception | None) -> None:
        if ending is not None:
            self._circuit.succeeded()
        elif isinstance(error, _UNWELL):
            self._circuit.failed()

    def _outcome(self, ending: Ending | None, error: Exception | None) -> Outcome:
        return Outcome(
            text=self._live.text(),
            total_tokens=ending.total_pieces if ending else self._live.token_count,
            reason=ending.finish_reason if ending else "cancelled",
            usage=ending.usage if ending else None,
            error=as_refusal(error) if error else None,
            timing=self._watch.timing(),
        )

    async def _finish(self, outcome: Outcome) -> None:
        try:
            with self._trace.stage("store"):
                try:
                    end = await self._store(outcome)
                except StopAsked:
                    outcome = outcome.cancelled()
                    end = await self._store(outcome)
        except StorageError:
            await self._leave_open()
            return
        if end is not None:
            self._watch.end()
            self._trace.end(outcome)
            self._figures.turns[outcome.error.code if outcome.error else outcome.reason] += 1
            self._publisher.end(end.event)
        else:
            self._lose()

    async def _store(self, outcome: Outcome) -> TurnEnd | None:
        """Store the end, however long the database is in trouble; None if the turn is gone.

        Raises `StopAsked`, and `StorageError` when the process is to stop before that trouble is
        over.
        """
        # One end for all tries: one of them may be stored although it was never heard of.
        end = turn_end(self.turn, outcome)
        wait_s = self._limits.storage_retry_s
        while True:
            try:
                return end if await self._database.write(turns.end(self.turn, end)) else None
            except StorageError as error:
                self._publisher.notice(Error.of(as_refusal(error)).frame())
                if await self._leaves_within(wait_s):
                    raise
                wait_s = min(wait_s * 2, self._limits.max_storage_retry_s)

    def _lose(self) -> None:
        """Say no more: the session was deleted, or the next attempt runs elsewhere."""
        self._figures.turns["lost"] += 1
        said = "a turn is not this process's any more: nothing of it is stored"
        log.warning(said, extra=self._fields)
        self._publisher.withdraw()

    async def _leaves_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._leaving.wait()
        return self._leaving.is_set()

    async def _leave_open(self) -> None:
        """Keep the text so far; the next start, or another node, takes the turn up."""
        self._figures.turns["left_open"] += 1
        if self._keeping is not None:
            await asyncio.wait([self._keeping])
        if self._node is None:
            self._publisher.notice(Error.of(Refusal(ErrorCode.SHUTTING_DOWN)).frame())
        try:
            # What an attempt before this one said is better than nothing.
            text = self._live.text() or self.turn.checkpoint
            await self._database.write(turns.leave(self.turn, text))
        except StorageError as error:
            log.error("a turn could not be kept: %s", error, extra=self._fields)
        if self._node is not None:
            self._publisher.withdraw()

"""The door to turns: accept, cancel, delete, take up again after a restart, drain."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.checkpoints import Checkpoints
from gateway.errors import as_refusal
from gateway.outcome import Outcome, turn_end
from gateway.run import Opened, Ports, Run
from llm.circuit import CircuitOpen
from llm.client import Generation
from llm.prompt import ContextLimits, ContextTooLong
from llm.queue import Admission, Place, QueueFull
from protocol.chat import ChatFields, GenerationFields, RegenerateFields
from protocol.errors import ErrorCode, Refusal
from protocol.lifecycle import FIRST, after
from protocol.server_frames import Accepted, TurnStatus
from protocol.text import count_words
from storage import sessions, turns
from storage.ids import new_message_id
from storage.operations import Operation
from storage.times import age_s
from storage.turns import NewTurn, StoredTurn

log = logging.getLogger(__name__)

GREEDY_BELOW = 0.01
"""A temperature below this means "always the likeliest": midm freezes on 0 with sampling."""

LAST = 0
"""As `replaces`: the session's last turn."""

T = TypeVar("T")
Told = Callable[[Accepted], None]


@dataclass(frozen=True)
class Retries:
    """Which turns are run again after the process that ran them died."""

    max_attempts: int = 3
    max_age_s: float = 600.0


@dataclass(frozen=True)
class Ask:
    """A request for a turn, whichever transport brought it; `message` None asks again."""

    session_id: str
    message: str | None
    replaces: int | None
    request_id: str | None
    given: GenerationFields
    streamed: bool = True

    @classmethod
    def chat(cls, session_id: str, chat: ChatFields, *, streamed: bool = True) -> "Ask":
        """Ask a question, in place of another if it is an edit."""
        return cls(
            session_id=session_id,
            message=chat.message,
            replaces=chat.replaces,
            request_id=chat.request_id,
            given=chat,
            streamed=streamed,
        )

    @classmethod
    def again(cls, session_id: str, regenerate: RegenerateFields) -> "Ask":
        """Ask the question of a turn again."""
        return cls(
            session_id=session_id,
            message=None,
            replaces=regenerate.turn or LAST,
            request_id=regenerate.request_id,
            given=regenerate,
        )

    @property
    def fingerprint(self) -> str:
        """Tell this request from another with the same `request_id`, on any transport."""
        given = self.given
        content = [self.message, self.replaces]
        generation = [given.max_new_tokens, given.temperature, given.do_sample]
        return hashlib.sha256(json.dumps([*content, *generation]).encode()).hexdigest()


class Turns:
    """All turns of this process.

    Each is a task of its own in `tasks`, from before its message is stored to after its end is:
    whoever asked may go away at any moment, and nothing is left half done.
    """

    def __init__(
        self,
        *,
        ports: Ports,
        admission: Admission,
        defaults: Generation,
        retries: Retries,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._ports = ports
        self._database = ports.database
        self._context = ports.limits.context
        self._admission = admission
        self._defaults = defaults
        self._retries = retries
        self._checkpoints = Checkpoints(every_s=ports.limits.checkpoint_s)
        self._tasks = tasks
        self._runs: dict[str, Run] = {}
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._draining = False
        self._closing = False

    @property
    def running(self) -> int:
        """How many turns are open in this process."""
        return len(self._runs)

    @property
    def draining(self) -> bool:
        """Whether nothing new is begun any more."""
        return self._draining

    async def accept(self, ask: Ask, told: Told | None = None) -> Accepted:
        """Store a request as a turn and begin to answer it, or find the turn it already is.

        `told` hears of it before anybody reads the turn's `start`. Raises `Refusal`; nothing is
        stored then. Cancelling stops the waiting, not the turn.
        """
        answer: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self._begin(self._accept_and_run(ask, told, answer))
        return await answer

    def cancel(self, session_id: str, turn: int | None) -> int:
        """Stop a session's open turn and return its number; `Refusal` (`nothing_to_cancel`)."""
        run = self._runs.get(session_id)
        named = run is not None and turn in (None, run.turn.turn)
        if run is None or not named or not run.stop("cancelled"):
            raise Refusal(ErrorCode.NOTHING_TO_CANCEL)
        return run.turn.turn

    async def delete_session(self, session_id: str) -> None:
        """Delete a session, stop its open turn and tell its readers; `Refusal` if unknown.

        Cancelling stops the waiting, not the deletion.
        """
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin(self._delete_session(session_id, answer))
        await answer

    async def take_up(self) -> None:
        """Take up what a process left open when it died: run it again, or end it."""
        for turn in await self._database.read(turns.all_open()):
            if taken := await self._database.write(_take_up(turn, self._context)):
                await self._take_up(taken)

    def refuse_new(self) -> None:
        """From now on every request is refused with `shutting_down`."""
        self._draining = True

    async def drain(self, within_s: float) -> None:
        """Wait for open turns to end; those that do not are kept for the next start."""
        self.refuse_new()
        try:
            async with asyncio.timeout(within_s):
                await self._quiet.wait()
        except TimeoutError:
            self._closing = True
            for run in self._runs.values():
                run.stop("shutdown")
            await self._quiet.wait()

    async def _accept_and_run(
        self, ask: Ask, told: Told | None, answer: asyncio.Future[Accepted]
    ) -> None:
        try:
            turn, run = await self._store(ask)
        except Exception as error:  # whatever it is belongs to the one who asked
            _fail(answer, as_refusal(error))
            return
        self._tell(turn, told, answer)
        if run is not None:
            await self._run(run)

    def _tell(self, turn: StoredTurn, told: Told | None, answer: asyncio.Future[Accepted]) -> None:
        accepted = Accepted(
            turn=turn.turn,
            request_id=turn.request_id,
            duplicate=turn.duplicate,
            status=self._status(turn),
        )
        if told is not None:
            told(accepted)
        _resolve(answer, accepted)

    async def _store(self, ask: Ask) -> tuple[StoredTurn, Run | None]:
        """Store a turn and make ready to run it; there is no run of a repeat, which has its own."""
        try:
            place = self._reserve(ask)
        except (Refusal, QueueFull, ContextTooLong, CircuitOpen):
            # A repeat is recognised before any limit applies.
            if repeat := await self._database.read(turns.find_repeat(self._new_turn(ask))):
                return repeat, None
            raise
        try:
            new = self._new_turn(ask, place)
            opened = await self._database.write(_accept(new, self._context))
        except BaseException:
            self._give_back(place)
            raise
        if opened.turn.duplicate:
            self._give_back(place)
            return opened.turn, None
        return opened.turn, self._run_of(opened, place)

    def _reserve(self, ask: Ask) -> Place:
        if self._draining:
            raise Refusal(ErrorCode.SHUTTING_DOWN)
        if ask.message is not None:
            self._context.check(ask.message)
        self._ports.circuit.check()
        try:
            return self._admission.reserve()
        except QueueFull:
            self._ports.circuit.not_called()
            raise

    def _give_back(self, place: Place) -> None:
        """Nothing is to be asked: neither the place nor the circuit's one trial is used up."""
        place.release()
        self._ports.circuit.not_called()

    def _new_turn(self, ask: Ask, place: Place | None = None) -> NewTurn:
        return NewTurn(
            session_id=ask.session_id,
            message=ask.message,
            replaces=ask.replaces,
            request_id=ask.request_id,
            fingerprint=ask.fingerprint if ask.request_id is not None else None,
            generation=vars(self._generation(ask.given)) | {"streamed": ask.streamed},
            status=FIRST if place is None or place.waits else after(FIRST, "admit"),
            user_message_id=new_message_id(),
            reply_message_id=new_message_id(),
        )

    def _generation(self, given: GenerationFields) -> Generation:
        temperature = _first(given.temperature, self._defaults.temperature)
        do_sample = _first(given.do_sample, self._defaults.do_sample)
        sensible = temperature >= GREEDY_BELOW
        return Generation(
            max_new_tokens=_first(given.max_new_tokens, self._defaults.max_new_tokens),
            temperature=temperature if sensible else 1.0,
            do_sample=do_sample and sensible,
        )

    def _status(self, turn: StoredTurn) -> TurnStatus:
        live = self._ports.broker.live(turn.session_id)
        return live.status if live and live.turn == turn.turn else turn.status

    def _run_of(self, opened: Opened, place: Place) -> Run:
        return Run(opened, place=place, ports=self._ports, checkpoints=self._checkpoints)

    async def _run(self, run: Run) -> None:
        session_id = run.turn.session_id
        self._runs[session_id] = run
        if self._closing:
            run.stop("shutdown")
        try:
            await run.run()
        finally:
            del self._runs[session_id]

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.create_task(work).add_done_callback(self._over)
        self._busy += 1
        self._quiet.clear()

    def _over(self, _: asyncio.Task[None]) -> None:
        self._busy -= 1
        if not self._busy:
            self._quiet.set()

    async def _delete_session(self, session_id: str, answer: asyncio.Future[None]) -> None:
        try:
            await self._database.write(sessions.remove(session_id))
        except Exception as error:  # whatever it is belongs to the one who asked
            _fail(answer, as_refusal(error))
            return
        if run := self._runs.get(session_id):
            run.stop("deleted")
        self._ports.broker.drop(session_id)
        _resolve(answer, None)

    async def _take_up(self, opened: Opened) -> None:
        turn = opened.turn
        young = age_s(turn.created_at) <= self._retries.max_age_s
        if young and turn.attempt <= self._retries.max_attempts:
            place = self._admission.reserve(even_if_full=True)
            log.info("turn %d of %s runs again", turn.turn, turn.session_id)
            self._begin(self._run(self._run_of(opened, place)))
        else:
            await self._interrupt(turn)

    async def _interrupt(self, turn: StoredTurn) -> None:
        """End a turn with the text that was kept; nobody reads yet, so nobody is told."""
        outcome = Outcome(
            text=turn.checkpoint,
            total_tokens=count_words(turn.checkpoint),
            error=Refusal(ErrorCode.INTERRUPTED),
        )
        await self._database.write(turns.end(turn, turn_end(turn, outcome)))


def _accept(new: NewTurn, limits: ContextLimits) -> Operation[Opened]:
    turn = yield from turns.accept(new)
    return (yield from _opened(turn, limits))


def _take_up(turn: StoredTurn, limits: ContextLimits) -> Operation[Opened | None]:
    taken = yield from turns.take_up(turn)
    return (yield from _opened(taken, limits)) if taken else None


def _opened(turn: StoredTurn, limits: ContextLimits) -> Operation[Opened]:
    """Read what was said before a turn in the same visit to the database."""
    context = yield from turns.context(
        turn.session_id, turn.turn, most=limits.max_exchanges, max_chars=limits.max_chars
    )
    return Opened(turn, context)


def _first(given: T | None, default: T) -> T:
    return default if given is None else given


def _resolve(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[Any], refusal: Refusal) -> None:
    if not answer.done():
        answer.set_exception(refusal)

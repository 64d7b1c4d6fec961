"""The door to turns: accept, cancel, delete, take up what nobody runs any more, drain."""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gateway import visits
from gateway.ask import Ask
from gateway.checkpoints import Checkpoints
from gateway.errors import as_refusal
from gateway.limits.allowance import Allowance
from gateway.log_lines import of_turn
from gateway.nodes.away import BrokerAway
from gateway.outcome import Outcome
from gateway.run import Opened, Ports, Run
from llm.admission import Admission, Place, QueueFull
from llm.circuit import CircuitOpen
from llm.client import Generation
from llm.prompt import ContextTooLong
from protocol.errors import ErrorCode, Refusal
from protocol.lifecycle import FIRST, OPEN, after
from protocol.server_frames import Accepted, TurnStatus
from protocol.text import count_words
from storage import sessions, turns
from storage.claims import Claim
from storage.ids import new_message_id
from storage.operations import MaybeStored, Operation, StorageError
from storage.times import age_s
from storage.turns import NewTurn, StoredTurn

log = logging.getLogger(__name__)

TAKE_UP_AT_ONCE = 100


class Listed(Protocol):
    """Lists open turns that are to be taken up."""

    def __call__(self, *, most: int) -> Operation[list[StoredTurn]]: ...


T = TypeVar("T")
Told = Callable[[Accepted], None]


@dataclass(frozen=True)
class Retries:
    """Which turns are run again after the process that ran them died."""

    max_attempts: int = 3
    max_age_s: float = 600.0


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
        allowance: Allowance,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._ports = ports
        self._database = ports.database
        self._context = ports.limits.context
        self._node = ports.node
        self._admission = admission
        self._defaults = defaults
        self._retries = retries
        self._allowance = allowance
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

    def runs(self) -> list[Run]:
        """List the turns that are open in this process."""
        return list(self._runs.values())

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

    async def cancel(self, claim: Claim, turn: int | None) -> int:
        """Stop a session's open turn, on whichever node it runs, and return its number.

        Among many it is stored that the turn is to stop before anybody is told so, and then it
        ends in no other way. Raises `Refusal` (`nothing_to_cancel`, `session_not_found`) and
        `StorageError`.
        """
        run = self._runs.get(claim.session_id)
        if run is not None and run.turn.owner != claim.owner:
            raise Refusal(ErrorCode.SESSION_NOT_FOUND)
        number = None
        if run is not None and turn in (None, run.turn.turn) and run.stop("cancelled"):
            number = run.turn.turn
        if self._node is not None:
            asked = visits.ask_to_stop(claim, turn or number, stopping=number is not None)
            number = await self._database.write(asked)
            self._ports.broker.ask_to_look(claim.session_id)
        if number is None:
            raise Refusal(ErrorCode.NOTHING_TO_CANCEL)
        return number

    async def delete_session(self, claim: Claim) -> None:
        """Delete a session, stop its open turn and tell its readers; `Refusal` if unknown.

        Cancelling stops the waiting, not the deletion.
        """
        await self._delete(claim.session_id, sessions.remove(claim))

    async def delete_unused(self, session_id: str, *, since: str) -> None:
        """Delete a session, whosever it is, that nobody has used since a time; else `Refusal`."""
        await self._delete(session_id, sessions.remove_unused(session_id, since=since))

    async def take_up(self, listed: Listed = turns.lapsed, *, most: int = TAKE_UP_AT_ONCE) -> bool:
        """Take up open turns that nobody runs any more: run each again, or end it.

        `listed` says which. Returns whether there may be more than `most` of them. Raises
        `StorageError` and `BrokerAway`. Cancelling stops after the turn that is being taken up.
        """
        found = await self._database.read(listed(most=most))
        # Other nodes find the same ones, and would go through them in the same order.
        random.shuffle(found)
        taken = 0
        for turn in found:
            if self._draining:
                return False
            answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._begin(self._take_up(turn, answer))
            try:
                taken += await answer
            except StorageError as error:
                # A row that somebody holds is to keep nobody else back.
                log.warning("a turn is not taken up: %s", error, extra=of_turn(turn))
        return taken > 0 and len(found) == most

    def refuse_new(self) -> None:
        """From now on every request is refused with `shutting_down`."""
        self._draining = True

    async def drain(self, within_s: float) -> None:
        """Wait for open turns to end; the rest are kept for the next start, or another node."""
        self.refuse_new()
        try:
            async with asyncio.timeout(within_s):
                await self._quiet.wait()
        except TimeoutError:
            pass
        finally:
            # What begins from now on, for it was being accepted or taken up, is left at once.
            self._closing = True
        if self._busy:
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
            await self._see_through(run)

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
            place = await self._reserve(ask)
        except (Refusal, QueueFull, ContextTooLong, CircuitOpen, BrokerAway):
            # A repeat is recognised before any limit applies.
            if ask.request_id is not None:
                find = turns.find_repeat(self._new_turn(ask))
                if repeat := await self._database.read(find):
                    return repeat, None
            raise
        try:
            new = self._new_turn(ask, place)
            opened = await self._database.write(visits.accept(new, self._context))
        except BaseException:
            self._give_back(place)
            raise
        if opened.turn.duplicate:
            self._give_back(place)
            return opened.turn, None
        return opened.turn, self._run_of(opened, place)

    async def _reserve(self, ask: Ask) -> Place:
        if self._draining:
            raise Refusal(ErrorCode.SHUTTING_DOWN)
        await self._allowance.check(ask)
        if ask.message is not None:
            self._context.check(ask.message)
        if not self._ports.broker.ready:
            raise BrokerAway
        self._ports.circuit.check()
        try:
            return await self._admission.reserve()
        except BaseException:
            self._ports.circuit.not_called()
            raise

    def _give_back(self, place: Place) -> None:
        """Nothing is to be asked: neither the place nor the circuit's one trial is used up."""
        place.release()
        self._ports.circuit.not_called()

    def _new_turn(self, ask: Ask, place: Place | None = None) -> NewTurn:
        return NewTurn(
            claim=ask.claim,
            message=ask.message,
            replaces=ask.replaces,
            request_id=ask.request_id,
            fingerprint=ask.fingerprint if ask.request_id is not None else None,
            generation=vars(ask.generation(self._defaults)) | {"streamed": ask.streamed},
            status=FIRST if place is None or place.waits else after(FIRST, "admit"),
            user_message_id=new_message_id(),
            reply_message_id=new_message_id(),
            node=self._node,
            share=self._allowance.share(ask.account),
        )

    def _status(self, turn: StoredTurn) -> TurnStatus:
        live = self._ports.broker.live(turn.session_id)
        # Storage knows better what is over: a replica may not have heard of it yet.
        knows = turn.status in OPEN and live is not None and live.turn == turn.turn
        return live.status if live is not None and knows else turn.status

    def _run_of(self, opened: Opened, place: Place) -> Run:
        return Run(opened, place=place, ports=self._ports, checkpoints=self._checkpoints)

    async def _see_through(self, run: Run, kept: Outcome | None = None) -> None:
        """Run a turn, or end it with what was kept."""
        session_id = run.turn.session_id
        self._runs[session_id] = run
        if self._closing:
            run.stop("shutdown")
        try:
            await (run.run() if kept is None else run.conclude(kept))
        finally:
            # Its next attempt may be run here by now, if this one was lost.
            if self._runs.get(session_id) is run:
                del self._runs[session_id]

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.create_task(work).add_done_callback(self._over)
        self._busy += 1
        self._quiet.clear()

    def _over(self, _: asyncio.Task[None]) -> None:
        self._busy -= 1
        if not self._busy:
            self._quiet.set()

    async def _delete(self, session_id: str, removal: Operation[None]) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin(self._delete_session(session_id, removal, answer))
        await answer

    async def _delete_session(
        self, session_id: str, removal: Operation[None], answer: asyncio.Future[None]
    ) -> None:
        try:
            await self._remove(session_id, removal)
        except Exception as error:  # whatever it is belongs to the one who asked
            _fail(answer, as_refusal(error))
            return
        if run := self._runs.get(session_id):
            run.stop("deleted")
        self._ports.broker.drop(session_id)
        _resolve(answer, None)

    async def _take_up(self, turn: StoredTurn, answer: asyncio.Future[bool]) -> None:
        """Take up a turn and see it through; `answer` is False if another node was quicker."""
        try:
            place = await self._admission.reserve(even_if_full=True)
            try:
                opened = await self._database.write(visits.take_up(turn, self._context, self._node))
            except BaseException:
                place.release()
                raise
        except Exception as error:  # whatever it is belongs to the one who asked
            _fail(answer, error)
            return
        _resolve(answer, opened is not None)
        if opened is None:
            place.release()
        else:
            await self._go_on(opened, place)

    async def _go_on(self, opened: Opened, place: Place) -> None:
        """See a turn through that was taken up."""
        turn = opened.turn
        log.info("a turn is taken up", extra=of_turn(turn, node=self._node))
        kept = self._kept(turn)
        if kept is not None:
            place.release()
        await self._see_through(self._run_of(opened, place), kept)

    async def _remove(self, session_id: str, removal: Operation[None]) -> None:
        try:
            await self._database.write(removal)
        except MaybeStored:
            if await self._database.read(sessions.exists(session_id)):
                raise
            # It was stored: its readers are to hear of it.

    def _kept(self, turn: StoredTurn) -> Outcome | None:
        """Say how a turn that was taken up ends at once; None if it is run again."""
        young = age_s(turn.created_at) <= self._retries.max_age_s
        if turn.legacy.stop is not None:
            error = None  # somebody has been told that it is cancelled
        elif young and turn.attempt - turn.legacy.handed_over <= self._retries.max_attempts:
            return None
        else:
            error = Refusal(ErrorCode.INTERRUPTED)
        words = count_words(turn.checkpoint)
        return Outcome(text=turn.checkpoint, total_tokens=words, error=error)


def _resolve(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)

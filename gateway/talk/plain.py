"""One question and its reply, for pipes and scripts: only the reply goes to stdout."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

from gateway.talk.dialogue import Dialogue
from gateway.talk.line import Gateway, HungUp, Line
from gateway.talk.shown import (
    Ended,
    Json,
    Refused,
    Said,
    Shown,
    Told,
    Void,
    Waiting,
    harmless,
    way_back,
)
from protocol.text import printable

DONE = 0
FAILED = 1
INTERRUPTED = 130
PIPE_CLOSED = 141
"""What a shell says of a program that a closed pipe has ended: 128 and SIGPIPE."""

GIVE_UP_S = 60.0
CANCEL_WITHIN_S = 3.0


class CannotWrite(Exception):
    """Nobody reads stdout any more, or its disk is full: no fault of the connection's."""

    def __init__(self, error: OSError) -> None:
        self.pipe_closed = isinstance(error, BrokenPipeError)
        super().__init__(f"stdout: cannot be written: {error.strerror}")


@dataclass
class Printer:
    """Writes a reply to `out` as it comes, and when it is over knows how that went."""

    out: TextIO
    err: TextIO
    as_frames: bool = False
    whole: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    well: bool = False
    _kept: list[str] = field(default_factory=list)
    _told: str = ""

    async def frame(self, text: str) -> None:
        """Write a frame as a line, what a terminal would obey escaped as JSON has it."""
        await self._write(f"{printable(text)}\n")

    async def show(self, shown: Shown) -> None:
        """Write what is for somebody to see, each to its place."""
        match shown:
            case Said(text) if not self.as_frames:
                await self._say(text)
            case Void():
                await self._begin_anew()
            case Ended(ours=True):
                await self._end(shown)
            case Refused(why):
                self.tell(why)
                self.over.set()
            case Told(text) | Waiting(text) if text:
                self.tell(text)

    def tell(self, text: str) -> None:
        """Write a line to stderr, unless it is the one before."""
        if text != self._told:
            self._told = text
            # That nobody can read notes is no fault of the reply's.
            with suppress(OSError):
                print(f"midm-gateway: {harmless(text)}", file=self.err, flush=True)

    async def _say(self, text: str) -> None:
        if self.whole:
            self._kept.append(text)
        else:
            await self._write(harmless(text))

    async def _begin_anew(self) -> None:
        if self.whole:
            self._kept.clear()
        elif not self.as_frames:
            await self._write("\n")
            self.tell("the reply was written anew; what was printed before does not count")

    async def _end(self, ended: Ended) -> None:
        if self.whole and ended.well:
            await self._write(harmless("".join(self._kept)))
        if not self.as_frames and (ended.well or not self.whole):
            await self._write("\n")
        if ended.note:
            self.tell(ended.note)
        self.well = ended.well
        self.over.set()

    async def _write(self, text: str) -> None:
        # In a thread: whoever reads slowly shall not keep the connection from being answered.
        await asyncio.to_thread(_put, self.out, text)


def _put(out: TextIO, text: str) -> None:
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        raise CannotWrite(error) from None


async def ask_once(
    gateway: Gateway, frame: Json, *, session_id: str | None, as_frames: bool, whole: bool
) -> int:
    """Ask one question and print the reply; return the exit code."""
    dialogue = Dialogue(session_id)
    dialogue.ask(frame)
    printer = Printer(sys.stdout, sys.stderr, as_frames=as_frames, whole=whole)
    line = Line(gateway, dialogue, printer.show, give_up_s=GIVE_UP_S)
    line.raw = printer.frame if as_frames else None
    interrupted = asyncio.Event()
    with _interrupts(interrupted):
        try:
            return await _until_over(line, dialogue, printer, interrupted)
        except CannotWrite as error:
            _let_go_of_stdout()
            if not error.pipe_closed:
                printer.tell(str(error))
            return PIPE_CLOSED if error.pipe_closed else FAILED
        except HungUp as error:
            printer.tell(str(error))
            return INTERRUPTED if interrupted.is_set() else FAILED
        finally:
            if dialogue.session_id is not None and session_id is None:
                printer.tell(f"go on with {way_back(dialogue.session_id)}")


def _let_go_of_stdout() -> None:
    # Python would write what is left as it exits, and complain.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def _interrupts(interrupted: asyncio.Event) -> Iterator[None]:
    """Set the event on Ctrl-C; a second one ends the process, whatever it waits for."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if interrupted.is_set():
            os._exit(INTERRUPTED)
        interrupted.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _until_over(
    line: Line, dialogue: Dialogue, printer: Printer, interrupted: asyncio.Event
) -> int:
    running = asyncio.create_task(line.run())
    over = asyncio.create_task(printer.over.wait())
    stopped = asyncio.create_task(interrupted.wait())
    try:
        await asyncio.wait((running, over, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stopped.done() and not over.done():
            # The model is not to go on for nobody; but Ctrl-C waits for nothing that is away.
            if dialogue.cancel():
                line.ring()
                await asyncio.wait(
                    (running, over),
                    timeout=CANCEL_WITHIN_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            return INTERRUPTED
        if running.done():
            running.result()
        return DONE if printer.well else FAILED
    finally:
        for task in (running, over, stopped):
            task.cancel()
        await asyncio.wait((running, over, stopped))

"""A conversation at the terminal: what is typed, what is shown, and how it is left."""

import asyncio
import signal
from typing import Any

from gateway.talk.dialogue import MAX_WAITING, Dialogue
from gateway.talk.line import Gateway, HungUp, Line
from gateway.talk.plain import DONE, FAILED, INTERRUPTED
from gateway.talk.screen import Screen
from gateway.talk.shown import (
    Began,
    Ended,
    Json,
    Refused,
    Said,
    Shown,
    Told,
    Void,
    Waiting,
    way_back,
)
from protocol.chat import MAX_MESSAGE_CHARS
from protocol.client_frames import HELP, Chat, Regenerate, parse_client_frame
from protocol.errors import Refusal

HELLO = "/help says what can be typed; Ctrl-C stops a reply, Ctrl-D leaves"
LOCAL_HELP = f"""\
{HELP}
/session        show how to come back to this conversation
/quit           leave; so do Ctrl-D, and Ctrl-C while nothing is being written
Alt-Enter begins a new line; the arrow keys bring back what was typed before."""


class Talk:
    """One person at one terminal, and the conversation they have."""

    def __init__(
        self, gateway: Gateway, *, session_id: str | None, generation: Json, colour: bool
    ) -> None:
        self._generation = generation
        self._dialogue = Dialogue(session_id)
        self._line = Line(gateway, self._dialogue, self._show)
        self._screen = Screen(typed=self._typed, interrupted=self._interrupt, colour=colour)
        self._stopping = False
        self._code = DONE

    async def run(self) -> int:
        """Talk until it is left; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._screen.leave)
        self._screen.tell(HELLO)
        line = asyncio.create_task(self._line.run())
        line.add_done_callback(lambda _: self._screen.leave())
        try:
            await self._screen.run()
            if line.done():
                line.result()
        except HungUp as error:
            self._screen.tell(f"midm-gateway: {error}")
            self._code = FAILED
        finally:
            line.cancel()
            await asyncio.wait((line,))
        if self._dialogue.session_id is not None:
            self._screen.tell(self._how_to_go_on())
        return self._code

    # What somebody does

    def _typed(self, text: str) -> None:
        word = text.strip()
        if word in ("/quit", "/exit"):
            self._screen.leave()
        elif word == "/session":
            self._screen.tell(self._how_to_go_on())
        elif word == "/help":
            self._screen.tell(LOCAL_HELP)
        else:
            self._send(text)

    def _send(self, text: str) -> None:
        try:
            # Here a line that begins with a brace is a message like any other.
            is_shorthand = text.startswith("/")
            frame = parse_client_frame(text) if is_shorthand else Chat(message=text)
        except (Refusal, ValueError) as error:
            self._screen.tell(error.message if isinstance(error, Refusal) else _too_long(text))
            return
        fields: dict[str, Any] = frame.model_dump(exclude_none=True)
        match frame:
            case Chat() | Regenerate():
                # It is shown where it belongs, above its reply, once that begins.
                self._screen.note("sending" if self._dialogue.ready else "sent when connected")
                if not self._dialogue.ask({**self._generation, **fields}):
                    self._screen.tell(f"{MAX_WAITING} messages wait already; this one was not sent")
            case _ if fields["type"] == "cancel":
                if not self._dialogue.cancel(fields.get("turn")):
                    self._screen.tell("there is no reply to stop")
            case _:
                self._dialogue.say(fields)
        self._line.ring()

    def _interrupt(self) -> None:
        if self._screen.draft:
            self._screen.drop_draft()
        elif self._dialogue.busy and not self._stopping and self._dialogue.cancel():
            self._stopping = True
            self._line.ring()
        else:
            self._code = INTERRUPTED
            self._screen.leave()

    # What there is to see

    async def _show(self, shown: Shown) -> None:
        match shown:
            case Began(question):
                self._screen.note("")
                self._screen.tell(question, quoted=True)
            case Said(text):
                self._screen.note("")
                self._screen.write(text)
            case Void():
                self._screen.end_line()
                self._screen.tell("the reply is written anew:")
            case Ended(note=note):
                self._stopping = False
                self._screen.note("")
                self._screen.end_line()
                if note:
                    self._screen.tell(f"({note})")
            case Refused(text):
                self._stopping = False
                self._screen.tell(text)
            case Told(text):
                self._screen.tell(text)
            case Waiting(text):
                self._screen.note(text)

    def _how_to_go_on(self) -> str:
        if self._dialogue.session_id is None:
            return "there is no session yet"
        return f"go on with: midm-gateway chat {way_back(self._dialogue.session_id)}"


def _too_long(text: str) -> str:
    most = f"a message should have at most {MAX_MESSAGE_CHARS} characters"
    return f"{most}, and this one has {len(text)}"

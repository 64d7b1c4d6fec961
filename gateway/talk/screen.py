"""The terminal: a line to type on, always there, and the conversation above it.

What is said scrolls by as ordinary output, which can be scrolled back to and copied. Only the last
line of the reply, the one that is still growing, is drawn together with what is being typed; so
neither ever garbles the other.
"""

import sys
from collections.abc import Callable

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    Layout,
    Window,
)
from prompt_toolkit.output import create_output
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import TextArea

from gateway.talk.shown import harmless

PROMPT = "> "
DIM, RESET = "\x1b[2m", "\x1b[0m"
MAX_TYPED_LINES = 8
REDRAW_EVERY_S = 0.02


class Screen:
    """Runs until `leave`; `typed` gets each line, `interrupted` is called on Ctrl-C.

    What goes to stdout is the replies, if that is no terminal; all else is drawn on stderr then.
    """

    def __init__(
        self, *, typed: Callable[[str], None], interrupted: Callable[[], None], colour: bool
    ) -> None:
        self._typed = typed
        self._interrupted = interrupted
        self._colour = colour
        self._splits = not sys.stdout.isatty()
        self._growing = ""
        self._status = ""
        self._area = TextArea(
            prompt=PROMPT,
            multiline=True,
            wrap_lines=True,
            height=Dimension(min=1, max=MAX_TYPED_LINES),
            dont_extend_height=True,
            history=InMemoryHistory(),
            accept_handler=self._accept,
        )
        self._app: Application[None] = Application(
            layout=Layout(
                HSplit(
                    [
                        self._line(lambda: "" if self._splits else self._growing, wrap=True),
                        self._area,
                        self._line(lambda: self._status, style="fg:ansibrightblack"),
                    ]
                ),
                focused_element=self._area,
            ),
            key_bindings=self._keys(),
            output=create_output(sys.stderr if self._splits else sys.stdout),
            color_depth=None if colour else ColorDepth.DEPTH_1_BIT,
            erase_when_done=True,
            min_redraw_interval=REDRAW_EVERY_S,
        )

    async def run(self) -> None:
        """Let somebody type until it is left; what was said last stays on the terminal."""
        await self._app.run_async()
        self.end_line()

    def leave(self) -> None:
        """Come to the end of `run`."""
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    @property
    def draft(self) -> str:
        """What is typed and not sent."""
        return self._area.text

    def drop_draft(self) -> None:
        """Empty the line that is typed on."""
        self._area.text = ""

    def write(self, text: str) -> None:
        """Add to the reply."""
        if self._splits:
            self._growing = text and "…"  # it is not drawn: but its line has yet to end
            _put(harmless(text))
            return
        whole, line_end, self._growing = (self._growing + harmless(text)).rpartition("\n")
        size = self._app.output.get_size()
        # It has to fit above the line that is typed on: what would not is broken at a space.
        room = size.columns * max(size.rows // 2, 1)
        while get_cwidth(self._growing) > room:
            row, self._growing = _broken(self._growing, room)
            whole, line_end = f"{whole}{line_end}{row}", "\n"
        if line_end:
            self._print(whole)
        self._app.invalidate()

    def end_line(self) -> None:
        """End the last line of the reply."""
        line, self._growing = self._growing, ""
        if line and self._splits:
            _put("\n")
        elif line:
            self._print(line)

    def tell(self, text: str, *, quoted: bool = False) -> None:
        """Print a note, or what somebody said, below what was said before."""
        lines = harmless(text).split("\n")
        marked = [f"{PROMPT if quoted else ''}{line}" for line in lines]
        body = "\n".join(marked)
        self._print(f"{DIM}{body}{RESET}" if self._colour else body)

    def note(self, text: str) -> None:
        """Show below the line that is typed on what is waited for; nothing, if it is empty."""
        self._status = harmless(text)
        self._app.invalidate()

    def _print(self, text: str) -> None:
        # Not `run_in_terminal`: it gives the terminal back for that moment, and the keys that are
        # pressed in it are echoed, or taken for signals.
        out = sys.stderr if self._splits else sys.stdout
        if self._app.is_running:
            self._app.renderer.erase()
        out.write(f"{text}\n".replace("\n", "\r\n"))
        out.flush()
        self._app.invalidate()

    def _accept(self, buffer: Buffer) -> bool:
        if buffer.text.strip():
            self._typed(buffer.text)
        return False

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _(_event: KeyPressEvent) -> None:
            self._interrupted()

        @keys.add("c-d", filter=Condition(lambda: not self.draft))
        def _(_event: KeyPressEvent) -> None:
            self.leave()

        return keys

    def _line(
        self, text: Callable[[], str], *, wrap: bool = False, style: str = ""
    ) -> ConditionalContainer:
        window = Window(
            FormattedTextControl(text),
            wrap_lines=wrap,
            dont_extend_height=True,
            style=style,
            height=None if wrap else 1,
        )
        return ConditionalContainer(window, Condition(lambda: bool(text())))


def _put(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _broken(line: str, room: int) -> tuple[str, str]:
    """Break a line that is wider than there is room, at its last space in there if it has one."""
    width, end = 0, 0
    for end, character in enumerate(line):  # noqa: B007 - used behind the loop
        width += get_cwidth(character)
        if width > room:
            break
    end = max(end, 1)  # a wide character may have more than all there is
    space = line.rfind(" ", 0, end)
    return (line[:space], line[space + 1 :]) if space > 0 else (line[:end], line[end:])

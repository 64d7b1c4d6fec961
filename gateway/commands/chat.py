"""`midm-gateway chat`: talk to a gateway, at a terminal or from a script."""

import argparse
import asyncio
import math
import sys
from contextlib import suppress
from pathlib import Path

from gateway.commands.parsing import BadUsage, Commands, described
from gateway.settings import ClientSettings, load_client_settings
from gateway.talk.line import Gateway, socket_url
from gateway.talk.plain import ask_once
from gateway.talk.shown import Json
from protocol.chat import MAX_MESSAGE_CHARS, MAX_NEW_TOKENS, MAX_TEMPERATURE
from protocol.text import storable

MAX_STDIN_BYTES = 4 * MAX_MESSAGE_CHARS + 2
MAX_KEY_BYTES = 16 * 1024
NO_TERMINALS = ("dumb", "unknown")

DESCRIPTION = """\
Talk to a gateway. Without a message, type one after the other; with one, or
with something in stdin, ask that alone."""

EPILOG = """\
examples:
  midm-gateway chat                       type, and see replies as they come
  midm-gateway chat "안녕하세요"          ask once; the reply goes to stdout
  git diff | midm-gateway chat            the whole of stdin is the message
  midm-gateway chat --session ID "왜요?"  go on with a conversation
  midm-gateway chat --json 안녕           what the gateway says, a frame a line

A connection that breaks is made again, and the reply goes on where it stopped.
Only replies go to stdout; everything else goes to stderr.

from the environment, or from .env:
  MIDM_URL   where the gateway is (default: http://127.0.0.1:$PORT, port 8080)
  MIDM_KEY   an API key or a token. There is no option for it: everybody on the
             machine can read the arguments of a program
  NO_COLOR   no colours, if it is set

exit codes:
  0 done   1 failed, or refused   2 wrong usage
  130 stopped with Ctrl-C, and the reply with it   141 nobody reads stdout
"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    command = described(
        commands,
        "chat",
        brief="talk to a gateway, here in the terminal or from a script",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.set_defaults(command=run)
    command.add_argument("message", nargs="?", metavar="MESSAGE", help="what to ask")
    command.add_argument("--url", metavar="URL", help="where the gateway is")
    command.add_argument("--session", metavar="ID", help="go on with a session")
    command.add_argument("--key-file", type=Path, metavar="PATH", help="holds a key or a token")
    command.add_argument("--max-new-tokens", type=_tokens, metavar="N", help="the longest reply")
    command.add_argument(
        "--temperature", type=_temperature, metavar="T", help="0 (the same each time) to 2"
    )
    command.add_argument(
        "--whole", action="store_true", help="print a reply once it is complete, not as it comes"
    )
    command.add_argument("--json", action="store_true", help="print frames as lines of JSON")
    command.add_argument("--no-color", action="store_true", help="print no colours")


def run(options: argparse.Namespace) -> int:
    """Talk; raises `BadUsage` and `BadSettings`."""
    settings = load_client_settings()
    if options.session == "":
        raise BadUsage("--session: is empty; without it a new session is begun")
    gateway = _gateway(options, settings)
    generation = _generation(options)
    if options.message is None and _at_terminal():
        return _talk(options, settings, gateway, generation)
    message = _read_stdin() if options.message is None else _checked(options.message, "MESSAGE")
    frame = {"type": "chat", "message": message, **generation}
    return asyncio.run(
        ask_once(
            gateway,
            frame,
            session_id=options.session,
            as_frames=options.json,
            whole=options.whole,
        )
    )


def _talk(
    options: argparse.Namespace, settings: ClientSettings, gateway: Gateway, generation: Json
) -> int:
    if options.json or options.whole:
        raise BadUsage("--json and --whole need a MESSAGE, or one in stdin")
    if settings.term in NO_TERMINALS:
        says = f"this terminal (TERM={settings.term}) cannot move its cursor"
        raise BadUsage(f"{says}; ask with a MESSAGE, or with one in stdin")
    # Only here: nobody else needs what draws on a terminal.
    from gateway.talk.interactive import Talk

    async def talk() -> int:
        colour = not (options.no_color or settings.no_color)
        return await Talk(
            gateway, session_id=options.session, generation=generation, colour=colour
        ).run()

    return asyncio.run(talk())


def _at_terminal() -> bool:
    return sys.stdin.isatty() and (sys.stdout.isatty() or sys.stderr.isatty())


def _gateway(options: argparse.Namespace, settings: ClientSettings) -> Gateway:
    source = "--url" if options.url is not None else "MIDM_URL"
    try:
        url = socket_url(settings.url if options.url is None else options.url)
    except ValueError as error:
        raise BadUsage(f"{source}: {error}") from None

    def key() -> str:
        if options.key_file is None:
            return _checked_key(settings.midm_key, "MIDM_KEY")
        return _checked_key(_read_key(options.key_file), f"--key-file {options.key_file}")

    key()  # what cannot be used is said before anything is begun
    return Gateway(url, key)


def _read_key(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES).decode()
    except OSError as error:
        raise BadUsage(f"--key-file {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        return "\n"  # which no key holds


def _checked_key(text: str, source: str) -> str:
    key = text.strip()
    if text and not (key.isascii() and key.isprintable() and key and " " not in key):
        raise BadUsage(f"{source}: should hold one API key or token, and nothing else")
    return key


def _read_stdin() -> str:
    held = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(held) > MAX_STDIN_BYTES:
        raise BadUsage(f"stdin: should hold at most {MAX_MESSAGE_CHARS} characters")
    try:
        text = held.decode()
    except UnicodeDecodeError as error:
        raise BadUsage(f"stdin: should be text in UTF-8; byte {error.start} is not") from None
    return _checked(text.replace("\r\n", "\n").rstrip("\n"), "stdin")


def _checked(message: str, source: str) -> str:
    if not message.strip():
        raise BadUsage(f"{source}: is empty; it should hold the message")
    if storable(message) != message:
        raise BadUsage(f"{source}: should be text in UTF-8, without NUL")
    if len(message) > MAX_MESSAGE_CHARS:
        says = f"should have at most {MAX_MESSAGE_CHARS} characters"
        raise BadUsage(f"{source}: {says}, and has {len(message)}")
    return message


def _generation(options: argparse.Namespace) -> Json:
    given = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
    return {name: value for name, value in given.items() if value is not None}


def _tokens(text: str) -> int:
    with suppress(ValueError):
        if text.isascii() and 1 <= int(text) <= MAX_NEW_TOKENS:
            return int(text)
    raise argparse.ArgumentTypeError(f"should be from 1 to {MAX_NEW_TOKENS}, given {text[:80]!r}")


def _temperature(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(value := float(text)) and 0 <= value <= MAX_TEMPERATURE:
            return value
    raise argparse.ArgumentTypeError(f"should be from 0 to {MAX_TEMPERATURE}, given {text[:80]!r}")

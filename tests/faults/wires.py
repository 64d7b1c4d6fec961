"""Wires to what nodes share: one can be cut, another loses some of what Redis announces."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

from tests.whole.proxy import Cut, Tap, forwarding

Taps = Callable[[], tuple[Tap, Tap]]

_MESSAGE = b"*3\r\n$7\r\nmessage\r\n"


@dataclass
class Wire:
    """While `cut` is set nothing gets through. Give it to `forwarding`."""

    cut: bool = False

    def __call__(self) -> tuple[Tap, Tap]:
        return self._tap, self._tap

    def _tap(self, data: bytes) -> bytes:
        if self.cut:
            raise Cut(b"")
        return data


@dataclass
class Lossy:
    """Lets all answers of a Redis server through, and of its announcements only some."""

    dice: Random
    loss: float
    dropped: int = 0
    passed: int = 0

    def __call__(self) -> tuple[Tap, Tap]:
        return lambda data: data, self._down()

    def _down(self) -> Tap:
        unread = b""

        def tap(data: bytes) -> bytes:
            nonlocal unread
            unread += data
            through, at = [], 0
            while (end := end_of_reply(unread, at)) is not None:
                if not self._loses(unread[at:end]):
                    through.append(unread[at:end])
                at = end
            unread = unread[at:]
            return b"".join(through)

        return tap

    def _loses(self, reply: bytes) -> bool:
        if not reply.startswith(_MESSAGE):
            return False
        lost = self.dice.random() < self.loss
        self.dropped += lost
        self.passed += not lost
        return lost


@asynccontextmanager
async def led_over(url: str, taps: Taps) -> AsyncIterator[str]:
    """Lead connections to a server over a wire; the URL is the server's but for its port."""
    server = urlsplit(url)
    async with forwarding(url, taps) as wire:
        port = urlsplit(wire).port
        yield server._replace(netloc=server.netloc.rpartition(":")[0] + f":{port}").geturl()


def end_of_reply(data: bytes, at: int) -> int | None:
    """Find where a reply of RESP 2 ends that begins at a place; None if it is not all there."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return None
    kind, end = data[at : at + 1], line_end + 2
    if kind not in b"$*":
        return end
    count = int(data[at + 1 : line_end])
    if kind == b"$":
        end += count + 2 if count >= 0 else 0
        return end if end <= len(data) else None
    for _ in range(count):
        if (inner := end_of_reply(data, end)) is None:
            return None
        end = inner
    return end

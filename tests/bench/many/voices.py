"""A node reduced to its broker: a process that publishes turns, listens to them, or only watches.

    python -m tests.bench.many.voices publish|listen|watch URL SESSIONS [TOKENS INTERVAL_US]

It says `ready`, waits for a line, does its work, and tells of it as JSON. It lives until its input
ends.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from gateway.brokers.live import LiveTurn
from gateway.brokers.memory import MemoryChannel
from gateway.brokers.redis import RedisBroker, open_redis_broker
from gateway.nodes.link import open_link
from gateway.outcome import NO_TIMING
from protocol.cursor import END, Cursor
from protocol.server_frames import Complete, Frame, Start, UserMessage
from tests.bench.text import reply_text, token_text

PREFIX = "bench"
TURN = 1
WITHIN_S = 60.0
_STEP_S = 0.001
_NOW = "2026-11-23T21:38:33.123456Z"


@dataclass(frozen=True)
class Work:
    """What is published: `sessions` turns of `tokens` tokens, one every `interval_us` in each."""

    sessions: int
    tokens: int = 0
    interval_us: int = 20_000


def session_name(slot: int) -> str:
    """Name a session as long as gateways name theirs."""
    return f"00000000-0000-4000-8000-{slot:012d}"


def start_of(slot: int) -> Start:
    """Begin a turn as a gateway does."""
    return Start(
        id=str(Cursor(TURN, 1, 0)),
        turn=TURN,
        attempt=1,
        message_id=session_name(10**9 + slot),
        user_message=UserMessage(
            message_id=session_name(2 * 10**9 + slot), content=f"질문 {slot}", created_at=_NOW
        ),
        request_id=None,
        replaces=None,
    )


def ending_of(slot: int, tokens: int) -> Frame:
    """End a turn as a gateway does."""
    return Complete(
        id=str(Cursor(TURN, 1, END)),
        turn=TURN,
        message_id=session_name(10**9 + slot),
        finish_reason="stop",
        total_tokens=tokens,
        token_usage=None,
        created_at=_NOW,
        timing=NO_TIMING,
    ).frame()


async def _publish(broker: RedisBroker, work: Work) -> dict[str, Any]:
    """Say all tokens at their time; a late one is said at once."""
    loop = asyncio.get_running_loop()
    voices = [
        broker.begin(session_name(slot), LiveTurn(start_of(slot)), lambda: None)
        for slot in range(work.sessions)
    ]
    texts = [
        [token_text(slot, 0, index) for index in range(work.tokens)]
        for slot in range(work.sessions)
    ]
    await asyncio.sleep(1.0)  # whether anybody listens is known by now
    began = loop.time()
    every_s = work.interval_us / 1e6
    late_s = 0.0
    said = 0
    total = work.sessions * work.tokens
    while said < total:
        # In order of time: token by token, each session a little after the one before it.
        due = int((loop.time() - began) / every_s * work.sessions)
        late_s = max(late_s, (due - said) / work.sessions * every_s)
        while said < min(due, total):
            index, slot = divmod(said, work.sessions)
            voices[slot].append(texts[slot][index], token_count=index + 1)
            said += 1
        await asyncio.sleep(_STEP_S)
    took_s = loop.time() - began
    for slot, voice in enumerate(voices):
        voice.end(ending_of(slot, work.tokens))
    return {"tokens": total, "took_s": took_s, "late_s": late_s}


class Reader:
    """Reads one session as a connection does, and keeps the text."""

    def __init__(self) -> None:
        self.text = ""
        self.over = asyncio.Event()
        self.pieces = 0
        self._channel: MemoryChannel | None = None
        self._turn: LiveTurn | None = None

    @contextmanager
    def reading(self, broker: RedisBroker, slot: int) -> Iterator[None]:
        """Read until the context ends."""
        with broker.watch(session_name(slot), self._ring) as channel:
            self._channel = channel
            yield

    def _ring(self) -> None:
        if self._channel is None:
            return
        if self._turn is None or self._turn.void:
            self._turn = self._channel.live
        if (turn := self._turn) is None:
            return
        while turn.ending is None and len(self.text) < turn.length:
            for frame in turn.tokens_after(len(self.text)):
                self.text += json.loads(frame.text)["content"]
                self.pieces += 1
        if turn.ending is not None:
            self.over.set()


async def _listen(broker: RedisBroker, work: Work) -> dict[str, Any]:
    """Read all turns to their end, and compare every byte."""
    readers = [Reader() for _ in range(work.sessions)]
    began = time.process_time()
    with ExitStack() as stack:
        for slot, reader in enumerate(readers):
            stack.enter_context(reader.reading(broker, slot))
        _say({"ready": True})
        async with asyncio.timeout(WITHIN_S):
            for reader in readers:
                await reader.over.wait()
    wrong = [
        slot
        for slot, reader in enumerate(readers)
        if reader.text != reply_text(slot, 0, work.tokens)
    ]
    cpu_s = time.process_time() - began
    return {"wrong": len(wrong), "cpu_s": cpu_s, "pieces": sum(r.pieces for r in readers)}


async def _watch(broker: RedisBroker, work: Work) -> dict[str, Any]:
    """Watch sessions in which nothing happens."""
    with ExitStack() as stack:
        for slot in range(work.sessions):
            stack.enter_context(broker.watch(session_name(slot), lambda: None))
        _say({"ready": True})
        await asyncio.to_thread(sys.stdin.readline)
    return {}


_DOES: dict[str, Callable[[RedisBroker, Work], Awaitable[dict[str, Any]]]] = {
    "publish": _publish,
    "listen": _listen,
    "watch": _watch,
}


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


async def _main(does: str, url: str, work: Work) -> None:
    node = f"{does}-{time.monotonic_ns()}"
    async with open_link(url, prefix=PREFIX, node=node) as link, open_redis_broker(link) as broker:
        _say({"up": broker.ready})
        await asyncio.to_thread(sys.stdin.readline)
        _say(await _DOES[does](broker, work))
        await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(sys.argv[1], sys.argv[2], Work(*map(int, sys.argv[3:]))))

"""What a reader does when a turn goes on elsewhere, or nobody knows what is stored."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from gateway.brokers.memory import MemoryBroker, MemoryChannel
from gateway.conversation import Reader
from gateway.figures import Figures
from protocol.cursor import BEGINNING, END, Cursor
from protocol.errors import Refusal
from protocol.server_frames import Frame
from storage.claims import Claim
from storage.database import Database
from tests.gateway.brokers.nodes import SESSION, ending_of, live_turn


class Shelf:
    """Stands in for a database: it holds what a test puts there, and counts who asks."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.asked = 0

    async def read(self, operation: Any) -> list[Frame]:
        operation.close()
        self.asked += 1
        frames, self.frames = self.frames, []
        return frames


def nobody_looks() -> None:
    """There is one node."""


def nobody_rings() -> None:
    """These readers look by themselves."""


@contextmanager
def reading(
    broker: MemoryBroker, shelf: Shelf, at: Cursor = BEGINNING
) -> Iterator[tuple[Reader, MemoryChannel]]:
    with broker.watch(SESSION, nobody_rings) as channel:
        yield (
            Reader(
                Claim(SESSION),
                at,
                channel=channel,
                database=cast(Database, shelf),
                figures=Figures(),
            ),
            channel,
        )


def kinds(frames: list[Frame]) -> list[str]:
    return [f"{frame.type} {frame.cursor}" for frame in frames]


async def test_a_reader_that_knows_all_asks_storage_once() -> None:
    shelf = Shelf()
    with reading(MemoryBroker(), shelf) as (reader, _):
        assert await reader.read() == []
        assert await reader.read() == []
    assert shelf.asked == 1


async def test_a_doubt_sends_it_to_storage_again_and_only_once() -> None:
    shelf = Shelf()
    with reading(MemoryBroker(), shelf) as (reader, channel):
        await reader.read()
        channel.doubt()
        shelf.frames = [ending_of(live_turn())]
        assert kinds(await reader.read()) == ["complete 1.1.end"]
        assert await reader.read() == []
        assert await reader.read() == []
    assert shelf.asked == 3


async def test_what_it_found_in_storage_is_newer_than_what_was_heard() -> None:
    shelf = Shelf()
    with reading(MemoryBroker(), shelf) as (reader, channel):
        channel.newest = 1
        shelf.frames = [ending_of(live_turn(2))]
        await reader.read()
        await reader.read()
        asked = shelf.asked
        assert await reader.read() == []
    assert shelf.asked == asked


async def test_a_newer_attempt_voids_the_one_that_is_read_and_begins_anew() -> None:
    broker, shelf = MemoryBroker(), Shelf()
    first, second = live_turn(), live_turn(attempt=2)
    with reading(broker, shelf) as (reader, _):
        stale = broker.begin(SESSION, first, nobody_looks)
        stale.append("stale", token_count=1)
        assert kinds(await reader.read()) == ["start 1.1.0", "token 1.1.5"]
        fresh = broker.begin(SESSION, second, nobody_looks)
        stale.append("more", token_count=2)
        stale.end(ending_of(first))
        assert reader.read_newest() is None
        assert kinds(await reader.read()) == ["start 1.2.0"]
        fresh.append("fresh", token_count=1)
        assert kinds(await reader.read()) == ["token 1.2.5"]


@pytest.mark.parametrize("at", [Cursor(1, 2, 10), Cursor(1, 2, END)])
async def test_nobody_goes_back_to_an_older_attempt(at: Cursor) -> None:
    # A node that stood still tells of it after Redis has lost its memory.
    broker, shelf = MemoryBroker(), Shelf()
    with reading(broker, shelf, at) as (reader, _):
        broker.begin(SESSION, live_turn(), nobody_looks).append("stale", token_count=1)
        assert await reader.read() == []
        assert reader.cursor == at


async def test_an_end_that_comes_before_all_of_the_text_leads_to_storage() -> None:
    broker, shelf = MemoryBroker(), Shelf()
    turn = live_turn()
    with reading(broker, shelf) as (reader, channel):
        broker.begin(SESSION, turn, nobody_looks).append("half", token_count=1)
        await reader.read()
        turn.finish(ending_of(turn), length=8)
        channel.detach()
        shelf.frames = [ending_of(turn)]
        assert kinds(await reader.read()) == ["complete 1.1.end"]
    assert shelf.asked == 1


async def test_in_the_middle_of_a_turn_that_was_withdrawn_it_waits_for_the_next_attempt() -> None:
    broker, shelf = MemoryBroker(), Shelf()
    with reading(broker, shelf) as (reader, _):
        publisher = broker.begin(SESSION, live_turn(), nobody_looks)
        publisher.append("half", token_count=1)
        await reader.read()
        publisher.withdraw()
        assert await reader.read() == []
        assert reader.cursor == Cursor(1, 1, 4)
        broker.begin(SESSION, live_turn(attempt=2), nobody_looks)
        assert kinds(await reader.read()) == ["start 1.2.0"]


async def test_a_process_that_closes_says_so_wherever_the_reader_is() -> None:
    broker, shelf = MemoryBroker(), Shelf()
    with reading(broker, shelf) as (reader, _):
        publisher = broker.begin(SESSION, live_turn(), nobody_looks)
        publisher.append("half", token_count=1)
        await reader.read()
        publisher.withdraw()
        broker.close()
        with pytest.raises(Refusal, match="shutting_down"):
            await reader.read()

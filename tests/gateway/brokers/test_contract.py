"""What readers on the node that runs a turn may rely on, whichever broker it has."""

from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from gateway.brokers.base import Broker, Channel, Publisher
from gateway.brokers.live import LiveTurn
from gateway.brokers.memory import MemoryBroker
from gateway.brokers.redis import open_redis_broker
from gateway.nodes.link import open_link
from protocol.cursor import END, Cursor
from protocol.server_frames import Frame
from tests.gateway.brokers.nodes import LINK, TIMES, live_turn

COMPLETE = Frame("complete", Cursor(1, 1, END), "{}")
TROUBLE = Frame("error", None, "{}")


@pytest.fixture(params=["memory", "redis", "redis that is away"])
async def broker(
    request: pytest.FixtureRequest, redis_url: str, redis_prefix: str
) -> AsyncIterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
        return
    url = redis_url if request.param == "redis" else "redis://127.0.0.1:1/0"
    async with (
        open_link(url, prefix=redis_prefix, node="n1", times=LINK) as link,
        open_redis_broker(link, TIMES) as broker,
    ):
        yield broker


class Bell:
    """Counts how often it is rung."""

    def __init__(self) -> None:
        self.rung = 0

    def __call__(self) -> None:
        self.rung += 1


def begun(
    broker: Broker, session_id: str = "s", *, turn: int = 1, attempt: int = 1
) -> tuple[LiveTurn, Publisher]:
    live = live_turn(turn, attempt)
    return live, broker.begin(session_id, live, Bell())


def say_everything(publisher: Publisher) -> None:
    publisher.place(position=1, eta_ms=None)
    publisher.append("text", token_count=1)
    publisher.notice(TROUBLE)
    publisher.end(COMPLETE)
    publisher.withdraw()


async def test_readers_are_rung_for_everything_there_may_be_to_read(broker: Broker) -> None:
    bell = Bell()
    with broker.watch("s", bell):
        _, publisher = begun(broker)
        assert bell.rung == 1
        publisher.place(position=1, eta_ms=None)
        publisher.append("text", token_count=1)
        publisher.notice(TROUBLE)
        assert bell.rung == 4
        publisher.end(COMPLETE)
        assert bell.rung == 5


async def test_readers_of_other_sessions_are_left_alone(broker: Broker) -> None:
    bell = Bell()
    with broker.watch("other", bell):
        _, publisher = begun(broker)
        publisher.append("text", token_count=1)
        publisher.end(COMPLETE)
        broker.drop("s")
        assert bell.rung == 0


async def test_readers_see_the_turn_that_is_open(broker: Broker) -> None:
    def seen(channel: Channel) -> tuple[LiveTurn | None, LiveTurn | None, int | None]:
        return broker.live("s"), channel.live, channel.newest

    with broker.watch("s", Bell()) as channel:
        assert seen(channel) == (None, None, None)
        turn, publisher = begun(broker)
        publisher.append("text", token_count=7)
        assert seen(channel) == (turn, turn, 1)
        assert (turn.text(), turn.token_count) == ("text", 7)
        publisher.end(COMPLETE)
        assert seen(channel) == (None, None, 1)
        assert turn.ending is COMPLETE
        assert turn.length == 4


async def test_a_reader_may_leave_while_it_is_rung(broker: Broker) -> None:
    later = Bell()
    with ExitStack() as leaving, broker.watch("s", later):
        leaving.enter_context(broker.watch("s", leaving.close))
        begun(broker)
        assert later.rung == 1


async def test_the_last_reader_may_leave_while_it_is_rung_for_the_end(broker: Broker) -> None:
    _, publisher = begun(broker)
    with ExitStack() as leaving:
        leaving.enter_context(broker.watch("s", leaving.close))
        publisher.end(COMPLETE)
        assert "s" not in broker.watched()


async def test_a_session_is_forgotten_when_nobody_reads_and_no_turn_is_open(broker: Broker) -> None:
    with broker.watch("s", Bell()):
        assert "s" in broker.watched()
        _, publisher = begun(broker)
    assert "s" in broker.watched(), "its turn is open"
    publisher.end(COMPLETE)
    assert "s" not in broker.watched()
    with broker.watch("s", Bell()), broker.watch("s", Bell()):
        pass
    assert "s" not in broker.watched()


async def test_what_is_said_after_the_end_goes_nowhere(broker: Broker) -> None:
    bell = Bell()
    turn, publisher = begun(broker)
    publisher.append("text", token_count=1)
    publisher.end(COMPLETE)
    with broker.watch("s", bell) as channel:
        say_everything(publisher)
        assert (bell.rung, channel.doubts, turn.void, turn.asides) == (0, 0, False, 0)
    assert "s" not in broker.watched()


async def test_a_notice_is_kept_for_those_who_read_the_turn(broker: Broker) -> None:
    turn, publisher = begun(broker)
    publisher.notice(TROUBLE)
    assert turn.notices == [TROUBLE]


async def test_another_attempt_makes_the_one_before_void(broker: Broker) -> None:
    first, old = begun(broker)
    bell = Bell()
    with broker.watch("s", bell) as channel:
        second, new = begun(broker, attempt=2)
        assert bell.rung == 1
        assert (channel.live, first.void, second.void) == (second, True, False)
        say_everything(old)
        assert (bell.rung, channel.live) == (1, second)
        new.append("text", token_count=1)
        assert second.text() == "text"


async def test_a_turn_that_is_withdrawn_sends_its_readers_to_storage(broker: Broker) -> None:
    turn, publisher = begun(broker)
    publisher.append("text", token_count=1)
    bell = Bell()
    with broker.watch("s", bell) as channel:
        publisher.withdraw()
        assert (turn.void, channel.live, channel.doubts, bell.rung) == (True, None, 1, 1)
        say_everything(publisher)
        assert (channel.doubts, bell.rung) == (1, 1)
    assert "s" not in broker.watched()


async def test_the_runner_is_asked_to_look(broker: Broker) -> None:
    look = Bell()
    broker.ask_to_look("s")
    publisher = broker.begin("s", live_turn(), look)
    broker.ask_to_look("other")
    assert look.rung == 0
    broker.ask_to_look("s")
    assert look.rung == 1
    publisher.end(COMPLETE)
    broker.ask_to_look("s")
    assert look.rung == 1


async def test_dropping_a_session_tells_its_readers_and_forgets_it(broker: Broker) -> None:
    bell = Bell()
    with broker.watch("s", bell) as channel:
        _, publisher = begun(broker)
        broker.drop("s")
        assert channel.deleted
        assert not channel.live
        assert bell.rung == 2
        assert "s" not in broker.watched()
        # What its turn still says is said to nobody.
        say_everything(publisher)
        assert bell.rung == 2
    broker.drop("s")


async def test_a_reader_that_was_dropped_does_not_forget_who_came_after(broker: Broker) -> None:
    with broker.watch("s", Bell()):
        broker.drop("s")
        late = broker.watch("s", Bell())
        channel = late.__enter__()
        assert not channel.deleted
    assert "s" in broker.watched()
    late.__exit__(None, None, None)
    assert "s" not in broker.watched()


async def test_closing_tells_everybody_and_those_who_come_later(broker: Broker) -> None:
    bell = Bell()
    with broker.watch("s", bell) as channel, broker.watch("t", bell):
        broker.close()
        assert channel.closing
        assert bell.rung == 2
    with broker.watch("u", bell) as channel:
        assert channel.closing

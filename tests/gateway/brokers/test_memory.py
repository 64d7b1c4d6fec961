"""The broker in memory: readers are rung, and nothing of a session is kept without need."""

from contextlib import ExitStack

from gateway.brokers.base import Channel
from gateway.brokers.live import LiveTurn
from gateway.brokers.memory import MemoryBroker
from protocol.cursor import Cursor
from protocol.server_frames import Frame
from tests.gateway.brokers.test_live import live_turn

COMPLETE = Frame("complete", Cursor(1, 1, 5), "{}")


class Bell:
    """Counts how often it is rung."""

    def __init__(self) -> None:
        self.rung = 0

    def __call__(self) -> None:
        self.rung += 1


def begun(broker: MemoryBroker, session_id: str = "s") -> LiveTurn:
    turn = live_turn()
    broker.begin(session_id, turn)
    return turn


def test_readers_are_rung_for_everything_there_may_be_to_read() -> None:
    broker, bell = MemoryBroker(), Bell()
    with broker.watch("s", bell):
        begun(broker)
        assert bell.rung == 1
        broker.place("s", position=1, eta_ms=None)
        broker.append("s", "text", token_count=1)
        broker.notice("s", Frame("error", None, "{}"))
        broker.end("s", COMPLETE)
        assert bell.rung == 5


def test_readers_of_other_sessions_are_left_alone() -> None:
    broker, bell = MemoryBroker(), Bell()
    with broker.watch("other", bell):
        begun(broker)
        broker.append("s", "text", token_count=1)
        broker.end("s", COMPLETE)
        broker.drop("s")
    assert bell.rung == 0


def test_readers_see_the_turn_that_is_open() -> None:
    def seen(channel: Channel) -> tuple[LiveTurn | None, LiveTurn | None, int | None]:
        return broker.live("s"), channel.live, channel.newest

    broker = MemoryBroker()
    with broker.watch("s", Bell()) as channel:
        assert seen(channel) == (None, None, None)
        turn = begun(broker)
        broker.append("s", "text", token_count=7)
        assert seen(channel) == (turn, turn, 1)
        assert (turn.text(), turn.token_count) == ("text", 7)
        broker.end("s", COMPLETE)
        assert seen(channel) == (None, None, 1)
        assert turn.ending is COMPLETE


def test_a_reader_may_leave_while_it_is_rung() -> None:
    broker, later = MemoryBroker(), Bell()
    with ExitStack() as leaving, broker.watch("s", later):
        leaving.enter_context(broker.watch("s", leaving.close))
        begun(broker)
    assert later.rung == 1


def test_a_session_is_forgotten_when_nobody_reads_and_no_turn_is_open() -> None:
    broker = MemoryBroker()
    with broker.watch("s", Bell()):
        assert broker.is_watched("s")
        begun(broker)
    assert broker.is_watched("s"), "its turn is open"
    broker.end("s", COMPLETE)
    assert not broker.is_watched("s")
    with broker.watch("s", Bell()), broker.watch("s", Bell()):
        pass
    assert not broker.is_watched("s")


def test_what_is_said_of_a_session_without_a_turn_goes_nowhere() -> None:
    broker, bell = MemoryBroker(), Bell()
    broker.append("s", "text", token_count=1)
    with broker.watch("s", bell):
        broker.append("s", "text", token_count=1)
        broker.place("s", position=1, eta_ms=None)
        broker.notice("s", Frame("error", None, "{}"))
        broker.end("s", COMPLETE)
    assert bell.rung == 0
    assert not broker.is_watched("s")


def test_a_notice_is_kept_for_those_who_read_the_turn() -> None:
    broker = MemoryBroker()
    turn = begun(broker)
    trouble = Frame("error", None, "{}")
    broker.notice("s", trouble)
    assert turn.notices == [trouble]


def test_dropping_a_session_tells_its_readers_and_forgets_it() -> None:
    broker, bell = MemoryBroker(), Bell()
    with broker.watch("s", bell) as channel:
        begun(broker)
        broker.drop("s")
        assert channel.deleted
        assert not channel.live
        assert bell.rung == 2
        assert not broker.is_watched("s")
        # What its turn still says is said to nobody.
        broker.append("s", "text", token_count=1)
        broker.end("s", COMPLETE)
        assert bell.rung == 2
    broker.drop("s")


def test_a_reader_that_was_dropped_does_not_forget_who_came_after() -> None:
    broker = MemoryBroker()
    with broker.watch("s", Bell()):
        broker.drop("s")
        late = broker.watch("s", Bell())
        channel = late.__enter__()
        assert not channel.deleted
    assert broker.is_watched("s")
    late.__exit__(None, None, None)
    assert not broker.is_watched("s")


def test_closing_tells_everybody_and_those_who_come_later() -> None:
    broker, bell = MemoryBroker(), Bell()
    with broker.watch("s", bell) as channel, broker.watch("t", bell):
        broker.close()
        assert channel.closing
        assert bell.rung == 2
    with broker.watch("u", bell) as channel:
        assert channel.closing

"""Several model servers behind one driver: who is asked, who rests, what goes elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from llm import servers as module
from llm.circuit import Circuit, CircuitOpen
from llm.client import (
    ContextExceeded,
    Driver,
    Ending,
    Generation,
    NoConnection,
    PromptMessage,
    ReplyTooLong,
    Say,
    UpstreamError,
    UpstreamFailed,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from llm.servers import Servers

QUESTION = (PromptMessage("user", "안녕"),)
GENERATION = Generation(max_new_tokens=9, temperature=1, do_sample=True)
GONE = UpstreamUnavailable("refused")
CUT = UpstreamUnavailable("reset", replied=True)


class Double:
    """A driver that ends its calls when and how a test says; `fails` ends them at once."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[None]] = []
        self.asked = 0
        self.fails: UpstreamError | None = None
        self.ends_at_once = False
        self.health: bool | UpstreamError = True
        self.closed = False

    @property
    def busy(self) -> int:
        return len(self.calls)

    async def stream(
        self, messages: Sequence[PromptMessage], generation: Generation, say: Say
    ) -> Ending:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        if self.ends_at_once:
            return Ending("stop", 1)
        call = asyncio.get_running_loop().create_future()
        self.calls.append(call)
        try:
            await call
        finally:
            self.calls.remove(call)
        return Ending("stop", 1)

    complete = stream

    def end(self, error: UpstreamError | None = None) -> None:
        """End the oldest call."""
        call = next(each for each in self.calls if not each.done())
        if error is None:
            call.set_result(None)
        else:
            call.set_exception(error)

    async def healthy(self) -> bool:
        if isinstance(self.health, UpstreamError):
            raise self.health
        return self.health

    async def aclose(self) -> None:
        self.closed = True


class Floor:
    """Calls under way, in the order in which they were made."""

    def __init__(self, driver: Driver, tasks: asyncio.TaskGroup) -> None:
        self.driver = driver
        self._tasks = tasks

    async def ask(self) -> asyncio.Task[Ending | UpstreamError]:
        """Make a call and let it come as far as it comes."""
        task = self._tasks.create_task(self._asked())
        await settled()
        return task

    async def _asked(self) -> Ending | UpstreamError:
        try:
            return await self.driver.stream(QUESTION, GENERATION, lambda *_: None)
        except UpstreamError as error:
            return error


async def settled() -> None:
    """Let everybody run who can."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def floor(
    *doubles: Double, max_calls: int = 8, cool_down_s: float = 0
) -> AsyncIterator[Floor]:
    with anyio.fail_after(10):
        async with asyncio.TaskGroup() as tasks:
            yield Floor(Servers(doubles, max_calls=max_calls, cool_down_s=cool_down_s), tasks)
            for double in doubles:
                while double.calls:
                    double.end()
                    await settled()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    clock = Clock()
    monkeypatch.setattr(module, "_now", lambda: clock.now)
    return clock


class Clock:
    now = 1_000.0


@pytest.fixture
async def later(monkeypatch: pytest.MonkeyPatch) -> "Later":
    later = Later()
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", later)
    return later


class Later:
    """What is to be done later is done when a test says so."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Handle] = []
        self.delays: list[float] = []

    def __call__(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, asyncio.get_running_loop())
        self._waiting.append(handle)
        self.delays.append(delay)
        return handle

    async def come(self) -> None:
        waiting, self._waiting = self._waiting, []
        for handle in waiting:
            if not handle.cancelled():
                handle._run()
        await settled()


async def test_the_least_busy_is_asked_and_ties_take_turns() -> None:
    a, b, c = Double(), Double(), Double()
    async with floor(a, b, c) as calls:
        for _ in range(6):
            await calls.ask()
        assert (a.busy, b.busy, c.busy) == (2, 2, 2)
        b.end()
        b.end()
        await settled()
        for _ in range(2):
            await calls.ask()
        assert (a.busy, b.busy, c.busy) == (2, 2, 2)


async def test_calls_one_after_another_go_round() -> None:
    a, b = Double(), Double()
    async with floor(a, b) as calls:
        for _ in range(4):
            await calls.ask()
            (a if a.calls else b).end()
            await settled()
    assert (a.asked, b.asked) == (2, 2)


async def test_nobody_gets_more_than_its_share() -> None:
    a, b = Double(), Double()
    async with floor(a, b, max_calls=1) as calls:
        tasks = [await calls.ask() for _ in range(3)]
        assert (a.busy, b.busy) == (1, 1)
        b.end()
        await tasks[1]
        await settled()
        assert (a.asked, b.asked) == (1, 2)


async def test_a_server_that_is_gone_does_not_get_another_one_more_than_its_share() -> None:
    a, b = Double(), Double()
    a.fails = GONE
    async with floor(a, b, max_calls=1) as calls:
        await calls.ask()
        waits = await calls.ask()
        assert (b.busy, waits.done()) == (1, False)
        b.end()
        await settled()
        assert b.busy == 1


async def test_who_waits_for_the_others_asks_a_server_that_has_rested(
    clock: Clock, later: Later
) -> None:
    a, b = Double(), Double()
    a.fails = GONE
    async with floor(a, b, max_calls=1) as calls:
        await calls.ask()
        waits = await calls.ask()
        assert later.delays == [module.FIRST_REST_S]
        a.fails, a.ends_at_once = None, True
        clock.now += module.FIRST_REST_S
        await later.come()
        assert await waits == Ending("stop", 1)
        assert b.busy == 1


@pytest.mark.parametrize("error", [GONE, NoConnection("in time")])
async def test_a_call_that_had_not_begun_goes_elsewhere(error: UpstreamError) -> None:
    a, b = Double(), Double()
    a.fails = error
    async with floor(a, b) as calls:
        task = await calls.ask()
        b.end()
        assert await task == Ending("stop", 1)
        await calls.ask()
        assert (a.asked, b.busy) == (1, 1)  # it rests


@pytest.mark.parametrize(
    "error", [CUT, UpstreamTimeout("slow"), UpstreamStalled("mute"), UpstreamFailed("500")]
)
async def test_a_call_that_may_have_begun_goes_nowhere_else(error: UpstreamError) -> None:
    a, b = Double(), Double()
    async with floor(a, b) as calls:
        task = await calls.ask()
        a.end(error)
        assert await task is error
        assert b.asked == 0
        for _ in range(2):
            await calls.ask()
        assert (a.busy, b.busy) == (0, 2)  # it rests


@pytest.mark.parametrize("error", [ContextExceeded("long"), ReplyTooLong("long")])
async def test_what_is_the_prompts_fault_is_not_the_servers(error: UpstreamError) -> None:
    a, b = Double(), Double()
    async with floor(a, b) as calls:
        task = await calls.ask()
        a.end(error)
        await task
        for _ in range(2):
            await calls.ask()
        assert (a.busy, b.busy) == (1, 1)


async def test_rests_grow_and_one_call_tries(clock: Clock) -> None:
    a, b = Double(), Double()
    a.fails = GONE
    async with floor(a, b) as calls:
        await calls.ask()
        tried = []
        for _ in range(70):
            before = a.asked
            clock.now += 0.999
            await calls.ask()
            await calls.ask()
            tried.append(a.asked - before)
        assert set(tried) == {0, 1}
        at = [second for second, times in enumerate(tried, 1) if times]
        assert at[:5] == [2, 5, 10, 19, 36]
        assert at[5] - at[4] == 31  # 30 s are the longest


async def test_a_server_that_answers_again_is_back_at_once(clock: Clock) -> None:
    a, b = Double(), Double()
    a.fails = GONE
    async with floor(a, b) as calls:
        await calls.ask()
        a.fails = None
        clock.now += 1
        trial = await calls.ask()
        assert (a.busy, b.busy) == (1, 1)
        await calls.ask()
        await calls.ask()
        assert (a.busy, b.busy) == (1, 3), "one call tries, until that is decided"
        a.end()
        await trial
        for _ in range(3):
            await calls.ask()
        assert (a.busy, b.busy) == (3, 3)


async def test_calls_that_break_together_are_one_failure(clock: Clock) -> None:
    a, b = Double(), Double()
    async with floor(a, b) as calls:
        for _ in range(6):
            await calls.ask()
        clock.now += 0.1
        for _ in range(3):
            a.end(CUT)
        await settled()
        clock.now += 1
        await calls.ask()
        assert a.busy == 1


async def test_an_old_call_that_ends_well_proves_nothing(clock: Clock) -> None:
    a, b = Double(), Double()
    async with floor(a, b) as calls:
        for _ in range(4):
            await calls.ask()
        clock.now += 1
        a.end(UpstreamUnavailable("503"))
        await settled()
        a.end()
        await settled()
        asked = a.asked
        b.end()
        await calls.ask()
        await calls.ask()
        assert a.asked == asked


async def test_if_none_is_well_all_are_asked(clock: Clock) -> None:
    a, b = Double(), Double()
    a.fails = b.fails = GONE
    async with floor(a, b) as calls:
        for times in (1, 2):
            assert await (await calls.ask()) is GONE
            assert (a.asked, b.asked) == (times, times)


async def test_a_cancelled_call_keeps_its_server_busy_for_the_cool_down(later: Later) -> None:
    a, b = Double(), Double()
    async with floor(a, b, cool_down_s=60) as calls:
        tasks = [await calls.ask() for _ in range(3)]
        assert (a.busy, b.busy) == (2, 1)
        for task in tasks[::2]:
            task.cancel()
        await calls.ask()
        assert (a.busy, b.busy) == (0, 2)
        await later.come()
        await calls.ask()
        assert (a.busy, b.busy) == (1, 2)


async def test_a_cooling_server_is_full_until_it_has_cooled_down(later: Later) -> None:
    a, b = Double(), Double()
    async with floor(a, b, max_calls=1, cool_down_s=60) as calls:
        (await calls.ask()).cancel()
        await settled()
        await calls.ask()
        waits = await calls.ask()
        assert (a.busy, b.busy) == (0, 1)
        a.ends_at_once = True
        await later.come()
        assert await waits == Ending("stop", 1)
        assert (a.asked, b.asked) == (2, 1)


async def test_health_is_that_of_any() -> None:
    a, b = Double(), Double()
    driver = Servers((a, b), max_calls=1)
    for first, second, well, count in (
        (True, True, True, 2),
        (True, False, True, 1),
        (GONE, True, True, 1),
        (UpstreamTimeout("mute"), True, True, 1),
        (False, False, False, 0),
    ):
        a.health, b.health = first, second
        assert await driver.healthy() is well
        assert driver.available(mute_too=False) == count
    for error in (GONE, UpstreamTimeout("mute")):
        a.health, b.health = error, False
        with pytest.raises(UpstreamError) as caught:
            await driver.healthy()
        assert caught.value is error
    a.health, b.health = GONE, error
    with pytest.raises(UpstreamTimeout):
        await driver.healthy()
    a.health, b.health = error, False
    with pytest.raises(UpstreamTimeout):
        await driver.healthy()
    assert driver.available(mute_too=True) == 1
    assert len(driver) == 2


async def test_a_server_that_says_it_is_not_ready_is_not_asked() -> None:
    a, b = Double(), Double()
    async with floor(a, b) as calls:
        a.health = False
        await calls.driver.healthy()
        for _ in range(2):
            await calls.ask()
        assert (a.busy, b.busy) == (0, 2)
        a.health = True
        await calls.driver.healthy()
        await calls.ask()
        assert a.busy == 1


async def test_a_server_that_says_it_is_well_may_be_tried_before_its_rest_is_over() -> None:
    a, b = Double(), Double()
    a.fails = GONE
    async with floor(a, b) as calls:
        await calls.ask()
        a.fails = None
        await calls.driver.healthy()
        await calls.ask()
        assert a.busy == 1


async def test_the_circuit_opens_only_when_none_answers() -> None:
    a, b = Double(), Double()
    async with floor(a, b) as calls:
        driver = calls.driver
        assert isinstance(driver, Servers)
        circuit = Circuit(max_failures=2, answers=lambda: driver.answers)
        for _ in range(4):
            await calls.ask()
        for _ in range(2):
            a.end(CUT)
            circuit.failed()
        await settled()
        circuit.check()
        b.end(CUT)
        circuit.failed()
        await settled()
        with pytest.raises(CircuitOpen):
            circuit.check()


async def test_closing_closes_all() -> None:
    a, b = Double(), Double()
    await Servers((a, b), max_calls=1).aclose()
    assert a.closed
    assert b.closed

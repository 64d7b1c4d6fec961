"""Repeating calls: which, how often, how long between them, and that a cancel ends it."""

import anyio
import pytest
from anyio.abc import TaskStatus

from llm.client import (
    Ending,
    Generation,
    PromptMessage,
    ReplyTooLong,
    UpstreamError,
    UpstreamFailed,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from llm.midm import Midm
from llm.retry import Backoff, retried
from tests.faults.doors import leading, refusing
from tests.llm.scripted import ScriptedModel

AT_ONCE = Backoff(max_retries=3, first_s=0.0)
NEVER = Backoff(max_retries=3, first_s=3_600.0, max_s=3_600.0)
QUESTION = (PromptMessage("user", "안녕하세요!"),)
GENERATION = Generation(max_new_tokens=128, temperature=0.7, do_sample=True)


class Calls:
    """Fails with each of some errors in turn, then succeeds; counts."""

    def __init__(self, *errors: Exception) -> None:
        self.count = 0
        self._errors = list(errors)

    async def __call__(self) -> str:
        self.count += 1
        if self._errors:
            raise self._errors.pop(0)
        return "reply"


def test_the_longest_wait_doubles_up_to_its_limit() -> None:
    backoff = Backoff(first_s=0.2, max_s=1.0)
    waits = [backoff.wait_s(retry, chance=1.0) for retry in range(5)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_jitter_takes_off_up_to_a_half() -> None:
    backoff = Backoff(first_s=0.2, max_s=1.0)
    assert backoff.wait_s(1, chance=0.0) == pytest.approx(0.2)
    assert backoff.wait_s(1, chance=0.5) == pytest.approx(0.3)


def test_a_retry_far_away_waits_no_longer_than_the_limit() -> None:
    assert Backoff(max_s=5.0).wait_s(1_000, chance=1.0) == 5.0


async def test_a_call_that_succeeds_is_made_once() -> None:
    call = Calls()
    assert await retried(call, backoff=NEVER) == "reply"
    assert call.count == 1


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_a_call_that_nobody_answered_is_repeated(failures: int) -> None:
    call = Calls(*(UpstreamUnavailable("refused") for _ in range(failures)))
    assert await retried(call, backoff=AT_ONCE) == "reply"
    assert call.count == failures + 1


async def test_there_are_so_many_retries_and_then_the_last_error() -> None:
    errors = [UpstreamUnavailable(f"refused {number}") for number in range(5)]
    call = Calls(*errors)
    with pytest.raises(UpstreamUnavailable) as caught:
        await retried(call, backoff=AT_ONCE)
    assert caught.value is errors[3]
    assert call.count == 4


async def test_without_retries_a_call_is_made_once() -> None:
    call = Calls(UpstreamUnavailable("refused"))
    with pytest.raises(UpstreamUnavailable):
        await retried(call, backoff=Backoff(max_retries=0))
    assert call.count == 1


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnavailable("cut", replied=True),
        UpstreamTimeout("late"),
        UpstreamStalled("silent"),
        UpstreamFailed("500"),
        ReplyTooLong("endless"),
        RuntimeError("a mistake of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_any_other_failure_is_final(error: Exception) -> None:
    call = Calls(error)
    with pytest.raises(type(error)) as caught:
        await retried(call, backoff=AT_ONCE)
    assert caught.value is error
    assert call.count == 1


async def test_a_failure_behind_a_repeated_one_is_final_too() -> None:
    call = Calls(UpstreamUnavailable("refused"), UpstreamTimeout("late"))
    with pytest.raises(UpstreamTimeout):
        await retried(call, backoff=AT_ONCE)
    assert call.count == 2


async def test_a_cancel_while_it_waits_ends_it_at_once() -> None:
    call = Calls(UpstreamUnavailable("refused"))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: retried(call, backoff=NEVER))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert call.count == 1


async def test_a_limit_of_the_caller_covers_the_waits() -> None:
    call = Calls(UpstreamUnavailable("refused"))
    with pytest.raises(TimeoutError), anyio.fail_after(0.01):
        await retried(call, backoff=NEVER)
    assert call.count == 1


@pytest.mark.parametrize("how", ["stream", "complete"])
async def test_a_server_that_begins_to_listen_meanwhile_is_found(how: str) -> None:
    said: list[str] = []
    refused: list[UpstreamError] = []
    with refusing() as port:
        midm = Midm(f"http://127.0.0.1:{port}")

    async def listen(*, task_status: TaskStatus[None]) -> None:
        async with leading(port, to=int(model.url.rpartition(":")[2])):
            task_status.started()
            await anyio.sleep_forever()

    async def ask() -> Ending:
        try:
            ending: Ending = await getattr(midm, how)(
                QUESTION, GENERATION, lambda text, _: said.append(text)
            )
        except UpstreamError as error:
            refused.append(error)
            if len(refused) == 2:
                await tasks.start(listen)
            raise
        return ending

    with anyio.fail_after(5):
        async with ScriptedModel() as model, anyio.create_task_group() as tasks:
            model.autoreply(lambda messages: ["네."])
            ending = await retried(ask, backoff=AT_ONCE)
            await midm.aclose()
            tasks.cancel_scope.cancel()
    assert (ending.finish_reason, said, len(refused)) == ("stop", ["네."], 2)

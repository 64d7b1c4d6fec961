import asyncio

import pytest

from gateway.errand import Errand


async def test_it_can_be_begun_from_a_callback_of_the_loop() -> None:
    ran = asyncio.Event()

    async def run() -> None:
        ran.set()

    errand = Errand()
    asyncio.get_running_loop().call_soon(lambda: errand.begin(run()))
    await ran.wait()
    await errand.cancel()


async def test_cancelling_waits_for_its_end() -> None:
    ended = []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    errand = Errand()
    errand.begin(run())
    await asyncio.sleep(0)
    await errand.cancel()
    assert ended == [True]


async def test_what_it_failed_with_is_raised_at_the_end() -> None:
    async def run() -> None:
        raise ValueError("broken")

    errand = Errand()
    errand.begin(run())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await errand.cancel()


async def test_one_that_was_never_begun_has_nothing_to_cancel() -> None:
    await Errand().cancel()

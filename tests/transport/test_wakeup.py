import asyncio

import pytest

from service.transport.wakeup import Wakeup


async def test_set_before_it_is_waited_for_it_lets_one_wait_return() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()
    async with asyncio.timeout(1):
        await wakeup.wait()
    again = asyncio.create_task(wakeup.wait())
    await asyncio.sleep(0)
    assert not again.done()
    wakeup.set()
    async with asyncio.timeout(1):
        await again


async def test_set_while_it_is_waited_for_it_lets_the_task_go_on_once() -> None:
    wakeup = Wakeup()
    woken = 0

    async def wait() -> None:
        nonlocal woken
        while True:
            await wakeup.wait()
            woken += 1

    task = asyncio.create_task(wait())
    for expected in (1, 2, 3):
        await asyncio.sleep(0)
        wakeup.set()
        wakeup.set()
        for _ in range(3):
            await asyncio.sleep(0)
        assert woken == expected
    task.cancel()


async def test_a_wait_that_is_cancelled_takes_no_alarm_with_it() -> None:
    wakeup = Wakeup()
    task = asyncio.create_task(wakeup.wait())
    await asyncio.sleep(0)
    task.cancel()
    wakeup.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(1):
        await wakeup.wait()

import asyncio

import pytest

from service.transport.wakeup import FEW_AT_ONCE, PLENTY, Turns, Wakeup


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


async def test_of_many_that_are_woken_some_go_on_and_then_the_loop_comes_round() -> None:
    turns, went_on, rounds = Turns(at_once=10), 0, []
    wakeups = [Wakeup(turns) for _ in range(35)]

    async def wait(wakeup: Wakeup) -> None:
        nonlocal went_on
        await wakeup.wait()
        went_on += 1

    tasks = [asyncio.create_task(wait(wakeup)) for wakeup in wakeups]
    await asyncio.sleep(0)
    for wakeup in wakeups:
        wakeup.set()
    async with asyncio.timeout(1):
        while went_on < 35:
            before = went_on
            await asyncio.sleep(0)
            rounds.append(went_on - before)
    assert [number for number in rounds if number] == [10, 10, 10, 5]
    await asyncio.gather(*tasks)


async def test_one_that_left_the_queue_holds_up_nobody() -> None:
    turns = Turns(at_once=1)
    wakeups = [Wakeup(turns), Wakeup(turns)]
    tasks = [asyncio.create_task(wakeup.wait()) for wakeup in wakeups]
    await asyncio.sleep(0)
    for wakeup in wakeups:
        wakeup.set()
    tasks[0].cancel()
    async with asyncio.timeout(1):
        await tasks[1]


async def test_of_thousands_only_a_few_go_on_at_once() -> None:
    turns = Turns()
    loop = asyncio.get_running_loop()
    waiters = [loop.create_future() for _ in range(PLENTY + FEW_AT_ONCE)]
    for waiter in waiters:
        turns.take(waiter)
    await asyncio.sleep(0)
    assert sum(waiter.done() for waiter in waiters) == FEW_AT_ONCE
    async with asyncio.timeout(1):
        await asyncio.gather(*waiters)

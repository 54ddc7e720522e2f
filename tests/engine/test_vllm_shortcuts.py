import asyncio

from service.engine.vllm_shortcuts import HandOff


async def got(hand_off: HandOff[int], number: int) -> list[int]:
    async with asyncio.timeout(10):
        return [await hand_off.get() for _ in range(number)]


async def test_what_is_there_is_got_at_once_and_in_order() -> None:
    hand_off = HandOff[int]()
    for number in range(3):
        hand_off.put_nowait(number)
    assert await got(hand_off, 3) == [0, 1, 2]


async def test_what_is_not_there_is_waited_for_again_and_again() -> None:
    hand_off = HandOff[int]()
    for number in range(50):
        waiting = asyncio.create_task(got(hand_off, 2))
        for _ in range(number % 3):  # it comes before, while and after the waiting begins
            await asyncio.sleep(0)
        hand_off.put_nowait(number)
        await asyncio.sleep(0)
        hand_off.put_nowait(-number)
        assert await waiting == [number, -number]


async def test_several_before_the_getter_has_its_turn_are_all_got() -> None:
    hand_off = HandOff[int]()
    waiting = asyncio.create_task(got(hand_off, 3))
    await asyncio.sleep(0)
    for number in range(3):
        hand_off.put_nowait(number)
    assert await waiting == [0, 1, 2]


async def test_a_get_that_is_cancelled_loses_nothing() -> None:
    hand_off = HandOff[int]()
    for put_first in (False, True):
        waiting = asyncio.create_task(hand_off.get())
        await asyncio.sleep(0)
        if put_first:
            hand_off.put_nowait(7)
        waiting.cancel()
        await asyncio.wait([waiting])
        if not put_first:
            hand_off.put_nowait(7)
        assert await got(hand_off, 1) == [7]

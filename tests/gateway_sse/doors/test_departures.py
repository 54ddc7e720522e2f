import asyncio

from gateway_sse.doors.departures import Departures

MANY = 50
MOST_IN_A_TURN = 4


async def turn() -> None:
    await asyncio.sleep(0)


async def test_many_that_leave_at_once_are_seen_off_in_their_order_a_few_in_a_turn() -> None:
    departures, gone = Departures(), list[int]()
    for number in range(MANY):
        departures.add(lambda number=number: gone.append(number))  # type: ignore[misc]
    assert not gone

    for _ in range(MANY + MOST_IN_A_TURN):
        before = len(gone)
        await turn()
        assert len(gone) - before <= MOST_IN_A_TURN
    assert gone == list(range(MANY))


async def test_one_that_leaves_while_others_are_seen_off_comes_behind_them() -> None:
    departures, gone = Departures(), list[str]()

    def first() -> None:
        gone.append("first")
        departures.add(lambda: gone.append("late"))

    departures.add(first)
    departures.add(lambda: gone.append("second"))
    for _ in range(MOST_IN_A_TURN):
        await turn()
    assert gone == ["first", "second", "late"]


async def test_one_that_cannot_be_seen_off_keeps_no_other_from_it() -> None:
    departures, gone, errors = Departures(), list[int](), list[object]()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: errors.append(context["exception"])
    )

    def fails() -> None:
        raise RuntimeError

    for number in range(MANY):
        departures.add(fails)
        departures.add(lambda number=number: gone.append(number))  # type: ignore[misc]
    async with asyncio.timeout(5):
        while len(gone) < MANY or len(errors) < MANY:
            await turn()
    assert gone == list(range(MANY))

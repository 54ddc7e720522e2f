import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.demux.flush_timer import PROBE_EVERY_S, FlushTimer, probe_event_loop
from service.stream.pacing import DelayGrid

PATIENCE_S = 5.0


class Waiting:
    """A reader on the grid; `told` is set each time that its moment has come."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.moments: list[tuple[int, float]] = []

    def due(self, at_ms: int) -> None:
        self.moments.append((at_ms, time.monotonic() * 1000))
        self.told.set()

    async def wait(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.told.wait()
        self.told.clear()


@pytest.fixture
async def grid() -> AsyncIterator[DelayGrid]:
    grid = DelayGrid(time.monotonic)
    timer = FlushTimer(grid)
    yield grid
    timer.close()


async def test_a_reader_is_told_at_its_moment_and_never_before(grid: DelayGrid) -> None:
    reader = Waiting()
    for _ in range(20):
        at_ms = grid.later(reader, 3)
        await reader.wait()
        assert reader.moments[-1][0] == at_ms
    assert all(now_ms >= at_ms for at_ms, now_ms in reader.moments)


async def test_a_short_delay_behind_a_long_one_is_not_kept_waiting_nor_the_long_one_lost(
    grid: DelayGrid,
) -> None:
    order: list[str] = []

    class Named(Waiting):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def due(self, at_ms: int) -> None:
            order.append(self.name)
            super().due(at_ms)

    long, short = Named("long"), Named("short")
    # Where the long one's moment is close, the one behind it is meant.
    while 400 - time.monotonic() * 1000 % 400 < 50:
        await asyncio.sleep(0.01)
    grid.later(long, 400)
    grid.later(short, 5)
    await short.wait()
    await long.wait()
    assert order == ["short", "long"]


async def test_a_reader_that_waits_again_when_it_is_told_is_told_again(grid: DelayGrid) -> None:
    class Again(Waiting):
        def due(self, at_ms: int) -> None:
            if len(self.moments) < 4:
                grid.later(self, 2)
            else:
                super().due(at_ms)
            self.moments.append((at_ms, 0.0))

    reader = Again()
    grid.later(reader, 2)
    await reader.wait()
    moments = [at_ms for at_ms, _ in reader.moments]
    assert moments == sorted(moments)


async def test_readers_that_are_due_together_cost_one_timer(
    grid: DelayGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    made: list[float] = []
    call_later = loop.call_later

    def counted(delay_s: float, *rest: Any) -> asyncio.TimerHandle:
        made.append(delay_s)
        return call_later(delay_s, *rest)

    monkeypatch.setattr(loop, "call_later", counted)
    readers = [Waiting() for _ in range(100)]
    moments = {grid.later(reader, 1000) for reader in readers}
    assert len(made) <= len(moments) <= 2  # two if the point was just then


async def test_closed_it_tells_nobody_more() -> None:
    grid = DelayGrid(time.monotonic)
    timer = FlushTimer(grid)
    timer.close()  # nothing was asked for yet
    reader, other = Waiting(), Waiting()
    grid.later(reader, 2)
    timer.close()
    other_grid = DelayGrid(time.monotonic)
    FlushTimer(other_grid)
    for _ in range(3):
        other_grid.later(other, 2)
        await other.wait()
    assert reader.moments == []


async def test_the_probe_tells_how_late_the_loop_came_round() -> None:
    lags: list[float] = []
    shares: list[float] = []
    measured = asyncio.Event()

    def observe(lag_s: float, busy: float) -> None:
        lags.append(lag_s)
        shares.append(busy)
        measured.set()

    probing = asyncio.create_task(probe_event_loop(observe))
    async with asyncio.timeout(PATIENCE_S):
        await measured.wait()
        measured.clear()
        held_up_s = PROBE_EVERY_S + 0.05
        await asyncio.sleep(0)  # the probe plans its next round
        time.sleep(held_up_s)
        await measured.wait()
    probing.cancel()
    assert lags[0] >= 0
    assert 0.04 < lags[1] <= held_up_s
    assert all(0 <= busy <= 1.01 for busy in shares)

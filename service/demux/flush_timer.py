"""The one timer behind all delays, and the measurement that the adaptive delay follows."""

import asyncio
import time
from collections.abc import Callable

from service.stream.pacing import DelayGrid

PROBE_EVERY_S = 0.1


class FlushTimer:
    """Fires a grid at the moments it asks for. `clock`: the grid's own."""

    def __init__(self, grid: DelayGrid, clock: Callable[[], float] = time.monotonic) -> None:
        self._grid = grid
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        grid.on_arm(self._arm)

    def close(self) -> None:
        """Fire no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, at_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # uvloop's timers have whole milliseconds and may be early by a part of one.
        delay_s = max(0.0, at_ms / 1000 - self._clock()) + 0.0005
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._grid.fire)


async def probe_event_loop(observe: Callable[[float, float], None]) -> None:
    """Measure for ever: the event loop's lag in seconds, and how busy its thread is, 0 to 1."""
    while True:
        began, computed = time.monotonic(), time.thread_time()
        await asyncio.sleep(PROBE_EVERY_S)
        lasted = time.monotonic() - began
        observe(max(0.0, lasted - PROBE_EVERY_S), (time.thread_time() - computed) / lasted)

"""When tokens that wait for company are delivered: no I/O, the time is passed in.

Rules:

1. Delays end on a grid: a delay of 50 ms ends at the next multiple of 50 ms. So no token waits
   longer than its delay, and readers with the same delay are due together: one timer serves all,
   and a session sends one message for all its requests.
2. A reader without a delay of its own gets the adaptive one: 0 while the event loop keeps up,
   more as it lags, at most `MOST_ADAPTIVE_MS`. Fewer, larger messages are what a busy process can
   save most with; a message costs ten times what a token does (docs/benchmarks.md).

Bound of the grid: one entry for each reader that waits, and stale ones for at most a second.
"""

from collections.abc import Callable
from typing import Protocol

MOST_ADAPTIVE_MS = 50
ADAPTIVE_STEP_MS = 10

# Lag that a loop has which still keeps up: one step's readers served one after the other.
_TOLERATED_LAG_S = 0.006
_RISE_MS_PER_S_OF_LAG = 1500.0
_FALL = 0.85  # of the smoothed lag from one probe to the next, when the lag is gone


class AdaptiveDelay:
    """The delay of readers that asked for none: fast up, slowly down."""

    def __init__(self) -> None:
        self._lag_s = 0.0
        self.delay_ms = 0

    def observe(self, lag_s: float) -> None:
        """Take one measurement: how much later than planned the event loop came round."""
        self._lag_s = max(lag_s, self._lag_s * _FALL + lag_s * (1 - _FALL))
        wanted = max(0.0, self._lag_s - _TOLERATED_LAG_S) * _RISE_MS_PER_S_OF_LAG
        # In few steps, so that readers stay on the same grid.
        steps = -(-min(wanted, MOST_ADAPTIVE_MS) // ADAPTIVE_STEP_MS)
        self.delay_ms = int(steps) * ADAPTIVE_STEP_MS


class Delayed(Protocol):
    """A reader that waits on the grid."""

    def due(self, at_ms: int) -> None:
        """The moment that `DelayGrid.later` named has come."""


class DelayGrid:
    """Readers by the moment at which they are due, in whole milliseconds of the clock.

    `arm` is told when an earlier moment than all others was added.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: dict[int, list[Delayed]] = {}
        self._arm: Callable[[int], None] = lambda at_ms: None
        self.adaptive = AdaptiveDelay()

    def on_arm(self, arm: Callable[[int], None]) -> None:
        """Name who sets the timer."""
        self._arm = arm

    def later(self, reader: Delayed, delay_ms: int) -> int:
        """Let a reader know when its delay is over. Returns that moment."""
        at_ms = (int(self._clock() * 1000) // delay_ms + 1) * delay_ms
        waiting = self._waiting.get(at_ms)
        if waiting is None:
            first = all(at_ms < other for other in self._waiting)
            self._waiting[at_ms] = [reader]
            if first:
                self._arm(at_ms)
        else:
            waiting.append(reader)
        return at_ms

    def fire(self) -> None:
        """Tell all readers whose moment has come, and set the timer for the next."""
        now_ms = self._clock() * 1000
        while self._waiting:
            at_ms = min(self._waiting)
            if at_ms > now_ms:
                self._arm(at_ms)
                return
            for reader in self._waiting.pop(at_ms):
                reader.due(at_ms)

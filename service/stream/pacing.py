"""When tokens that wait for company are delivered: no I/O, the time is passed in.

Rules:

1. Delays end on a grid: a delay of 50 ms ends at the next multiple of 50 ms. So no token waits
   longer than its delay, and readers with the same delay are due together: one timer serves all,
   and a session sends one message for all its requests.
2. A reader without a delay of its own gets the adaptive one: 0 while the event loop keeps up, and
   in steps up to `MOST_ADAPTIVE_MS` while it lags or has little time left. Fewer, larger messages
   are what a busy process can save most with: a message costs ten times what a token does
   (docs/benchmarks.md). Between the two limits of each measure it stays as it is, because its own
   effect is in what is measured.

Bound of the grid: one entry for each reader that waits, and stale ones for at most a second.
"""

from collections.abc import Callable
from typing import Protocol

MOST_ADAPTIVE_MS = 50
ADAPTIVE_STEP_MS = 10

# Lag in seconds, and the share of the time that the loop's thread computes: above one of the
# first pair the delay rises, below both of the second it falls.
_TOO_LATE_S, _TOO_BUSY = 0.02, 0.6
_IN_TIME_S, _AT_EASE = 0.01, 0.4
_CALM_BEFORE_FALLING = 5  # observations in a row


class AdaptiveDelay:
    """The delay of readers that asked for none: fast up, slowly down."""

    def __init__(self) -> None:
        self.delay_ms = 0
        self._calm = 0

    def observe(self, lag_s: float, busy: float) -> None:
        """Take one measurement, of about a tenth of a second.

        `lag_s`: how much later than planned the event loop came round; `busy`: the share of the
        time that its thread computed, 0 to 1.
        """
        if lag_s > _TOO_LATE_S or busy > _TOO_BUSY:
            self._calm = 0
            self.delay_ms = min(self.delay_ms + ADAPTIVE_STEP_MS, MOST_ADAPTIVE_MS)
        elif lag_s < _IN_TIME_S and busy < _AT_EASE:
            self._calm += 1
            if self._calm >= _CALM_BEFORE_FALLING:
                self._calm = 0
                self.delay_ms = max(self.delay_ms - ADAPTIVE_STEP_MS, 0)
        else:
            self._calm = 0


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

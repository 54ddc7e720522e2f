"""What the scheduler counts, for the service's metrics."""

from collections import deque

_DECISIONS_KEPT = 1000
_SORTED_EVERY = 100  # decisions: it is asked for with every message from the service


class SchedulerCounts:
    """Since the start, but for the decisions, of which the newest thousand are kept."""

    def __init__(self) -> None:
        self.failures = 0
        self.given_up = 0
        self.evicted_parked = 0
        self.preemptions = 0
        self.recomputed_tokens = 0
        self._decisions: deque[float] = deque(maxlen=_DECISIONS_KEPT)
        self._p99 = 0.0
        self._since_sorted = _SORTED_EVERY

    def decided(self, seconds: float) -> None:
        """Take the time that one step's decisions took."""
        self._decisions.append(seconds)
        self._since_sorted += 1

    def preempted(self, computed_tokens: int, *, parked: bool) -> None:
        """Take a preemption, of a parked request or of another, and what has to be redone."""
        self.preemptions += 1
        self.evicted_parked += parked
        self.recomputed_tokens += computed_tokens

    def decision_p99_s(self) -> float:
        """The 99th percentile of the newest decisions, in seconds; 0 before the first.

        It is worked out anew after every hundred.
        """
        if self._since_sorted >= _SORTED_EVERY and self._decisions:
            ordered = sorted(self._decisions)
            self._p99 = ordered[int(0.99 * len(ordered))]
            self._since_sorted = 0
        return self._p99

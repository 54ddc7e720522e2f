"""What the scheduler counts, for the service's metrics."""

from collections import deque

_DECISIONS_KEPT = 1000


class SchedulerCounts:
    """Since the start, but for the decisions, of which the newest thousand are kept."""

    def __init__(self) -> None:
        self.failures = 0
        self.given_up = 0
        self.evicted_parked = 0
        self.preemptions = 0
        self.recomputed_tokens = 0
        self._decisions: deque[float] = deque(maxlen=_DECISIONS_KEPT)

    def decided(self, seconds: float) -> None:
        """Take the time that one step's decisions took."""
        self._decisions.append(seconds)

    def preempted(self, computed_tokens: int, *, parked: bool) -> None:
        """Take a preemption, of a parked request or of another, and what has to be redone."""
        self.preemptions += 1
        self.evicted_parked += parked
        self.recomputed_tokens += computed_tokens

    def decision_p99_s(self) -> float:
        """The 99th percentile of the newest decisions, in seconds; 0 before the first."""
        ordered = sorted(self._decisions)
        return ordered[int(0.99 * len(ordered))] if ordered else 0.0

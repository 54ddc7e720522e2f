"""What the scheduler knows of one request, beyond what vLLM knows. No vLLM here.

Times are seconds of the scheduler's clock.
"""

from dataclasses import dataclass

from service.engine_core.settings import Said

UNDECLARED_TARGET = 4.0  # times as long as for one that declared its rate


@dataclass(slots=True, eq=False)
class StreamState:
    """One request and its reader.

    `tokens`: decoded so far, as last looked at; `position`: of those taken by the reader, as last
    told. `context`: tokens that have to be computed again if it is evicted, `room`: that fit into
    the blocks that it gives up then.
    """

    request_id: str
    said: Said
    arrived: float
    tokens: int = 0
    position: int = 0
    context: int = 0
    room: int = 0
    parked: bool = False
    may_step_at: int = 0  # the engine's step before which vLLM gave it none, when it was parked
    evicted: bool = False
    evicted_at: float = 0.0
    admitted_at: float | None = None
    first_token_at: float | None = None
    # Of its account.
    parked_since: float = 0.0
    parked_s: float = 0.0
    preemptions: int = 0
    charged: int = 0  # decoded tokens that its tenant was charged for

    def due_at(self) -> float:
        """When its first token is due: at its target, or at its deadline if that is sooner.

        For a reader that declared no rate the target is further off: it measures throughput.
        """
        factor = 1.0 if self.said.reading_rate else UNDECLARED_TARGET
        target = self.arrived + factor * self.said.first_token_target_s
        deadline = self.said.deadline
        return target if deadline is None else min(target, deadline)

    def runs_dry_at(self) -> float:
        """When its reader has nothing left to read.

        Without a token yet: when the first one is due. A reader that declared no rate reads as
        fast as it comes and is dry at once.
        """
        if self.first_token_at is None:
            return self.due_at()
        rate = self.said.reading_rate
        return self.first_token_at + (self.tokens / rate if rate else 0.0)

    def may_be_ahead(self, high_mark: int, first_mark: int) -> int:
        """Tokens that may be decoded beyond its reader's position."""
        if not self.said.slow_start:
            return high_mark
        return min(high_mark, first_mark + self.position)

    def park(self, now: float) -> None:
        """Take notice that it gets no steps from now on."""
        if not self.parked:
            self.parked, self.parked_since = True, now

    def unpark(self, now: float) -> None:
        """Take notice that it runs again."""
        if self.parked:
            self.parked = False
            self.parked_s += now - self.parked_since

    def account(self, now: float) -> dict[str, float]:
        """Where its time went, in seconds, and how often it was preempted.

        queued: until it was first admitted; prefill: from then to its first token; parked: its
        reader had enough; decode: the rest, in which time away after a preemption counts.
        """
        admitted = now if self.admitted_at is None else self.admitted_at
        first = now if self.first_token_at is None else self.first_token_at
        parked = self.parked_s + (now - self.parked_since if self.parked else 0.0)
        return {
            "queued_s": admitted - self.arrived,
            "prefill_s": first - admitted,
            "decode_s": now - first - parked,
            "parked_s": parked,
            "preemptions": self.preemptions,
        }

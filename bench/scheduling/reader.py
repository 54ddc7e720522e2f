"""Who reads: what a reader has taken when, and what the wait was worth to it.

Quality of experience as in Andes (arXiv 2404.16283): for a reading rate r and a first-token target
F the ideal time of token i is F + (i-1)/r after its submission; its actual time is when it was
delivered, or 1/r after the one before, whichever is later. QoE = 1 - the sum of how late the tokens
are / the sum of their actual times. 1 is a reader that never waited.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.scheduling.traces import Arrival

FIRST_TOKEN_TARGET_S = 1.0


@dataclass(slots=True)
class Reading:
    """One request's deliveries, as (moment, number of tokens so far).

    `left_at`: when it was ended before its last token, by its caller or by the scheduler.
    """

    arrival: Arrival
    deliveries: list[tuple[float, int]] = field(default_factory=list)
    tokens: int = 0
    left_at: float | None = None

    def deliver(self, now: float, tokens: int) -> None:
        """Take notice of what a step brought."""
        if tokens:
            self.tokens += tokens
            self.deliveries.append((now, self.tokens))

    @property
    def complete(self) -> bool:
        """Whether all its tokens came."""
        return self.tokens >= self.arrival.output_tokens

    @property
    def position(self) -> int:
        """Tokens that its reader has taken off the connection."""
        stops = self.arrival.stops_reading_at
        return self.tokens if stops is None else min(self.tokens, stops)

    @property
    def stalled(self) -> bool:
        """Whether its reader takes nothing any more."""
        stops = self.arrival.stops_reading_at
        return stops is not None and self.tokens >= stops

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the submission to the first token; None if none ever came."""
        return self.deliveries[0][0] - self.arrival.at if self.deliveries else None

    @property
    def first_wait_s(self) -> float:
        """Seconds to the first token, or until it was given up: nobody is left out."""
        if self.deliveries:
            return self.deliveries[0][0] - self.arrival.at
        return 0.0 if self.left_at is None else self.left_at - self.arrival.at

    @property
    def total_s(self) -> float | None:
        """Seconds from the submission to the last token of a complete request."""
        return self.deliveries[-1][0] - self.arrival.at if self.complete else None

    def _read(self) -> Iterator[tuple[int, float, float]]:
        """Each token that was read: its index, when, and for how long nothing was there before.

        Both in seconds, the first from the submission.
        """
        pause = self._pause_s
        index, actual = 0, 0.0
        for moment, upto in self.deliveries:
            delivered = moment - self.arrival.at
            while index < min(upto, self.position):
                ready = actual + pause if index else 0.0
                actual = max(delivered, ready)
                yield index, actual, actual - ready
                index += 1

    @property
    def _pause_s(self) -> float:
        rate = self.arrival.reading_rate
        return 0.0 if rate is None else 1 / rate

    def quality(self) -> float:
        """QoE, 0 to 1, at its reading rate; 0 if nothing ever came."""
        pause, late, total = self._pause_s, 0.0, 0.0
        for index, actual, _ in self._read():
            late += max(0.0, actual - FIRST_TOKEN_TARGET_S - index * pause)
            total += actual
        return 1 - late / total if total else 0.0

    def longest_wait_s(self) -> float:
        """The longest time that its reader had nothing to read: the first token's, or a stall."""
        return max((waited for _, _, waited in self._read()), default=self.first_wait_s)

    def stalled_s(self) -> float:
        """Seconds that its reader had nothing to read after the first token."""
        return sum(waited for index, _, waited in self._read() if index)

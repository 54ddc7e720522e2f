"""Who reads: what a reader has taken when, and what the wait was worth to it.

Quality of experience as in Andes (arXiv 2404.16283): for a reading rate r and a first-token target
F the ideal time of token i is F + (i-1)/r after its submission; its actual time is when it was
delivered, or 1/r after the one before, whichever is later. QoE = 1 - the sum of how late the tokens
are / the sum of their actual times. 1 is a reader that never waited.
"""

from dataclasses import dataclass, field

from bench.scheduling.traces import Arrival

FIRST_TOKEN_TARGET_S = 1.0


@dataclass(slots=True)
class Reading:
    """One request's deliveries, as (moment, number of tokens so far)."""

    arrival: Arrival
    deliveries: list[tuple[float, int]] = field(default_factory=list)
    tokens: int = 0
    ended: bool = False

    def deliver(self, now: float, tokens: int) -> None:
        """Take notice of what a step brought."""
        if tokens:
            self.tokens += tokens
            self.deliveries.append((now, self.tokens))

    @property
    def position(self) -> int:
        """Tokens that its reader has taken off the connection."""
        stops = self.arrival.stops_reading_at
        return self.tokens if stops is None else min(self.tokens, stops)

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the submission to the first token; None if none ever came."""
        return self.deliveries[0][0] - self.arrival.at if self.deliveries else None

    @property
    def total_s(self) -> float | None:
        """Seconds from the submission to the last token of a finished request."""
        return self.deliveries[-1][0] - self.arrival.at if self.ended else None

    def quality(self) -> float:
        """QoE, 0 to 1, at its reading rate; of a reader without one, as if it were unlimited."""
        rate = self.arrival.reading_rate
        pause = 0.0 if rate is None else 1 / rate
        late = total = actual = 0.0
        index = 0
        for moment, upto in self.deliveries:
            delivered = moment - self.arrival.at
            while index < upto:
                ideal = FIRST_TOKEN_TARGET_S + index * pause
                actual = max(delivered, actual + pause if index else 0.0)
                late += max(0.0, actual - ideal)
                total += actual
                index += 1
        return 1 - late / total if total else 0.0

    def waited_s(self) -> float:
        """Seconds that its reader had nothing to read, the first-token target left out."""
        rate = self.arrival.reading_rate
        pause = 0.0 if rate is None else 1 / rate
        waited, actual, index = 0.0, 0.0, 0
        for moment, upto in self.deliveries:
            delivered = moment - self.arrival.at
            while index < upto:
                ready = actual + pause if index else FIRST_TOKEN_TARGET_S
                waited += max(0.0, delivered - ready)
                actual = max(delivered, actual + pause if index else 0.0)
                index += 1
        return waited

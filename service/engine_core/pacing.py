"""Who gives up its place, when there are not enough places. No vLLM here, and no clock.

A place is KV blocks. A reader that has text for many seconds needs no step now; evicting its
request costs computing its context again later, and is worth that if the place goes to one that
would otherwise run dry. In a burst that moves work behind the burst. Past capacity it only adds
work, so what is computed again is paid from a budget (`RecomputeBudget`), which earns most while
nobody needs it, and nothing any more once requests wait that are late already.
"""

import heapq
from collections.abc import Container, Iterable

from service.engine_core.stream_state import StreamState

_MOST_VICTIMS = 32  # for one request, beside those that are parked


class RecomputeBudget:
    """Seconds of the engine's time that may go into computing evicted requests again.

    It earns `share` of the time that passes while somebody needs a place, `share_in_peace` while
    nobody does, nothing while some are late already, and saves up at most `reserve_s`.
    """

    def __init__(self, share: float, share_in_peace: float, reserve_s: float) -> None:
        self._share = share
        self._share_in_peace = share_in_peace
        self._reserve_s = reserve_s
        self._seconds = reserve_s
        self._at: float | None = None

    @property
    def seconds(self) -> float:
        """What may be spent now."""
        return self._seconds

    def pass_time(self, now: float, *, urgent: bool, late: bool) -> None:
        """Earn what the time since the last call is worth.

        `urgent`: somebody waits whose reader has nothing to read, or soon has not; `late`: for
        some it is too late already, so more is asked for than can be served well.
        """
        if self._at is not None and not late:
            share = self._share if urgent else self._share_in_peace
            self._seconds = min(self._reserve_s, self._seconds + share * (now - self._at))
        self._at = now

    def spend(self, seconds: float) -> None:
        """Pay for an eviction."""
        self._seconds -= seconds


class AdmissionRate:
    """How many requests come to their turn in a second, over the last ten or so."""

    def __init__(self) -> None:
        self.count = 0  # since the last look
        self._rate = 0.0
        self._looked_at: float | None = None

    def pass_time(self, now: float) -> None:
        """Look, if it is time."""
        if self._looked_at is None:
            self._looked_at, self.count = now, 0
        elif (passed := now - self._looked_at) >= 1.0:
            weight = min(1.0, passed / 10.0)
            self._rate += weight * (self.count / passed - self._rate)
            self._looked_at, self.count = now, 0

    def seconds_for(self, requests: int) -> float:
        """How long so many would wait, first come first served."""
        return requests / self._rate if self._rate else 0.0


class StepCosts:
    """What steps have lasted: seconds of one, and of each prefill token in it.

    Both are running means; a step with prefill is compared with those without.
    """

    def __init__(self) -> None:
        self.step_s = 0.02
        self.prefill_token_s = 5e-5

    def first_token_s(self, prompt_tokens: int) -> float:
        """How long a request takes from its admission to its first token."""
        return self.step_s + prompt_tokens * self.prefill_token_s

    def observe(self, seconds: float, prefill_tokens: int) -> None:
        """Take one step's duration, in which the engine was busy all the time."""
        if prefill_tokens == 0:
            self.step_s += 0.1 * (seconds - self.step_s)
        elif prefill_tokens >= 64:
            each = max(0.0, seconds - self.step_s) / prefill_tokens
            self.prefill_token_s += 0.05 * (each - self.prefill_token_s)


def victims(
    running: Iterable[StreamState],
    wanted_tokens: int,
    dry_after: float,
    most_recompute_s: float,
    token_s: float,
    over_their_share: Container[str] = (),
) -> list[StreamState]:
    """Choose who gives up its room of so many tokens; nobody, if that cannot be had.

    Parked ones first, then those whose readers run dry last, if that is later than `dry_after`, and
    those of tenants over their share, of which the youngest have least to be computed again.
    `token_s`: what computing a token of context again costs; `most_recompute_s`: what may be spent
    on those that are not parked.
    """
    able = [
        state
        for state in running
        if state.parked
        or state.said.tenant in over_their_share
        or (state.said.reading_rate and state.runs_dry_at() > dry_after)
    ]
    chosen: list[StreamState] = []
    got, cost = 0, 0.0
    parked = sum(state.parked for state in able)
    most = parked + _MOST_VICTIMS
    for state in heapq.nlargest(most, able, key=lambda s: (s.parked, s.runs_dry_at())):
        if got >= wanted_tokens:
            break
        if not state.parked:
            cost += state.context * token_s
            if cost > most_recompute_s:
                break
        chosen.append(state)
        got += state.room
    return chosen if got >= wanted_tokens else []

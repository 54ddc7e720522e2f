"""The order of the waiting requests as the rules have it: all are looked at anew each time."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.engine_core.waiters import Waiter, WaitingRoom

Rank = tuple[float, ...]


@dataclass
class NaiveQueue:
    """Says who may be next among some. It keeps nothing; the moment and the room are given."""

    room: WaitingRoom
    queue_s: float = 0.0
    spare_tokens: int = 0
    taken: int = 0  # in this step
    over: set[str] = field(default_factory=set)  # tenants that hold more than their share
    again: set[Waiter] = field(default_factory=set)  # were taken, and wait again
    unsure: bool = False  # nobody may be next either, at the last question

    def may_be_next(self, among: Iterable[Waiter]) -> list[Waiter]:
        """Those that are first by the rules: several where the rules leave it open."""
        self.unsure = False
        tenants: dict[tuple[int, str], list[Waiter]] = {}
        for waiter in among:
            said = self.room.states[waiter.request_id].said
            tenants.setdefault((said.priority, said.tenant), []).append(waiter)
        firsts = {
            key: self._within_its_share(key[1], self._first_of_a_tenant(waiters))
            for key, waiters in tenants.items()
        }
        order = {
            key: (-key[0], self.room.shares.counter(key[1]))
            for key, first in firsts.items()
            if first
        }
        best = min(order.values(), default=None)
        return [w for key, rank in order.items() if rank == best for w in firsts[key]]

    def has_late(self, among: Iterable[Waiter]) -> bool:
        """Whether the first token of one of these cannot come in time any more."""
        return any(self._rank(waiter)[0] in (1, 4) for waiter in among)

    def has_urgent(self, among: Iterable[Waiter]) -> bool:
        """Whether one of these has no token yet, or a reader about to run dry."""
        return any(self._rank(waiter)[0] not in (3, 5) for waiter in among)

    def _within_its_share(self, tenant: str, firsts: list[Waiter]) -> list[Waiter]:
        if tenant not in self.over:
            return firsts
        fit = [] if self.taken else [w for w in firsts if w.num_tokens <= self.spare_tokens]
        # Where the rules leave open who is first, it may be one that does not fit.
        self.unsure |= 0 < len(fit) < len(firsts)
        return fit

    def _first_of_a_tenant(self, waiters: list[Waiter]) -> list[Waiter]:
        ranks = {waiter: self._rank(waiter) for waiter in waiters}
        best = min(ranks.values())
        firsts = [waiter for waiter in waiters if ranks[waiter] == best]
        if best[0] == 2:  # of those that are due together the one that came first
            first = min((w.number for w in firsts if w not in self.again), default=None)
            firsts = [w for w in firsts if w in self.again or w.number == first]
        if best[0] == 5:  # their readers have time: nobody overtakes the first of them
            return [w for w in firsts if w.num_tokens <= self.spare_tokens]
        return firsts

    def _rank(self, waiter: Waiter) -> Rank:
        settings, now = self.room.settings, self.room.now
        state = self.room.states[waiter.request_id]
        if state.first_token_at is not None:
            back_at = state.runs_dry_at() - settings.return_s
            if back_at <= now:
                return (0, back_at)
            if now - state.evicted_at > settings.most_away_s:
                return (3, state.evicted_at)
            return (5, back_at)
        late = settings.pacing and now > state.due_at() + settings.patience_s
        if not late:
            return (2, state.due_at())
        patience_s = max(settings.least_patience_s, settings.patience_factor * self.queue_s)
        if now - state.arrived > patience_s:
            return (1, state.arrived)
        return (4, -state.arrived)

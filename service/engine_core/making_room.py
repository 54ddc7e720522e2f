"""Whose KV blocks go to those that wait: room in the cache. No vLLM here, and no clock.

vLLM's waiting requests never evict running ones, so room for the next of them is made before its
scheduler looks. For each of the next few that does not fit and is worth it, `victims` are chosen
(`pacing`): parked ones for anybody, readers with text for long for one that has none, and those
of tenants over their share for one whose tenant is not. What that costs is paid from a budget.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic

from service.engine_core.fair_shares import FairShares
from service.engine_core.pacing import RecomputeBudget, StepCosts, victims
from service.engine_core.parking import Parking, R
from service.engine_core.settings import Settings
from service.engine_core.stream_state import StreamState
from service.engine_core.waiting_queue import WaitingQueue

_LOOK_AHEAD = 4  # waiting requests for which room is made in a step
_FOR_EVER = float("inf")


@dataclass(frozen=True, slots=True)
class Cache:
    """The KV cache as it is now, in blocks, and the places of the model runner.

    `kept_blocks`: free, but not for waiting requests; `groups`: of layers that have blocks of their
    own; `lookahead_tokens`: that get room beyond a request's own, for drafts; `free_places`:
    requests that can run beside those that do.
    """

    free_blocks: int
    blocks: int
    kept_blocks: int
    block_tokens: int
    free_places: int
    groups: int = 1
    lookahead_tokens: int = 0

    def blocks_for(self, tokens: int) -> int:
        """How many blocks so many tokens take, in all groups; less where a window bounds them."""
        return self.groups * -(-tokens // self.block_tokens)

    def tokens_in(self, blocks: int) -> int:
        """How many tokens so many blocks have room for."""
        return blocks // self.groups * self.block_tokens


class RoomMaker(Generic[R]):
    """See above; `costs` is kept up by the scheduler, and read here."""

    def __init__(
        self,
        states: Mapping[str, StreamState],
        parking: Parking[R],
        waiting: WaitingQueue[R],
        shares: FairShares,
        costs: StepCosts,
        settings: Settings,
    ) -> None:
        self._states = states
        self._parking = parking
        self._waiting = waiting
        self._shares = shares
        self._costs = costs
        self._settings = settings
        reserve_s = settings.recompute_reserve_s
        self.budget = RecomputeBudget(
            settings.recompute_share, settings.recompute_share_in_peace, reserve_s
        )
        # Of their own, and earned also while requests are late: those of a flood always are.
        self.fair_budget = RecomputeBudget(
            settings.recompute_share, settings.recompute_share_in_peace, reserve_s
        )
        self.deadline_budget = RecomputeBudget(settings.deadline_share, 1.0, reserve_s)

    def pass_time(self, now: float) -> None:
        """Earn what may be spent on computing evicted requests again."""
        urgent, late = self._waiting.has_urgent, self._waiting.has_late
        self.budget.pass_time(now, urgent=urgent, late=late)
        self.fair_budget.pass_time(now, urgent=urgent, late=False)
        self.deadline_budget.pass_time(now, urgent=urgent, late=False)

    def spare_tokens(self, cache: Cache, *, all_parked: bool) -> int:
        """Room beyond what is kept free for requests that arrive."""
        kept = 0
        if not all_parked:
            kept = cache.kept_blocks + int(self._settings.headroom * cache.blocks)
        return cache.tokens_in(cache.free_blocks - kept)

    def who_makes_room(self, running: Iterable[R], cache: Cache, now: float) -> list[StreamState]:
        """Choose who gives up its blocks for those who are next, and pay for it."""
        free, places = cache.free_blocks - cache.kept_blocks, cache.free_places
        able: list[StreamState] | None = None
        found: list[StreamState] = []
        for request in self._waiting.upcoming(_LOOK_AHEAD):
            free -= cache.blocks_for(request.num_tokens + 1 + cache.lookahead_tokens)
            places -= 1
            if free >= 0 and places >= 0:
                continue
            state = self._states[request.request_id]
            over = self._shares.who_yields_to(state.said.tenant)
            paces = self._is_urgent(state, now)
            if paces is None and not over:
                continue
            if not paces and not over and not self._parking.requests:
                continue
            if free >= 0 and not self._parking.requests:
                continue  # only parked ones give way for a place alone
            if able is None:
                able = self._who_can_be_evicted(running, cache)
            if state.said.deadline is not None and state.first_token_at is None:
                budget = self.deadline_budget
            else:
                budget = self.fair_budget if over else self.budget
            chosen = victims(
                able if free < 0 else [state for state in able if state.parked],
                max(1, -cache.tokens_in(free)),
                max(now, state.runs_dry_at()) + (self._settings.spare_s if paces else _FOR_EVER),
                budget.seconds,
                self._costs.prefill_token_s,
                over,
            )
            if not chosen:
                break
            for victim in chosen:
                if not victim.parked:
                    budget.spend(victim.context * self._costs.prefill_token_s)
                able.remove(victim)
                free += cache.blocks_for(victim.room)
            places += len(chosen)
            found += chosen
        return found

    def _is_urgent(self, state: StreamState, now: float) -> bool | None:
        """Whether it is worth an eviction; None: it has not even waited yet."""
        settings = self._settings
        if state.first_token_at is None and now - state.arrived < settings.wait_s:
            return None
        has_time = state.evicted and state.runs_dry_at() - now > settings.return_s
        return settings.pacing and not has_time

    def _who_can_be_evicted(self, running: Iterable[R], cache: Cache) -> list[StreamState]:
        """Bring those up to date that can be evicted now."""
        found = []
        for request in running:
            if not request.is_prefill_chunk and request.num_output_tokens:
                state = self._states[request.request_id]
                state.tokens = request.num_output_tokens
                state.context = request.num_computed_tokens
                state.room = cache.tokens_in(cache.blocks_for(state.context))
                found.append(state)
        return found

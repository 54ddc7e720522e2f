"""The scheduler that vLLM loads by name in its engine process: who gets the next step.

A thin shell round the policies, which know no vLLM: they say who waits for its reader, who is next
and who gives its room up, and this class makes vLLM 0.32.0 do it. What is relied on, and pinned by
tests/engine_core/test_vllm_as_relied_on.py:

- a running request whose `next_decode_eligible_step` lies ahead gets no step and keeps its blocks;
- under KV pressure the last of `running` is preempted, so those that are parked stand last;
- waiting requests never evict running ones, so room for them is made before `super().schedule()`;
- `waiting` is ours (`waiting_queue`): vLLM takes what that says is next, or nothing.

Whatever a decision raises is logged once and counted, and that step is vLLM's own: all that is
parked runs again, and what waits comes as it is ordered. The engine never ends because of it.
"""

import heapq
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.request import Request, RequestStatus

from service.engine_core import control
from service.engine_core.counts import SchedulerCounts
from service.engine_core.fair_shares import FairShares
from service.engine_core.pacing import AdmissionRate, RecomputeBudget, StepCosts, victims
from service.engine_core.settings import KEY, Said, Settings
from service.engine_core.stream_state import StreamState
from service.engine_core.support import refuse_what_is_not_supported
from service.engine_core.waiting_queue import WaitingQueue

logger = init_logger(__name__)

HOPELESS = "tokenstream: deadline"  # the stop reason of a request that was given up
_NEVER = 1 << 60
_LOOK_AHEAD = 4  # waiting requests for which room is made in a step


class StreamScheduler(AsyncScheduler):
    """See the rules above.

    A subclass of `AsyncScheduler` because vLLM switches asynchronous scheduling off for any other;
    it works with synchronous scheduling too. `clock`: seconds of the monotonic clock.
    """

    # vLLM's own, which is not type-checked here.
    running: list[Request]
    max_num_active_reqs: int
    block_size: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_what_is_not_supported(self.vllm_config)
        self.clock: Callable[[], float] = time.monotonic
        self.settings = settings = Settings.from_additional_config(
            self.vllm_config.additional_config
        )
        self.counts = SchedulerCounts()
        self._states: dict[str, StreamState] = {}
        self._parked: set[Request] = set()
        self._without_token: set[Request] = set()
        self._deadlines: list[tuple[float, str]] = []  # a heap; ids that have left are skipped
        self._given_up: list[Request] = []
        self._shares = FairShares(settings.weights, enabled=settings.fair_shares)
        self._budget = RecomputeBudget(settings.recompute_share, settings.recompute_reserve_s)
        self._deadline_budget = RecomputeBudget(
            settings.deadline_share, settings.recompute_reserve_s
        )
        self._costs = StepCosts()
        self._admissions = AdmissionRate()
        self._updated_at: float | None = None
        self._heard_at = -math.inf
        self.is_ending: Callable[[], bool] = lambda: False  # the engine finishes what it has
        self._look_at_step = 0
        self._most_active: int = self.max_num_active_reqs
        self.waiting: WaitingQueue[Request] = WaitingQueue(
            self._states.__getitem__, self._shares, settings, self._failed
        )
        control.end_with_parent()

    # -- what vLLM calls -------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        """See `Scheduler`."""
        if request.request_id not in self._states:
            params = request.sampling_params
            said = Said.from_extra_args(None if params is None else params.extra_args)
            state = StreamState(request.request_id, said, self.clock())
            self._states[request.request_id] = state
            self._shares.arrive(said.tenant)
            if said.deadline is not None and self.settings.deadlines:
                takes_s = self._costs.first_token_s(request.num_prompt_tokens)
                heapq.heappush(self._deadlines, (said.deadline - takes_s, request.request_id))
        super().add_request(request)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """See `Scheduler`."""
        now, began = self.clock(), time.perf_counter()
        try:
            self._decide(now)
        except Exception:
            self._let_vllm_decide()
        self.counts.decided(time.perf_counter() - began)
        scheduled = super().schedule(throttle_prefills)
        with self._contained():
            for new in scheduled.scheduled_new_reqs:
                self._admitted(new.req_id, scheduled, now)
            for request_id in scheduled.scheduled_cached_reqs.resumed_req_ids:
                self._admitted(request_id, scheduled, now)
        return scheduled

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: Any
    ) -> dict[int, EngineCoreOutputs]:
        """See `Scheduler`."""
        with self._contained():
            self._observe_step(scheduler_output)
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
            scheduler_output, model_runner_output
        )
        given_up, self._given_up = self._given_up, []
        for request in given_up:
            end = EngineCoreOutput(
                request_id=request.request_id,
                new_token_ids=[],
                finish_reason=FinishReason.ABORT,
                stop_reason=HOPELESS,
            )
            batch = outputs.setdefault(request.client_index, EngineCoreOutputs())
            batch.outputs.append(end)
        return outputs

    def has_requests(self) -> bool:
        """See `Scheduler`. False if all that is unfinished waits for its reader."""
        if (self._parked or self.waiting.held) and (self.hears_nothing() or self.is_ending()):
            self.run_everything()
        if (
            (self._parked or self.waiting.held)
            and len(self._parked) == len(self.running)
            and self.waiting.held == len(self.waiting)
            and not self.kv_holding_waiting
            and self._pause_state is PauseState.UNPAUSED
        ):
            return bool(self.has_finished_requests())
        return bool(super().has_requests())

    def set_pause_state(self, pause_state: PauseState) -> None:
        """See `Scheduler`. A pause waits for what runs, so nothing waits for its reader then."""
        if pause_state is not PauseState.UNPAUSED:
            self.run_everything()
        super().set_pause_state(pause_state)

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        state = self._states[request.request_id]
        state.preemptions += 1
        state.evicted, state.evicted_at = True, self.clock()
        state.tokens = request.num_output_tokens
        self._parked.discard(request)
        self._without_token.discard(request)
        request.next_decode_eligible_step = 0
        self.counts.preempted(request.num_computed_tokens, parked=state.parked)
        super()._preempt_request(request, *args, **kwargs)
        if state.parked:
            self.waiting.hold(request)

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        account = None
        state = self._states.pop(request.request_id, None)
        if state is not None:
            self._parked.discard(request)
            self._without_token.discard(request)
            with self._contained():
                self._charge(state, request.num_output_tokens)
                self._shares.leave(state.said.tenant)
                account = state.account(self.clock())
        kv_params, ec_params = super()._free_request(request, delay_free_blocks)
        if account is not None:
            kv_params = (kv_params or {}) | {KEY: account}
        return kv_params, ec_params

    # -- what the service tells ------------------------------------------------------------------

    def readers_moved(self, request_ids: Sequence[str], positions: Sequence[int]) -> None:
        """Take notice of how many tokens readers have taken; ids that have ended are ignored.

        An empty message says that the service is there; where none ever was, as under vLLM's own
        frontends, nobody is parked.
        """
        self._heard_at = self.clock()
        for request_id, position in zip(request_ids, positions, strict=True):
            state = self._states.get(request_id)
            if state is None:
                continue
            if position < state.position:
                self._look_at_step = 0  # somebody reads it again from further back
            state.position = position
            if state.parked:
                request = self.requests[request_id]
                settings = self.settings
                most = state.may_be_ahead(settings.high_mark, settings.first_mark)
                if request.num_output_tokens - position <= min(settings.low_mark, most // 2):
                    self._unpark(request, state, self.clock())

    def hears_nothing(self) -> bool:
        """Whether the service has been silent for too long to wait for its readers."""
        return self.clock() - self._heard_at > self.settings.silence_s

    def run_everything(self) -> None:
        """Let go of all that waits for its reader, until the next look at it."""
        now = self.clock()
        for request in [*self._parked, *self.waiting]:
            state = self._states.get(request.request_id)
            if state is not None and state.parked:
                self._unpark(request, state, now)
        self._look_at_step = self.current_step + self.settings.high_mark

    def report(self) -> dict[str, Any]:
        """Return how it stands: the service's `SchedulerReport`, by its fields' names."""
        counts = self.counts
        return {
            "parked": len(self._parked),
            "parked_away": self.waiting.held,
            "parkings": counts.parkings,
            "evicted_parked": counts.evicted_parked,
            "preemptions": counts.preemptions,
            "given_up": counts.given_up,
            "recomputed_tokens": counts.recomputed_tokens,
            "failures": counts.failures,
            "decision_p99_s": counts.decision_p99_s(),
            "shares": self._shares.counters(),
        }

    # -- decisions -------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        if (
            self.current_step >= self._look_at_step
            and self.settings.flow_control
            and self._pause_state is PauseState.UNPAUSED
            and not self.hears_nothing()
            and not self.is_ending()
        ):
            self._park_who_is_ahead(now)
        if self._without_token:
            self._note_first_tokens(now)
        self._give_up_the_hopeless(now)
        waiting = self.waiting
        self._admissions.pass_time(now)
        waiting.queue_s = self._admissions.seconds_for(len(waiting) - waiting.held)
        waiting.begin_step(now, self._spare_tokens())
        contended = len(waiting) > waiting.held
        self._budget.pass_time(now, contended=contended)
        self._deadline_budget.pass_time(now, contended=contended)
        if contended:
            if self._shares.contended:
                self._charge_running()
            else:
                self._shares.look_at({})
            self._make_room(now)
        self.max_num_active_reqs = min(
            self._most_active + len(self._parked), self.max_num_running_reqs
        )
        if self._parked:
            self._parked_last()

    def _park_who_is_ahead(self, now: float) -> None:
        """Park those at the high mark; and work out when anybody can be there next."""
        high, first = self.settings.high_mark, self.settings.first_mark
        nearest = min(high, first)
        for request in self.running:
            state = self._states[request.request_id]
            if state.parked:
                continue
            room = state.position + state.may_be_ahead(high, first) - request.num_output_tokens
            room -= request.num_output_placeholders
            if room > 0:
                nearest = min(nearest, room)
            elif request.is_prefill_chunk:
                nearest = 1  # not in the middle of a prefill
            else:
                request.next_decode_eligible_step = _NEVER
                state.park(now)
                self._parked.add(request)
                self.counts.parkings += 1
        # A step decodes at most so many tokens of a request.
        self._look_at_step = self.current_step + max(1, nearest // (1 + self.num_spec_tokens))

    def _unpark(self, request: Request, state: StreamState, now: float) -> None:
        state.unpark(now)
        self._look_at_step = 0
        if request in self._parked:
            self._parked.discard(request)
            request.next_decode_eligible_step = self.current_step + 1
        else:
            self.waiting.release(request)

    def _parked_last(self) -> None:
        """Let those under way stand before those that are parked, which are preempted first."""
        parked, running = self._parked, self.running
        if any(r not in parked for r in running[-len(parked) :]):
            self.running = [r for r in running if r not in parked]
            self.running += [r for r in running if r in parked]

    def _note_first_tokens(self, now: float) -> None:
        for request in [r for r in self._without_token if r.num_output_tokens]:
            self._without_token.discard(request)
            self._states[request.request_id].first_token_at = now

    def _give_up_the_hopeless(self, now: float) -> None:
        """End those that wait and can no longer have their first token in time."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, request_id = heapq.heappop(self._deadlines)
            request = self.requests.get(request_id)
            if request is None or self._states[request_id].admitted_at is not None:
                continue
            self.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)
            self._given_up.append(request)
            self.counts.given_up += 1

    def _spare_tokens(self) -> int:
        """Room beyond what is kept free for requests that arrive."""
        manager = self.kv_cache_manager
        pool = manager.block_pool
        kept = manager.watermark_blocks + int(self.settings.headroom * pool.num_gpu_blocks)
        if len(self.running) == len(self._parked):
            kept = 0
        return int(pool.get_num_free_blocks() - kept) * self.block_size

    def _make_room(self, now: float) -> None:
        """Evict who can spare its blocks for those who are next and urgent."""
        manager, settings = self.kv_cache_manager, self.settings
        free = manager.block_pool.get_num_free_blocks() - manager.watermark_blocks
        states: list[StreamState] | None = None
        for request in self.waiting.upcoming(_LOOK_AHEAD):
            free -= -(-(request.num_tokens + 1) // self.block_size)
            if free >= 0:
                continue
            state = self._states[request.request_id]
            over = self._shares.who_yields_to(state.said.tenant)
            waits = state.first_token_at is None and now - state.arrived < settings.wait_s
            if waits and not over:
                continue
            pace = settings.pacing and not self.waiting.has_late and not waits
            if state.evicted and state.runs_dry_at() - now > settings.return_s:
                pace = False  # its reader has time
            if not pace and not over and not self._parked:
                continue
            if states is None:
                states = self._states_of_running()
            is_lost_late = state.said.deadline is not None and state.first_token_at is None
            budget = self._deadline_budget if is_lost_late else self._budget
            chosen = victims(
                states,
                -free * self.block_size,
                max(now, state.runs_dry_at()) + (settings.spare_s if pace else _NEVER),
                budget.seconds,
                self._costs.prefill_token_s,
                over,
            )
            if not chosen:
                return
            for victim in chosen:
                self._evict(victim, budget, now)
                states.remove(victim)
                free += victim.room // self.block_size

    def _states_of_running(self) -> list[StreamState]:
        """Bring those up to date that can be evicted now."""
        found = []
        for request in self.running:
            if not request.is_prefill_chunk and request.num_output_tokens:
                state = self._states[request.request_id]
                state.tokens = request.num_output_tokens
                state.context = request.num_computed_tokens
                state.room = -(-state.context // self.block_size) * self.block_size
                found.append(state)
        return found

    def _evict(self, state: StreamState, budget: RecomputeBudget, now: float) -> None:
        request = self.requests[state.request_id]
        if not state.parked:
            budget.spend(state.context * self._costs.prefill_token_s)
        self.running.remove(request)
        self._preempt_request(request, now)

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Log what the block raises, once, and count it."""
        try:
            yield
        except Exception:
            self._failed()

    def _failed(self) -> None:
        if self.counts.failures == 0:
            logger.exception("a scheduling decision failed; such steps are vLLM's own")
        self.counts.failures += 1

    def _let_vllm_decide(self) -> None:
        """Get out of this step's way."""
        self._failed()
        self.run_everything()
        self.waiting.begin_step(self.clock(), _NEVER)
        self.max_num_active_reqs = self._most_active

    # -- accounts --------------------------------------------------------------------------------

    def _admitted(self, request_id: str, scheduled: SchedulerOutput, now: float) -> None:
        request, state = self.requests[request_id], self._states[request_id]
        if state.admitted_at is None:
            state.admitted_at = now
            self._admissions.count += 1
            cached = request.num_computed_tokens - scheduled.num_scheduled_tokens[request_id]
            self._shares.charge(state.said.tenant, request.num_prompt_tokens - cached, 0)
        state.evicted = False
        if state.first_token_at is None:
            self._without_token.add(request)
        else:
            self._look_at_step = 0

    def _charge_running(self) -> None:
        held: dict[str, int] = {}
        for request in self.running:
            state = self._states[request.request_id]
            self._charge(state, request.num_output_tokens)
            if not state.parked:
                tenant = state.said.tenant
                held[tenant] = held.get(tenant, 0) + request.num_computed_tokens
        self._shares.look_at(held)

    def _charge(self, state: StreamState, tokens: int) -> None:
        if tokens > state.charged:
            self._shares.charge(state.said.tenant, 0, tokens - state.charged)
            state.charged = tokens

    def _observe_step(self, scheduler_output: SchedulerOutput) -> None:
        now = self.clock()
        counts = scheduler_output.num_scheduled_tokens
        if counts and self._updated_at is not None and now - self._updated_at < 1.0:
            prefill = scheduler_output.total_num_scheduled_tokens - len(counts)
            self._costs.observe(now - self._updated_at, prefill)
        self._updated_at = now if counts else None


control.install()

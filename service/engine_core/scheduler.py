"""The scheduler that vLLM loads by name in its engine process: who gets the next step.

A thin shell round the policies, which know no vLLM: they say who waits for its reader, who is next
and who gives its room up, and this class makes vLLM 0.32.0 do it. What is relied on, and pinned by
tests/engine_core/test_vllm_as_relied_on.py:

- a running request whose `next_decode_eligible_step` lies ahead gets no step and keeps its blocks
  (`parking`);
- under KV pressure the last of `running` is preempted, so those that are parked stand last;
- waiting requests never evict running ones, so room for them is made before `super().schedule()`
  (`making_room`);
- `waiting` is ours (`waiting_queue`): vLLM takes what that says is next, or nothing;
- LoRA adapters are counted when a request is admitted, among those that get a step, so one that
  was parked has to come in anew if others took its adapter's slot.

Whatever a decision raises is logged once and counted, and that step is vLLM's own: all that is
parked runs again, and what waits comes as it is ordered. The engine never ends because of it.
"""

import heapq
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

from service.engine_core import control, grammars
from service.engine_core.counts import SchedulerCounts
from service.engine_core.fair_shares import FairShares
from service.engine_core.making_room import Cache, RoomMaker
from service.engine_core.pacing import AdmissionRate, StepCosts
from service.engine_core.parking import NEVER, Parking
from service.engine_core.settings import KEY, Said, Settings
from service.engine_core.stream_state import StreamState
from service.engine_core.support import refuse_what_is_not_supported
from service.engine_core.waiting_queue import WaitingQueue

logger = init_logger(__name__)

HOPELESS = "tokenstream: deadline"  # the stop reason of a request that was given up


class StreamScheduler(AsyncScheduler):
    """See the rules above.

    A subclass of `AsyncScheduler` because vLLM switches asynchronous scheduling off for any other;
    it works with synchronous scheduling too. `clock`: seconds of the monotonic clock.
    What is kept of requests is bounded by the admitted ones; of deadlines by those that have not
    passed yet, also of requests that have ended.
    """

    # vLLM's own, which is not type-checked here.
    running: list[Request]
    max_num_active_reqs: int
    block_size: int
    lora_config: Any  # vLLM's `LoRAConfig`, or None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_what_is_not_supported(self.vllm_config)
        self.clock: Callable[[], float] = time.monotonic
        self.settings = settings = Settings.from_additional_config(
            self.vllm_config.additional_config
        )
        self.counts = SchedulerCounts()
        self._states: dict[str, StreamState] = {}
        self._without_token: set[Request] = set()
        self._deadlines: list[tuple[float, str]] = []  # a heap; ids that have left are skipped
        self._given_up: list[Request] = []
        self._shares = FairShares(settings.weights, enabled=settings.fair_shares)
        self._costs = StepCosts()
        self._admissions = AdmissionRate()
        self._updated_at: float | None = None
        self.is_ending: Callable[[], bool] = lambda: False  # the engine finishes what it has
        self._most_active: int = self.max_num_active_reqs
        self.waiting: WaitingQueue[Request] = WaitingQueue(
            self._states.__getitem__,
            self._shares,
            settings,
            self._failed,
            lambda request: request.status == RequestStatus.RUNNING,
        )
        self._parking: Parking[Request] = Parking(
            self._states, self.waiting, settings, 1 + self.num_spec_tokens
        )
        self._room: RoomMaker[Request] = RoomMaker(
            self._states, self._parking, self.waiting, self._shares, self._costs, settings
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
            with self._contained():
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
        if self.lora_config is not None:
            with self._contained():
                self._evict_whose_adapter_has_no_slot(now)
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
        parked, waiting = self._parking.requests, self.waiting
        if (parked or waiting.held) and (self.hears_nothing() or self.is_ending()):
            self.run_everything()
        if (
            (parked or waiting.held)
            and len(parked) == len(self.running)
            and waiting.held == len(waiting)
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
        self._parking.forget(request)
        request.next_decode_eligible_step = 0
        self.counts.preempted(request.num_computed_tokens, parked=state.parked)
        super()._preempt_request(request, *args, **kwargs)
        if state.parked:
            self.waiting.hold(request)

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> Any:
        account = None
        state = self._states.pop(request.request_id, None)
        if state is not None:
            self._parking.forget(request)
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
        now = self.clock()
        self._parking.hear(now)
        for request_id, position in zip(request_ids, positions, strict=True):
            state = self._states.get(request_id)
            if state is not None:
                request = self.requests[request_id]
                if self._parking.reader_moved(state, position, request.num_output_tokens):
                    self._parking.unpark(request, state, self.current_step, now)

    def hears_nothing(self) -> bool:
        """Whether the service has been silent for too long to wait for its readers."""
        return self._parking.hears_nothing(self.clock())

    def run_everything(self) -> None:
        """Let go of all that waits for its reader, until the next look at it."""
        self._parking.unpark_all(self.current_step, self.clock())

    def report(self) -> dict[str, Any]:
        """Return how it stands: the service's `SchedulerReport`, by its fields' names."""
        counts = self.counts
        return {
            "parked": len(self._parking.requests),
            "parked_away": self.waiting.held,
            "parkings": self._parking.parkings,
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
        parking, waiting = self._parking, self.waiting
        if (
            self.settings.flow_control
            and self._pause_state is PauseState.UNPAUSED
            and not self.hears_nothing()
            and not self.is_ending()
        ):
            parking.look(self.running, self.current_step, now)
        if self._without_token:
            self._note_first_tokens(now)
        self._give_up_the_hopeless(now)
        self._admissions.pass_time(now)
        waiting.queue_s = self._admissions.seconds_for(len(waiting) - waiting.held)
        all_parked = len(self.running) == len(parking.requests)
        waiting.begin_step(now, self._room.spare_tokens(self._cache(), all_parked=all_parked))
        self._room.pass_time(now)
        if len(waiting) > waiting.held:
            if self._shares.contended:
                self._charge_running()
            else:
                self._shares.look_at({})
            if self._pause_state is PauseState.UNPAUSED:  # a pause lets nobody in
                self._make_room(now)
        parked = len(parking.requests)
        self.max_num_active_reqs = min(self._most_active + parked, self.max_num_running_reqs)
        self.running = parking.last(self.running)

    def _make_room(self, now: float) -> None:
        """Evict who can spare its blocks for those who are next and urgent."""
        for state in self._room.who_makes_room(self.running, self._cache(), now):
            self._evict(self.requests[state.request_id], now)

    def _evict_whose_adapter_has_no_slot(self, now: float) -> None:
        """Let those wait again whose LoRA adapter lost its slot while they were parked."""
        have_a_slot: set[int] = set()
        step = self.current_step + 1  # others, parked ones among them, get none in it
        for request in list(self.running):
            if request.lora_request is None or request.next_decode_eligible_step > step:
                continue
            adapter = request.lora_request.lora_int_id
            if adapter in have_a_slot or len(have_a_slot) < self.lora_config.max_loras:
                have_a_slot.add(adapter)
            else:
                self._evict(request, now)

    def _evict(self, request: Request, now: float) -> None:
        self.running.remove(request)
        self._preempt_request(request, now)

    def _cache(self) -> Cache:
        manager = self.kv_cache_manager
        pool = manager.block_pool
        return Cache(
            free_blocks=pool.get_num_free_blocks(),
            blocks=pool.num_gpu_blocks,
            kept_blocks=manager.watermark_blocks,
            block_tokens=self.block_size,
            free_places=self.max_num_running_reqs - len(self.running),
            groups=len(self.kv_cache_config.kv_cache_groups),
            lookahead_tokens=self.num_lookahead_tokens,
        )

    def _note_first_tokens(self, now: float) -> None:
        for request in [r for r in self._without_token if r.num_output_tokens]:
            self._without_token.discard(request)
            state = self._states[request.request_id]
            state.first_token_at, state.tokens = now, request.num_output_tokens
            if state.evicted:  # it came after the eviction
                self.waiting.reorder(request)

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
        with self._contained():
            self.run_everything()
        with self._contained():
            self.waiting.begin_step(self.clock(), NEVER)
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
            self._parking.look_again()

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
grammars.install()

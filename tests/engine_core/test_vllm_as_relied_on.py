"""What our scheduler overrides and touches of vLLM 0.32.0 is not a public interface.

These say what broke when its version moves: signatures and texts where nothing else can be held
on to, and vLLM's own scheduler taken through steps where it can.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine_core.by_hand import BLOCK_SIZE, ByHand, vllm_config

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

FAR = 1 << 60


@pytest.fixture(scope="module")
def config() -> Any:
    return vllm_config(max_num_seqs=8)


@pytest.fixture(params=["Scheduler", "AsyncScheduler"])
def vllms(request: pytest.FixtureRequest, config: Any) -> Callable[..., ByHand]:
    """Makes vLLM's own schedulers."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    scheduler = {"Scheduler": Scheduler, "AsyncScheduler": AsyncScheduler}[request.param]
    return lambda blocks=64: ByHand(scheduler, config, blocks)


def test_its_attributes_that_are_read_are_there_from_the_beginning(
    vllms: Callable[..., ByHand],
) -> None:
    scheduler = vllms(blocks=64).scheduler

    assert scheduler.running == []
    assert scheduler.requests == {}
    assert len(scheduler.waiting) == len(scheduler.kv_holding_waiting) == 0
    assert scheduler.max_num_active_reqs == scheduler.max_num_running_reqs == 8
    assert (scheduler.current_step, scheduler.num_spec_tokens) == (0, 0)
    assert scheduler.block_size == BLOCK_SIZE
    assert scheduler.vllm_config.additional_config == {}
    assert scheduler.kv_cache_manager.watermark_blocks >= 0
    pool = scheduler.kv_cache_manager.block_pool
    assert pool.num_gpu_blocks == 64
    assert pool.get_num_free_blocks() == 63
    assert scheduler._pause_state.name == "UNPAUSED"


def test_the_states_of_a_pause_are_those_three() -> None:
    from vllm.v1.core.sched.interface import PauseState

    assert [state.name for state in PauseState] == ["UNPAUSED", "PAUSED_NEW", "PAUSED_ALL"]


def test_a_request_has_what_is_read_and_written(vllms: Callable[..., ByHand]) -> None:
    request = vllms().add("a", prompt=8)

    assert request.next_decode_eligible_step == 0
    assert request.num_in_flight_tokens == request.num_output_placeholders == 0
    assert request.is_prefill_chunk is False
    assert (request.num_tokens, request.num_prompt_tokens) == (8, 8)
    assert request.num_output_tokens == request.num_computed_tokens == 0
    assert request.client_index == 0
    assert request.status.name == "WAITING"
    assert request.sampling_params.extra_args == {"tokenstream": {}}
    assert len({request}) == 1  # kept in sets


def test_one_whose_next_step_lies_ahead_gets_no_step_and_keeps_its_blocks(
    vllms: Callable[..., ByHand],
) -> None:
    engine = vllms()
    parked, other = engine.add("parked", prompt=20), engine.add("other")
    engine.steps(2)
    had = (engine.blocks_of(parked), parked.num_output_tokens)

    parked.next_decode_eligible_step = FAR
    assert engine.steps(20) == [{"other"}] * 20

    assert (engine.blocks_of(parked), parked.num_output_tokens) == had
    assert parked.status.name == "RUNNING"
    assert other.num_output_tokens == 22
    parked.next_decode_eligible_step = engine.scheduler.current_step + 1
    assert engine.steps(1) == [{"parked", "other"}]


def test_a_step_counts_before_it_looks_who_may_have_one(vllms: Callable[..., ByHand]) -> None:
    engine = vllms()
    request = engine.add("a")
    engine.steps(1)
    assert engine.scheduler.current_step == 1
    request.next_decode_eligible_step = 3
    assert engine.steps(2) == [set(), {"a"}]


def test_under_pressure_the_last_of_the_running_is_preempted_and_waits_in_front(
    vllms: Callable[..., ByHand],
) -> None:
    engine = vllms(blocks=8)  # seven of them for requests
    first, last = engine.add("first", prompt=40), engine.add("last", prompt=40)
    engine.steps(1)
    assert engine.scheduler.running == [first, last]
    waiting = engine.add("waiting", prompt=40)
    had = engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    assert had == 1
    # Each needs a fourth block at its 49th token: one gets it, the other one makes room.
    taken = engine.steps(10)
    assert taken[-1] == {"first"}
    assert engine.scheduler.running == [first]
    assert list(engine.scheduler.waiting)[:2] == [last, waiting]
    assert last.status.name == "PREEMPTED"
    assert last.num_computed_tokens == last.num_output_placeholders == 0
    assert last.num_preemptions == 1
    assert last.num_output_tokens > 0


def test_one_that_waits_never_evicts_one_that_runs(vllms: Callable[..., ByHand]) -> None:
    engine = vllms(blocks=8)
    engine.add("first", prompt=90, output=5)
    engine.steps(1)
    engine.add("second", prompt=90, output=5)
    taken = engine.steps(12)
    assert taken[:4] == [{"first"}] * 4
    assert {"second"} in taken
    assert {"first", "second"} not in taken


def test_a_preemption_by_hand_puts_one_at_the_front_and_takes_its_blocks(
    vllms: Callable[..., ByHand],
) -> None:
    engine = vllms()
    request = engine.add("a", prompt=40)
    engine.steps(3)
    waiting = engine.add("b")
    engine.scheduler.running.remove(request)
    engine.scheduler._preempt_request(request, 1.0)
    assert list(engine.scheduler.waiting) == [request, waiting]
    assert engine.blocks_of(request) == 0
    assert engine.steps(1) == [{"a", "b"}]


def test_a_preemption_leaves_the_next_step_of_one_as_it_is(vllms: Callable[..., ByHand]) -> None:
    engine = vllms()
    request = engine.add("a")
    engine.steps(3)
    request.next_decode_eligible_step = FAR
    engine.scheduler.running.remove(request)
    engine.scheduler._preempt_request(request, 1.0)
    assert request.next_decode_eligible_step == FAR


def test_no_more_are_admitted_than_may_be_active(vllms: Callable[..., ByHand]) -> None:
    engine = vllms()
    for number in range(4):
        engine.add(str(number))
    engine.scheduler.max_num_active_reqs = 2
    assert engine.steps(1) == [{"0", "1"}]
    engine.scheduler.max_num_active_reqs = 3
    assert engine.steps(1) == [{"0", "1", "2"}]


def test_what_is_in_flight_is_counted_between_a_step_and_its_output(
    vllms: Callable[..., ByHand],
) -> None:
    engine = vllms()
    request = engine.add("a", prompt=8)
    scheduled = engine.begin_step()
    assert request.num_in_flight_tokens == scheduled.num_scheduled_tokens["a"] == 8
    assert scheduled.total_num_scheduled_tokens == 8
    assert request.num_computed_tokens == 8  # told ahead of the output
    is_async = type(engine.scheduler).__name__ == "AsyncScheduler"
    assert request.num_output_placeholders == is_async
    engine.end_step(scheduled)
    assert request.num_in_flight_tokens == request.num_output_placeholders == 0
    assert request.num_output_tokens == 1


def test_a_prompt_that_is_computed_in_parts_says_so_until_the_last(config: Any) -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    engine = ByHand(AsyncScheduler, config)
    engine.scheduler.max_num_scheduled_tokens = 16
    request = engine.add("a", prompt=40)
    chunks = []
    for _ in range(4):
        scheduled = engine.begin_step()
        chunks.append(request.is_prefill_chunk)
        engine.end_step(scheduled)
    assert chunks == [True, True, False, False]


def test_what_is_returned_when_a_request_is_freed_comes_out_with_its_last_token(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    freed = AsyncScheduler._free_request

    def free(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert freed(self, *args, **kwargs) == (None, None)
        return {"tokenstream": {"queued_s": 1.0}}, None

    monkeypatch.setattr(AsyncScheduler, "_free_request", free)
    engine = ByHand(AsyncScheduler, config)
    engine.add("a", output=2)
    outputs = [engine.end_step(engine.begin_step()) for _ in range(2)]
    assert [output.kv_transfer_params for (output,) in outputs] == [
        None,
        {"tokenstream": {"queued_s": 1.0}},
    ]
    assert not engine.scheduler.requests


def test_outputs_are_made_of_the_fields_that_an_end_of_ours_has() -> None:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

    end = EngineCoreOutput(
        request_id="a", new_token_ids=[], finish_reason=FinishReason.ABORT, stop_reason="why"
    )
    assert end.finished
    assert end.kv_transfer_params is None
    batch = EngineCoreOutputs()
    batch.outputs.append(end)
    assert EngineCoreOutputs().outputs == []


def test_those_that_are_passed_over_come_back_at_the_end_of_the_step() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    text = inspect.getsource(Scheduler.schedule)
    assert "request = request_queue.peek_request()" in text
    assert "request = request_queue.pop_request()" in text
    assert "request_to_skip = from_queue.pop_request()" in text
    put_back = text.index("self.waiting.prepend_requests(step_skipped_waiting)")
    assert put_back > text.index("request = request_queue.pop_request()")


def test_running_ones_are_asked_for_their_next_step_in_one_place() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import Request

    schedule = inspect.getsource(Scheduler.schedule)
    assert schedule.count("self.current_step < request.next_decode_eligible_step") == 1
    assert inspect.getsource(Scheduler).count("next_decode_eligible_step:") == 1
    assert "self.next_decode_eligible_step = 0" in inspect.getsource(Request.__init__)


def test_the_engine_sleeps_and_drains_by_what_has_requests_says() -> None:
    from vllm.v1.engine.core import EngineCore, EngineCoreProc

    for function, said in (
        (EngineCore.step, "if not self.scheduler.has_requests():"),
        (EngineCore.step_with_batch_queue, "if self.scheduler.has_requests():"),
        (EngineCoreProc.has_work, "or self.scheduler.has_requests()"),
        (EngineCoreProc._process_input_queue, "while not self.has_work() and self.is_running()"),
        (EngineCoreProc._handle_shutdown, "if not self.has_work():"),
    ):
        assert said in inspect.getsource(function)


@pytest.mark.parametrize("step", ["step", "step_with_batch_queue"])
def test_a_step_that_schedules_nothing_is_updated_from_too(step: str) -> None:
    """What was given up while nothing runs is told by the update of that step."""
    from vllm.v1.engine.core import EngineCore

    text = inspect.getsource(getattr(EngineCore, step))
    assert text.count("self.scheduler.update_from_output(") == 1
    before = text[: text.index("self.scheduler.update_from_output(")]
    assert "total_num_scheduled_tokens == 0" not in before
    if step == "step_with_batch_queue":
        assert "batch_queue.appendleft((future, scheduler_output, exec_future))" in before


def test_a_configuration_has_what_is_looked_at_when_the_engine_starts(config: Any) -> None:
    from service.engine_core.support import refuse_what_is_not_supported

    assert config.scheduler_config.policy == "fcfs"
    assert config.scheduler_config.max_num_active_seqs is None
    assert config.parallel_config.data_parallel_size == 1
    assert config.model_config.runner_type == "generate"
    assert (config.model_config.is_moe, config.model_config.is_diffusion) == (False, False)
    refuse_what_is_not_supported(config)


def test_a_utility_call_finds_a_method_by_its_name_and_wakes_the_engine() -> None:
    from vllm.v1.engine import EngineCoreRequestType
    from vllm.v1.engine.core import EngineCoreProc

    text = inspect.getsource(EngineCoreProc._handle_client_request)
    assert "getattr(self, method_name)" in text
    assert "EngineCoreRequestType.WAKEUP" in text
    assert EngineCoreRequestType.WAKEUP.name == "WAKEUP"

"""Whatever was decided about a request, it comes to its end: our scheduler, taken by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import FakeClock
from tests.engine_core.by_hand import ByHand, vllm_config

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

SETTINGS = {"high_mark": 8, "low_mark": 2}


@pytest.fixture(scope="module")
def config() -> Any:
    return vllm_config(max_num_seqs=8, additional_config={"tokenstream": SETTINGS})


@pytest.fixture
def ours(config: Any, clock: FakeClock) -> Callable[..., ByHand]:
    """Makes our scheduler, whose service is there."""
    from service.engine_core.scheduler import StreamScheduler

    def make(blocks: int = 64) -> ByHand:
        engine = ByHand(StreamScheduler, config, blocks)
        engine.scheduler.clock = clock
        engine.scheduler.readers_moved([], [])
        return engine

    return make


def ended_within(engine: ByHand, request: Any, steps: int) -> bool:
    """Take steps, in each of which all that is out is read, until a request has ended."""
    for _ in range(steps):
        if request.is_finished():
            return True
        engine.scheduler.readers_moved([request.request_id], [request.num_output_tokens])
        engine.steps(1)
        engine.scheduler.clock.now += 0.02
    return bool(request.is_finished())


def fail(self: Any, now: float) -> None:
    raise RuntimeError("a decision that cannot be made")


def test_one_that_was_parked_ends_when_it_is_read(ours: Callable[..., ByHand]) -> None:
    engine = ours()
    request = engine.add("a", output=30)
    engine.steps(20)
    assert request.num_output_tokens == 8
    assert not engine.scheduler.has_requests()
    assert ended_within(engine, request, 60)


@pytest.mark.parametrize("v2_model_runner", [False, True])
@pytest.mark.parametrize("step_tokens", [2048, 24], ids=["at once", "in parts"])
def test_one_that_was_evicted_while_it_was_parked_ends_when_it_is_read(
    ours: Callable[..., ByHand], step_tokens: int, v2_model_runner: bool
) -> None:
    engine = ours(blocks=8)  # seven of them for requests
    engine.scheduler.max_num_scheduled_tokens = step_tokens
    engine.scheduler.use_v2_model_runner = v2_model_runner
    parked = engine.add("parked", prompt=40, output=30)
    engine.steps(20)
    assert engine.scheduler.has_requests() is False
    urgent = engine.add("urgent", prompt=90, output=3)
    engine.scheduler.clock.now += 0.2
    assert ended_within(engine, urgent, 20)
    assert (parked.num_preemptions, parked.status.name) == (1, "PREEMPTED")
    assert ended_within(engine, parked, 100)


def test_one_that_was_parked_ends_when_decisions_fail_from_then_on(
    ours: Callable[..., ByHand], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ours()
    request = engine.add("a", output=30)
    engine.steps(20)
    monkeypatch.setattr(engine.scheduler._parking, "look", fail)
    engine.scheduler.readers_moved(["a"], [7])
    engine.steps(40)
    assert engine.scheduler.counts.failures > 0
    assert request.is_finished()


def test_one_that_was_evicted_for_a_while_ends_when_decisions_fail_from_then_on(
    ours: Callable[..., ByHand], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ours(blocks=8)
    away = engine.add("away", prompt=60, output=12, reading_rate=0.1)
    engine.steps(5)
    urgent = engine.add("urgent", prompt=70, output=3)
    engine.scheduler.clock.now += 0.2
    engine.steps(1)
    assert away.status.name == "PREEMPTED"
    monkeypatch.setattr(type(engine.scheduler), "_give_up_the_hopeless", fail)
    assert ended_within(engine, urgent, 10)
    engine.scheduler.clock.now += 100.0
    assert ended_within(engine, away, 50)


def test_a_decision_that_fails_before_the_queue_was_looked_at_ends_nothing(
    ours: Callable[..., ByHand], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two batches in flight: the one that was just admitted has no step in the next one."""
    engine = ours()
    request = engine.add("a", output=1)
    first = engine.begin_step()
    monkeypatch.setattr(type(engine.scheduler), "_give_up_the_hopeless", fail)
    second = engine.begin_step()
    assert not second.num_scheduled_tokens
    for scheduled in (first, second):
        engine.end_step(scheduled)
    assert request.is_finished()


def test_one_that_is_given_up_is_told_so_once(ours: Callable[..., ByHand]) -> None:
    engine = ours(blocks=8)
    engine.add("runs", prompt=90, output=15)
    engine.steps(1)
    engine.add("hopeless", prompt=90, deadline=engine.scheduler.clock.now + 0.1)
    engine.scheduler.clock.now += 0.2
    outputs = [o for _ in range(3) for o in engine.end_step(engine.begin_step())]
    (end,) = [o for o in outputs if o.request_id == "hopeless"]
    assert (end.finish_reason.name, end.stop_reason) == ("ABORT", "tokenstream: deadline")
    assert "hopeless" not in engine.scheduler.requests


def test_the_last_token_carries_an_account_of_where_the_time_went(
    ours: Callable[..., ByHand],
) -> None:
    engine = ours()
    request = engine.add("a", output=4)
    began = engine.scheduler.clock.now
    engine.scheduler.clock.now += 1.0
    outputs: list[Any] = []
    while not request.is_finished():
        outputs += engine.end_step(engine.begin_step())
        engine.scheduler.clock.now += 0.5
    account = outputs[-1].kv_transfer_params["tokenstream"]
    assert account["queued_s"] == 1.0
    assert sum(v for k, v in account.items() if k.endswith("_s")) == (
        engine.scheduler.clock.now - 0.5 - began
    )
    assert not engine.scheduler._states
    assert engine.scheduler._shares.counters() == {}


def test_more_adapters_than_slots_come_back_from_parking_one_after_another(
    clock: FakeClock,
) -> None:
    from service.engine_core.scheduler import StreamScheduler

    config = vllm_config(
        max_num_seqs=8,
        enable_lora=True,
        max_loras=2,
        max_lora_rank=8,
        additional_config={"tokenstream": SETTINGS},
    )
    engine = ByHand(StreamScheduler, config)
    engine.scheduler.clock = clock
    engine.scheduler.readers_moved([], [])
    # Each is parked when the next one comes, so all six have been let in, two adapters at most in
    # a step; and then all are read at once.
    requests = []
    for number in range(6):
        requests.append(engine.add(str(number), output=30, adapter=1 + number % 3))
        engine.steps(10)
    assert len(engine.scheduler.running) == 6
    engine.scheduler.readers_moved([str(n) for n in range(6)], [8] * 6)
    for request in requests:
        assert ended_within(engine, request, 200)
    assert [request.num_output_tokens for request in requests] == [30] * 6
    assert engine.scheduler.counts.failures == 0


def test_a_pause_evicts_nobody_for_one_that_it_does_not_let_in(
    ours: Callable[..., ByHand],
) -> None:
    from vllm.v1.core.sched.interface import PauseState

    engine = ours(blocks=8)
    reads = engine.add("reads", prompt=60, output=12, reading_rate=0.1)
    engine.steps(5)
    engine.add("waits", prompt=60, reading_rate=4.0)
    engine.scheduler.clock.now += 2.0
    engine.scheduler.set_pause_state(PauseState.PAUSED_NEW)
    engine.steps(3)
    assert reads.num_preemptions == 0
    engine.scheduler.set_pause_state(PauseState.UNPAUSED)
    engine.steps(1)
    assert reads.num_preemptions == 1


def test_a_first_token_that_came_after_an_eviction_is_noticed_where_it_waits(
    ours: Callable[..., ByHand],
) -> None:
    engine = ours()
    request = engine.add("a", reading_rate=4.0)
    scheduled = engine.begin_step()
    engine.scheduler.running.remove(request)
    engine.scheduler._preempt_request(request, 0.0)
    engine.end_step(scheduled)
    state = engine.scheduler._states["a"]
    if request.num_output_tokens == 0:
        request.append_output_token_ids(2)  # what vLLM delivers of a step that was on its way
    engine.scheduler._decide(engine.scheduler.clock())
    assert state.first_token_at is not None
    waiting = engine.scheduler.waiting
    assert not any(lane.fresh for lane in waiting._lanes.values())
    assert ended_within(engine, request, 200)

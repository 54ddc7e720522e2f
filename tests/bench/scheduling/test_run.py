"""Small traces through vLLM's real scheduler and ours, in virtual time."""

from dataclasses import replace

import pytest

from bench.scheduling import traces
from bench.scheduling.cases import OURS
from bench.scheduling.measures import measure
from bench.scheduling.run import STALL_ENDS_S, TURN_S, run
from bench.scheduling.traces import Arrival
from bench.scheduling.virtual_engine import EngineSetup, VirtualEngine
from bench.simulation import Simulation

pytestmark = pytest.mark.engine

# Blocks for some five requests at once.
_SMALL = EngineSetup(
    Simulation(step_us=15_000, per_sequence_us=50, per_prefill_token_us=50, kv_tokens=2400),
    max_num_seqs=16,
    watermark=0.05,
)
_BOTH = pytest.mark.parametrize("scheduler", [None, OURS], ids=["vllm", "ours"])


@_BOTH
def test_a_trace_comes_to_its_end_and_every_request_has_its_tokens(scheduler: str | None) -> None:
    trace = traces.bursts(1, 3.0, 1.5, 10.0)
    result = run(trace, replace(_SMALL, scheduler=scheduler))
    assert all(r.complete and r.tokens == r.arrival.output_tokens for r in result.readings)
    measures = measure(result)
    assert measures.tokens == sum(a.output_tokens for a in trace)
    assert 0 < measures.first_token_p50 <= measures.first_token_p99 <= measures.total_p99
    assert 0 < measures.quality <= 1


@_BOTH
def test_the_same_trace_gives_the_same_result_every_time(scheduler: str | None) -> None:
    setup = replace(_SMALL, scheduler=scheduler)
    first, second = (run(traces.steady(2, 2.0, 5.0), setup) for _ in range(2))
    assert [r.deliveries for r in first.readings] == [r.deliveries for r in second.readings]


@_BOTH
def test_tokens_are_the_known_ones_also_of_requests_that_were_evicted(
    scheduler: str | None,
) -> None:
    # Nobody tells how far the readers are, so nobody may be parked.
    settings = {"flow_control": False} if scheduler else None
    engine = VirtualEngine(replace(_SMALL, scheduler=scheduler, scheduler_config=settings))
    known = _SMALL.simulation.tokens
    prompts = [known.prompt(number, 250) for number in range(6)]
    came: dict[str, list[int]] = {str(number): [] for number in range(6)}
    for number, prompt in enumerate(prompts):
        said = {"tokenstream": {"reading_rate": 4.8}} if scheduler else None
        engine.add(str(number), prompt, 250, said)
    preempted = 0
    while engine.has_work:
        decoded, executed = engine.step()
        if not executed and not decoded:
            engine.clock.wait_until(engine.clock.now() + TURN_S)
        preempted += any(r.num_preemptions for r in engine.scheduler.running)
        for output in decoded:
            came[output.request_id] += output.tokens
    engine.close()
    assert preempted
    assert [came[str(n)] for n in range(6)] == [known.answer(p, 250) for p in prompts]


@_BOTH
def test_a_stalled_reader_is_ended_in_the_end(scheduler: str | None) -> None:
    trace = [
        Arrival(0, 0.0, 100, 1900, None, stops_reading_at=10),
        Arrival(1, 0.0, 100, 300, None),
    ]
    setup = replace(_SMALL, scheduler=scheduler, max_num_seqs=2)
    slow = replace(setup, simulation=replace(setup.simulation, step_us=30_000))
    stalled, live = run(trace, slow).readings
    assert live.complete
    assert not stalled.complete
    assert stalled.left_at == pytest.approx(STALL_ENDS_S, abs=1.0)
    ahead = stalled.tokens - stalled.position
    assert ahead <= 256 if scheduler else ahead > 900


@_BOTH
def test_callers_hang_up_at_their_deadline(scheduler: str | None) -> None:
    trace = traces.with_deadlines(traces.steady(1, 6.0, 5.0), 0.5, None)
    result = run(trace, replace(_SMALL, scheduler=scheduler))
    given_up = [r for r in result.readings if not r.deliveries]
    assert given_up
    for reading in given_up:
        assert reading.left_at is not None
        assert reading.first_wait_s <= 0.5 + 0.1  # to the end of the step
    assert 0 < measure(result).in_time < len(trace)


def test_requests_without_an_end_are_an_error_unless_the_run_was_to_stop_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = traces.steady(1, 6.0, 3.0)
    cut = run(trace, _SMALL, until_s=2.0)
    assert any(not r.complete for r in cut.readings)
    monkeypatch.setattr("bench.scheduling.run._MOST_S", 2.0)
    with pytest.raises(RuntimeError, match="have no end"):
        run(trace, _SMALL)

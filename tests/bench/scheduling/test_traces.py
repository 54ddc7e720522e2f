import pytest

from bench.scheduling import traces
from bench.scheduling.traces import Trace


def _rate(trace: Trace, begin: float, end: float) -> float:
    return sum(begin <= a.at < end for a in trace) / (end - begin)


def test_the_same_seed_gives_the_same_trace() -> None:
    assert traces.bursts(3, 20.0, 10.0) == traces.bursts(3, 20.0, 10.0)
    assert traces.bursts(3, 20.0, 10.0) != traces.bursts(4, 20.0, 10.0)


def test_arrivals_are_numbered_in_order_and_of_the_usual_sizes() -> None:
    trace = traces.steady(1, 10.0)
    assert [a.number for a in trace] == list(range(len(trace)))
    assert [a.at for a in trace] == sorted(a.at for a in trace)
    assert {100 <= a.prompt_tokens <= 300 and 40 <= a.output_tokens <= 600 for a in trace} == {True}


def test_a_steady_load_has_its_rate() -> None:
    assert _rate(traces.steady(1, 20.0, 500.0), 0, 500) == pytest.approx(20.0, rel=0.04)


def test_bursts_have_their_peak_and_their_mean() -> None:
    trace = traces.bursts(1, 24.0, 12.0, 1000.0)
    peaks = sum(a.at % 20 < 7 for a in trace)
    assert peaks / 350 == pytest.approx(24.0, rel=0.04)
    assert _rate(trace, 0, 1000) == pytest.approx(12.0, rel=0.04)


def test_bursts_that_are_more_than_their_mean_are_refused() -> None:
    with pytest.raises(ValueError, match="more than a mean"):
        traces.bursts(1, 24.0, 8.0)


def test_half_of_the_readers_stall_soon() -> None:
    trace = traces.half_stalled(1, 5.0, (400, 1200), 60.0)
    stops = [a.stops_reading_at for a in trace if a.stops_reading_at is not None]
    assert len(stops) == len(trace) // 2
    assert 1 <= min(stops) <= max(stops) <= 100
    assert {a.reading_rate for a in trace} == {None}


def test_readers_of_three_rates_are_as_many_each() -> None:
    rates = [a.reading_rate for a in traces.mixed_rates(1, 20.0)]
    for rate in (4.8, 20.0, None):
        assert rates.count(rate) / len(rates) == pytest.approx(1 / 3, abs=0.05)


def test_a_tenant_alone_comes_when_it_comes_beside_the_other() -> None:
    trace = traces.two_tenants(1, 2.0, 20.0)
    alone = traces.only(trace, "quiet")
    assert alone == [a for a in trace if a.tenant == "quiet"]
    assert (len(trace) - len(alone)) / len(alone) == pytest.approx(10.0, rel=0.25)


def test_deadlines_are_of_all_and_change_no_arrival() -> None:
    trace = traces.steady(1, 10.0)
    late = traces.with_deadlines(trace, 2.0, None, hang_up=False)
    assert [(a.at, a.output_tokens) for a in late] == [(a.at, a.output_tokens) for a in trace]
    assert {(a.deadline_s, a.hangs_up) for a in late} == {(2.0, False)}

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine_core.counts import SchedulerCounts


def test_before_the_first_decision_none_took_any_time() -> None:
    assert SchedulerCounts().decision_p99_s() == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_the_99th_percentile_is_a_decision_that_at_most_one_in_a_hundred_is_longer_than(
    durations: list[float],
) -> None:
    counts = SchedulerCounts()
    for seconds in durations:
        counts.decided(seconds)
    p99 = counts.decision_p99_s()
    assert p99 in durations
    assert sum(seconds > p99 for seconds in durations) <= 0.01 * len(durations)


def test_the_99th_percentile_is_not_the_longest_decision_of_a_thousand() -> None:
    counts = SchedulerCounts()
    for number in range(1000):
        counts.decided(1.0 if number in (3, 500) else 0.001)
    assert counts.decision_p99_s() == 0.001


def test_only_the_newest_thousand_decisions_are_kept() -> None:
    counts = SchedulerCounts()
    for seconds in [5.0] * 1000 + [0.001] * 1000:
        counts.decided(seconds)
    assert counts.decision_p99_s() == 0.001
    assert len(counts._decisions) == 1000


def test_a_preemption_counts_what_has_to_be_computed_again_and_whether_it_was_parked() -> None:
    counts = SchedulerCounts()
    counts.preempted(100, parked=True)
    counts.preempted(20, parked=False)
    counts.preempted(3, parked=False)
    assert (counts.preemptions, counts.evicted_parked, counts.recomputed_tokens) == (3, 1, 123)


@pytest.mark.parametrize("name", ["failures", "given_up", "evicted_parked"])
def test_the_counts_begin_at_zero(name: str) -> None:
    assert getattr(SchedulerCounts(), name) == 0

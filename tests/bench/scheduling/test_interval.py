import pytest

from bench.scheduling.interval import Interval


def test_an_interval_of_five_is_students() -> None:
    interval = Interval.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert interval.mean == 3.0
    assert interval.half == pytest.approx(2.776 * (2.5 / 5) ** 0.5)
    assert interval.render("{:.1f}") == "3.0 ± 2.0"


def test_of_many_it_is_the_normal_distributions() -> None:
    assert Interval.of([0.0, 1.0] * 50).half == pytest.approx(1.96 * 0.0502519, rel=1e-4)


def test_a_single_run_and_equal_runs_have_no_width() -> None:
    assert Interval.of([2.0]).render("{:.2f}") == "2.00"
    assert Interval.of([2.0, 2.0001, 2.0]).render("{:.2f}") == "2.00"

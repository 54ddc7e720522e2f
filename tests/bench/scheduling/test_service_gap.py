from bench.scheduling.reader import Reading
from bench.scheduling.service_gap import bound, largest_gap
from bench.scheduling.traces import Arrival


def _reading(tenant: str, at: float, *deliveries: tuple[float, int]) -> Reading:
    reading = Reading(Arrival(0, at, 100, 1000, None, tenant))
    for moment, tokens in deliveries:
        reading.deliver(moment, tokens)
    return reading


def test_what_one_gets_while_both_wait_is_the_gap() -> None:
    readings = [
        _reading("a", 0.0, (1.0, 10), (2.0, 5)),
        _reading("a", 0.0, (9.0, 1)),
        _reading("b", 0.0, (3.0, 1)),
    ]
    # 100 + 20 at 1 s and 10 at 2 s for a; at 3 s b has what it waited for.
    assert largest_gap(readings, "a", "b") == 130
    assert largest_gap(readings, "b", "a") == 130


def test_what_is_served_while_only_one_waits_is_no_gap() -> None:
    readings = [
        _reading("a", 0.0, (1.0, 50), (2.0, 50)),
        _reading("a", 0.0, (5.0, 1)),
        _reading("b", 6.0, (6.5, 1)),
    ]
    assert largest_gap(readings, "a", "b") == 0


def test_a_gap_counts_within_each_stretch_not_over_all() -> None:
    stretches = []
    for at in (0.0, 10.0):
        stretches += [
            _reading("a", at, (at + 1, 1), (at + 2, 20)),
            _reading("a", at, (at + 4, 1)),
            _reading("b", at, (at + 4, 1)),
        ]
    assert largest_gap(stretches, "a", "b") == 100 + 2 + 40


def test_requests_that_are_given_up_do_not_wait_any_more() -> None:
    gone = _reading("b", 0.0)
    gone.left_at = 1.0
    readings = [gone, _reading("a", 0.0, (2.0, 50)), _reading("a", 0.0, (3.0, 1))]
    assert largest_gap(readings, "a", "b") == 0


def test_the_bound_is_the_papers() -> None:
    assert bound(300, 40_000) == 160_000
    assert bound(300, 100) == 600

import random

import pytest

from bench.scheduling.reader import FIRST_TOKEN_TARGET_S, Reading
from bench.scheduling.traces import Arrival


def _reading(
    *deliveries: tuple[float, int],
    rate: float | None = 2.0,
    outputs: int = 100,
    stops_at: int | None = None,
    at: float = 10.0,
) -> Reading:
    reading = Reading(Arrival(0, at, 100, outputs, rate, stops_reading_at=stops_at))
    for after, tokens in deliveries:
        reading.deliver(at + after, tokens)
    return reading


def test_a_reader_that_never_waits_has_a_quality_of_one() -> None:
    assert _reading((0.2, 1), (0.3, 1), (0.4, 5)).quality() == 1.0


def test_a_late_first_token_makes_all_that_follow_late() -> None:
    # Two a second from second 3 on, ideally from second 1: 3 x 2 s late of 3 + 3.5 + 4 s.
    reading = _reading((3.0, 3))
    assert reading.quality() == pytest.approx(1 - 6 / 10.5)
    assert reading.longest_wait_s() == pytest.approx(3.0)
    assert reading.stalled_s() == 0.0


def test_a_stall_counts_from_when_its_reader_has_run_dry() -> None:
    # Read at 1 and 1.5; the third was due at 2 and comes at 5: 3 s late of 1 + 1.5 + 5.
    reading = _reading((1.0, 2), (5.0, 1))
    assert reading.quality() == pytest.approx(1 - 3 / 7.5)
    assert reading.stalled_s() == pytest.approx(3.0)
    assert reading.longest_wait_s() == pytest.approx(3.0)


def test_tokens_that_come_ahead_of_the_reader_are_worth_nothing_more() -> None:
    assert _reading((1.0, 4)).quality() == _reading((1.0, 1), (1.4, 3)).quality()


def test_a_request_that_never_got_a_token_has_no_quality_and_waited_until_it_was_given_up() -> None:
    reading = _reading()
    reading.left_at = 12.5
    assert reading.quality() == 0.0
    assert reading.first_token_s is None
    assert reading.first_wait_s == reading.longest_wait_s() == 2.5


def test_a_total_time_is_only_of_complete_requests() -> None:
    assert _reading((1.0, 2), outputs=3).total_s is None
    assert _reading((1.0, 2), (2.0, 1), outputs=3).total_s == 2.0


def test_a_stalled_reader_takes_nothing_more_and_waits_for_nothing() -> None:
    reading = _reading((0.5, 4), (9.0, 1), rate=None, stops_at=3)
    assert reading.stalled
    assert (reading.tokens, reading.position) == (5, 3)
    assert reading.longest_wait_s() == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_quality_is_that_of_the_formula_token_by_token(seed: int) -> None:
    rng = random.Random(seed)
    rate = rng.choice([None, 4.8, 20.0])
    moment, deliveries = rng.expovariate(0.5), []
    for _ in range(rng.randint(1, 40)):
        deliveries.append((moment, rng.randint(1, 3)))
        moment += rng.expovariate(rng.choice([0.3, 20.0]))
    assert _reading(*deliveries, rate=rate).quality() == pytest.approx(_naive(deliveries, rate))


def _naive(deliveries: list[tuple[float, int]], rate: float | None) -> float:
    delivered = [moment for moment, tokens in deliveries for _ in range(tokens)]
    gap = 1 / rate if rate else 0.0
    ideal = [FIRST_TOKEN_TARGET_S + i * gap for i in range(len(delivered))]
    actual = delivered[:1]
    for moment in delivered[1:]:
        actual.append(max(moment, actual[-1] + gap))
    late = [a - i for a, i in zip(actual, ideal, strict=True) if a > i]
    return 1 - sum(late) / sum(actual)

"""What is reported of a result."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.scheduling.reader import Reading
from bench.scheduling.run import Result
from bench.scheduling.service_gap import largest_gap

WELL = 0.95  # the QoE of a request that was served well


@dataclass(frozen=True, slots=True)
class Measures:
    """One run's figures. Times in seconds, except where the name says microseconds.

    A request that never got a token counts with the time until it was given up. Tokens per second
    are over the time until the last token of those meant. 0 where there is nothing to measure.
    """

    requests: int
    quality: float  # mean QoE of those that declared a rate
    well_served: float  # share of them with a QoE of at least 0.95
    stalled_s: float  # their mean time with nothing to read after the first token
    first_token_mean: float
    first_token_p50: float
    first_token_p99: float
    longest_wait: float  # any reader's, for the first token or later
    total_p50: float
    total_p99: float
    tokens_per_s: float
    live_tokens_per_s: float  # of readers that do not stall
    live_tokens_per_s_under_load: float  # the same, in the later two thirds of the arrivals
    fast_tokens_per_s: float  # of readers without a rate, while requests arrive
    tokens: int
    for_nobody_most: int  # decoded beyond where a stalled reader stopped, of one stream
    in_time: int  # requests whose first token came before their deadline
    quiet_first_token_p99: float  # of the tenant `quiet`
    service_gap: float  # between the tenants `quiet` and `flood`
    preemptions: int
    recomputed_tokens: int
    schedule_us_p50: float
    schedule_us_p99: float
    step_us_p50: float  # the engine's own CPU time of a whole step
    step_us_p99: float


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that this share of the values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def measure(result: Result) -> Measures:
    """Reduce a result to its figures."""
    readings = result.readings
    rated = [r for r in readings if r.arrival.reading_rate is not None]
    qualities = [r.quality() for r in rated]
    firsts = [r.first_wait_s for r in readings]
    totals = [s for r in readings if (s := r.total_s) is not None]
    live = [r for r in readings if r.arrival.stops_reading_at is None]
    fast = [r for r in readings if r.arrival.reading_rate is None]
    quiet = [r.first_wait_s for r in readings if r.arrival.tenant == "quiet"]
    tokens = sum(r.tokens for r in readings)
    return Measures(
        requests=len(readings),
        quality=statistics.fmean(qualities or [0.0]),
        well_served=sum(q >= WELL for q in qualities) / max(1, len(rated)),
        stalled_s=statistics.fmean([r.stalled_s() for r in rated] or [0.0]),
        first_token_mean=statistics.fmean(firsts),
        first_token_p50=percentile(firsts, 0.5),
        first_token_p99=percentile(firsts, 0.99),
        longest_wait=max(r.longest_wait_s() for r in live),
        total_p50=percentile(totals, 0.5),
        total_p99=percentile(totals, 0.99),
        tokens_per_s=tokens / result.lasted_s,
        live_tokens_per_s=sum(r.tokens for r in live) / _last_token_at(live),
        live_tokens_per_s_under_load=_tokens_later(live, readings[-1].arrival.at),
        fast_tokens_per_s=_tokens_until(fast, readings[-1].arrival.at),
        tokens=tokens,
        for_nobody_most=max(r.tokens - r.position for r in readings),
        in_time=sum(_is_in_time(r) for r in readings),
        quiet_first_token_p99=percentile(quiet, 0.99),
        service_gap=largest_gap(readings, "quiet", "flood"),
        preemptions=result.preemptions,
        recomputed_tokens=result.recomputed_tokens,
        schedule_us_p50=1e6 * percentile(result.schedule_s, 0.5),
        schedule_us_p99=1e6 * percentile(result.schedule_s, 0.99),
        step_us_p50=1e6 * percentile(result.step_s, 0.5),
        step_us_p99=1e6 * percentile(result.step_s, 0.99),
    )


def delivered_between(readings: Sequence[Reading], begin: float, end: float) -> int:
    """Tokens that came after `begin`, and at `end` at the latest."""
    return sum(_delivered_by(r, end) - _delivered_by(r, begin) for r in readings)


def _delivered_by(reading: Reading, moment: float) -> int:
    return max((upto for at, upto in reading.deliveries if at <= moment), default=0)


def _last_token_at(readings: Sequence[Reading]) -> float:
    return max(r.deliveries[-1][0] for r in readings if r.deliveries)


def _tokens_later(readings: Sequence[Reading], last_arrival: float) -> float:
    """Tokens a second in the later two thirds of the arrivals, when the queue has built up."""
    begin = last_arrival / 3
    lasts = last_arrival - begin
    return delivered_between(readings, begin, last_arrival) / lasts if lasts else 0.0


def _tokens_until(readings: Sequence[Reading], moment: float) -> float:
    return delivered_between(readings, 0.0, moment) / moment if moment else 0.0


def _is_in_time(reading: Reading) -> bool:
    deadline, first = reading.arrival.deadline_s, reading.first_token_s
    return deadline is not None and first is not None and first <= deadline

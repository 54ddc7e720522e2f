"""What is reported of a result."""

import statistics
from dataclasses import dataclass

from bench.scheduling.run import Result


@dataclass(frozen=True, slots=True)
class Measures:
    """Times in seconds. Percentiles are over the requests that have one."""

    quality: float
    well_served: float  # share of requests with QoE >= 0.95
    first_token_mean: float
    first_token_p50: float
    first_token_p99: float
    first_token_most: float
    total_p99: float
    tokens_per_s: float
    preemptions: int
    recomputed_tokens: int
    schedule_us_p50: float
    schedule_us_p99: float
    requests: int
    unfinished: int


def percentile(values: list[float], share: float) -> float:
    """The least value that this share of the values does not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(result: Result) -> Measures:
    """Reduce a result to its figures."""
    readings = result.readings
    firsts = [s for r in readings if (s := r.first_token_s) is not None]
    totals = [s for r in readings if (s := r.total_s) is not None]
    qualities = [r.quality() for r in readings]
    tokens = sum(r.tokens for r in readings)
    return Measures(
        quality=statistics.fmean(qualities),
        well_served=sum(q >= 0.95 for q in qualities) / len(qualities),
        first_token_mean=statistics.fmean(firsts),
        first_token_p50=percentile(firsts, 0.5),
        first_token_p99=percentile(firsts, 0.99),
        first_token_most=max(firsts),
        total_p99=percentile(totals, 0.99),
        tokens_per_s=tokens / result.lasted_s,
        preemptions=result.preemptions,
        recomputed_tokens=result.recomputed_tokens,
        schedule_us_p50=1e6 * percentile(result.schedule_s, 0.5),
        schedule_us_p99=1e6 * percentile(result.schedule_s, 0.99),
        requests=len(readings),
        unfinished=sum(not r.ended for r in readings),
    )

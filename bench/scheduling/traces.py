"""Workloads: who comes when, with how much, reads how fast, and gives up when.

Each is drawn from a seed and a rate that the engine can just sustain, so that "twice the
sustainable rate" means the same for every engine.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

PROMPT_TOKENS = (100, 300)
OUTPUT_TOKENS = (40, 600)
MEAN_OUTPUT_TOKENS = sum(OUTPUT_TOKENS) / 2
PEOPLE_READ = 4.8  # tokens a second
QUICK_READ = 20.0
LASTS_S = 60.0
# Bursts come every 20 s and fill 35 % of the time.
CYCLE_S = 20.0
BURST_SHARE = 0.35
# Stalled readers take their last token somewhere here.
STALLS_AFTER = (1, 100)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request. Times in seconds from the trace's beginning.

    `reading_rate`: tokens a second that its reader declares and reads; None reads as fast as it
    comes. `stops_reading_at`: token index from which the reader takes nothing. `deadline_s`: after
    which its first token is of no use; `hangs_up`: whether its caller ends it then.
    """

    number: int
    at: float
    prompt_tokens: int
    output_tokens: int
    reading_rate: float | None = PEOPLE_READ
    tenant: str = ""
    stops_reading_at: int | None = None
    deadline_s: float | None = None
    hangs_up: bool = True


Trace = list[Arrival]
Load = Callable[[float], float]  # requests a second at a time


def _arrivals(
    rng: random.Random, load: Load, most: float, lasts_s: float, outputs: tuple[int, int]
) -> Iterator[Arrival]:
    """Draw a Poisson process by thinning: Lewis and Shedler, 1979."""
    at, number = 0.0, 0
    while True:
        at += rng.expovariate(most)
        if at >= lasts_s:
            return
        prompt, output = rng.randint(*PROMPT_TOKENS), rng.randint(*outputs)
        if rng.random() * most <= load(at):
            yield Arrival(number, at, prompt, output)
            number += 1


def steady(
    seed: int, rate: float, lasts_s: float = LASTS_S, outputs: tuple[int, int] = OUTPUT_TOKENS
) -> Trace:
    """`rate` requests a second all the time."""
    return list(_arrivals(random.Random(seed), lambda at: rate, rate, lasts_s, outputs))


def bursts(seed: int, peak: float, mean: float, lasts_s: float = LASTS_S) -> Trace:
    """`peak` requests a second for 35 % of every cycle, and between them what makes the `mean`."""
    calm = (mean - BURST_SHARE * peak) / (1 - BURST_SHARE)
    if calm < 0:
        raise ValueError(f"bursts of {peak} alone are more than a mean of {mean}")

    def load(at: float) -> float:
        return peak if at % CYCLE_S < BURST_SHARE * CYCLE_S else calm

    return list(_arrivals(random.Random(seed), load, peak, lasts_s, OUTPUT_TOKENS))


def mixed_rates(seed: int, rate: float) -> Trace:
    """A third each reads as people do, four times as fast, and as fast as it comes."""
    rng = random.Random(f"rates {seed}")
    rates = (PEOPLE_READ, QUICK_READ, None)
    return [replace(a, reading_rate=rng.choice(rates)) for a in steady(seed, rate)]


def half_stalled(seed: int, rate: float, outputs: tuple[int, int], lasts_s: float) -> Trace:
    """All read as fast as it comes, but every other one takes nothing after its first tokens."""
    rng = random.Random(f"stalls {seed}")
    return [
        replace(
            a,
            reading_rate=None,
            stops_reading_at=rng.randint(*STALLS_AFTER) if a.number % 2 else None,
        )
        for a in steady(seed, rate, lasts_s, outputs)
    ]


def two_tenants(seed: int, quiet: float, flood: float, lasts_s: float = LASTS_S) -> Trace:
    """Requests a second of either; both read as fast as it comes."""
    rng = random.Random(f"tenants {seed}")
    both = quiet + flood
    return [
        replace(a, reading_rate=None, tenant="flood" if rng.random() * both < flood else "quiet")
        for a in steady(seed, both, lasts_s)
    ]


def only(trace: Trace, tenant: str) -> Trace:
    """The same trace with one tenant alone."""
    return [a for a in trace if a.tenant == tenant]


def with_deadlines(
    trace: Trace, deadline_s: float, reading_rate: float | None, *, hang_up: bool = True
) -> Trace:
    """First tokens are of no use after so long."""
    return [
        replace(a, reading_rate=reading_rate, deadline_s=deadline_s, hangs_up=hang_up)
        for a in trace
    ]


def together(requests: int, output_tokens: int) -> Trace:
    """All at once, of one size, read as people do."""
    return [Arrival(n, 0.0, PROMPT_TOKENS[0], output_tokens) for n in range(requests)]

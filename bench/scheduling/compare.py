"""All runs of a comparison, in processes of their own."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from bench.scheduling.cases import BY_NAME, Case
from bench.scheduling.measures import Measures, measure
from bench.scheduling.run import Result, run


@dataclass(frozen=True, slots=True)
class Task:
    """One run. `sustainable`: requests a second."""

    case: str
    variant: str
    seed: int
    sustainable: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, for the plots. Seconds; `at` from the trace's beginning."""

    at: float
    first_wait_s: float
    total_s: float | None
    quality: float | None
    tenant: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `live_tokens`: those of readers that do not stall, in each second."""

    task: Task
    measures: Measures
    seen: tuple[Seen, ...]
    live_tokens: tuple[int, ...]


def tasks(cases: Sequence[Case], seeds: Iterable[int], sustainable: float) -> list[Task]:
    """All runs of these cases, seed by seed."""
    return [
        Task(case.name, variant.name, seed, sustainable)
        for seed in seeds
        for case in cases
        for variant in case.variants
    ]


def outcome(task: Task) -> Outcome:
    """Run one."""
    variant = BY_NAME[task.case].variant(task.variant)
    result = run(variant.trace(task.seed, task.sustainable), variant.setup)
    seen = tuple(
        Seen(
            r.arrival.at,
            r.first_wait_s,
            r.total_s,
            None if r.arrival.reading_rate is None else r.quality(),
            r.arrival.tenant,
        )
        for r in result.readings
    )
    return Outcome(task, measure(result), seen, _live_tokens(result))


def outcomes(wanted: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Run all, so many at once, in their order."""
    if jobs == 1:
        yield from map(outcome, wanted)
        return
    # vLLM and its threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(outcome, wanted)


def _live_tokens(result: Result) -> tuple[int, ...]:
    each = [0] * (int(result.lasted_s) + 1)
    for reading in result.readings:
        if reading.arrival.stops_reading_at is not None:
            continue
        before = 0
        for moment, upto in reading.deliveries:
            each[int(moment)] += upto - before
            before = upto
    return tuple(each)

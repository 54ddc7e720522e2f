"""The workloads of the comparison, and who runs each.

All run with the same settings of ours, its defaults. `vllm` is vLLM's own scheduler, first come
first served; where ours has more places than it, that is said at the case.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.scheduling import traces
from bench.scheduling.traces import PEOPLE_READ, Trace
from bench.scheduling.virtual_engine import EngineSetup
from bench.simulation import Simulation

OURS = "service.engine_core.scheduler.StreamScheduler"
CACHE_TOKENS = 40_000
DEADLINE_S = 2.0
# With this watermark and number of sequences vLLM's own scheduler decodes as much as with any
# (`--tuning`); both get them.
ENGINE = EngineSetup(
    Simulation(step_us=15_000, per_sequence_us=50, per_prefill_token_us=50, kv_tokens=CACHE_TOKENS),
    max_num_seqs=128,
    watermark=0.05,
)
_AMPLE = replace(ENGINE, simulation=replace(ENGINE.simulation, kv_tokens=10 * CACHE_TOKENS))
_PLACES = 32  # of the batch-limited engine

TraceOf = Callable[[int, float], Trace]  # by seed and sustainable rate in requests a second


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a case."""

    name: str
    label: str
    trace: TraceOf
    setup: EngineSetup


@dataclass(frozen=True, slots=True)
class Case:
    """One workload; its first variants are `vllm` and `ours`."""

    name: str
    label: str
    variants: tuple[Variant, ...]

    def variant(self, name: str) -> Variant:
        """Return the one of that name."""
        return next(v for v in self.variants if v.name == name)


def _both(
    trace: TraceOf, setup: EngineSetup = ENGINE, ours: EngineSetup | None = None
) -> tuple[Variant, Variant]:
    ours = setup if ours is None else ours
    return (
        Variant("vllm", "vLLM's own", trace, setup),
        Variant("ours", "ours", trace, replace(ours, scheduler=OURS)),
    )


def _stalled(name: str, label: str, outputs: tuple[int, int], rate: float) -> Case:
    """Batch-limited: there are KV blocks for all, and 32 places in a step.

    `rate`: requests a second, above what either scheduler sustains. vLLM's own cannot tell who is
    stalled, so the places are its most sequences; ours holds parked requests beyond them.
    """
    return Case(
        name,
        label,
        _both(
            lambda seed, _: traces.half_stalled(seed, rate, outputs, 90.0),
            replace(_AMPLE, max_num_seqs=_PLACES),
            replace(_AMPLE, max_num_seqs=512, max_num_active_seqs=_PLACES),
        ),
    )


def _deadlines(reading_rate: float | None, *, hang_up: bool) -> tuple[Variant, Variant]:
    def trace(seed: int, rate: float) -> Trace:
        steady = traces.steady(seed, 1.5 * rate)
        return traces.with_deadlines(steady, DEADLINE_S, reading_rate, hang_up=hang_up)

    return _both(trace)


def _flood(seed: int, rate: float) -> Trace:
    return traces.two_tenants(seed, 0.15 * rate, 1.5 * rate)


CASES = (
    Case(
        "control",
        "70 % load, nobody slow",
        _both(lambda seed, rate: traces.steady(seed, 0.7 * rate)),
    ),
    Case(
        "decisions",
        "256 requests decoding",
        _both(
            lambda seed, _: traces.together(256, 300),
            replace(_AMPLE, max_num_seqs=256),
        ),
    ),
    _stalled("stalled", "half stalled, outputs of 400 to 1,200", (400, 1200), 5.0),
    _stalled("stalled-long", "half stalled, outputs of 1,500 to 1,700", (1500, 1700), 2.5),
    Case(
        "bursts",
        "bursts at twice the sustainable rate, mean 85 %",
        _both(lambda seed, rate: traces.bursts(seed, 2 * rate, 0.85 * rate)),
    ),
    Case(
        "overload",
        "130 % for two minutes",
        _both(lambda seed, rate: traces.steady(seed, 1.3 * rate, 120.0)),
    ),
    Case(
        "surges",
        "bursts at three times the sustainable rate, mean 150 %",
        _both(lambda seed, rate: traces.bursts(seed, 3 * rate, 1.5 * rate)),
    ),
    Case(
        "mixed",
        "readers of three rates at 110 %",
        _both(lambda seed, rate: traces.mixed_rates(seed, 1.1 * rate)),
    ),
    Case(
        "flood",
        "one tenant at 15 %, one at 150 %",
        (
            *_both(_flood),
            Variant(
                "alone",
                "ours, the quiet tenant alone",
                lambda seed, rate: traces.only(_flood(seed, rate), "quiet"),
                replace(ENGINE, scheduler=OURS),
            ),
        ),
    ),
    Case(
        "shares",
        "two tenants, both past their share: 60 % and 240 %",
        _both(lambda seed, rate: traces.two_tenants(seed, 0.6 * rate, 2.4 * rate, 30.0)),
    ),
    Case(
        "deadlines",
        "deadlines of 2 s at 150 %, read as people do",
        _deadlines(PEOPLE_READ, hang_up=True),
    ),
    Case(
        "deadlines-fast",
        "deadlines of 2 s at 150 %, read as fast as it comes",
        _deadlines(None, hang_up=True),
    ),
    Case(
        "deadlines-held",
        "deadlines of 2 s at 150 %, read as people do, nobody hangs up",
        _deadlines(PEOPLE_READ, hang_up=False),
    ),
)
BY_NAME = {case.name: case for case in CASES}


def chosen(names: str | None) -> list[Case]:
    """Return the named cases, in the order of the table. Raises ValueError for an unknown one."""
    if names is None:
        return list(CASES)
    wanted = {name.strip() for name in names.split(",")}
    if strange := wanted - BY_NAME.keys():
        raise ValueError(f"there is no case {sorted(strange)[0]!r}; there are {', '.join(BY_NAME)}")
    return [case for case in CASES if case.name in wanted]

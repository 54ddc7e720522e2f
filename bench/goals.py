"""What the figures are meant to be, and whether a run's are.

The goals are for 256 streams (or what the line says) of 200 tokens after prompts of 32, and steps
of 20 ms: the defaults. With other loads the comparison still says something, the goals do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench import markdown
from bench.load import Outcome
from bench.table import Result

Results = Mapping[str, Result]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and its limit. `cases`: those whose results it is made of, by name."""

    label: str
    most: float
    cases: tuple[str, ...]
    measure: Callable[[Results], float]
    form: str = "{:.1f}"


def _cpu(case: str, process: str = "service") -> Callable[[Results], float]:
    return lambda results: median(results[case].cpu_us_per_token()[process])


def _over_writer(results: Results) -> float:
    return _cpu("generate")(results) / _cpu("writer", "writer")(results)


def _ms(case: str, figure: Callable[[Outcome], float]) -> Callable[[Results], float]:
    return lambda results: 1000 * median(results[case].of(figure))


def _first_token_over_engine(case: str) -> Callable[[Results], float]:
    of, engine = (_ms(name, lambda o: o.ttft_p50_s) for name in (case, "engine"))
    return lambda results: of(results) - engine(results)


def _with_bridge(case: str) -> Callable[[Results], float]:
    return lambda results: sum(median(v) for v in results[case].cpu_us_per_token().values())


def _share(case: str, of: str) -> Callable[[Results], float]:
    return lambda results: _with_bridge(case)(results) / _cpu(of, "server")(results)


def _faults(case: str) -> Callable[[Results], float]:
    return lambda results: len(results[case].wrong)


_BURST = "median first token of a burst, ms over the engine's own: "

GOALS = (
    Goal("Session, every step: CPU µs/token", 7, ("session",), _cpu("session")),
    Goal("Session, every step, 64 streams: CPU µs/token", 14, ("session-64",), _cpu("session-64")),
    Goal("Session, 50 ms delay: CPU µs/token", 5.5, ("session-50",), _cpu("session-50")),
    Goal(
        "Generate, one token a message: CPU as a multiple of the writer's",
        1.25,
        ("generate", "writer"),
        _over_writer,
        "{:.2f}",
    ),
    Goal("Generate, 50 ms delay: CPU µs/token", 25, ("generate-50",), _cpu("generate-50")),
    Goal(
        "Generate, adaptive, 512 streams: faults",
        0,
        ("generate-512",),
        _faults("generate-512"),
        "{:.0f}",
    ),
    Goal(
        "Generate, adaptive, 512 streams: between messages p99 ms",
        100,
        ("generate-512",),
        _ms("generate-512", lambda o: o.gap_p99_s),
        "{:.0f}",
    ),
    Goal(
        "Generate, adaptive, 512 streams: CPU µs/token", 28, ("generate-512",), _cpu("generate-512")
    ),
    Goal("bridge, one token an event: CPU µs/token", 28, ("bridge",), _cpu("bridge", "bridge")),
    Goal("bridge, 50 ms delay: CPU µs/token", 10, ("bridge-50",), _cpu("bridge-50", "bridge")),
    Goal(
        "service and bridge, 50 ms delay: CPU µs/token",
        18,
        ("bridge-50",),
        _with_bridge("bridge-50"),
    ),
    Goal(
        "service and bridge, one token an event: share of vLLM's OpenAI server",
        1,
        ("bridge", "openai"),
        _share("bridge", "openai"),
        "{:.2f}",
    ),
    Goal(
        "service and bridge, 50 ms delay: share of vLLM's with a stream interval of 3",
        1,
        ("bridge-50", "openai-3"),
        _share("bridge-50", "openai-3"),
        "{:.2f}",
    ),
    Goal(
        _BURST + "Session", 80, ("session", "engine"), _first_token_over_engine("session"), "{:.0f}"
    ),
    Goal(
        _BURST + "Generate",
        80,
        ("generate", "engine"),
        _first_token_over_engine("generate"),
        "{:.0f}",
    ),
)


def render(results: Sequence[Result]) -> str:
    """Return a table of the goals that these results tell about; empty where there are none."""
    by_name = {result.name: result for result in results}
    told = [goal for goal in GOALS if by_name.keys() >= set(goal.cases)]
    return table([(g.label, g.most, g.measure(by_name), g.form) for g in told])


def table(rows: Sequence[tuple[str, float, float, str]]) -> str:
    """Return a table of goals: label, greatest allowed, measured, form of the figure."""
    if not rows:
        return ""
    cells = [
        (label, f"≤ {most:g}", form.format(measured), "yes" if measured <= most else "no")
        for label, most, measured, form in rows
    ]
    return markdown.table([("goal", "wanted", "measured", "met"), *cells])

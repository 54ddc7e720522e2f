"""All figures of a comparison, as one table."""

from collections.abc import Callable, Sequence

from bench import markdown
from bench.scheduling.cases import CASES
from bench.scheduling.compare import Outcome
from bench.scheduling.interval import Interval
from bench.scheduling.measures import Measures

_Column = tuple[str, Callable[[Measures], float], str]

_COLUMNS: tuple[_Column, ...] = (
    ("requests", lambda m: m.requests, "{:.0f}"),
    ("mean QoE", lambda m: m.quality, "{:.3f}"),
    ("≥ 0.95, %", lambda m: 100 * m.well_served, "{:.0f}"),
    ("stalled s", lambda m: m.stalled_s, "{:.2f}"),
    ("TTFT mean s", lambda m: m.first_token_mean, "{:.2f}"),
    ("p50", lambda m: m.first_token_p50, "{:.2f}"),
    ("p99", lambda m: m.first_token_p99, "{:.2f}"),
    ("longest wait s", lambda m: m.longest_wait, "{:.1f}"),
    ("total p50 s", lambda m: m.total_p50, "{:.1f}"),
    ("p99", lambda m: m.total_p99, "{:.1f}"),
    ("tokens/s", lambda m: m.tokens_per_s, "{:,.0f}"),
    ("evictions", lambda m: m.preemptions, "{:,.0f}"),
    ("recomputed, % of tokens", lambda m: 100 * m.recomputed_tokens / m.tokens, "{:.0f}"),
    ("schedule() p50 µs", lambda m: m.schedule_us_p50, "{:.0f}"),
    ("p99", lambda m: m.schedule_us_p99, "{:.0f}"),
)
# What only some workloads are about.
_PARTICULAR: tuple[_Column, ...] = (
    ("tokens/s of live readers", lambda m: m.live_tokens_per_s, "{:,.0f}"),
    (
        "tokens/s of live readers under load",
        lambda m: m.live_tokens_per_s_under_load,
        "{:,.0f}",
    ),
    ("decoded for nobody, most of a stream", lambda m: m.for_nobody_most, "{:.0f}"),
    ("tokens/s of readers without a rate", lambda m: m.fast_tokens_per_s, "{:,.0f}"),
    ("TTFT p99 s of the quiet tenant", lambda m: m.quiet_first_token_p99, "{:.2f}"),
    ("service gap", lambda m: m.service_gap, "{:,.0f}"),
    ("requests in time", lambda m: m.in_time, "{:,.0f}"),
    ("tokens decoded", lambda m: m.tokens, "{:,.0f}"),
)
_PARTICULAR_OF = {
    "stalled": (0, 1, 2),
    "stalled-long": (0, 1, 2),
    "mixed": (3,),
    "flood": (4, 5),
    "shares": (4, 5),
    "deadlines": (6, 7),
    "deadlines-fast": (6, 7),
    "deadlines-held": (6, 7),
}
_NO_RATES = {"stalled", "stalled-long", "flood", "shares", "deadlines-fast"}
_OF_RATES = {"mean QoE", "≥ 0.95, %", "stalled s"}


def render(outcomes: Sequence[Outcome]) -> str:
    """Return the table: a line for each variant of each workload, means over its seeds."""
    rows = [["workload", "scheduler", *(title for title, _, _ in _COLUMNS)]]
    for case, label, scheduler, measured in _lines(outcomes):
        cells = [
            "-" if column[0] in _OF_RATES and case in _NO_RATES else _cell(measured, column)
            for column in _COLUMNS
        ]
        rows.append([label, scheduler, *cells])
    return markdown.table(rows)


def render_particular(outcomes: Sequence[Outcome]) -> str:
    """Return a table of the figures that only some workloads have; empty if none ran."""
    rows = [["workload", "figure", "scheduler", "measured"]]
    for case, label, scheduler, measured in _lines(outcomes):
        for index in _PARTICULAR_OF.get(case, ()):
            column = _PARTICULAR[index]
            rows.append([label, column[0], scheduler, _cell(measured, column)])
    return markdown.table(rows) if len(rows) > 1 else ""


def _lines(outcomes: Sequence[Outcome]) -> list[tuple[str, str, str, list[Measures]]]:
    return [
        (case.name, case.label, variant.label, measured)
        for case in CASES
        for variant in case.variants
        if (
            measured := [
                o.measures
                for o in outcomes
                if (o.task.case, o.task.variant) == (case.name, variant.name)
            ]
        )
    ]


def _cell(measured: Sequence[Measures], column: _Column) -> str:
    _, figure, form = column
    return Interval.of([figure(m) for m in measured]).render(form)

"""What the comparison is meant to show, and whether a run does.

Each figure is worked out seed by seed, ours against vLLM's own scheduler with the same seed, so its
interval is that of the difference, not of the two loads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench import markdown
from bench.scheduling.cases import BY_NAME, CACHE_TOKENS
from bench.scheduling.compare import Outcome
from bench.scheduling.interval import Interval
from bench.scheduling.measures import Measures
from bench.scheduling.service_gap import bound
from bench.scheduling.traces import PROMPT_TOKENS

Runs = Mapping[str, Measures]  # of one case and seed, by variant
Figure = Callable[[Runs], float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and its limit: it may be at least, or at most, that."""

    case: str
    label: str
    sense: Literal["≥", "≤"]
    limit: float
    measure: Figure
    form: str = "{:.2f}"

    def met(self, measured: Interval) -> str:
        """`yes` or `no` if the whole interval says so, else what the mean says."""
        sign = 1 if self.sense == "≥" else -1
        above = sign * (measured.mean - self.limit)
        sure = abs(above) >= measured.half
        if above >= 0:
            return "yes" if sure else "yes, on average"
        return "no" if sure else "no, on average"


def _ratio(of: Callable[[Measures], float], over: str = "vllm") -> Figure:
    def ratio(runs: Runs) -> float:
        base = of(runs[over])
        return of(runs["ours"]) / base if base else 0.0

    return ratio


def _more(of: Callable[[Measures], float]) -> Figure:
    return lambda runs: of(runs["ours"]) - of(runs["vllm"])


def _ours(of: Callable[[Measures], float]) -> Figure:
    return lambda runs: of(runs["ours"])


def _decision_share(runs: Runs) -> float:
    """What a decision takes beyond vLLM's own, as a share of the engine's own time of a step."""
    extra = runs["ours"].schedule_us_p50 - runs["vllm"].schedule_us_p50
    return extra / runs["vllm"].step_us_p50


def _goals_past_capacity(case: str) -> tuple[Goal, ...]:
    return (
        Goal(case, "tokens/s, x", "≥", 0.97, _ratio(lambda m: m.tokens_per_s), "{:.3f}"),
        Goal(case, "share with QoE ≥ 0.95, x", "≥", 3.5, _ratio(lambda m: m.well_served)),
        Goal(case, "mean QoE, +", "≥", 0.1, _more(lambda m: m.quality), "{:.3f}"),
        Goal(case, "total time p99, x", "≤", 1.8, _ratio(lambda m: m.total_p99)),
        Goal(case, "longest wait, x", "≤", 2.0, _ratio(lambda m: m.longest_wait)),
    )


GOALS = (
    Goal("control", "tokens/s, x", "≥", 0.98, _ratio(lambda m: m.tokens_per_s), "{:.3f}"),
    Goal("control", "TTFT mean, x", "≤", 1.02, _ratio(lambda m: m.first_token_mean), "{:.3f}"),
    Goal("control", "TTFT p99, x", "≤", 1.02, _ratio(lambda m: m.first_token_p99), "{:.3f}"),
    Goal("decisions", "time beyond vLLM's, of a step", "≤", 0.05, _decision_share, "{:.3f}"),
    Goal(
        "stalled",
        "live tokens/s under load, x",
        "≥",
        1.8,
        _ratio(lambda m: m.live_tokens_per_s_under_load),
    ),
    Goal(
        "stalled",
        "for nobody, of one stream",
        "≤",
        256,
        _ours(lambda m: m.for_nobody_most),
        "{:.0f}",
    ),
    Goal(
        "stalled-long",
        "live tokens/s under load, x",
        "≥",
        1.8,
        _ratio(lambda m: m.live_tokens_per_s_under_load),
    ),
    Goal(
        "stalled-long",
        "for nobody, of one stream",
        "≤",
        256,
        _ours(lambda m: m.for_nobody_most),
        "{:.0f}",
    ),
    Goal("bursts", "mean QoE", "≥", 0.995, _ours(lambda m: m.quality), "{:.4f}"),
    Goal("bursts", "TTFT p99, x", "≤", 0.05, _ratio(lambda m: m.first_token_p99), "{:.3f}"),
    Goal("bursts", "tokens/s, x", "≥", 0.98, _ratio(lambda m: m.tokens_per_s), "{:.3f}"),
    *_goals_past_capacity("overload"),
    *_goals_past_capacity("surges"),
    Goal("mixed", "tokens/s of the fast, x", "≥", 0.9, _ratio(lambda m: m.fast_tokens_per_s)),
    Goal("mixed", "mean QoE of the others", "≥", 0.98, _ours(lambda m: m.quality), "{:.3f}"),
    Goal(
        "flood",
        "TTFT p99 of the quiet, x alone",
        "≤",
        1.5,
        _ratio(lambda m: m.quiet_first_token_p99, "alone"),
    ),
    Goal(
        "flood",
        "service gap",
        "≤",
        bound(PROMPT_TOKENS[1], CACHE_TOKENS),
        _ours(lambda m: m.service_gap),
        "{:,.0f}",
    ),
    Goal(
        "shares",
        "service gap",
        "≤",
        bound(PROMPT_TOKENS[1], CACHE_TOKENS),
        _ours(lambda m: m.service_gap),
        "{:,.0f}",
    ),
    Goal("deadlines", "requests in time, x", "≥", 1.3, _ratio(lambda m: m.in_time)),
    Goal("deadlines-held", "requests in time, x", "≥", 1.3, _ratio(lambda m: m.in_time)),
    Goal("deadlines-fast", "requests in time, x", "≥", 1.3, _ratio(lambda m: m.in_time)),
)


def by_seed(outcomes: Sequence[Outcome], case: str) -> list[Runs]:
    """Return what a case's variants measured, for each seed."""
    seeds: dict[int, dict[str, Measures]] = {}
    for outcome in outcomes:
        if outcome.task.case == case:
            seeds.setdefault(outcome.task.seed, {})[outcome.task.variant] = outcome.measures
    return [seeds[seed] for seed in sorted(seeds)]


def render(outcomes: Sequence[Outcome], goals: Sequence[Goal] = GOALS) -> str:
    """Return a table of the goals that these outcomes tell about; empty where there are none."""
    rows = [("workload", "goal", "wanted", "measured", "met")]
    for goal in goals:
        seeds = by_seed(outcomes, goal.case)
        if seeds:
            measured = Interval.of([goal.measure(runs) for runs in seeds])
            rows.append(
                (
                    BY_NAME[goal.case].label,
                    goal.label,
                    f"{goal.sense} {goal.limit:,g}",
                    measured.render(goal.form),
                    goal.met(measured),
                )
            )
    return markdown.table(rows) if len(rows) > 1 else ""

"""Goals and tables of the schedulers' comparison, over figures that no run made."""

from collections.abc import Mapping
from dataclasses import fields, replace

import pytest

from bench.scheduling import goals, table
from bench.scheduling.cases import BY_NAME, CASES, chosen
from bench.scheduling.compare import Outcome, Task, tasks
from bench.scheduling.goals import GOALS, Goal
from bench.scheduling.interval import Interval
from bench.scheduling.measures import Measures

_ONES = Measures(**{field.name: 1 for field in fields(Measures)})


def _outcomes(case: str, ours: Mapping[str, float], seeds: int = 2) -> list[Outcome]:
    return [
        Outcome(
            Task(case, variant.name, seed, 10.0),
            replace(_ONES, **ours) if variant.name == "ours" else _ONES,  # type: ignore[arg-type]
            (),
            (),
        )
        for seed in range(1, seeds + 1)
        for variant in BY_NAME[case].variants
    ]


def _met(case: str, **ours: float) -> list[str]:
    lines = goals.render(_outcomes(case, ours)).splitlines()[2:]
    return [line.strip("|").split("|")[-1].strip() for line in lines]


def test_goals_are_met_and_can_be_missed() -> None:
    assert _met("bursts", quality=0.996, first_token_p99=0.04) == ["yes", "yes", "yes"]
    assert _met("bursts", quality=0.994, first_token_p99=0.06, tokens_per_s=0.97) == ["no"] * 3


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.case}: {goal.label}")
def test_every_goal_has_its_two_sides(goal: Goal) -> None:
    good, bad = (1e9, -1e9) if goal.sense == "≥" else (-1e9, 1e9)
    assert goal.met(Interval(good, 0.0)) == "yes"
    assert goal.met(Interval(bad, 0.0)) == "no"
    assert goal.met(Interval(goal.limit, 0.0)) == "yes"


def test_a_goal_whose_interval_reaches_over_its_limit_is_met_on_average_only() -> None:
    goal = Goal("bursts", "x", "≥", 1.0, lambda runs: 0.0)
    assert goal.met(Interval(1.1, 0.2)) == "yes, on average"
    assert goal.met(Interval(0.9, 0.2)) == "no, on average"


def test_goals_of_cases_that_did_not_run_are_left_out() -> None:
    assert goals.render([]) == ""
    assert len(goals.render(_outcomes("mixed", {})).splitlines()) == 2 + 2


def test_figures_are_compared_seed_by_seed() -> None:
    runs = goals.by_seed(_outcomes("flood", {"quality": 3.0}, seeds=3), "flood")
    assert len(runs) == 3
    assert {name: m.quality for name, m in runs[0].items()} == {"vllm": 1, "ours": 3.0, "alone": 1}


def test_every_goal_is_about_a_case_that_there_is() -> None:
    assert {goal.case for goal in GOALS} <= BY_NAME.keys()


def test_every_case_has_both_schedulers_on_the_same_engine_and_trace() -> None:
    for case in CASES:
        vllm, ours = case.variants[:2]
        assert (vllm.name, vllm.setup.scheduler, ours.name) == ("vllm", None, "ours")
        assert ours.setup.scheduler is not None
        assert ours.setup.scheduler_config is None  # the defaults, everywhere
        assert vllm.setup.simulation == ours.setup.simulation
        assert vllm.setup.watermark == ours.setup.watermark
        assert vllm.trace(1, 5.0) == ours.trace(1, 5.0)


def test_the_table_has_a_line_for_each_variant_and_dashes_where_nobody_has_a_rate() -> None:
    lines = table.render(_outcomes("flood", {})).splitlines()
    assert len(lines) == 2 + 3
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].split("|")][4:7] == ["-", "-", "-"]
    assert "service gap" in table.render_particular(_outcomes("flood", {}))
    assert table.render_particular(_outcomes("bursts", {})) == ""


def test_cases_are_chosen_by_name_and_an_unknown_one_is_refused() -> None:
    assert [case.name for case in chosen("flood, bursts")] == ["bursts", "flood"]
    assert chosen(None) == list(CASES)
    with pytest.raises(ValueError, match=r"'burst'.*bursts"):
        chosen("burst")


def test_each_seed_runs_every_variant() -> None:
    wanted = tasks(chosen("flood"), range(6, 8), 10.0)
    assert [(t.variant, t.seed) for t in wanted] == [
        (variant, seed) for seed in (6, 7) for variant in ("vllm", "ours", "alone")
    ]

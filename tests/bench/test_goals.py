from bench import goals
from bench.cases import CASES
from bench.load import Outcome
from bench.table import Result, Run


def _result(name: str, cpu_us: float, *, ttft_ms: float = 0.0, process: str = "service") -> Result:
    outcome = Outcome(
        tokens=1_000_000,
        messages=1,
        frames=1,
        wall_s=1.0,
        ttft_p50_s=ttft_ms / 1000,
        ttft_p99_s=0.0,
        gap_p50_s=0.0,
        gap_p99_s=0.0,
        client_cpu_s=0.0,
        wrong=(),
    )
    return Result(name, name, 1, (Run(outcome, {process: cpu_us}, {process: 0}),))


def _lines(*results: Result) -> list[list[str]]:
    lines = goals.render(results).splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_goal_is_met_up_to_its_limit_and_not_above() -> None:
    (met,) = _lines(_result("session-64", 14.0))
    assert met[1:] == ["≤ 14", "14.0", "yes"]
    (missed,) = _lines(_result("session-64", 14.1))
    assert missed[1:] == ["≤ 14", "14.1", "no"]


def test_generate_is_held_against_the_writer_of_the_same_run() -> None:
    (line,) = _lines(_result("writer", 40, process="writer"), _result("generate", 60))
    assert line[1:] == ["≤ 1.25", "1.50", "no"]


def test_the_first_token_is_counted_from_the_engines_own() -> None:
    engine = _result("engine", 4, ttft_ms=60, process="client")
    lines = _lines(engine, _result("session", 6, ttft_ms=139))
    assert lines[-1][1:] == ["≤ 80", "79", "yes"]


def test_goals_whose_cases_did_not_run_are_left_out() -> None:
    assert goals.render([_result("openai", 80)]) == ""
    assert len(_lines(_result("generate", 60))) == 0


def test_every_goal_is_about_cases_that_there_are() -> None:
    assert {name for goal in goals.GOALS for name in goal.cases} <= {case.name for case in CASES}

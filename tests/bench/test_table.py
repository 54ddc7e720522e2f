import re
from datetime import date

import pytest

from bench import report
from bench.cases import CASES, chosen
from bench.dialects import DIALECTS
from bench.dialects.dialect import Brought, Reading
from bench.load import Outcome, percentile
from bench.processes import ROOT
from bench.servers import SERVERS
from bench.table import Result, Run, render


def _outcome(
    *, tokens: int = 1000, frames: int | None = None, wrong: tuple[str, ...] = ()
) -> Outcome:
    return Outcome(
        tokens=tokens,
        messages=tokens // 2,
        frames=tokens // 2 if frames is None else frames,
        wall_s=2.0,
        ttft_p50_s=0.080,
        ttft_p99_s=0.120,
        gap_p50_s=0.020,
        gap_p99_s=0.0304,
        client_cpu_s=0.5,
        wrong=wrong,
    )


def _result(*cpu_s: dict[str, float], wrong: tuple[str, ...] = ()) -> Result:
    runs = tuple(
        Run(_outcome(wrong=wrong), cpu, dict.fromkeys(cpu, 10 * 20 * 1024)) for cpu in cpu_s
    )
    return Result("case", "A case", 10, runs)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 50, 0.0), ([3.0], 99, 3.0), ([4, 1, 3, 2], 50, 2), (range(1, 101), 99, 99)],
)
def test_a_percentile_is_one_of_the_values(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == expected


def test_the_table_has_a_line_for_each_case_and_aligned_columns() -> None:
    table = render([_result({"service": 0.04}), _result({"bridge": 0.02, "service": 0.01})])
    head, rule, first, second = table.splitlines()
    assert len({len(line) for line in (head, rule, first, second)}) == 1
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells == ["A case", "40.0", "0.50", "500", "80", "120", "20", "30", "20"]
    assert "bridge 20.0, service 10.0" in second


def test_figures_of_repeated_runs_are_medians_with_their_range() -> None:
    table = render([_result({"service": 0.09}, {"service": 0.03}, {"service": 0.04})])
    cells = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    assert re.fullmatch(r"40\.0 \(30\.0.90\.0\)", cells[1])
    assert cells[3] == "500"  # in all runs


def test_messages_that_streams_share_are_counted_both_ways() -> None:
    run = Run(_outcome(frames=7), {"a": 0.1}, {"a": 0})
    assert "| 0.50 in 7 frames |" in render([Result("case", "A case", 4, (run,))])


def test_memory_is_that_of_the_greatest_run() -> None:
    runs = (Run(_outcome(), {"a": 0.1}, {"a": 4096}), Run(_outcome(), {"a": 0.1}, {"a": 0}))
    assert Result("case", "A case", 4, runs).bytes_per_stream() == {"a": 1024}


def test_wrong_streams_of_any_run_are_told() -> None:
    assert _result({"a": 1.0}, {"a": 1.0}, wrong=("stream 3: lost",)).wrong == [
        "stream 3: lost",
        "stream 3: lost",
    ]


def test_an_outcome_sums_up_what_the_streams_brought() -> None:
    readings = [
        Reading([1.1, 1.2, 1.4], None),
        Reading([2.0], "2 tokens of 3"),
        Reading([], "none"),
    ]
    outcome = Outcome.of(Brought(readings, 3), [1.0, 1.5, 1.5], tokens=3, cpu_s=0.1)
    assert outcome.tokens == 9
    assert (outcome.messages, outcome.frames) == (4, 3)
    assert outcome.wall_s == pytest.approx(1.0)
    assert outcome.ttft_p50_s == pytest.approx(0.1)
    assert outcome.ttft_p99_s == pytest.approx(0.5)
    assert outcome.gap_p99_s == pytest.approx(0.2)
    assert outcome.wrong == ("stream 1: 2 tokens of 3", "stream 2: none")


def test_every_case_names_a_server_and_a_dialect_that_there_are() -> None:
    for case in CASES:
        assert case.server is None or (case.server in SERVERS and case.dialect in DIALECTS)


def test_cases_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert [case.name for case in chosen("openai, generate")] == ["generate", "openai"]
    assert chosen(None) == list(CASES)


def test_an_unknown_case_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'generat'.*generate"):
        chosen("generat")


def test_the_page_keeps_what_people_wrote_round_the_table() -> None:
    begin, end = report.marks("bench")
    page = f"# Ours\n\nbefore\n{begin}\nold\n{end}\nafter\n"
    arguments = ["--repeat", "3", "--json", "/some/where", "--write"]
    part = report.section("bench", arguments, "| t |\n", "2 cores", date(2030, 1, 2))
    assert report.replaced(page, "bench", part) == (
        f"# Ours\n\nbefore\n{begin}\n\n`python -m bench --repeat 3`\n\n"
        f"2030-01-02, 2 cores.\n\n| t |\n\n{end}\nafter\n"
    )


@pytest.mark.parametrize("program", ["bench", "bench.idle"])
def test_the_page_has_a_place_for_each_program(program: str) -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert report.replaced(page, program, "new") != page


def test_a_page_without_its_marks_is_not_written_over() -> None:
    with pytest.raises(ValueError, match="marks"):
        report.replaced("# Ours\n", "bench", "new")


def test_the_machine_is_told_without_paths() -> None:
    assert "/" not in report.machine()

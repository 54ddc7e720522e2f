import re
from dataclasses import fields
from pathlib import Path

import pytest

from bench import report
from bench.processes import ROOT
from bench.scheduling import page, plots
from bench.scheduling.cases import BY_NAME
from bench.scheduling.compare import Outcome, Seen, Task
from bench.scheduling.main import main
from bench.scheduling.measures import Measures

_PAGE = ROOT / "docs" / "scheduler.md"


@pytest.mark.parametrize("marks", [page.PROGRAM, page.TUNING])
def test_the_page_has_a_place_for_each_table(marks: str) -> None:
    assert "\nnew\n" in report.replaced(_PAGE.read_text(), marks, "new")


def test_the_page_shows_the_pictures_that_are_drawn_and_no_others(tmp_path: Path) -> None:
    measures = Measures(**{field.name: 1 for field in fields(Measures)})
    seen = tuple(Seen(float(i), 0.1 + i, 2.0 + i, i / 9, "quiet") for i in range(9))
    outcomes = [
        Outcome(Task(case, variant.name, 1, 10.0), measures, seen, (5, 7, 3))
        for case in BY_NAME
        for variant in BY_NAME[case].variants
    ]
    drawn = plots.draw(outcomes, tmp_path)
    assert all(file.read_text().startswith("<?xml") for file in drawn)
    shown = set(re.findall(r"\(images/scheduler/(.*?)\)", _PAGE.read_text()))
    assert {file.name for file in drawn} == shown
    before = [file.read_bytes() for file in drawn]
    assert [file.read_bytes() for file in plots.draw(outcomes, tmp_path)] == before


def test_an_unknown_workload_is_bad_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "burst"]) == 2
    assert "there is no case 'burst'" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--seeds", "0"], ["--only", "bursts", "--write"]])
def test_what_makes_no_sense_is_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(argv)

"""docs/scheduler.md: what a comparison came to, between marks."""

from collections.abc import Sequence
from datetime import date

from bench import report
from bench.processes import ROOT
from bench.scheduling import plots
from bench.scheduling.compare import Outcome

PROGRAM = "bench.scheduling"
TUNING = f"{PROGRAM} --tuning"
ON_CPU = f"{PROGRAM} --on-cpu"
_PAGE = ROOT / "docs" / "scheduler.md"
_IMAGES = ROOT / "docs" / "images" / "scheduler"


def write(marks: str, argv: Sequence[str], part: str) -> None:
    """Replace what stands between these marks; what people wrote around it stays."""
    section = report.section(PROGRAM, argv, part, report.machine(), date.today())
    _PAGE.write_text(report.replaced(_PAGE.read_text(), marks, section))


def draw(outcomes: Sequence[Outcome]) -> None:
    """Draw the pictures that the page shows."""
    plots.draw(outcomes, _IMAGES)

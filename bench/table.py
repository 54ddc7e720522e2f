"""Results, and the one table that they become."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench import markdown
from bench.load import Outcome


@dataclass(frozen=True, slots=True)
class Run:
    """One load on one case. By frontend process: its CPU seconds and its growth in bytes."""

    outcome: Outcome
    cpu_s: dict[str, float]
    grown_bytes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of one case, at least one."""

    name: str
    label: str
    streams: int
    runs: tuple[Run, ...]

    def of(self, figure: Callable[[Outcome], float]) -> list[float]:
        """A figure of every run."""
        return [figure(run.outcome) for run in self.runs]

    def cpu_us_per_token(self) -> dict[str, list[float]]:
        """CPU microseconds per token of each frontend process, in every run."""
        return {
            name: [1e6 * run.cpu_s[name] / run.outcome.tokens for run in self.runs]
            for name in self.runs[0].cpu_s
        }

    def bytes_per_stream(self) -> dict[str, float]:
        """Growth of each frontend process per stream, in its first and largest load.

        Later loads find the memory that the first left behind, so the greatest is what counts.
        """
        return {
            name: max(run.grown_bytes[name] for run in self.runs) / self.streams
            for name in self.runs[0].grown_bytes
        }

    @property
    def wrong(self) -> list[str]:
        """What was wrong with any stream of any run."""
        return [wrong for run in self.runs for wrong in run.outcome.wrong]

    @property
    def client_share(self) -> float:
        """The largest part of its time that the load generator was busy; near 1 it limits."""
        return max(run.outcome.client_cpu_s / run.outcome.wall_s for run in self.runs)


_COLUMNS: tuple[tuple[str, Callable[[Result], str]], ...] = (
    ("frontend", lambda r: r.label),
    ("CPU µs/token", lambda r: _by_process(r.cpu_us_per_token(), "{:.1f}")),
    ("messages/token", lambda r: _messages(r)),
    ("tokens/s", lambda r: spread(r.of(lambda o: o.tokens / o.wall_s), "{:,.0f}")),
    ("first token p50 ms", lambda r: spread(r.of(lambda o: 1e3 * o.ttft_p50_s), "{:.0f}")),
    ("p99", lambda r: spread(r.of(lambda o: 1e3 * o.ttft_p99_s), "{:.0f}")),
    ("between messages p50 ms", lambda r: spread(r.of(lambda o: 1e3 * o.gap_p50_s), "{:.0f}")),
    ("p99", lambda r: spread(r.of(lambda o: 1e3 * o.gap_p99_s), "{:.0f}")),
    ("KB/stream", lambda r: _by_process(_kilobytes(r), "{:.0f}")),
)


def render(results: Sequence[Result]) -> str:
    """Return the table."""
    rows = [[title for title, _ in _COLUMNS]]
    rows += [[cell(result) for _, cell in _COLUMNS] for result in results]
    return markdown.table(rows)


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, with the least and the greatest value where they look different."""
    least, middle, greatest = (form.format(f(values)) for f in (min, median, max))
    return middle if least == greatest else f"{middle} ({least}–{greatest})"  # noqa: RUF001 - a range


def _messages(result: Result) -> str:
    """Messages per token; where streams share them, also how many there were on the wire."""
    each = spread(result.of(lambda o: o.messages / o.tokens), "{:.2f}")
    if all(run.outcome.frames == run.outcome.messages for run in result.runs):
        return each
    return f"{each} in {spread(result.of(lambda o: o.frames), '{:.0f}')} frames"


def _kilobytes(result: Result) -> dict[str, list[float]]:
    return {name: [size / 1024] for name, size in result.bytes_per_stream().items()}


def _by_process(figures: dict[str, list[float]], form: str) -> str:
    """One figure plainly; several with the names of their processes."""
    if len(figures) == 1:
        return spread(next(iter(figures.values())), form)
    return ", ".join(f"{name} {spread(values, form)}" for name, values in figures.items())

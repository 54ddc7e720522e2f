"""Pictures of one seed's runs. matplotlib is loaded only here: nothing else needs it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.scheduling.cases import BY_NAME, Variant
from bench.scheduling.compare import Outcome, Seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"vllm": "#8a8f98", "ours": "#1f6feb", "alone": "#2da44e"}
_LIVE_MEAN_S = 5


def draw(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Draw what these outcomes are enough for. Returns the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    # The same figures give the same file.
    mpl.rcParams |= {"svg.hashsalt": "tokenstream", "font.size": 9, "axes.spines.top": False}
    mpl.rcParams |= {"axes.spines.right": False, "legend.frameon": False}
    first = min((o.task.seed for o in outcomes), default=0)
    drawn = {(o.task.case, o.task.variant): o for o in outcomes if o.task.seed == first}
    made = []
    for name, cases, panel in _PICTURES:
        shown = [case for case in cases if (case, "ours") in drawn]
        if shown:
            made.append(folder / f"{name}.svg")
            _draw(drawn, shown, panel, made[-1])
    return made


_Panel = Callable[["Axes", str, Sequence[tuple[Variant, Outcome]]], None]


def _draw(
    drawn: dict[tuple[str, str], Outcome], cases: Sequence[str], panel: _Panel, file: Path
) -> None:
    from matplotlib import pyplot as plt

    figure, all_axes = plt.subplots(
        1, len(cases), figsize=(5.0 * len(cases), 3.0), squeeze=False, layout="constrained"
    )
    for axes, case in zip(all_axes[0], cases, strict=True):
        axes.set_title(BY_NAME[case].label, fontsize=9)
        variants = BY_NAME[case].variants
        panel(axes, case, [(v, o) for v in variants if (o := drawn.get((case, v.name)))])
        axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _quality(axes: "Axes", case: str, shown: Sequence[tuple[Variant, Outcome]]) -> None:
    for variant, outcome in shown:
        values = [s.quality for s in outcome.seen if s.quality is not None]
        _distribution(axes, values, variant)
    axes.set(xlabel="quality of experience", ylabel="share of requests below", xlim=(0, 1.01))


def _total(axes: "Axes", case: str, shown: Sequence[tuple[Variant, Outcome]]) -> None:
    for variant, outcome in shown:
        values = [s.total_s for s in outcome.seen if s.total_s is not None]
        _distribution(axes, values, variant)
    axes.set(xlabel="seconds to the last token", ylabel="share of requests below", xlim=(0, None))


def _first_tokens(axes: "Axes", case: str, shown: Sequence[tuple[Variant, Outcome]]) -> None:
    _scatter(axes, shown, lambda seen: True)
    axes.set(xlabel="arrival, s", ylabel="first token after, s", yscale="log")


def _quiet(axes: "Axes", case: str, shown: Sequence[tuple[Variant, Outcome]]) -> None:
    _scatter(axes, shown, lambda seen: seen.tenant == "quiet")
    axes.set(xlabel="arrival, s", ylabel="quiet tenant's first token after, s", yscale="log")


def _live(axes: "Axes", case: str, shown: Sequence[tuple[Variant, Outcome]]) -> None:
    for variant, outcome in shown:
        each = outcome.live_tokens
        smooth = [
            sum(each[max(0, i - _LIVE_MEAN_S + 1) : i + 1]) / min(i + 1, _LIVE_MEAN_S)
            for i in range(len(each))
        ]
        axes.plot(smooth, color=_COLOURS[variant.name], label=variant.label)
    axes.set(xlabel="s", ylabel="tokens/s of live readers", ylim=(0, None))


def _distribution(axes: "Axes", values: Iterable[float], variant: Variant) -> None:
    axes.ecdf(sorted(values), color=_COLOURS[variant.name], label=variant.label)


def _scatter(
    axes: "Axes", shown: Sequence[tuple[Variant, Outcome]], which: Callable[[Seen], bool]
) -> None:
    for variant, outcome in shown:
        seen = [s for s in outcome.seen if which(s)]
        axes.scatter(
            [s.at for s in seen],
            [s.first_wait_s for s in seen],
            s=5,
            color=_COLOURS[variant.name],
            label=variant.label,
        )


_PICTURES: tuple[tuple[str, tuple[str, ...], _Panel], ...] = (
    ("quality", ("bursts", "overload", "surges"), _quality),
    ("total-time", ("bursts", "overload", "surges"), _total),
    ("first-token", ("bursts", "surges"), _first_tokens),
    ("live-readers", ("stalled", "stalled-long"), _live),
    ("quiet-tenant", ("flood",), _quiet),
)

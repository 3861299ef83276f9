"""Drawings of numbers, by matplotlib, which is only needed here.

Each function takes plain numbers and gives an SVG that belongs in the page. What the numbers mean
is said around it.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.report.names import printable
from pipeline.report.page.svg import AREA, GRID, INK, QUIET, SERIES, page_svg

# Inches of a drawing that is as wide as a telephone; its letters then have the size of the page's.
WIDE, HIGH = 4.6, 2.7
# Beyond such a ratio small values of a curve would lie on the axis.
LOG_FROM = 20.0
LONGEST_NAME = 18
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}

Points = Sequence[tuple[float, float]]
Draw = Callable[[Any], None]


def need_plots() -> None:
    """Say before the long work that nothing could be drawn after it.

    Raises: PipelineError if matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401  # asked for, not used
    except ImportError as error:
        raise PipelineError(
            f"report: needs matplotlib, which is not installed ({error}). Install it: "
            "pip install 'teacher-logit-cache[plots]'"
        ) from error


def _drawn(key: str, title: str, draw: Draw, *, high: float = HIGH) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": key}), warnings.catch_warnings():
        # Letters are the browser's, which has more than matplotlib measures by.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = Figure(figsize=(WIDE, high), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
    return page_svg(text.getvalue(), key=key, title=title)


def draw_histogram(
    key: str, title: str, counts: Sequence[float], *, low: float, high: float, label: str
) -> str:
    """Draw counts of equal bins between two values."""
    width = (high - low) / len(counts)

    def draw(axes: Any) -> None:
        starts = [low + width * place for place in range(len(counts))]
        axes.bar(starts, _shares(counts), width, align="edge", color=SERIES[0], linewidth=0)
        axes.set(xlim=(low, high), xlabel=label, ylabel="% of positions")
        axes.grid(visible=False, axis="x")

    return _drawn(key, title, draw)


def draw_histograms(
    key: str, title: str, named: Mapping[str, Sequence[float]], *, label: str
) -> str:
    """Draw several histograms over 0 to 1 as outlines."""

    def draw(axes: Any) -> None:
        for place, (name, counts) in enumerate(named.items()):
            edges = [bin_ / len(counts) for bin_ in range(len(counts) + 1)]
            axes.stairs(
                _shares(counts),
                edges,
                color=SERIES[place % len(SERIES)],
                linestyle=STYLES[place % len(STYLES)],
                linewidth=1.5,
                label=name,
            )
        axes.set(xlim=(0, 1), xlabel=label, ylabel="% of positions")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return _drawn(key, title, draw)


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1
    return [100 * each / total for each in counts]


def draw_reliability(key: str, title: str, bins: Sequence[tuple[float, float, float]]) -> str:
    """Draw how often answers are right against how sure they were.

    `bins` are the count, the mean confidence and the share that is right, of those with a position.
    """

    def draw(axes: Any) -> None:
        most = max(count for count, _, _ in bins)
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle="--")
        sure, right = [each[1] for each in bins], [each[2] for each in bins]
        sizes = [8 + 60 * each[0] / most for each in bins]
        axes.vlines(sure, sure, right, color=SERIES[1], linewidth=1.5)
        axes.plot(sure, right, color=SERIES[0], linewidth=1)
        axes.scatter(sure, right, sizes, color=SERIES[0], zorder=3, linewidth=0)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="confidence", ylabel="share right")

    return _drawn(key, title, draw)


def draw_curves(key: str, title: str, curves: Mapping[str, Points], *, label: str) -> str:
    """Draw values against steps, on a logarithmic scale where they differ much."""

    def draw(axes: Any) -> None:
        for place, (name, points) in enumerate(curves.items()):
            steps, values = zip(*points, strict=True)
            axes.plot(
                steps,
                values,
                marker="o" if len(points) <= 30 else None,
                markersize=2.5,
                color=SERIES[place % len(SERIES)],
                linestyle=STYLES[place % len(STYLES)],
                linewidth=1.4,
                label=_short(name),
            )
        every = [value for points in curves.values() for _, value in points]
        if min(every) > 0 and max(every) / min(every) > LOG_FROM:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_plain)
            axes.yaxis.set_minor_formatter("")
        axes.set(xlabel="step", ylabel=printable(label))
        if len(curves) > 1:
            axes.legend()

    return _drawn(key, title, draw)


def draw_shares(key: str, title: str, curves: Mapping[str, Points]) -> str:
    """Draw shares that add up to 1 at every step, one above another.

    A curve without a point at a step has no share there: its loss was not learned from then.
    """

    def draw(axes: Any) -> None:
        steps = sorted({step for points in curves.values() for step, _ in points})
        known = [dict(points) for points in curves.values()]
        values = [[100 * each.get(step, 0.0) for step in steps] for each in known]
        colors = [SERIES[place % len(SERIES)] for place in range(len(curves))]
        if len(steps) == 1:  # an area has no width there
            steps, values = [0, steps[0]], [[*each, *each] for each in values]
        areas = axes.stackplot(steps, values, colors=colors, alpha=0.75, linewidth=0)
        for area, name in zip(areas, curves, strict=True):
            area.set_label(_short(name))
        axes.set(xlabel="step", ylabel="% of the gradient", ylim=(0, 100))
        axes.set_xlim(min(steps), max(steps))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    return _drawn(key, title, draw)


def draw_classes(
    key: str, title: str, names: Sequence[str], named: Mapping[str, Sequence[float | None]]
) -> str:
    """Draw what several models reach in each class, a row a class."""

    def draw(axes: Any) -> None:
        rows = range(len(names))
        for row in rows:
            values = [share for each in named.values() if (share := each[row]) is not None]
            if len(values) > 1:
                axes.plot([min(values), max(values)], [row, row], color=AREA, linewidth=3)
        for place, (name, shares) in enumerate(named.items()):
            there = [(share, row) for row, share in enumerate(shares) if share is not None]
            axes.scatter(
                [share for share, _ in there],
                [row for _, row in there],
                22,
                color=SERIES[place % len(SERIES)],
                marker="os^Dv*"[place % 6],
                label=_short(name),
                zorder=3,
            )
        axes.set_yticks(list(rows), [_short(name) for name in names])
        axes.invert_yaxis()
        axes.set(xlabel="share right")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)

    return _drawn(key, title, draw, high=1.0 + 0.17 * len(names))


def draw_sizes(key: str, title: str, curves: Mapping[str, Points]) -> str:
    """Draw divergence against bytes, both on logarithmic scales."""

    def draw(axes: Any) -> None:
        for place, (name, points) in enumerate(curves.items()):
            sizes, values = zip(*points, strict=True)
            axes.plot(
                sizes,
                values,
                marker="o",
                markersize=3,
                color=SERIES[place // 2 % len(SERIES)],
                linestyle="-" if place % 2 == 0 else "--",
                linewidth=1.4,
                label=name,
            )
        axes.set(xscale="log", yscale="log", xlabel="bytes a position")
        axes.set_ylabel("KL to the teacher, nats")
        axes.set_xticks(list(sizes), [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(_plain)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=7)

    return _drawn(key, title, draw, high=3.6)


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"

"""A picture of what was measured, by matplotlib, which is only needed here."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Sequence[Mapping[str, Any]]


def need_plots() -> None:
    """End before the long work if a plot could not be drawn after it."""
    try:
        import matplotlib
    except ImportError as error:
        sys.exit(
            f"bench: --plot needs matplotlib, which is not installed ({error}). Install it: "
            "pip install 'teacher-logit-cache[plots]'"
        )
    matplotlib.use("Agg")


def draw(path: Path, figures: Figures) -> None:
    """Draw every figure as a share of its bar, and bytes against divergence where they are."""
    from matplotlib import pyplot

    curve = [each for each in figures if "bytes" in each["details"]]
    shares = [each for each in figures if each not in curve and each["bar"] is not None]
    heights = [0.28 * len(shares) + 1.2] if shares else []
    heights += [5.0] if curve else []
    made, axes = pyplot.subplots(
        len(heights),
        figsize=(10, sum(heights)),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    if shares:
        _draw_shares(axes[0][0], shares)
    if curve:
        _draw_curve(axes[-1][0], curve)
    made.tight_layout()
    made.savefig(path, dpi=120)
    pyplot.close(made)


def _draw_shares(axes: Any, figures: Figures) -> None:
    places = range(len(figures))
    for place, each in zip(places, figures, strict=True):
        low, middle, high = (each[name] / each["bar"] for name in ("low", "median", "high"))
        color = "tab:red" if middle > 1 else "tab:blue"
        axes.plot([low, high], [place, place], color=color, linewidth=3, alpha=0.4)
        axes.plot([middle], [place], "o", color=color)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="measured / bar: left of 1 is better than promised")
    axes.set_yticks(places, [each["what"] for each in figures], fontsize=8)
    axes.invert_yaxis()


def _draw_curve(axes: Any, figures: Figures) -> None:
    found = [each["details"] for each in figures]
    for number, temperature in enumerate(sorted({each["temperature"] for each in found})):
        points = [each for each in found if each["temperature"] == temperature]
        sizes = [each["bytes"] for each in points]
        for name, style in (("ours", "-"), ("others", "--")):
            axes.plot(
                sizes,
                [each[name] for each in points],
                style,
                marker="o",
                color=f"C{number}",
                label=f"T = {temperature:g}, " + LABELS[name],
            )
    axes.set(xscale="log", yscale="log", xlabel="bytes a position", ylabel="KL to the teacher")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=8)


LABELS = {"ours": "best of ours", "others": "top-k, uniform tail, float16"}

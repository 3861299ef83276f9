"""Plots of what was measured, by matplotlib, which is only needed here."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from pipeline.errors import PipelineError


def need_plots() -> None:
    """Say before the long work that a plot could not be drawn after it.

    Raises: PipelineError if matplotlib is missing.
    """
    _import()


def draw_views(path: Path, found: Sequence[Any]) -> None:
    """Draw test accuracy against the number of cached views, between fixed targets and live ones.

    Raises: PipelineError if matplotlib is missing.
    """
    plots = _import()
    counts = list(found[0].by_count)
    figure, axes = plots.subplots(figsize=(6, 4))
    values = [[100 * each.by_count[count] for each in found] for count in counts]
    axes.errorbar(
        counts, [mean(v) for v in values], [stdev(v) for v in values], marker="o", label="cached"
    )
    for name, style in (("live", "--"), ("fixed", ":")):
        level = 100 * mean(getattr(each, name) for each in found)
        axes.axhline(level, linestyle=style, color="black", label=LABELS[name])
    axes.set(xscale="log", xlabel="cached views of each image", ylabel="test accuracy, %")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plots.close(figure)


LABELS = {"live": "live teacher", "fixed": "targets of images as they are"}


def _import() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise PipelineError(
            f"replicate: a plot needs matplotlib, which is not installed ({error}). Install it: "
            "pip install 'teacher-logit-cache[plots]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot

"""A run on the page: what it learned from, how its losses went, how it ended."""

from collections.abc import Mapping
from typing import Any

from pipeline.report.page.evaluation import METRICS, Look, evaluation_section
from pipeline.report.page.pieces import (
    Column,
    beside,
    count_text,
    facts,
    figure,
    figures,
    number,
    paragraph,
    section,
    table,
    text,
    tiles,
)
from pipeline.report.page.plots import draw_curves, draw_shares
from pipeline.report.runs import Curves, Run

SHOWN_OPTIONS = (
    *("optimizer", "learning_rate", "schedule", "batch_size", "epochs", "steps", "precision"),
    "seed",
)
# What of a loss is said first, or not at all.
LOSS_HEAD = ("kind", "weight")
SHOWN_ROWS = 12


def run_section(key: str, run: Run, links: Mapping[str, tuple[str, str]], look: Look | None) -> str:
    """Show one run; `links` say by a cache's digest its place on the page and its name.

    `look` shows samples of the data that was evaluated on, by their ids.
    """
    ended = [] if run.result else [paragraph(_unended(run), "note")]
    about = facts(_facts(run)) + _learned_from(run, links)
    pieces = [tiles(_tiles(run)), *ended, beside(about, _end_table(run))]
    if run.losses:
        pieces.append(section(f"{key}-curves", "How it learned", _curves(key, run), level=3))
    if run.evaluation:
        pieces.append(evaluation_section(f"{key}-evaluation", run.evaluation, look))
    return section(key, f"Run {run.name}", *pieces)


def _unended(run: Run) -> str:
    return (
        f"This run has not ended; its last line is of step {run.steps:,}. "
        "`pipeline train-student` goes on with it."
    )


def shown_metrics(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Show the metrics of a model, in words."""
    return {
        METRICS[name][0] if name in METRICS else name.replace("_", " "): (
            METRICS[name][1](value) if name in METRICS else f"{value:.4g}"
        )
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }


def _tiles(run: Run) -> dict[str, str]:
    result = run.result or {}
    shown = {"parameters": count_text(result["parameters"])} if "parameters" in result else {}
    for name in ("test", "validation"):
        if metrics := result.get(name):
            return shown | {
                f"{told}, {name}": value for told, value in shown_metrics(metrics).items()
            }
    return shown


def _facts(run: Run) -> dict[str, str]:
    recipe, result = run.recipe, run.result or {}
    model = (recipe.get("student") or {}).get("model") or {}
    training = recipe.get("training") or {}
    told = {name: training[name] for name in SHOWN_OPTIONS if training.get(name) is not None}
    time = f"{result['elapsed_s']:,.1f} s" if "elapsed_s" in result else ""
    ranks = f" on {result['ranks']} ranks" if result.get("ranks", 1) > 1 else ""
    steps = f"{result['steps']:,}, the best is {result['best_step']:,}" if run.result else ""
    return {
        "student": _model_text(model),
        "losses": "; ".join(_loss_text(each) for each in recipe.get("losses", ())),
        "training": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items()),
        "steps": steps,
        "trained in": f"{time}{ranks}",
        "warnings": "; ".join(result.get("warnings", ())),
        "lies at": str(run.folder),
    }


def _model_text(model: Mapping[str, Any]) -> str:
    named = model.get("factory") or model.get("path") or ""
    config = model.get("config") or model.get("arguments") or {}
    options = ", ".join(f"{name} {value}" for name, value in config.items())
    return " ".join(filter(None, [model.get("kind"), named, f"({options})" if options else ""]))


def _loss_text(loss: Mapping[str, Any]) -> str:
    rest = {
        name: value
        for name, value in loss.items()
        if name not in LOSS_HEAD and value is not None and value is not False
    }
    if loss.get("divergence") != "jensen_shannon":
        rest.pop("beta", None)
    said = "".join(f", {name.replace('_', ' ')} {value}" for name, value in rest.items())
    return f"{loss.get('weight', 1):g} x {loss.get('kind')}{said}"


def _learned_from(run: Run, links: Mapping[str, tuple[str, str]]) -> str:
    """Say which data and caches it was trained from, with links to those that are shown."""
    identity, told = run.identity, []
    sources = identity.get("sources") or [identity]
    teachers = identity.get("teachers") or []
    caches = [each["cache"] for each in [*sources, *teachers] if each.get("cache")]
    for digest in dict.fromkeys(caches):
        place = links.get(digest)
        told.append(
            f'<a href="#{place[0]}">the cache {text(place[1])}</a>'
            if place
            else f"a cache that is not shown here, digest {text(digest[:16])}"
        )
    told += [
        f"the labels of data with the digest {text(each['data'][:16])}"
        for each in sources
        if each.get("data")
    ]
    return f"<p>It was trained from {', '.join(told)}.</p>" if told else ""


def _end_table(run: Run) -> str:
    result = run.result or {}
    asked = {name: result.get(name) or {} for name in ("validation", "test")}
    names = list(dict.fromkeys(name for metrics in asked.values() for name in metrics))
    rows = [[METRICS.get(n, (n.replace("_", " "),))[0], *(asked[a].get(n) for a in asked)]
            for n in names]  # fmt: skip
    columns = [Column("metric of the best step"), *(Column(name, number(4)) for name in asked)]
    return table("How it ended", columns, rows, sorts=False) if rows else ""


def _curves(key: str, run: Run) -> str:
    drawn = [
        figure(
            draw_curves(f"{key}-losses", "Losses by step", run.losses, label="loss, nats"),
            "Every loss, unweighted, and their weighted sum (loss), while training.",
            _numbers("Losses", run.losses),
        )
    ]
    # By number, for a name may be anything, and a key is part of the markup.
    # One evaluation is no curve; what it found stands in the table of the end.
    curves = {name: points for name, points in run.validation.items() if len(points) > 1}
    for place, (name, points) in enumerate(curves.items()):
        heading, show = METRICS.get(name, (name.replace("_", " "), number(4)))
        best = (run.result or {}).get("best_step")
        drawn.append(
            figure(
                draw_curves(
                    f"{key}-metric-{place}",
                    f"Validation: {heading}",
                    {heading: points},
                    label=heading,
                ),
                f"Validation: {heading}, {show(points[-1][1])} at the last evaluation"
                + (f"; the best step is {best:,}." if best else "."),
                _numbers(f"Validation: {heading}", {heading: points}),
            )
        )
    if run.shares:
        drawn.append(
            figure(
                draw_shares(f"{key}-shares", "Share of each loss in the gradient", run.shares),
                "What part each weighted loss has in the norm of the student's gradient.",
                _numbers("Shares of the gradient", run.shares),
            )
        )
    return figures(drawn)


def _numbers(caption: str, curves: Curves) -> str:
    """List a few points of each curve, evenly spread."""
    steps = sorted({step for points in curves.values() for step, _ in points})
    wanted = min(SHOWN_ROWS, len(steps))
    shown = [steps[round(place * (len(steps) - 1) / max(1, wanted - 1))] for place in range(wanted)]
    values = {name: dict(points) for name, points in curves.items()}
    columns = [Column("step", number(0)), *(Column(name, lambda v: f"{v:.4g}") for name in curves)]
    rows = [[step, *(values[name].get(step) for name in curves)] for step in shown]
    return table(caption, columns, rows, sorts=False)

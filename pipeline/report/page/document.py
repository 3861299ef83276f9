"""The whole page: one file with nothing outside of it, and a policy that says so to browsers."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipeline.metrics import calibration_error
from pipeline.report.page.caches import CacheNumbers, accuracy, cache_section
from pipeline.report.page.evaluation import Look
from pipeline.report.page.pieces import Column, number, paragraph, percent, section, table, text
from pipeline.report.page.runs import run_section, shown_metrics
from pipeline.report.page.sizes import sizes_section
from pipeline.report.runs import Run

# What a link in the contents is called, by the end of its place's name.
INSIDE = {
    "sure": "certainty",
    "classes": "classes",
    "alike": "alike",
    "curves": "curves",
    "evaluation": "compared",
}
HEADLINE_METRICS = 3


@dataclass(frozen=True)
class Contents:
    """Everything that a page shows; `looks` show samples of evaluated data, by the run's folder."""

    title: str
    caches: Sequence[CacheNumbers]
    runs: Sequence[Run]
    curves: Mapping[Path, Sequence[dict[str, float]]]
    missing: Sequence[str]
    looks: Mapping[Path, Look]


def make_page(contents: Contents) -> str:
    """Make the page."""
    style, script = _packaged("page.css"), _packaged("page.js")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    shown = _sections(contents)
    body = "".join(draw(key) for key, _, draw in shown)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{text(contents.title)}</title><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body>"
        f'<a class="skip" href="#main">Skip to the contents</a>'
        f"<header><h1>{text(contents.title)}</h1>{_headline(contents)}{_links(shown, body)}"
        f'</header><main id="main">{_summary(contents)}{body}</main>'
        "<footer><p>Made by <code>pipeline report</code>. This file needs nothing from elsewhere."
        f"</p></footer><script>{script}</script></body></html>\n"
    )


def _packaged(name: str) -> str:
    return (files("pipeline.report.page") / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """Say which script may run, as a policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _sections(contents: Contents) -> list[tuple[str, str, Callable[[str], str]]]:
    """List the parts of the page: the place, the name, and what draws it."""
    caches = [(f"cache-{number}", each) for number, each in enumerate(contents.caches, 1)]
    links = {each.cache.digest: (key, each.name) for key, each in caches}
    shown: list[tuple[str, str, Callable[[str], str]]] = []
    for count, run in enumerate(contents.runs, 1):
        draw = partial(run_section, run=run, links=links, look=contents.looks.get(run.folder))
        shown.append((f"run-{count}", f"Run {run.name}", draw))
    for key, each in caches:
        shown.append((key, f"Cache {each.name}", partial(cache_section, found=each)))
    for count, (path, points) in enumerate(contents.curves.items(), 1):
        draw = partial(sizes_section, path=path, points=points)
        shown.append((f"sizes-{count}", f"Sizes: {path.name}", draw))
    return shown


def _links(shown: Sequence[tuple[str, str, Any]], body: str) -> str:
    """List links to every part, and to the parts of parts that there are."""
    items = []
    for key, name, _ in shown:
        inside = "".join(
            f'<li><a href="#{key}-{end}">{told}</a></li>'
            for end, told in INSIDE.items()
            if f'<section id="{key}-{end}"' in body
        )
        items.append(f'<li><a href="#{key}">{text(name)}</a><ul>{inside}</ul></li>')
    return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def _headline(contents: Contents) -> str:
    """Say the most important thing: what an evaluation says, or how runs ended, or caches are."""
    told = [
        f"{run.name}: {run.evaluation['headline']}."
        for run in contents.runs
        if run.evaluation and run.evaluation.get("headline")
    ]
    if not told:
        told = [line for run in contents.runs if (line := _ended(run))]
    if not told:
        told = [_of_cache(each) for each in contents.caches]
    return "".join(paragraph(line, "headline") for line in told[:4])


def _ended(run: Run) -> str:
    result = run.result or {}
    for name in ("test", "validation"):
        if metrics := result.get(name):
            listed = list(shown_metrics(metrics).items())[:HEADLINE_METRICS]
            said = ", ".join(f"{told} {value}" for told, value in listed)
            return f"{run.name}: {said} ({name} data)."
    return ""


def _of_cache(found: CacheNumbers) -> str:
    right = accuracy(found.counts)
    said = "" if right is None else f", where the teacher is right on {right:.1%}"
    return f"{found.name}: {found.counts.positions:,} positions of soft targets{said}."


def _summary(contents: Contents) -> str:
    notes = "".join(paragraph(line, "note") for line in contents.missing)
    caches = [
        [
            each.name,
            each.cache.plan.rows,
            each.counts.positions,
            each.cache.manifest["size_bytes"] / each.counts.positions,
            accuracy(each.counts),
            calibration_error(each.counts.reliability) if each.counts.labelled else None,
        ]
        for each in contents.caches
    ]
    columns = [
        *(Column("cache"), Column("rows", number(0)), Column("positions", number(0))),
        *(Column("bytes a position", number(1)), Column("teacher right", percent)),
        Column("calibration error", number(4)),
    ]
    pieces = [table("Caches", columns, caches)] if caches else []
    if contents.runs:
        pieces.append(_runs(contents.runs))
    return section("summary", "What is here", *pieces, notes) if pieces or notes else ""


def _runs(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        result = run.result or {}
        judged = _student(run) or result.get("test") or result.get("validation") or {}
        rows.append(
            [
                run.name,
                result.get("parameters"),
                run.steps,
                *(judged.get(name) for name in ("accuracy", "nll", "teacher_kl")),
            ]
        )
    columns = [
        *(Column("run"), Column("parameters", number(0)), Column("steps", number(0))),
        *(Column("accuracy", percent), Column("nll, nats", number(4))),
        Column("KL to the teacher, nats", number(4)),
    ]
    return table("Runs, as evaluated, or on test or else on validation data", columns, rows)


def _student(run: Run) -> Mapping[str, Any]:
    """Find what an evaluation says of the run's own student."""
    models = (run.evaluation or {}).get("models") or ()
    return next((each for each in models if each["name"] == "student"), {})

"""What `pipeline evaluate` found, on the page: models beside each other, class by class, and where
they differ most.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.report.page.pieces import (
    Column,
    bar,
    bars,
    beside,
    cards,
    facts,
    figure,
    number,
    paragraph,
    percent,
    sample,
    section,
    size_text,
    table,
    text,
)
from pipeline.report.page.plots import draw_classes

# How the metrics of a model are called and shown.
METRICS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "accuracy": ("accuracy", percent),
    "quality_kept": ("of the teacher's accuracy", percent),
    "nll": ("nll, nats", number(4)),
    "perplexity": ("perplexity", number(2)),
    "bits_a_byte": ("bits a byte", number(3)),
    "calibration_error": ("calibration error", number(4)),
    "teacher_agreement": ("agreement with the teacher", percent),
    "teacher_kl": ("KL to the teacher, nats", number(4)),
    "acceptance": ("drafts accepted", percent),
    "acceptance_at_most": ("drafts accepted, at most", percent),
}
SIZES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "parameters": ("parameters", number(0)),
    "weights_bytes": ("weights", size_text),
    "latency_ms": ("latency of a row, ms", number(2)),
}
SPREAD = ("median", "least", "most")
# Of a model, what stands elsewhere: its name heads the row, rounds are among the conditions.
UNSHOWN = ("name", "rounds")
# Classes that a drawing has room for: those where models differ most.
MOST_DRAWN = 40
# Of the samples on which models differ; the others unfold.
SHOWN_APART = 12
# Samples by their ids, as PNG or text; None for one that is not there.
Look = Callable[[Sequence[str]], Sequence[bytes | str | None]]


def evaluation_section(key: str, found: Mapping[str, Any], look: Look | None) -> str:
    """Show an evaluation; `look` shows samples by their ids."""
    pieces = [paragraph(f"{found['headline']}", "headline")] if found.get("headline") else []
    pieces += [_models(found), facts(_conditions(found))]
    if classes := found.get("classes"):
        pieces.append(section(f"{key}-classes", "By class", _classes(key, classes), level=3))
    if apart := found.get("disagreements"):
        pieces.append(section(f"{key}-apart", "Where they differ", _apart(apart, look), level=3))
    return section(key, "Compared", *pieces, level=3)


def _models(found: Mapping[str, Any]) -> str:
    models = [_flat(each) for each in (found.get("models") or ())]
    known = {**SIZES, **METRICS}
    names = dict.fromkeys(name for each in models for name in each if name not in UNSHOWN)
    order = [*(name for name in known if name in names), *(n for n in names if n not in known)]
    shown = [name for name in order if any(each.get(name) is not None for each in models)]
    headings = {name: known.get(name, (name.replace("_", " "), _plain)) for name in shown}
    columns = [Column("model"), *(Column(*headings[name]) for name in shown)]
    rows = [[str(each["name"]), *(each.get(name) for name in shown)] for each in models]
    return table("Models beside each other", columns, rows) + _spreads(found)


def _flat(model: Mapping[str, Any]) -> dict[str, Any]:
    """Take of what was timed the median, and of what has several values each by its own name."""
    flat: dict[str, Any] = {}
    for name, value in model.items():
        if not isinstance(value, Mapping):
            flat[name] = value
        elif "median" in value:
            flat[name] = value["median"]
        else:
            flat |= {
                f"{name} {key}": each
                for key, each in value.items()
                if isinstance(each, int | float)
            }
    return {n: v for n, v in flat.items() if n == "name" or v is None or isinstance(v, int | float)}


def _plain(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _spreads(found: Mapping[str, Any]) -> str:
    """List least, median and most of what was timed."""
    rows = [
        [str(model["name"]), name.replace("_", " "), *(value.get(s) for s in SPREAD)]
        for model in (found.get("models") or ())
        for name, value in model.items()
        if isinstance(value, Mapping) and "median" in value
    ]
    if not rows:
        return ""
    columns = [Column("model"), Column("measured"), *(Column(each, _plain) for each in SPREAD)]
    timed = table("What was timed, with its spread", columns, rows)
    return f"<details><summary>Spread of what was timed</summary>{timed}</details>"


def _listed(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def _conditions(found: Mapping[str, Any]) -> dict[str, str]:
    about, told = found.get("data") or {}, found.get("conditions") or {}
    counts = [f"{about[name]:,} {name}" for name in ("rows", "positions") if about.get(name)]
    answers = [f"the teacher's answers {about['answers']}"] if about.get("answers") else []
    return {
        "data": ", ".join([str(about.get("name", "")), *counts, *answers]),
        "conditions": ", ".join(
            f"{name.replace('_', ' ')} {_listed(each)}" for name, each in told.items()
        ),
        "notes": "; ".join(map(str, found.get("notes") or ())),
    }


def _classes(key: str, classes: Sequence[Mapping[str, Any]]) -> str:
    models = list(dict.fromkeys(name for each in classes for name in each["right"]))
    columns = [
        *(Column("class"), Column("labels", number(0))),
        *(Column(name, percent) for name in models),
    ]
    pair = ("student", "teacher")
    is_pair = set(pair) <= set(models)
    rows = []
    for each in classes:
        shares = [each["right"].get(name) for name in models]
        gap = [_gap(each["right"], *pair)] if is_pair else []
        rows.append([str(each["class"]), each.get("count"), *shares, *gap])
    columns += [Column("gap, points", number(1))] if is_pair else []
    drawn = sorted(classes, key=lambda each: -_spread(each["right"]))[:MOST_DRAWN]
    drawn.sort(key=lambda each: classes.index(each))
    plot = draw_classes(
        f"{key}-right",
        "Share right in each class, by model",
        [str(each["class"]) for each in drawn],
        {name: [each["right"].get(name) for each in drawn] for name in models},
    )
    only = "" if len(drawn) == len(classes) else f" The {len(drawn)} where models differ most."
    shown = table("Share right by class", columns, rows, is_tall=True)
    told = f"Share of each class's labels that a model gets right.{only}"
    return beside(figure(plot, told), shown)


def _gap(right: Mapping[str, float | None], one: str, other: str) -> float | None:
    left, base = right.get(one), right.get(other)
    return None if left is None or base is None else 100 * (left - base)


def _spread(right: Mapping[str, float | None]) -> float:
    there = [each for each in right.values() if each is not None]
    return max(there) - min(there) if there else 0.0


def _apart(apart: Sequence[Mapping[str, Any]], look: Look | None) -> str:
    seen: list[bytes | str | None] = [None] * len(apart)
    note = ""
    if look:
        try:
            seen = list(look([str(each["id"]) for each in apart]))
        except PipelineError as error:  # a report without pictures is still one
            note = paragraph(f"The samples cannot be shown: {error}", "note")
    items = [_differing(each, shown) for each, shown in zip(apart, seen, strict=True)]
    told = (
        "Samples on which the first choices differ, the largest KL(teacher, student) first; the "
        "label's own bars are set off."
    )
    more = items[SHOWN_APART:]
    folded = f"<details><summary>{len(more)} more</summary>{cards(more)}</details>" if more else ""
    return paragraph(told) + note + cards(items[:SHOWN_APART]) + folded


def _differing(each: Mapping[str, Any], seen: bytes | str | None) -> str:
    firsts = [
        f"{name}: {answer[0][0]}" for name, answer in each.get("answers", {}).items() if answer
    ]
    label = "" if each.get("label") is None else f"label {each['label']}, "
    kl = f"KL {each['kl']:.3f} nats" if each.get("kl") is not None else ""
    identity = str(each.get("id", ""))
    listed = "".join(
        bars(
            str(name),
            [
                bar(str(of), float(p), [percent(p)], is_marked=of == each.get("label"))
                for of, p in answer
            ],
        )
        for name, answer in each.get("answers", {}).items()
    )
    picture = seen if isinstance(seen, bytes) else None
    words = seen if isinstance(seen, str) else None
    head = text("; ".join(firsts))
    said = paragraph(f"{identity}, {label}{kl}")
    return f"<h4>{head}</h4>{sample(identity, picture, words)}{said}{listed}"

"""A cache on the page: what it was made from, how sure the teacher was, what it finds alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.metrics import CALIBRATION_BINS, calibration_error
from pipeline.report.about import (
    data_text,
    field_bytes,
    kept_text,
    shared_bytes,
    teacher_text,
    views_text,
    written_text,
)
from pipeline.report.alike import Choice, Example, Pair, soft_means
from pipeline.report.counts import (
    MASS_TEMPERATURES,
    RIGHT,
    Counts,
    Frame,
)
from pipeline.report.names import NameOf
from pipeline.report.page.pieces import (
    Column,
    bar,
    bars,
    cards,
    chip,
    facts,
    figure,
    figures,
    number,
    paragraph,
    percent,
    sample,
    section,
    size_text,
    table,
    text,
    tiles,
)
from pipeline.report.page.plots import draw_histogram, draw_histograms, draw_reliability
from pipeline.store import Cache

# Column headings of more letters stand upright.
LONG = 4
NAMED_SOFTWARE = 8
# What would be shown as 0.0 is a dot, which says its value to who points at it.
LEAST_SHOWN = 0.0005
# In as many digits as there is room for beside a bar.
FAINTEST = 0.0001


@dataclass(frozen=True)
class CacheNumbers:
    """Everything that is shown of a cache; `notes` say what could not be."""

    name: str
    cache: Cache
    frame: Frame
    counts: Counts
    name_of: NameOf
    pairs: Sequence[Pair]
    examples: Sequence[Example]
    notes: Sequence[str]


def share(value: float) -> str:
    """Show a share in three digits, however small."""
    return f"{100 * value:.3g}%"


def _told(choice: Choice, is_plain: bool) -> list[str]:
    return [percent(choice.soft), *([] if is_plain else [_faint(choice.plain)])]


def _faint(value: float) -> str:
    return f"{value:.2%}" if value >= FAINTEST else f"<{FAINTEST:.2%}"


def cache_section(key: str, found: CacheNumbers) -> str:
    """Show one cache."""
    return section(
        key,
        f"Cache {found.name}",
        tiles(_tiles(found)),
        facts(_facts(found.cache)),
        *(paragraph(note, "note") for note in found.notes),
        section(f"{key}-sure", "How sure the teacher is", _certainty(key, found), level=3),
        section(f"{key}-classes", "Class by class", _classes(found), level=3),
        section(f"{key}-alike", "What the teacher finds alike", _alike(found), level=3),
    )


def accuracy(counts: Counts) -> float | None:
    """Give the share of labelled positions where the teacher's first choice is the label."""
    right = float(counts.classes[RIGHT].sum())
    return right / counts.labelled if counts.labelled else None


def _tiles(found: CacheNumbers) -> dict[str, str]:
    cache, counts = found.cache, found.counts
    size = cache.manifest["size_bytes"] / counts.positions
    shown = {"positions": f"{counts.positions:,}", "bytes a position": f"{size:,.1f}"}
    if (right := accuracy(counts)) is not None:
        shown["teacher right"] = f"{right:.1%}"
        shown["calibration error"] = f"{calibration_error(counts.reliability):.4f}"
    shown["mean confidence"] = f"{counts.confidence_sum / counts.positions:.1%}"
    shown["mean entropy, nats"] = f"{counts.entropy_sum / counts.positions:.3f}"
    if found.frame.keeps_some:
        shown["kept mass at T = 1"] = f"{float(counts.mass_sum[0] / counts.positions):.4f}"
    return shown


def _facts(cache: Cache) -> dict[str, str]:
    plan, manifest = cache.plan, cache.manifest
    settings, recipe = plan.settings, plan.about.get("recipe", {})
    parts = f"{plan.part_count} part{'s' if plan.part_count != 1 else ''}"
    skipped = len(plan.about.get("skipped", ()))
    model = recipe.get("teacher", {}).get("model", {})
    named = model.get("path") or model.get("factory") or ""
    shared = shared_bytes(cache)
    arrays = field_bytes(cache) / manifest["positions"]
    software = list(settings.get("software", {}).items())[:NAMED_SOFTWARE]
    return {
        "teacher": ", ".join(filter(None, [named, teacher_text(settings, recipe)])),
        "data": data_text(settings, recipe),
        "rows": f"{plan.rows:,} in {parts}, {manifest['positions']:,} positions"
        + (f", {skipped} samples skipped" if skipped else ""),
        "kept": kept_text(plan.about["targets"]),
        "features": ", ".join(each["name"] for each in plan.about.get("features", ())),
        "views": views_text(plan.about.get("views")),
        "written": written_text(settings.get("generate")),
        "size": f"{size_text(manifest['size_bytes'])}, {arrays:,.1f} bytes a position as arrays"
        + (f"; {size_text(shared)} once, which all parts share" if shared else ""),
        "format": f"{plan.backend}, compression {plan.compression}",
        "software": ", ".join(f"{name} {version}" for name, version in software),
        "digest": cache.digest,
        "fingerprint": plan.fingerprint,
        "lies at": str(cache.path),
    }


def _certainty(key: str, found: CacheNumbers) -> str:
    counts, frame = found.counts, found.frame
    drawn = [
        _histogram(
            f"{key}-confidence",
            "Confidence",
            counts.confidences.tolist(),
            1.0,
            "confidence: the first choice's probability at T = 1",
        ),
        _histogram(
            f"{key}-entropy",
            "Entropy",
            counts.entropies.tolist(),
            frame.highest_entropy,
            "entropy, nats; at the right end every class is equally likely",
        ),
    ]
    if frame.keeps_some:
        drawn.insert(0, _masses(key, found))
    if counts.labelled:
        drawn.append(_reliability(key, found))
    return figures(drawn)


def _histogram(key: str, title: str, counts: Sequence[int], high: float, label: str) -> str:
    total, width = sum(counts), high / len(counts)
    rows = [
        (f"{place * width:.3g} to {(place + 1) * width:.3g}", count, count / total)
        for place, count in enumerate(counts)
    ]
    columns = [Column("from, to"), Column("positions", number(0)), Column("share", share)]
    drawn = draw_histogram(key, f"{title}: a histogram", counts, low=0.0, high=high, label=label)
    return figure(drawn, f"{title} over positions.", table(title, columns, rows, sorts=False))


def _masses(key: str, found: CacheNumbers) -> str:
    counts = found.counts
    means = (counts.mass_sum / counts.mass_count).tolist()
    named = {
        f"T = {temperature:g}, mean {mean:.3f}": histogram
        for temperature, mean, histogram in zip(
            MASS_TEMPERATURES, means, counts.masses.tolist(), strict=True
        )
    }
    every = found.frame.every
    only = f" Above T = 1 of every {every}th position." if every > 1 else ""
    bins = counts.masses.shape[1]
    columns = [Column("from, to"), *(Column(f"T = {t:g}", share) for t in MASS_TEMPERATURES)]
    rows = [
        (f"{place / bins:.2f} to {(place + 1) / bins:.2f}", *each)
        for place, each in enumerate((counts.masses / counts.mass_count[:, None]).T.tolist())
    ]
    return figure(
        draw_histograms(f"{key}-mass", "Kept mass: histograms at four temperatures", named,
                        label="kept mass"),
        "Kept mass: the probability that the kept classes cover; the rest is the tail, whose mass "
        f"is known.{only}",
        table("Kept mass: positions by temperature", columns, rows, sorts=False),
    )  # fmt: skip


def _reliability(key: str, found: CacheNumbers) -> str:
    counts = found.counts
    bins = [
        (count, sure / count, right / count)
        for count, sure, right in counts.reliability.T.tolist()
        if count
    ]
    error = calibration_error(counts.reliability)
    columns = [
        *(Column("positions", number(0)), Column("mean confidence", share)),
        Column("share right", share),
    ]
    return figure(
        draw_reliability(f"{key}-reliability", "Reliability: share right by confidence", bins),
        f"Reliability on {counts.labelled:,} labelled positions, {CALIBRATION_BINS} bins of equal "
        f"width; larger dots are of more positions. Expected calibration error {error:.4f}: the "
        "mean gap to the dashed line.",
        table("Reliability", columns, bins, sorts=False),
    )


def _classes(found: CacheNumbers) -> str:
    counts, frame = found.counts, found.frame
    rows = []
    for place, each in enumerate(frame.classes.tolist()):
        chosen, sure, labelled, right = counts.classes[:, place].tolist()
        if not (chosen or labelled):
            continue
        rows.append(
            (
                found.name_of(each),
                chosen,
                sure / chosen if chosen else None,
                *((labelled, right / labelled if labelled else None) if counts.labelled else ()),
            )
        )
    columns = [
        Column("class"),
        Column("first choice", number(0)),
        Column("mean confidence", share),
        *([Column("labels", number(0)), Column("right", share)] if counts.labelled else []),
    ]
    more = frame.spec.class_count - len(rows)
    told = (
        f"{len(rows):,} classes, the most frequent first choices among them; {more:,} are not "
        "listed, or are at no position."
    )
    shown = table("Positions by class", columns, rows, is_tall=True)
    return (paragraph(told, "quiet") if more else "") + shown


def _alike(found: CacheNumbers) -> str:
    temperature = f"T = {found.frame.temperature:g}"
    if not found.pairs:
        return paragraph(f"At {temperature} no class gets more beside one than beside others.")
    every = found.frame.every
    only = f" Of every {every}th position." if every > 1 else ""
    columns = [
        Column("first choice"),
        Column("also likely"),
        Column("gets", share),
        Column("elsewhere", share),
        Column("times", number(1)),
        Column("positions", number(0)),
    ]
    rows = [
        (
            found.name_of(pair.first),
            found.name_of(pair.second),
            pair.share,
            pair.usual,
            pair.share / pair.usual if pair.usual else None,
            pair.count,
        )
        for pair in found.pairs
    ]
    return "".join(
        [
            paragraph(
                f"The mean distribution at {temperature}, by the teacher's first choice: "
                "how much each class gets where another one wins. This is what hard labels do not "
                f"say.{_left_out_text(found)}{only}"
            ),
            _matrix(found),
            _examples(found),
            table(
                f"The strongest pairs: what a class gets at {temperature} where another one is "
                "first, and where neither of the two is",
                columns,
                rows,
                is_tall=True,
            ),
        ]
    )


def _left_out_text(found: CacheNumbers) -> str:
    spec = found.frame.spec
    if not spec.has_tail:
        return ""
    if spec.draws:
        return " Of classes that were left out the draws tell, which are right on average."
    if spec.rank:
        return " Classes that were left out have the shape of the tail."
    return " Classes that were left out have an even share of the tail."


def _matrix(found: CacheNumbers) -> str:
    frame, means = found.frame, soft_means(found.counts).nan_to_num(nan=-1.0)
    names = [found.name_of(each) for each in frame.classes[: frame.matrix].tolist()]
    apart = means[(means >= 0) & ~torch.eye(len(means), dtype=torch.bool)]
    least, most = (float(each) for each in apart.aminmax()) if len(apart) else (0.0, 1.0)
    head = "".join(
        f'<th scope="col"{" class=long" if len(name) > LONG else ""}>{text(name)}</th>'
        for name in names
    )
    rows = []
    for a, name in enumerate(names):
        cells = "".join(
            _cell(float(means[a, b]), (least, most), is_same=a == b, told=f"{name}, {names[b]}")
            for b in range(len(names))
        )
        rows.append(f'<tr><th scope="row" title="{text(name)}">{text(name)}</th>{cells}</tr>')
    label = "Mean distribution, %: rows are first choices"
    return (
        f'<div class="scrolls" tabindex="0" role="region" aria-label="{label}">'
        f'<table class="matrix"><caption>{label}, columns what each class gets</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: float, ends: tuple[float, float], *, is_same: bool, told: str) -> str:
    """Shade a value by where it is between the least and the most of two classes."""
    if value < 0:
        return "<td></td>"
    shown = f"{100 * value:.1f}" if value >= LEAST_SHOWN else "·"
    if is_same:
        return f'<td class="same" title="{text(told)}: {share(value)}">{shown}</td>'
    strength = (value - ends[0]) / max(ends[1] - ends[0], 1e-12)
    return f'<td style="--v:{strength:.2f}" title="{text(told)}: {share(value)}">{shown}</td>'


def _examples(found: CacheNumbers) -> str:
    temperature = found.frame.temperature
    is_plain = temperature == 1.0
    items = []
    for each in found.examples:
        label = "" if each.label is None else f", label {each.label}"
        rows = [
            bar(
                choice.name,
                choice.soft,
                ["≈" * choice.is_left_out + told for told in _told(choice, is_plain)],
                is_marked=choice.name == each.second,
            )
            for choice in each.choices
        ]
        items.append(
            f"<h4>{chip(each.first)} with some {chip(each.second)}</h4>"
            + sample(each.id, each.picture, each.text)
            + paragraph(f"{each.id}{label}")
            + bars(f"teacher at T = {temperature:g}{'' if is_plain else ', and at T = 1'}", rows)
        )
    return cards(items)

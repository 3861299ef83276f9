"""What a teacher finds alike, on the page: a matrix, its strongest pairs, and samples of them."""

from collections.abc import Sequence

import torch

from pipeline.report.alike import Choice, Example, Pair, soft_means
from pipeline.report.counts import Counts, Frame
from pipeline.report.names import NameOf
from pipeline.report.page.pieces import (
    Column,
    bar,
    bars,
    cards,
    chip,
    number,
    paragraph,
    percent,
    sample,
    share,
    table,
    text,
)
from pipeline.targets import TargetSpec

# Column headings of more letters stand upright.
LONG = 4
# What would be shown as 0.0 is a dot, which says its value to who points at it.
LEAST_SHOWN = 0.0005
# In as many digits as there is room for beside a bar.
FAINTEST = 0.0001


def show_alike(
    frame: Frame,
    counts: Counts,
    name_of: NameOf,
    pairs: Sequence[Pair],
    examples: Sequence[Example],
) -> str:
    """Show classes against each other, the strongest pairs, and samples in which they meet."""
    temperature = f"T = {frame.temperature:g}"
    if not pairs:
        return paragraph(f"At {temperature} no class gets more beside one than beside others.")
    only = f" Of every {frame.every}th position." if frame.every > 1 else ""
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
            name_of(pair.first),
            name_of(pair.second),
            pair.share,
            pair.usual,
            pair.share / pair.usual if pair.usual else None,
            pair.count,
        )
        for pair in pairs
    ]
    return "".join(
        [
            paragraph(
                f"The mean distribution at {temperature}, by the teacher's first choice: "
                "how much each class gets where another one wins. This is what hard labels do not "
                f"say.{_left_out_text(frame.spec)}{only}"
            ),
            _matrix(frame, counts, name_of),
            _examples(examples, frame.temperature),
            table(
                f"The strongest pairs: what a class gets at {temperature} where another one is "
                "first, and where neither of the two is",
                columns,
                rows,
                is_tall=True,
            ),
        ]
    )


def _left_out_text(spec: TargetSpec) -> str:
    if not spec.has_tail:
        return ""
    if spec.draws:
        return " Of classes that were left out the draws tell, which are right on average."
    if spec.rank:
        return " Classes that were left out have the shape of the tail."
    return " Classes that were left out have an even share of the tail."


def _matrix(frame: Frame, counts: Counts, name_of: NameOf) -> str:
    means = soft_means(counts).nan_to_num(nan=-1.0)
    names = [name_of(each) for each in frame.classes[: frame.matrix].tolist()]
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


def _examples(examples: Sequence[Example], temperature: float) -> str:
    is_plain = temperature == 1.0
    items = []
    for each in examples:
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


def _told(choice: Choice, is_plain: bool) -> list[str]:
    return [percent(choice.soft), *([] if is_plain else [_faint(choice.plain)])]


def _faint(value: float) -> str:
    return f"{value:.2%}" if value >= FAINTEST else f"<{FAINTEST:.2%}"

"""How sure a teacher was, on the page: histograms, reliability, and a row for each class."""

from collections.abc import Sequence

from pipeline.metrics import CALIBRATION_BINS, calibration_error
from pipeline.report.counts import MASS_TEMPERATURES, Counts, Frame
from pipeline.report.names import NameOf
from pipeline.report.page.pieces import (
    Column,
    figure,
    figures,
    number,
    paragraph,
    share,
    table,
)
from pipeline.report.page.plots import draw_histogram, draw_histograms, draw_reliability


def show_certainty(key: str, frame: Frame, counts: Counts) -> str:
    """Draw how certain the teacher was over positions, and how right where that is known."""
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
        drawn.insert(0, _masses(key, frame, counts))
    if counts.labelled:
        drawn.append(_reliability(key, counts))
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


def _masses(key: str, frame: Frame, counts: Counts) -> str:
    means = (counts.mass_sum / counts.mass_count).tolist()
    named = {
        f"T = {temperature:g}, mean {mean:.3f}": histogram
        for temperature, mean, histogram in zip(
            MASS_TEMPERATURES, means, counts.masses.tolist(), strict=True
        )
    }
    every = frame.every
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


def _reliability(key: str, counts: Counts) -> str:
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


def show_classes(frame: Frame, counts: Counts, name_of: NameOf) -> str:
    """List how often each class is chosen, how surely, and how rightly."""
    rows = []
    for place, each in enumerate(frame.classes.tolist()):
        chosen, sure, labelled, right = counts.classes[:, place].tolist()
        if not (chosen or labelled):
            continue
        rows.append(
            (
                name_of(each),
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

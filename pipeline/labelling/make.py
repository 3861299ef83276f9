"""From a cache to a folder of pseudo-labels: the table, its summary, and a page to look at.

Two readings of the cache's parts, targets first and ids last; between them 16 bytes a row lie in a
temporary file, so memory does not grow with the rows.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import TargetError
from pipeline.labelling.answers import ANSWER, Answers, Asked, confidence
from pipeline.labelling.calibration import Judged
from pipeline.labelling.choice import REASONS, Choice, Decider, choose
from pipeline.labelling.output.page import Gathered, Look, write_page
from pipeline.labelling.output.summary import Tally, summarise
from pipeline.labelling.output.table import write_table
from pipeline.labelling.rules import Wanted, find_limits
from pipeline.store import SampleTable
from pipeline.temporary import TemporaryArray

# Rows that are looked at together, and those of a row group, about: parts are kept whole.
WALK_ROWS, GROUP_ROWS = 2**18, 2**17
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Labelling:
    """All that pseudo-labels are made from; `where` names the rule in messages."""

    asked: Asked
    temperature: float
    wanted: Wanted
    judged: Judged | None
    where: str

    @property
    def class_names(self) -> list[str] | None:
        names: list[str] | None = self.asked.cache.plan.about["class_names"]
        return names


def make_labels(
    labelling: Labelling,
    folder: Path,
    *,
    answers_of: Iterable[Answers] | None = None,
    advance: Advance,
    look: Look | None = None,
) -> dict[str, Any]:
    """Write table and page into a folder, and give the summary; `advance` hears of rows twice.

    Answers are taken here, part by part, unless somebody else has them: `answers_of`.

    Raises: TargetError if the rule cannot be followed, or would keep nothing: nothing is written
        then; CorruptPart if the cache is damaged; PipelineError if the disk is full.
    """
    class_count = labelling.asked.kept.spec.class_count
    limits = find_limits(labelling.wanted, class_count, labelling.judged, labelling.where)
    answers = TemporaryArray(ANSWER, folder)
    for found in answers_of or labelling.asked.answers(labelling.temperature):
        answers.append(found)
        advance(len(found))

    def walk() -> Iterator[Answers]:
        for start in range(0, answers.count, WALK_ROWS):
            yield answers.read(start, min(start + WALK_ROWS, answers.count))

    choice = choose(walk, labelling.wanted, limits)
    if not choice.admitted.any():
        raise TargetError(_nothing_left(labelling, walk))
    tally, gathered = Tally(np.zeros_like(choice.copies), np.zeros_like(choice.copies)), Gathered()
    names = labelling.class_names
    with write_table(folder) as writer:
        for columns, doubts in _columns(labelling, choice, answers, advance):
            _count(tally, columns)
            gathered.add(columns, doubts)
            writer.write(columns)
        summary = summarise(choice, tally, labelling.judged, names)
        writer.describe(_about(labelling, summary))
    title = f"Pseudo-labels: {summary['chosen']:,} of {summary['rows']:,} rows"
    write_page(folder, title, gathered, look)
    return summary


def _columns(
    labelling: Labelling, choice: Choice, answers: TemporaryArray, advance: Advance
) -> Iterator[tuple[dict[str, Any], Answers]]:
    """Give the columns of one row group after another, and how much each row is doubted."""
    decider, start = Decider(choice), 0
    for tables in _groups(labelling.asked):
        rows = sum(map(len, tables))
        found = answers.read(start, start + rows)
        start += rows
        copies, reasons = decider.decide(found)
        sure, chosen = confidence(found), reasons == 0
        weighs = labelling.wanted.kind == "all"
        names = labelling.class_names
        columns = {
            "id": [sample_id for table in tables for sample_id in table.ids],
            "digest": np.concatenate([table.digests for table in tables]),
            "label": found["label"],
            "label_name": np.array(names, object)[found["label"]] if names else [None] * rows,
            "confidence": sure,
            "margin": found["margin"],
            "entropy": found["entropy"],
            "weight": np.where(chosen, sure if weighs else np.float32(1), np.float32(0)),
            "copies": copies,
            "chosen": chosen,
            "why_not": np.array(REASONS, object)[reasons],
        }
        yield columns, found["doubt"]
        advance(rows)


def _groups(asked: Asked) -> Iterator[list[SampleTable]]:
    """Read the tables of the parts, as many together as make a row group."""
    held: list[SampleTable] = []
    for table in asked.each_part(asked.cache.read_samples):
        held.append(table)
        if sum(map(len, held)) >= GROUP_ROWS:
            yield held
            held = []
    if held:
        yield held


def _count(tally: Tally, columns: dict[str, Any]) -> None:
    size, label, chosen = len(tally.chosen), columns["label"], columns["chosen"]
    tally.rows += len(label)
    tally.chosen += np.bincount(label[chosen], minlength=size)
    tally.copies += np.bincount(label, columns["copies"], minlength=size).astype(np.int64)
    sure = columns["confidence"].astype(np.float64)
    tally.confidence_sum += float(sure.sum())
    tally.chosen_confidence_sum += float(sure[chosen].sum())


def _nothing_left(labelling: Labelling, walk: Callable[[], Iterator[Answers]]) -> str:
    best, margin = 0.0, 0.0
    for answers in walk():
        best = max(best, float(confidence(answers).max()))
        margin = max(margin, float(answers["margin"].max()))
    told = (
        f"largest margin is {margin:.4f}"
        if labelling.wanted.kind == "margin"
        else f"surest row has a confidence of {best:.4f}"
    )
    return (
        f"{labelling.where}: '{labelling.wanted.kind}' would keep nothing: the {told}, at the "
        f"temperature {labelling.temperature:.3g}. Ask for less."
    )


def _about(labelling: Labelling, summary: dict[str, Any]) -> dict[str, Any]:
    """Say in the table itself what a student has to know of it."""
    return {
        "cache": labelling.asked.cache.digest,
        "temperature": labelling.temperature,
        "rule": {"kind": labelling.wanted.kind, **labelling.wanted.settings},
        "class_count": labelling.asked.kept.spec.class_count,
        "class_names": labelling.class_names,
        "rows_an_epoch": summary["rows_an_epoch"],
        "is_skewed": summary["skew"]["is_harmful"],
    }

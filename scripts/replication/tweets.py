"""Pseudo-labels of real text: what is promised, what is true, and what a student makes of it.

Tweets with three sentiments; MiniLM, fine-tuned on 2,000 of them, reads 26,576 whose labels are
looked at in the end. Promises are made on 1,000 others, which also choose the checkpoint of the
students: small CNNs over tokens, judged on 5,000.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import SampleError
from pipeline.labelling import TABLE_FILE
from pipeline.progress import progress
from pipeline.recipe import Recipe
from replication.recipes import HARD, Values, as_toml, shipped
from replication.report import Bar, Report
from stages import cache_teacher, pseudo_label, train_student

PROMISES = (0.8, 0.85, 0.9)
LABELS, SOFT = "labels alone", "labels, soft targets of all"
BESIDE = '[{ kind = "hard_labels", weight = 1.0 }, { kind = "pseudo_labels", weight = 1.0 }]'


@dataclass(frozen=True)
class Promised:
    """A promised precision, the share of tweets it was kept of, and how many are truly right."""

    promised: float
    kept: float
    expected: tuple[float, float]
    precision: float


def run(out: Path, *, seeds: int) -> Report:
    """Train the teacher under `out`, or find it there, make promises, and train `seeds` students.

    Raises: SampleError if the tweets are not there.
    """
    teacher = shipped("tweets-teacher", {"run.path": out / "teacher"})
    tweets = teacher.base / "../assets/tweets/unlabelled.jsonl"
    if not tweets.is_file():
        raise SampleError(f"{tweets}: is not there. Fetch it: scripts/assets minilm tweets")
    accuracy = train_student.run(teacher)["test"]["accuracy"]
    cache_teacher.run(recipe(out, {}))
    held_out: Values = {"cache.data": '"calibration"', "cache.path": out / "calibration"}
    cache_teacher.run(recipe(out, held_out))
    truth = _truth(tweets)
    promised = [_label(out, share, truth) for share in PROMISES]
    with progress("tweets", total=seeds, unit="seeds") as advance:
        students = list[dict[str, float]]()
        for seed in range(seeds):
            students.append(_students(out, seed))
            advance(1)
    return report(accuracy, promised, students)


def report(teacher: float, promised: list[Promised], students: list[dict[str, float]]) -> Report:
    """Lay out promises beside the truth, and what students make of them."""
    rows = {name: [each[name] for each in students] for name in students[0]}
    table = [
        f"26,576 tweets without a label, a teacher of 2,000 (test accuracy {teacher:.1%})",
        f"{'promised':>9} {'kept':>7} {'expected':>16} {'true':>8}",
        *(
            f"{each.promised:>9.2f} {each.kept:>7.1%} {each.expected[0]:>8.3f} -"
            f"{each.expected[1]:>6.3f} {each.precision:>8.2%}"
            for each in promised
        ),
        f"students, test accuracy on 5,000, {len(students)} seeds:",
        *(
            f"  {name:44} {mean(values):.2%}"
            + (f" ± {stdev(values):.2%}" if len(values) > 1 else "")
            for name, values in rows.items()
        ),
    ]
    gain = 100 * (mean(rows[SOFT]) - mean(rows[LABELS]))
    bars = [
        Bar(f"true precision, promised {each.promised:g}", each.precision, ">=", each.promised)
        for each in promised
    ]
    return Report(table, [*bars, Bar("soft targets of all over labels, points", gain, ">", 0.0)])


def recipe(out: Path, values: Values) -> Recipe:
    """The shipped recipe with its places under `out`."""
    return shipped(
        "tweets",
        {
            "teacher.model.path": out / "teacher",
            "cache.path": out / "cache",
            "pseudo_labels.labelled_cache": out / "calibration",
            **values,
        },
    )


def _truth(tweets: Path) -> dict[str, int]:
    """Read what people said of the unlabelled tweets, by the tweet's place in its file."""
    with tweets.open(encoding="utf-8") as lines:
        return {str(place): int(json.loads(line)["label"]) for place, line in enumerate(lines, 1)}


def _label(out: Path, promised: float, truth: dict[str, int]) -> Promised:
    path = out / f"promised-{promised:g}"
    values: Values = {
        "pseudo_labels.path": path,
        "pseudo_labels.rule": f'{{ kind = "precision", at_least = {promised:g} }}',
    }
    summary = pseudo_label.run(recipe(out, values))
    table = pq.read_table(path / TABLE_FILE, columns=["id", "label", "chosen"])
    # Ids are file:line#piece.
    known = [truth[name.split(":")[1].split("#")[0]] for name in table["id"].to_pylist()]
    chosen = table["chosen"].to_numpy()
    right = table["label"].to_numpy() == np.array(known)
    expected = summary["expected_precision"]
    return Promised(
        promised,
        float(chosen.mean()),
        (expected["low"], expected["high"]),
        float(right[chosen].mean()),
    )


def _students(out: Path, seed: int) -> dict[str, float]:
    """Train the students of a seed, or find them there."""
    labelled = '{ data = "labelled", rows = 16 }'
    soft = (
        f'{{ data = "unlabelled", rows = 48, cache = {as_toml(out / "cache")}, '
        f"pseudo_labels = {as_toml(out / f'promised-{PROMISES[0]:g}')}, only_chosen = false }}"
    )
    taught: dict[str, Values] = {
        LABELS: {"training.sources": '[{ data = "labelled", rows = 64 }]', "losses": HARD},
        SOFT: {"training.sources": f"[{labelled}, {soft}]"},
    }
    for promised in PROMISES:
        table = as_toml(out / f"promised-{promised:g}")
        source = f'{{ data = "unlabelled", rows = 48, pseudo_labels = {table} }}'
        taught[f"labels, hard pseudo-labels promised {promised:g}"] = {
            "training.sources": f"[{labelled}, {source}]",
            "losses": BESIDE,
        }
    return {
        name: _accuracy(
            recipe(
                out,
                {
                    **values,
                    "training.seed": seed,
                    "run.path": out / f"seed-{seed}" / name.replace(" ", "-").replace(",", ""),
                },
            )
        )
        for name, values in taught.items()
    }


def _accuracy(made: Recipe) -> float:
    accuracy: float = train_student.run(made, quiet=True)["test"]["accuracy"]
    return accuracy

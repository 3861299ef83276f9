"""A promised precision is kept, and unlabelled images are worth training on: Fashion-MNIST.

1,000 labels, 59,000 images whose labels nobody looks at until the end. Of the 1,000 the teacher
learns from 700, and the promise is made on the other 300. Each split is another choice of the
1,000; `students` of them train a student on the labels alone, and one on all images.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import TargetError
from pipeline.experiment import open_data
from pipeline.labelling import TABLE_FILE, ask_rows
from pipeline.labelling.bounds import find_widest
from pipeline.progress import progress
from pipeline.recipe import Recipe
from pipeline.samples import read_labels
from pipeline.store import open_cache
from replication.fashion import need_fashion
from replication.interval import t_interval
from replication.recipes import HARD, Values, as_toml, shipped
from replication.report import Bar, Report
from stages import cache_teacher, pseudo_label, train_student

LABELS, SEEN = 1000, 700
# The rule's own: half of what its confidence leaves.
PROMISED, RISK = 0.95, 0.025
# Of 20 splits one may break a promise that holds with 95 % confidence.
LEAST_KEPT = 0.95
# In every split the promise is made again on so many other draws of as many labelled images, from
# those whose labels were hidden: few splits say little of how often it is broken.
REDRAWS = 200
# As the teacher saw its own images.
NOISE = '[{ kind = "shift", pixels = 2.0 }, { kind = "flip" }]'


@dataclass(frozen=True)
class Split:
    """What became of one choice of the labels; shares and accuracies."""

    seed: int
    teacher: float
    ece: tuple[float, float]
    # Of all rows that are labelled, and of those how many truly are right.
    kept: float
    precision: float
    # Of promises made again: how many are broken, and the share of rows that they keep.
    broken: float
    kept_again: float
    labels: float | None = None
    noisy_labels: float | None = None
    both: float | None = None

    @property
    def holds(self) -> bool:
        """Whether at least so many are right as was promised; none kept breaks no promise."""
        return not self.kept or self.precision >= PROMISED


def run(out: Path, *, splits: int, students: int) -> Report:
    """Make `splits` promises under `out`, or find them there, and look at the truth.

    Raises: SampleError if Fashion-MNIST is not on this machine.
    """
    found = []
    need_fashion(recipe(out, 0, {}))
    with progress("promises", total=splits, unit="splits") as advance:
        for seed in range(splits):
            found.append(_split(out / f"split-{seed}", seed, with_students=seed < students))
            advance(1, f"kept {found[-1].kept:.1%}, right {found[-1].precision:.2%}")
    return report(found)


def report(found: list[Split]) -> Report:
    """Lay out the splits, and how often the promise holds."""
    taught = [each for each in found if each.labels is not None and each.both is not None]
    gain = t_interval([100 * ((e.both or 0.0) - (e.labels or 0.0)) for e in taught])
    of_noise = t_interval([100 * ((e.both or 0.0) - (e.noisy_labels or 0.0)) for e in taught])
    table = [
        f"Fashion-MNIST, {LABELS:,} labels, 59,000 images without; promised precision {PROMISED:g}",
        f"{'split':>5} {'teacher':>8} {'ECE':>15} {'kept':>7} {'right':>8} {'':>7}"
        f"{'again: broken':>14} {'kept':>7} {'labels':>8} {'+ noise':>8} {'both':>8}",
        *(
            f"{e.seed:>5} {e.teacher:>8.1%} {e.ece[0]:>7.3f} {e.ece[1]:>7.3f} {e.kept:>7.1%} "
            f"{e.precision:>8.2%} {'kept' if e.holds else 'BROKEN':>7}"
            f"{e.broken:>14.1%} {e.kept_again:>7.1%} {_share(e.labels):>8} "
            f"{_share(e.noisy_labels):>8} {_share(e.both):>8}"
            for e in found
        ),
        f"kept on average {mean(e.kept for e in found):.1%} of the images",
        f"labels and all images over labels alone: {gain.mean:+.2f} points, 95 % interval "
        f"{gain.low:+.2f} to {gain.high:+.2f} ({len(taught)} pairs)",
        f"the same over labels with shifts and flips: {of_noise.mean:+.2f} points, "
        f"{of_noise.low:+.2f} to {of_noise.high:+.2f}",
    ]
    bars = [
        Bar("share of the promises kept", mean(e.holds for e in found), ">=", LEAST_KEPT),
        Bar("share broken, made again", mean(e.broken for e in found), "<=", 1 - LEAST_KEPT),
        Bar("lower end of the gain's interval, points", gain.low, ">", 0.0),
    ]
    return Report(table, bars)


def _share(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.1%}"


def recipe(folder: Path, seed: int, values: Values) -> Recipe:
    """The shipped recipe over one choice of the labels."""
    return shipped(
        "fashion-unlabelled",
        {
            "data.labelled.subset": f"{{ count = {LABELS}, seed = {seed} }}",
            "data.calibration.subset": (
                f"{{ skip = {SEEN}, count = {LABELS - SEEN}, seed = {seed} }}"
            ),
            "data.unlabelled.subset": f"{{ skip = {LABELS}, seed = {seed} }}",
            "teacher.model.path": folder / "teacher",
            "cache.path": folder / "cache",
            "pseudo_labels.labelled_cache": folder / "calibration",
            "pseudo_labels.path": folder / "labels",
            "training.seed": seed,
            **values,
        },
    )


def _split(folder: Path, seed: int, *, with_students: bool) -> Split:
    teacher = shipped(
        "fashion-few",
        {
            "data.train.subset": f"{{ count = {SEEN}, seed = {seed} }}",
            "training.seed": seed,
            "run.path": folder / "teacher",
        },
    )
    accuracy: float = train_student.run(teacher, quiet=True)["test"]["accuracy"]
    cache_teacher.run(recipe(folder, seed, {}), quiet=True)
    calibration: Values = {"cache.data": '"calibration"', "cache.path": folder / "calibration"}
    cache_teacher.run(recipe(folder, seed, calibration), quiet=True)
    kept, precision, ece = _label(folder, seed)
    again = _promise_again(folder, seed)
    students = _students(folder, seed) if with_students else {}
    return Split(seed, accuracy, ece, kept, precision, *again, **students)


def _label(folder: Path, seed: int) -> tuple[float, float, tuple[float, float]]:
    """Make the pseudo-labels, and only then look at the labels of the same images."""
    try:
        summary = pseudo_label.run(
            recipe(folder, seed, {"pseudo_labels.show": '"test"'}), quiet=True
        )
    except TargetError:  # nothing can be promised
        return 0.0, 1.0, (float("nan"), float("nan"))
    table = pq.read_table(folder / "labels" / TABLE_FILE, columns=["label", "chosen"])
    labels, chosen = table["label"].to_numpy(), table["chosen"].to_numpy()
    truth = _truth(folder, seed)
    found = summary["calibration"]
    right = float((labels == truth)[chosen].mean())
    return float(chosen.mean()), right, (found["ece_before"], found["ece_after"])


def _promise_again(folder: Path, seed: int) -> tuple[float, float]:
    """Make the promise on other draws of labelled images; give how often it is broken, and keeps.

    Ranks are those at temperature 1, for fitting it anew moves none that matters.
    """
    answers = np.concatenate(list(ask_rows(open_cache(folder / "cache"), 1).answers(1.0)))
    right, doubts = answers["label"] == _truth(folder, seed), answers["doubt"]
    order = np.argsort(doubts, kind="stable")
    precision = right[order].cumsum() / np.arange(1, len(order) + 1)
    random, broken, kept = np.random.default_rng(seed), 0, 0.0
    for _ in range(REDRAWS):
        drawn = random.choice(len(doubts), LABELS - SEEN, replace=False)
        made = find_widest(doubts[drawn], right[drawn], precision=PROMISED, risk=RISK)
        if made.doubt is not None:
            count = int((doubts <= np.float32(made.doubt)).sum())
            broken += bool(precision[count - 1] < PROMISED)
            kept += count / len(doubts)
    return broken / REDRAWS, kept / REDRAWS


def _truth(folder: Path, seed: int) -> np.ndarray:
    """Read the labels of the unlabelled images, in their order."""
    hidden = recipe(folder, seed, {})
    labels = as_toml(Path(getattr(hidden.data["labelled"], "labels", "")))
    known = recipe(folder, seed, {"data.unlabelled.labels": labels})
    samples = open_data(known, "unlabelled")
    return read_labels(samples, np.arange(len(samples)))


def _students(folder: Path, seed: int) -> dict[str, float]:
    """Train on the labels alone, on those with noise, and on all images."""
    # All of the images, whatever was chosen of them.
    beside = f'{{ data = "unlabelled", rows = 96, cache = {as_toml(folder / "cache")} }}'
    alone: Values = {
        "training.sources": '[{ data = "labelled", rows = 128 }]',
        "losses": HARD,
    }
    taught: dict[str, Values] = {
        "labels": alone,
        "noisy_labels": {**alone, "views.augment": NOISE, "training.views": '"fresh"'},
        "both": {"training.sources": f'[{{ data = "labelled", rows = 32 }}, {beside}]'},
    }
    return {
        name: float(
            train_student.run(
                recipe(folder, seed, {**values, "run.path": folder / f"student-{name}"}), quiet=True
            )["test"]["accuracy"]
        )
        for name, values in taught.items()
    }

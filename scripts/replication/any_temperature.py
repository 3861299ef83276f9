"""Any temperature: what four classes and eight numbers know of the other six classes' mass."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.experiment import open_data, open_model
from pipeline.progress import progress
from pipeline.stream import Stream
from pipeline.targets import DEFAULT_NODES, Targets, TargetSpec, decode, encode, tail_mass
from replication.fashion import Teacher, train_teacher
from replication.recipes import shipped
from replication.report import Bar, Report

KEPT = 4
HIGHEST, COUNT = 20.0, 20
# Evenly spread in the logarithm; none of them is stored, so each shows the interpolation.
TEMPERATURES = tuple(HIGHEST ** (i / COUNT) for i in range(1, COUNT + 1))
STORED = tuple(1 / node for node in DEFAULT_NODES)
MOST_WORST, MOST_MEAN, MOST_STORED = 0.01, 0.001, 2e-6


@dataclass(frozen=True)
class Row:
    """Errors of the tail mass at one temperature, over positions."""

    temperature: float
    tail_mass: float
    worst: float
    mean: float


def run(out: Path) -> Report:
    """Train the teacher under `out`, or find it there, and compare on the test images.

    Raises: SampleError if Fashion-MNIST is not on this machine.
    """
    teacher = train_teacher(out)
    logits = _answer(teacher.path)
    return report(teacher, measure(logits, TEMPERATURES), measure(logits, STORED))


def measure(logits: Tensor, temperatures: Iterable[float]) -> list[Row]:
    """Cut logits to KEPT classes and compare tail masses with the truth in float64.

    Shapes: logits (P, C).
    """
    spec = TargetSpec("top_k", logits.shape[1], KEPT)
    targets = decode(spec, encode(spec, logits))
    return [_row(logits, targets, temperature) for temperature in temperatures]


def report(teacher: Teacher, between: Sequence[Row], stored: Sequence[Row]) -> Report:
    """Lay out both kinds of temperature, ascending."""
    marked = [(row, "") for row in between] + [(row, "  stored") for row in stored]
    table = [
        f"Fashion-MNIST's 10,000 test images, top-{KEPT} of 10: error of the tail mass",
        f"{'T':>6} {'tail mass':>10} {'worst':>9} {'mean':>9}",
        *(
            f"{row.temperature:>6.2f} {row.tail_mass:>10.4f} {row.worst:>9.1e} {row.mean:>9.1e}"
            f"{mark}"
            for row, mark in sorted(marked, key=lambda each: each[0].temperature)
        ),
    ]
    bars = [
        teacher.bar(),
        Bar("worst error", max(row.worst for row in between), "<=", MOST_WORST),
        Bar("largest mean error", max(row.mean for row in between), "<=", MOST_MEAN),
        Bar("worst error where stored", max(row.worst for row in stored), "<=", MOST_STORED),
    ]
    return Report(table, bars)


def _row(logits: Tensor, targets: Targets, temperature: float) -> Row:
    assert targets.classes is not None
    probs = (logits.double() / temperature).softmax(1)  # (P, C)
    truth = probs.scatter(1, targets.classes, 0.0).sum(1)  # (P,)
    error = (tail_mass(targets, temperature).double() - truth).abs()
    return Row(temperature, float(truth.mean()), float(error.max()), float(error.mean()))


@torch.inference_mode()
def _answer(teacher: Path) -> Tensor:
    """Ask the teacher about every test image. Shapes: returns (10000, 10)."""
    recipe = shipped("fashion", {"teacher.model.path": teacher})
    assert recipe.teacher
    network = open_model(recipe, recipe.teacher.model, where="teacher.model").eval()
    samples = open_data(recipe, "test")
    stream = Stream(samples, batch_size=recipe.teacher.batch_size, seed=None)
    answers = []
    with progress("teacher", total=len(samples)) as advance:
        for batch in stream:
            answers.append(network(batch.inputs).logits)
            advance(len(batch.ids))
    return torch.cat(answers)

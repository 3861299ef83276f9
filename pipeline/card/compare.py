"""Models beside each other: quality, size and speed, each in the teacher's terms where it is there.

It puts numbers together; it measures none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.card.quality import Quality
from pipeline.card.speed import Speed

TEACHER, STUDENT = "teacher", "student"
# From so many times as fast on, a share in per cent is hard to read.
MANY_TIMES = 3.0


@dataclass(frozen=True)
class Compared:
    """What was measured of one model; the teacher may not be at hand, and then has no size."""

    name: str
    quality: Quality | None = None
    speed: Speed | None = None
    parameters: int | None = None
    weights_bytes: int | None = None


def count_weights(model: nn.Module) -> tuple[int, int]:
    """Count parameters, and the bytes that all that is saved of a model takes; shared ones once."""
    parameters = sum(each.numel() for each in model.parameters())
    saved = {each.data_ptr(): each.nbytes for each in model.state_dict().values() if each.numel()}
    return parameters, sum(saved.values())


def compare(
    models: Sequence[Compared], class_names: Sequence[str], text_bytes: int | None
) -> dict[str, Any]:
    """Put models beside each other, the teacher first if it is among them.

    `text_bytes` are those of the text whose tokens were predicted, where that is known.
    """
    teacher = next((each for each in models if each.name == TEACHER), None)
    theirs = _teacher_accuracy(models, teacher)
    rows = [_row(each, theirs, text_bytes) for each in models]
    if teacher is None and theirs is not None:  # all that a cache says of it
        rows.insert(0, {**dict.fromkeys(rows[0]), "name": TEACHER, "accuracy": theirs})
    student = next((each for each in rows if each["name"] == STUDENT), rows[-1])
    report = {
        "headline": _headline(student, rows[0]),
        "models": rows,
        "classes": _classes(models, class_names),
        "disagreements": _disagreements(models),
    }
    return {name: value for name, value in report.items() if value}


def _teacher_accuracy(models: Sequence[Compared], teacher: Compared | None) -> float | None:
    """Give what was measured of the teacher, or else what a cache says of it."""
    if teacher is not None:
        return teacher.quality.metrics.get("accuracy") if teacher.quality else None
    return next((each.quality.teacher_accuracy for each in models if each.quality), None)


def _row(model: Compared, teacher_accuracy: float | None, text_bytes: int | None) -> dict[str, Any]:
    metrics = model.quality.metrics if model.quality else {}
    is_teacher = model.name == TEACHER
    shares = {
        name: None if is_teacher else metrics.get(name)
        for name in ("teacher_agreement", "teacher_kl")
    }
    acceptance = model.quality.acceptance if model.quality and not is_teacher else None
    return {
        "name": model.name,
        "parameters": model.parameters,
        "weights_bytes": model.weights_bytes,
        **(model.speed.to_json() if model.speed else {}),
        **{name: metrics.get(name) for name in ("accuracy", "nll", "perplexity")},
        "bits_a_byte": _bits_a_byte(metrics, model.quality, text_bytes),
        "calibration_error": metrics.get("calibration_error"),
        "quality_kept": None if is_teacher else _kept(metrics, teacher_accuracy),
        **shares,
        # Where the cache leaves it open, the least that it may be.
        "acceptance": acceptance[0] if acceptance else None,
        "acceptance_at_most": acceptance[1] if acceptance else None,
    }


def _bits_a_byte(
    metrics: Mapping[str, float], quality: Quality | None, text_bytes: int | None
) -> float | None:
    if quality is None or not text_bytes or "nll" not in metrics:
        return None
    return metrics["nll"] * quality.labelled / math.log(2) / text_bytes


def _kept(metrics: Mapping[str, float], theirs: float | None) -> float | None:
    """Give the share of the teacher's accuracy that a model has."""
    return metrics["accuracy"] / theirs if theirs and "accuracy" in metrics else None


def _headline(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    """Say it in the manner of DistilBERT: `x % smaller, y % faster, keeps z %`."""
    if teacher["name"] != TEACHER:
        return ""
    parts = []
    if student.get("parameters") and teacher.get("parameters"):
        parts.append(_smaller(student["parameters"] / teacher["parameters"]))
    if student.get("latency_ms") and teacher.get("latency_ms"):
        parts.append(_faster(teacher["latency_ms"]["median"] / student["latency_ms"]["median"]))
    if student["quality_kept"] is not None:
        what = "next-token accuracy" if student["perplexity"] is not None else "accuracy"
        parts.append(f"keeps {student['quality_kept']:.1%} of its teacher's {what}")
    if student["perplexity"] and teacher["perplexity"]:
        times = student["perplexity"] / teacher["perplexity"]
        parts.append(f"at {times:.2f} times its perplexity")
    return ", ".join(parts)


def _smaller(ratio: float) -> str:
    return f"{1 - ratio:.1%} smaller" if ratio <= 1 else f"{ratio - 1:.1%} larger"


def _faster(ratio: float) -> str:
    if ratio >= MANY_TIMES:
        return f"{ratio:.1f} times as fast"
    return f"{ratio - 1:.0%} faster" if ratio >= 1 else f"{1 / ratio - 1:.0%} slower"


def _classes(models: Sequence[Compared], names: Sequence[str]) -> list[dict[str, Any]]:
    """Give each class's share of right answers, of every model that counted them."""
    counted = [(each.name, each.quality) for each in models if each.quality and each.quality.count]
    if not counted:
        return []
    count = counted[0][1].count
    return [
        {
            "class": names[number] if number < len(names) else str(number),
            "count": total,
            "right": {name: quality.right[number] / total for name, quality in counted},
        }
        for number, total in enumerate(count)
        if total
    ]


def _disagreements(models: Sequence[Compared]) -> list[dict[str, Any]]:
    found = (each.quality.disagreements for each in models if each.name == STUDENT and each.quality)
    return list(next(found, ()))

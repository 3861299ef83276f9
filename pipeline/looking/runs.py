"""A run at a glance: what it learned from, how far it came, how each loss fell, what lies there."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.looking.layout import curve, facts_text, size_text
from pipeline.training.checkpoint import BEST_METRICS, BEST_WEIGHTS, FOLDER, POINTER, PROJECTIONS
from pipeline.training.run_folder import METRICS, RECIPE, RESULT, read_json, read_result

# Of what others may open, what it is; the rest is told by name and size.
FILES = {
    BEST_WEIGHTS: "the best weights",
    BEST_METRICS: "how good they are",
    "pretrained": "the best student, for from_pretrained of transformers",
    "model.json": "how to build the student",
    PROJECTIONS: "projections of features",
    FOLDER: "the last checkpoint",
    METRICS: "a line of JSON each time",
    RESULT: "how it ended",
    RECIPE: "the recipe it was begun with",
    "model_card.md": "how it compares, to be shipped with it",
    "evaluation.json": "the same, every number",
    "evaluation.csv": "the same, a line a model",
}
NOT_MEASURED = ("step", "epoch", "loss", "learning_rate", "gradient_share", "validation")


@dataclass
class Told:
    """What the metrics say, line by line: values of each loss and shares of its gradient."""

    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    shares: dict[str, list[float]] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    epoch: int = 0


def run_step(folder: Path) -> int | None:
    """How far a run has come: the step it ended at, or that of its checkpoint; None if neither."""
    if result := read_result(folder):
        return int(result["steps"])
    pointer = folder / POINTER
    return int(read_json(pointer)["step"]) if pointer.exists() else None


def describe_run(target: str) -> dict[str, Any]:
    """Describe a run, ended or not.

    Raises: PipelineError if a document of it is damaged.
    """
    folder = Path(target)
    begun, result, told = read_json(folder / RECIPE), read_result(folder), _read(folder)
    identity, recipe = begun["identity"], begun["recipe"]
    best = result["validation"] if result else told.validation
    return {
        "what": "run",
        "run": target,
        "name": recipe["name"],
        "ended": result is not None,
        "step": result["steps"] if result else (told.steps or [0])[-1],
        "checkpoint": run_step(folder),
        "epoch": told.epoch,
        "steps_wanted": recipe["training"]["steps"],
        "epochs_wanted": recipe["training"]["epochs"],
        "best_step": result["best_step"] if result else None,
        "validation": best,
        "test": result["test"] if result else {},
        "parameters": result["parameters"] if result else None,
        "elapsed_s": result["elapsed_s"] if result else None,
        "student": recipe["student"]["model"],
        "training": recipe["training"],
        "weights": {each["kind"]: each for each in recipe["losses"]},
        "data": identity.get("data"),
        "taught_by": {key: identity[key] for key in ("cache", "teachers") if identity.get(key)},
        "losses": {
            name: {"first": values[0], "last": values[-1]} for name, values in told.losses.items()
        },
        "gradient_share": {
            name: {"first": values[0], "last": values[-1], "mean": sum(values) / len(values)}
            for name, values in told.shares.items()
        },
        "curve": curve(told.losses.get("loss", [])),
        "first_step": (told.steps or [0])[0],
        "files": {path.name: _size(path) for path in sorted(folder.iterdir()) if _is_shown(path)},
    }


def _read(folder: Path) -> Told:
    told = Told()
    for line in _lines(folder / METRICS):
        if "validation" in line:
            told.validation = line["validation"]
            continue
        told.steps.append(line["step"])
        told.epoch = line["epoch"]
        for name, value in line.items():
            if name == "loss" or name not in NOT_MEASURED:
                told.losses.setdefault(name, []).append(value)
        for name, share in line.get("gradient_share", {}).items():
            told.shares.setdefault(name, []).append(share)
    return told


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read whole lines; the last one may be cut by a kill, or be written at this moment."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _is_shown(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != POINTER


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return path.stat().st_size


def tell_run(summary: dict[str, Any]) -> str:
    """Lay the description out for a terminal."""
    facts = {
        "student": _student_text(summary),
        "data": _data_text(summary),
        "taught by": _taught_text(summary["taught_by"]),
        "steps": _steps_text(summary),
        "loss": _curve_text(summary),
        "": [_loss_text(summary, name) for name in summary["losses"] if name != "loss"],
        "validation": _metrics_text(summary["validation"]),
        "test": _metrics_text(summary["test"]),
        "files": [
            f"{name} ({size_text(size)}{', ' if name in FILES else ''}{FILES.get(name, '')})"
            for name, size in summary["files"].items()
        ],
        "next": _next(summary),
    }
    state = "ended" if summary["ended"] else "not ended"
    return facts_text(f"{summary['run']}: run of the recipe '{summary['name']}', {state}", facts)


def _student_text(summary: dict[str, Any]) -> str:
    model = summary["student"]
    named = model.get("factory") or model.get("path") or "from a config"
    count = f", {summary['parameters']:,} parameters" if summary["parameters"] else ""
    return f"{model['kind']} {named}{count}"


def _data_text(summary: dict[str, Any]) -> str:
    training = summary["training"]
    names = [each["data"] for each in training["sources"]] or [training["data"]]
    digest = f", digest {summary['data'][:16]}" if isinstance(summary["data"], str) else ""
    return f"{', '.join(f'data.{name}' for name in names)}{digest}"


def _taught_text(taught_by: dict[str, Any]) -> str:
    cache, teachers = taught_by.get("cache"), taught_by.get("teachers")
    if teachers:
        return f"{len(teachers)} caches"
    return f"the cache of digest {str(cache)[:16]}" if cache else "labels alone"


def _steps_text(summary: dict[str, Any]) -> str:
    if summary["ended"]:
        return (
            f"{summary['step']}, the best is step {summary['best_step']}; in "
            f"{summary['elapsed_s']:.1f} s"
        )
    steps, epochs = summary["steps_wanted"], summary["epochs_wanted"]
    wanted = f" of {steps}" if steps else f", in epoch {summary['epoch'] + 1} of {epochs}"
    kept = summary["checkpoint"]
    saved = "no checkpoint yet" if kept is None else f"the last checkpoint is of step {kept}"
    return f"{summary['step']}{wanted}; {saved}"


def _curve_text(summary: dict[str, Any]) -> str:
    if "loss" not in summary["losses"]:
        return "nothing was logged yet"
    at = summary["losses"]["loss"]
    return (
        f"{summary['curve']}  {at['first']:.4g} at step {summary['first_step']} to {at['last']:.4g}"
    )


def _loss_text(summary: dict[str, Any], name: str) -> str:
    at, share = summary["losses"][name], summary["gradient_share"].get(name)
    table = summary["weights"].get(name, {})
    options = [
        f"{text} {table[key]:g}"
        for key, text in (("weight", "weight"), ("temperature", "T ="))
        if key in table
    ]
    of_gradient = ""
    if share:
        of_gradient = (
            f"; of the gradient {share['first']:.1%} to {share['last']:.1%}, "
            f"{share['mean']:.1%} on average"
        )
    told = f" ({', '.join(options)})" if options else ""
    return f"{name}{told}: {at['first']:.4g} to {at['last']:.4g}{of_gradient}"


def _metrics_text(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in (metrics or {}).items())


def _next(summary: dict[str, Any]) -> str:
    if summary["ended"]:
        path = summary["run"]
        if "evaluation.json" not in summary["files"]:
            return "`pipeline evaluate RECIPE`, with its own recipe, compares it with its teacher"
        return f'a recipe names it as its teacher: model = {{ kind = "run", path = "{path}" }}'
    kept = summary["checkpoint"]
    anew = "begins anew" if kept is None else f"goes on from step {kept}"
    return f"`pipeline train-student RECIPE`, with the recipe it was begun with, {anew}"

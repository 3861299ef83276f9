"""The folder of one training run: what it was begun with, its metrics line by line, how it ended.

It compares, appends and replaces files; it does not know what a metric means.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pipeline.errors import FingerprintMismatch, PipelineError, list_differences
from pipeline.holding import Purpose, hold_folder
from pipeline.training.checkpoint import POINTER

RECIPE, METRICS, RESULT = "recipe.json", "metrics.jsonl", "result.json"
PURPOSE = Purpose(
    doing="training this run",
    foreign="not a run",
    key="run.path",
    again="it goes on from the last checkpoint.",
    is_ours=lambda names: RECIPE in names,
)


def hold_run(folder: Path) -> AbstractContextManager[None]:
    """Keep a second process out of a run's folder; the system lets go when this one ends.

    Raises: PipelineError if another process trains here, the folder holds other things or cannot be
        written, or the disk is full by the time the block writes.
    """
    return hold_folder(folder, PURPOSE)


def begin_run(folder: Path, identity: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Write down what a run is made from, or check that it is what it was begun with.

    A run that ended before its first checkpoint holds nothing to go on with, so it is begun anew.

    Raises: FingerprintMismatch naming the keys that differ.
    """
    path = folder / RECIPE
    here = {"identity": json.loads(json.dumps(identity)), "recipe": recipe}
    if not path.exists() or not (folder / POINTER).exists():
        replace_json(path, here)
        return
    there = read_json(path)
    if lines := list_differences((there["identity"], here["identity"])):
        raise FingerprintMismatch(
            "\n  ".join(
                [
                    f"{folder}: this run was begun with another setup, so it cannot be continued",
                    *lines,
                    "Name another folder with --set run.path=..., or delete this one.",
                ]
            )
        )


def keep_metrics_until(folder: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will take again, and a line cut by a kill."""
    path = folder / METRICS
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            document = json.loads(line)
        except json.JSONDecodeError:
            break
        if document["step"] <= step:
            kept.append(line)
    replace_text(path, "".join(f"{line}\n" for line in kept))


def append_metrics(folder: Path, document: Mapping[str, Any]) -> None:
    """Add one line of metrics."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(document) + "\n")


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the metrics line by line."""
    if not (folder / METRICS).exists():
        return
    with (folder / METRICS).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_result(folder: Path) -> dict[str, Any] | None:
    """How the run ended, or None if it has not."""
    path = folder / RESULT
    return read_json(path) if path.exists() else None


def replace_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document so that it appears whole or not at all."""
    replace_text(path, json.dumps(document, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a document of the run.

    Raises: PipelineError if it is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, ValueError) as error:
        raise PipelineError(
            f"{path}: is damaged ({error}). Restore it, or delete the run's folder and train again."
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Write a text so that it appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)

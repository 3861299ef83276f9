"""Where a training run stands, on disk, so that a killed run continues bit for bit.

A checkpoint is a folder that appears whole; `last.json` points at it and holds its digests. Weights
are safetensors, the rest is read without running any code. It does not know what the progress
means.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.training.randomness import capture_rng

POINTER = "last.json"
FOLDER = "checkpoints"
WEIGHTS, STATE, PROGRESS = "weights.safetensors", "state.pt", "progress.json"
BEST_WEIGHTS, BEST_METRICS = "best.safetensors", "best.json"
PROJECTIONS = "projections.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on; `rng` is for restore_rng.

    Projections are learned with a student and no part of it, so their state is apart.
    """

    step: int
    weights: dict[str, Tensor]
    projections: dict[str, Tensor]
    optimizer_state: dict[str, Any]
    progress: dict[str, Any]
    rng: dict[str, Any]


def save_checkpoint(
    run_folder: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any],
    progress: Mapping[str, Any],
    projections: Mapping[str, Tensor] | None = None,
    rng: Mapping[str, Any] | None = None,
) -> None:
    """Keep this moment, then drop the one before; a crash at any point leaves one of the two whole.

    Without `rng` the generators of this process are captured as they are now.
    """
    parent = run_folder / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    name = _free_name(parent, f"{step:06d}")
    partial = parent / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    _save_weights(weights, partial / WEIGHTS)
    state = {
        "optimizer": dict(optimizer_state),
        "projections": dict(projections or {}),
        "rng": dict(rng or capture_rng()),
    }
    with _system_errors(), (partial / STATE).open("wb") as file:
        torch.save(state, file)
    (partial / PROGRESS).write_text(_json(progress), encoding="utf-8")
    files = {path.name: _describe(path) for path in sorted(partial.iterdir())}
    _flush(partial)
    os.replace(partial, parent / name)
    _replace_text(run_folder / POINTER, _json({"folder": name, "step": step, "files": files}))
    _drop_others(parent, name)


def load_checkpoint(run_folder: Path) -> Checkpoint | None:
    """Read the last checkpoint of a run, or None if it has none yet.

    Raises: PipelineError naming the file if one is missing or damaged.
    """
    pointer = run_folder / POINTER
    if not pointer.exists():
        return None
    try:
        document = json.loads(pointer.read_text(encoding="utf-8"))
        name, step, files = document["folder"], document["step"], document["files"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise PipelineError(_damaged(pointer, f"it is not readable ({error!r})")) from error
    folder = run_folder / FOLDER / name
    for file_name, expected in files.items():
        _check(folder / file_name, expected, pointer)
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    return Checkpoint(
        step=step,
        weights=load_file(folder / WEIGHTS),
        projections=state.get("projections", {}),
        optimizer_state=state["optimizer"],
        progress=json.loads((folder / PROGRESS).read_text(encoding="utf-8")),
        rng=state["rng"],
    )


def save_best(run_folder: Path, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
    """Keep the best weights so far, and beside them what made them the best."""
    run_folder.mkdir(parents=True, exist_ok=True)
    partial = run_folder / f".{BEST_WEIGHTS}.partial"
    _save_weights(weights, partial)
    described = _describe(partial)
    _flush_file(partial)
    os.replace(partial, run_folder / BEST_WEIGHTS)
    _replace_text(
        run_folder / BEST_METRICS, _json({"metrics": dict(metrics), "weights": described})
    )


def save_projections(run_folder: Path, projections: Mapping[str, Tensor]) -> None:
    """Keep what led from the student's features to the teacher's; no use of the student needs it.

    Names begin with that of the loss.
    """
    partial = run_folder / f".{PROJECTIONS}.partial"
    _save_weights(projections, partial)
    os.replace(partial, run_folder / PROJECTIONS)


def _save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    # safetensors refuses tensors that share memory, as tied weights do; a copy each is the way out.
    copies = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
    with _system_errors():
        save_file({name: copy.contiguous() for name, copy in copies.items()}, path)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Raise what the system said of a write, which both libraries wrap in errors of their own."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    except RuntimeError as error:
        if not isinstance(error.__context__, OSError):
            raise
        raise error.__context__ from error


def _free_name(parent: Path, name: str) -> str:
    # The pointer may name this very step (an ended run, continued): never touch what it names.
    taken, number = name, 1
    while (parent / taken).exists():
        number += 1
        taken = f"{name}-{number}"
    return taken


def _drop_others(parent: Path, kept: str) -> None:
    for path in parent.iterdir():
        if path.is_dir() and path.name != kept:
            shutil.rmtree(path)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"size_bytes": path.stat().st_size, "sha256": digest}


def _check(path: Path, expected: Mapping[str, Any], pointer: Path) -> None:
    if not path.is_file():
        raise PipelineError(_damaged(path, f"it is missing, though {pointer} names it"))
    size_bytes = path.stat().st_size
    if size_bytes != expected["size_bytes"]:
        raise PipelineError(
            _damaged(path, f"it has {size_bytes} bytes instead of {expected['size_bytes']}")
        )
    if _describe(path) != expected:
        raise PipelineError(_damaged(path, "its SHA-256 is not the one it was saved with"))


def _damaged(path: Path, fault: str) -> str:
    return (
        f"{path}: the run cannot be continued from here, {fault}. "
        f"Restore the file, or delete {POINTER} in the run's folder to train from the start."
    )


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    _flush_file(partial)
    os.replace(partial, path)


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        _flush_file(path)


def _flush_file(path: Path) -> None:
    # A rename may reach the disk before the bytes it names: an empty file, after a power cut.
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())

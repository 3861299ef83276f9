"""A finished training run, named as a model.

`model.json` is written last when a run finishes: it says how the network was built and which file
holds its weights. This module reads and writes that file; it does not build networks.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import ModelError

REFERENCE_FILE = "model.json"
WEIGHTS_FILE = "best.safetensors"
# What the run says of itself once it has ended.
RESULT_FILE = "result.json"
REQUIRED = ("kind", "base", "weights", "weights_sha256")


def save_reference(run_folder: Path, reference: Mapping[str, object], base: Path) -> None:
    """Declare a run finished: from here on it can be named as the model of another recipe.

    The recipe's folder is kept relative to the run, so that the two can be moved together.
    """
    document = {
        **reference,
        "base": Path(os.path.relpath(base.resolve(), run_folder.resolve())).as_posix(),
        "weights": WEIGHTS_FILE,
        "weights_sha256": _sha256(run_folder / WEIGHTS_FILE),
    }
    partial = run_folder / f".{REFERENCE_FILE}.partial"
    partial.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, run_folder / REFERENCE_FILE)


def read_reference(run_folder: Path, where: str) -> dict[str, object]:
    """Read how a finished run's network was built, its `base` and `weights` as paths.

    Raises: ModelError if this is no folder, no finished run, or its weights were changed since.
    """
    path = run_folder / REFERENCE_FILE
    if not run_folder.is_dir():
        raise ModelError(
            f"{where}: there is no folder {run_folder}. Train that run first, or mend the path."
        )
    if not path.is_file():
        raise ModelError(
            f"{where}: {run_folder} is not a finished run (no {REFERENCE_FILE}). "
            "Continue it with 'pipeline train-student' until it ends."
        )
    document = _parse(path, where)
    absent = [key for key in REQUIRED if key not in document]
    if absent:
        raise ModelError(f"{where}: {path} lacks {', '.join(absent)}. Train that run again.")
    weights = run_folder / str(document["weights"])
    sha256 = document.pop("weights_sha256")
    if weights.is_file() and _sha256(weights) != sha256:
        raise ModelError(
            f"{where}: {weights} is not what its run ended with: its SHA-256 differs. "
            "Restore the file, or train that run again."
        )
    return {**document, "base": run_folder / str(document["base"]), "weights": weights}


def read_trained_on(run_folder: Path, where: str) -> set[str]:
    """Give the digests of the data whose labels a finished run was trained on, as far as it says.

    Raises: ModelError if what the run says of itself is damaged.
    """
    path = run_folder / RESULT_FILE
    if not path.is_file():
        return set()
    result = _parse(path, where)
    sources = result.get("sources")
    said = [result, *(sources if isinstance(sources, list) else [])]
    return {str(each["data"]) for each in said if "data" in each}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(path: Path, where: str) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{where}: {path} is not JSON ({error}). Train that run again.") from error
    if not isinstance(document, dict):
        raise ModelError(f"{where}: {path} is not what a run writes. Train that run again.")
    return document

"""Image classifiers of Hugging Face transformers, from a local folder or by hub name.

It needs neither an image processor nor torchvision: of the preprocessing only mean and std are
read, and the dataset's own images go in at the dataset's own size.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.models.network import Network

PREPROCESSOR_FILE = "preprocessor_config.json"


def load_transformers(
    *,
    base: Path,
    where: str,
    path: str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """Load an image classifier in eval mode; a folder beside the recipe goes before a hub name.

    Raises: ModelError if the library is missing or the model is no image classifier.
    """
    folder = base / path
    if mean is None and std is None and folder.is_dir():
        mean, std = _read_normalisation(folder / PREPROCESSOR_FILE, where)
    source = str(folder) if folder.is_dir() else path
    try:
        model, absent = _load_quietly(source)
    except ImportError as error:
        raise ModelError(
            f"{where}: kind 'transformers' needs a library that is not installed ({error}). "
            "Install it: pip install 'teacher-logit-cache[transformers]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{where}: '{path}' cannot be loaded as an image classifier "
            f"({str(error).strip().splitlines()[0]}). "
            f"Give a folder beside the recipe (looked for {folder}) or a hub name."
        ) from error
    if absent:
        raise ModelError(
            f"{where}: '{path}' has no weights for {', '.join(absent)}, which would be random. "
            "Give a model that was trained as an image classifier."
        )
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    return Network(model.eval(), where=where, mean=mean, std=std, class_names=names)


def _load_quietly(source: str) -> tuple[Any, list[str]]:
    """Load a classifier and the names of its weights that the files lack."""
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging as untyped_logging

    logging: Any = untyped_logging
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = AutoModelForImageClassification.from_pretrained(
            source, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
    return model, sorted(report["missing_keys"])


def _read_normalisation(
    path: Path, where: str
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    if not path.is_file():
        return None, None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{where}: {path} is not JSON ({error}). Mend it, or give mean and std in the recipe."
        ) from error
    if not document.get("do_normalize", True):
        return None, None
    return document.get("image_mean"), document.get("image_std")

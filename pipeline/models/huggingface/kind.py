"""Models of Hugging Face transformers: from a local folder, by hub name, or new from a config.

It needs neither an image processor nor torchvision nor a tokenizer: of the preprocessing only mean
and std are read, and the dataset's own images go in at the dataset's own size.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.models.huggingface.new_head import check_new_head, drawn_weights, head_settings
from pipeline.models.huggingface.parting import check_causal, part_body, part_head
from pipeline.models.huggingface.text_labels import ask_for_labels
from pipeline.models.network import Network

PREPROCESSOR_FILE = "preprocessor_config.json"
# Classifiers of text have the task "label", as those of images.
TEXT_LABEL = "label of text"
# Task -> what the library calls a model for it, and what we call it in messages.
CLASSES = {
    "label": ("AutoModelForImageClassification", "an image classifier"),
    TEXT_LABEL: ("AutoModelForSequenceClassification", "a sequence classifier"),
    "next_token": ("AutoModelForCausalLM", "a causal language model"),
    "masked_token": ("AutoModelForMaskedLM", "a masked language model"),
}
# How the names of a task's architectures end; all others are of the task "label".
ENDINGS = {"next_token": ("ForCausalLM", "LMHeadModel"), "masked_token": ("ForMaskedLM",)}
IMAGES, SEQUENCES = "ForImageClassification", "ForSequenceClassification"


# One keyword a key of the recipe, so that the recipe's table can be passed as it is.
def load_transformers(  # noqa: PLR0913
    *,
    base: Path,
    where: str,
    path: str | None = None,
    config: Mapping[str, Any] | None = None,
    task: str | None = None,
    new_head: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """Load a model in eval mode, or make one with random weights from `config`.

    A folder beside the recipe goes before a hub name. Without `task` the saved model's own says
    what it is for; a config is a causal language model unless said otherwise. `new_head` names the
    classes of a head with random weights, on the body that was saved.

    Raises: ModelError if the library is missing, or the model is not for the task.
    """
    try:
        import_module("transformers")
    except ImportError as error:
        raise ModelError(
            f"{where}: kind 'transformers' needs a library that is not installed ({error}). "
            "Install it: pip install 'teacher-logit-cache[transformers]'"
        ) from error
    if (path is None) == (config is None):
        raise ModelError(f"{where}: give either path, a saved model, or config, for a new one.")
    if new_head is not None and (path is None or task not in (None, "label")):
        raise ModelError(
            f"{where}.new_head: is for a saved model that will be a classifier. Give path, and "
            "task = 'label' or none."
        )
    if path is None:
        assert config is not None
        model, task = _from_config(where, config, task or "next_token")
        return _wrap(model, where, task)
    folder = base / path
    source = str(folder) if folder.is_dir() else path
    named, looked = f"{where}: '{path}'", f"looked for {folder}"
    model, task = _load(source, named, "label" if new_head else task, looked, new_head)
    if task in PARTINGS or task == TEXT_LABEL:
        return _wrap(model, where, task)
    if mean is None and std is None and folder.is_dir():
        mean, std = _read_normalisation(folder / PREPROCESSOR_FILE, where)
    return Network(model.eval(), where=where, mean=mean, std=std, class_names=_names(model))


def _wrap(model: Any, where: str, task: str) -> Network:
    model.eval()
    if task == "next_token":
        check_causal(model, where)
    if task == TEXT_LABEL:
        parts = ask_for_labels(model, where)
        return Network(model, where=where, parts=parts, class_names=_names(model))
    parted = PARTINGS[task](model) if task in PARTINGS else None
    return Network(model, where=where, task=task, parts=parted)


def _names(model: Any) -> list[str]:
    return [model.config.id2label[index] for index in range(model.config.num_labels)]


PARTINGS = {"next_token": part_head, "masked_token": part_body}


def _from_config(where: str, config: Mapping[str, Any], task: str) -> tuple[Any, str]:
    """Make a model and say what it is for."""
    import transformers

    settings = dict(config)
    kind = settings.pop("model_type", None)
    try:
        described = transformers.AutoConfig.for_model(kind, **settings)
        task = _kind_of(task, described)
        return getattr(transformers, CLASSES[task][0]).from_config(described), task
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{where}.config: no model of transformers can be made of {dict(config)} "
            f"({str(error).strip().splitlines()[0]}). Give model_type, such as 'llama', and what "
            "its configuration takes."
        ) from error


def _load(
    source: str, where: str, task: str | None, looked: str, new_head: Sequence[str] | None
) -> tuple[Any, str]:
    """Load a model and say what it is for."""
    what = CLASSES[task][1] if task else "a model"
    try:
        kind = _task_of(source, task)
        what = CLASSES[kind][1]
        model, absent = _load_quietly(source, kind, head_settings(new_head))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{where} cannot be loaded as {what} "
            f"({str(error).strip().splitlines()[0]}). "
            f"Give a folder beside the recipe ({looked}) or a hub name."
        ) from error
    if new_head:
        check_new_head(model, absent, where)
    elif absent:
        raise ModelError(
            f"{where} has no weights for {', '.join(absent)}, which would be random. "
            f"Give a model that was trained as {what}."
        )
    return model, kind


def _task_of(source: str, task: str | None) -> str:
    """Say what a saved model is for; it was saved with the name of its class."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source)
    names = config.architectures or []
    ended = (task for task, ends in ENDINGS.items() if any(name.endswith(ends) for name in names))
    return _kind_of(task or next(ended, "label"), config)


def _kind_of(task: str, config: Any) -> str:
    """Tell classifiers of text from those of images, by their class or their kind of model."""
    import transformers

    names = config.architectures or []
    if task != "label" or any(name.endswith(IMAGES) for name in names):
        return task
    if any(name.endswith(SEQUENCES) for name in names):
        return TEXT_LABEL
    of_images = type(config) in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    of_text = type(config) in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    return TEXT_LABEL if of_text and not of_images else task


def _load_quietly(source: str, task: str, settings: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Load a model and the names of its weights that the files lack."""
    import transformers

    with quietly():
        auto = getattr(transformers, CLASSES[task][0])
        model, report = auto.from_pretrained(source, output_loading_info=True, **settings)
    return model, drawn_weights(report)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the library's own bars and remarks out of ours."""
    from transformers.utils import logging as untyped_logging

    logging: Any = untyped_logging
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


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

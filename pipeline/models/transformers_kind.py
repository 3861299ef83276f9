"""Models of Hugging Face transformers: from a local folder, by hub name, or new from a config.

It needs neither an image processor nor torchvision nor a tokenizer: of the preprocessing only mean
and std are read, and the dataset's own images go in at the dataset's own size.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.language import Parts, keeps_apart, whole
from pipeline.models.network import Network
from pipeline.models.text_labels import ask_for_labels

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


def load_transformers(
    *,
    base: Path,
    where: str,
    path: str | None = None,
    config: Mapping[str, Any] | None = None,
    task: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """Load a model in eval mode, or make one with random weights from `config`.

    A folder beside the recipe goes before a hub name. Without `task` the saved model's own says
    what it is for; a config is a causal language model unless said otherwise.

    Raises: ModelError if the library is missing, or the model is not for the task.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"{where}: kind 'transformers' needs a library that is not installed ({error}). "
            "Install it: pip install 'teacher-logit-cache[transformers]'"
        ) from error
    if (path is None) == (config is None):
        raise ModelError(f"{where}: give either path, a saved model, or config, for a new one.")
    if path is None:
        assert config is not None
        model, task = _from_config(where, config, task or "next_token")
        return _wrap(model, where, task)
    folder = base / path
    source = str(folder) if folder.is_dir() else path
    model, task = _load(source, f"{where}: '{path}'", task, f"looked for {folder}")
    if task in PARTINGS or task == TEXT_LABEL:
        return _wrap(model, where, task)
    if mean is None and std is None and folder.is_dir():
        mean, std = _read_normalisation(folder / PREPROCESSOR_FILE, where)
    return Network(model.eval(), where=where, mean=mean, std=std, class_names=_names(model))


def _wrap(model: Any, where: str, task: str) -> Network:
    model.eval()
    if task == TEXT_LABEL:
        parts = ask_for_labels(model, where)
        return Network(model, where=where, parts=parts, class_names=_names(model))
    parted = PARTINGS[task](model) if task in PARTINGS else None
    return Network(model, where=where, task=task, parts=parted)


def _names(model: Any) -> list[str]:
    return [model.config.id2label[index] for index in range(model.config.num_labels)]


@torch.no_grad()
def part_head(model: Any) -> Parts:
    """Part a language model before its output layer, if that is all that follows its last states.

    Some models scale or cap their logits; those answer whole.
    """
    body, head = getattr(model, model.base_model_prefix, None), model.get_output_embeddings()
    if body is None or body is model or head is None:
        return whole(model)
    parts = Parts(body, head)
    return parts if _answers_alike(model, parts) else whole(model)


@torch.no_grad()
def part_body(model: Any) -> Parts:
    """Part a masked language model after its body, whatever its head is made of.

    What follows is the model itself, with a body that hands on the states it is given; it ends
    before the output layer, where the logits are that layer's alone.
    """
    parts = _parted_after_body(model)
    config = model.config.get_text_config()
    usual = [each for each in range(config.vocab_size) if each != config.pad_token_id][:5]
    tokens = torch.tensor((5 * usual)[:5], device=next(model.parameters()).device)
    try:
        return replace(parts, keeps_apart=keeps_apart(model, parts, tokens))
    # How a mask over pairs of tokens is taken differs from model to model, and so does its failure.
    except Exception:
        return replace(parts, keeps_apart=False)


def _parted_after_body(model: Any) -> Parts:
    prefix, layer = model.base_model_prefix, model.get_output_embeddings()
    body = getattr(model, prefix, None)
    if body is None or body is model:
        return whole(model)
    rest = _replaced(model, prefix, _Given())
    tried = [Parts(body, partial(_finish, rest))]
    place = next((name for name, each in model.named_modules() if each is layer), None)
    if layer is not None and place is not None:
        before = _replaced(rest, place, nn.Identity())
        tried.insert(0, Parts(body, layer, between=partial(_finish, before)))
    return next((each for each in tried if _answers_alike(model, each)), whole(model))


def _replaced(module: Any, place: str, by: nn.Module) -> Any:
    """Copy a module, with another one in some place; all others are the module's own.

    So the copy learns with the module, and moves and is cast with it.
    """
    name, _, deeper = place.partition(".")
    changed = copy.copy(module)
    inner = _replaced(module._modules[name], deeper, by) if deeper else by
    changed._modules = module._modules | {name: inner}
    return changed


class _Given(nn.Module):
    """Stands for a model's body where its last states are known."""

    def forward(self, input_ids: Tensor, **ignored: Any) -> Any:
        """Shapes: states (B, L, d) in place of ids."""
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=input_ids)


def _finish(rest: Any, states: Tensor) -> Tensor:
    """Shapes: states (P, d); returns logits (P, C), or what the output layer sees."""
    logits: Tensor = rest(input_ids=states[None]).logits[0]
    return logits


def _answers_alike(model: Any, parts: Parts) -> bool:
    """Find out whether parts answer as the model does in one piece."""
    tokens = torch.arange(4)[None] % model.config.get_text_config().vocab_size
    tokens = tokens.to(next(model.parameters()).device)
    at_once = model(tokens).logits[0]
    try:
        states = parts.body(tokens).last_hidden_state[0]
        apart = parts.head(parts.between(states) if parts.between else states)
    # What comes after a body is the library's own code, and may ask anything of it.
    except Exception:
        return False
    return at_once.shape == apart.shape and torch.allclose(at_once, apart, rtol=1e-4, atol=1e-4)


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


def _load(source: str, where: str, task: str | None, looked: str) -> tuple[Any, str]:
    """Load a model and say what it is for."""
    what = CLASSES[task][1] if task else "a model"
    try:
        kind = _task_of(source, task)
        what = CLASSES[kind][1]
        model, absent = _load_quietly(source, kind)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{where} cannot be loaded as {what} "
            f"({str(error).strip().splitlines()[0]}). "
            f"Give a folder beside the recipe ({looked}) or a hub name."
        ) from error
    if absent:
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


def _load_quietly(source: str, task: str) -> tuple[Any, list[str]]:
    """Load a model and the names of its weights that the files lack."""
    import transformers

    with quietly():
        auto = getattr(transformers, CLASSES[task][0])
        model, report = auto.from_pretrained(source, output_loading_info=True)
    return model, sorted(report["missing_keys"])


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

"""Sequence classifiers of transformers: rows of tokens in, one answer a row.

Which class of that library they are is not known here.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.language import PADDING, Parts, whole


def ask_for_labels(model: Any, where: str) -> Parts:
    """Make rows of tokens what the model is called with.

    Raises: ModelError if it needs to be told what padding is.
    """
    _check_padding(model, where)
    return Parts(partial(_classify, where, model), whole(model).head)


def _classify(where: str, model: Any, rows: Tensor) -> Any:
    """Ask for a label each; padding is told to the model.

    Shapes: rows (B, 2, L), int32: token ids and documents, -1 for padding.
    Raises: ModelError if the rows are no tokens.
    """
    if rows.ndim != 3 or rows.shape[1] != 2 or rows.is_floating_point():
        raise ModelError(
            f"{where}: classifies text, but its inputs have shape {tuple(rows.shape)} "
            f"{rows.dtype}. Give it data of kind 'text' with task = 'label'."
        )
    is_text = rows[:, 1] != PADDING
    longest = int(is_text.sum(1).max())
    is_text = is_text[:, :longest]
    # Those that look for the last token of a text know it by what follows.
    padding = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    tokens = rows[:, 0, :longest].long().masked_fill(~is_text, padding)
    return model(input_ids=tokens, attention_mask=is_text.long())


@torch.no_grad()
def _check_padding(model: Any, where: str) -> None:
    """Refuse a classifier that looks for the end of a text and does not know padding."""
    try:
        tokens = torch.zeros((2, 2), dtype=torch.long, device=next(model.parameters()).device)
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    # A model of that library may raise anything at all.
    except Exception as error:
        raise ModelError(
            f"{where}: {type(model).__name__} cannot be asked about several texts at once "
            f"({type(error).__name__}: {error}). Mend its configuration; most often it lacks a "
            "pad_token_id."
        ) from error

"""Causal language models: rows of tokens in, an answer for every token that is asked for.

The model runs to its last hidden states; logits are made of those in blocks, by whoever needs them,
for a matrix of positions times vocabulary may be larger than everything else together.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError

PADDING = -1
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Parts:
    """A model in two: tokens (B, L) become states (B, L, d), and states (P, d) logits (P, C).

    Of a model that cannot be parted the states are its logits already.
    """

    body: Callable[..., Any]
    head: Head


def whole(model: nn.Module) -> Parts:
    """Leave a model in one piece."""
    return Parts(model, _as_they_are)


def ask_next_tokens(
    model: nn.Module, parts: Parts, inputs: Tensor, where: str
) -> tuple[Tensor, Tensor]:
    """Ask for every token that follows another of its document.

    Shapes: inputs (B, 2, L), int32: token ids and the number of each one's document, -1 for
        padding; returns states (P, d) and positions (B,).
    Raises: ModelError if the inputs are no tokens, or the answer is not (B, L, C).
    """
    if inputs.ndim != 3 or inputs.shape[1] != 2 or inputs.is_floating_point():
        raise ModelError(
            f"{where}: predicts tokens, but its inputs have shape {tuple(inputs.shape)} "
            f"{inputs.dtype}. Give it data of kind 'text' with task = 'next_token'."
        )
    longest = int((inputs[:, 1] != PADDING).sum(1).max())
    tokens, documents = inputs[:, 0, :longest].long(), inputs[:, 1, :longest]
    asked = follows_another(documents)
    states = parts.body(tokens, **_boundaries(model, documents))
    states = getattr(states, "last_hidden_state", getattr(states, "logits", states))
    if not isinstance(states, Tensor) or states.shape[:2] != tokens.shape:
        shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise ModelError(
            f"{where}: {type(model).__name__} answered {tuple(tokens.shape)} tokens with {shape}; "
            "allowed is a tensor (batch, tokens, classes). Wrap the model so that it returns its "
            "logits."
        )
    return states[:, :-1][asked], asked.sum(1)


def follows_another(documents: Tensor) -> Tensor:
    """Tell the tokens that follow another of their document. Shapes: (B, L); returns (B, L - 1)."""
    return (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] != PADDING)


def context_of(model: nn.Module) -> int | None:
    """Tell how many tokens a model takes at once; None if it does not say."""
    count = _setting(model, "max_position_embeddings", "n_positions")
    for name, module in model.named_modules() if count else ():
        # RoBERTa and its kin count from behind the position of padding.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            padding = module.padding_idx
            return count if count is None or padding is None else count - padding - 1
    return count


def vocabulary_of(model: nn.Module) -> int | None:
    """Tell how many tokens a model knows; None if it does not say."""
    return _setting(model, "vocab_size")


def _setting(model: nn.Module, *names: str) -> int | None:
    """Find a count above 0 under one of its names in a model's configuration."""
    config = getattr(model, "config", None)
    text = getattr(config, "get_text_config", lambda: config)()
    found = [getattr(text, name, None) for name in names]
    return next((each for each in found if isinstance(each, int) and each > 0), None)


def _as_they_are(logits: Tensor) -> Tensor:
    return logits


def _boundaries(model: nn.Module, documents: Tensor) -> dict[str, Tensor]:
    """Keep packed documents apart, where the model can: nothing attends across their borders."""
    if not bool((documents > 0).any()):
        return {}  # padding comes last, and nothing before it looks there
    taken = inspect.signature(model.forward).parameters
    if "documents" in taken:
        return {"documents": documents}
    if "attention_mask" not in taken or "position_ids" not in taken:
        return {}
    length = documents.shape[1]
    places = torch.arange(length, device=documents.device)
    same = documents[:, :, None] == documents[:, None, :]  # (B, L, L)
    allowed = same & (places[:, None] >= places[None, :])
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(allowed.shape, dtype=dtype, device=documents.device)
    mask.masked_fill_(~allowed, torch.finfo(dtype).min)
    starts = torch.where(documents[:, 1:] != documents[:, :-1], places[1:], 0)
    begun = torch.nn.functional.pad(starts, (1, 0)).cummax(1).values
    return {"attention_mask": mask[:, None], "position_ids": places - begun}

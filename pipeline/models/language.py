"""Language models: rows of tokens in, an answer for every token that is asked for.

Causal ones are asked for each token that follows another, masked ones for those that are hidden.

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

    Of a model that cannot be parted the states are its logits already. What lies `between`, of the
    states of positions alone, leaves one layer as the head. A model that looks both ways may be
    known not to keep packed documents apart.
    """

    body: Callable[..., Any]
    head: Head
    between: Head | None = None
    keeps_apart: bool = True


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
    tokens, documents = _cut(inputs)[:2]
    asked = follows_another(documents)
    states = _run(model, parts, tokens, _boundaries(model, documents), where)
    return states[:, :-1][asked], asked.sum(1)


def ask_masked_tokens(
    model: nn.Module, parts: Parts, inputs: Tensor, where: str
) -> tuple[Tensor, Tensor]:
    """Ask for every token that was hidden, or is asked for although it is shown.

    Shapes: inputs (B, 3, L), int32: token ids, the number of each one's document, -1 for padding,
        and the token that is asked for, -1 for none; returns states (P, d) and positions (B,).
    Raises: ModelError if the inputs are no masked tokens, the model cannot be told what is padding,
        or the answer is not (B, L, C).
    """
    if inputs.ndim != 3 or inputs.shape[1] != 3 or inputs.is_floating_point():
        raise ModelError(
            f"{where}: fills in masked tokens, but its inputs have shape {tuple(inputs.shape)} "
            f"{inputs.dtype}. Give it data of kind 'text' with task = 'masked_token'."
        )
    tokens, documents, originals = _cut(inputs)
    asked = originals >= 0
    options = _surroundings(model, documents, where, parts.keeps_apart)
    states = _run(model, parts, tokens, options, where)[asked]
    return parts.between(states) if parts.between else states, asked.sum(1)


def _cut(inputs: Tensor) -> tuple[Tensor, ...]:
    """Cut off what is padding in every row, and take the lines of rows apart."""
    longest = int((inputs[:, 1] != PADDING).sum(1).max())
    tokens, *others = inputs[:, :, :longest].unbind(1)
    return tokens.long(), *others


def _run(
    model: nn.Module, parts: Parts, tokens: Tensor, options: dict[str, Tensor], where: str
) -> Tensor:
    """Run the body. Shapes: tokens (B, L); returns (B, L, d)."""
    states = _states(parts.body(tokens, **options))
    if not isinstance(states, Tensor) or states.shape[:2] != tokens.shape:
        shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise ModelError(
            f"{where}: {type(model).__name__} answered {tuple(tokens.shape)} tokens with {shape}; "
            "allowed is a tensor (batch, tokens, classes). Wrap the model so that it returns its "
            "logits."
        )
    return states


def _states(answer: Any) -> Any:
    return getattr(answer, "last_hidden_state", getattr(answer, "logits", answer))


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
    places = torch.arange(documents.shape[1], device=documents.device)
    return _apart(model, documents, places[:, None] >= places[None, :])


@torch.no_grad()
def keeps_apart(model: nn.Module, parts: Parts, tokens: Tensor) -> bool:
    """Find out whether a masked model answers packed documents as if each were alone.

    Shapes: tokens (n,), n >= 3.
    """
    documents = torch.ones_like(tokens)
    documents[: len(tokens) // 2] = 0
    packed = _states(parts.body(tokens[None], **_apart(model, documents[None])))[0]
    alone = [_states(parts.body(tokens[documents == each][None]))[0] for each in (0, 1)]
    return torch.allclose(packed, torch.cat(alone), rtol=1e-3, atol=1e-4)


def _surroundings(
    model: nn.Module, documents: Tensor, where: str, keeps_apart: bool
) -> dict[str, Tensor]:
    """Hide padding from a model that looks both ways, and packed documents from each other."""
    taken = inspect.signature(model.forward).parameters
    # Asked of every model, also where nothing is padded yet: the next batch may be.
    if "attention_mask" not in taken and "documents" not in taken:
        raise ModelError(
            f"{where}: {type(model).__name__} would take padding for text, for its forward takes "
            "neither attention_mask nor documents. Add one, (batch, tokens): attention_mask is 1 "
            "for tokens, documents the number of each one's document, -1 for padding."
        )
    if not bool((documents != 0).any()):
        return {}
    if "documents" in taken:
        return {"documents": documents}
    if not bool((documents > 0).any()):
        return {"attention_mask": (documents != PADDING).long()}
    if "position_ids" not in taken or not keeps_apart:
        raise ModelError(
            f"{where}: {type(model).__name__} cannot keep packed documents apart, so they would "
            "be answered from each other. Set pack = false in the data, or let the model's forward "
            "take documents, (batch, tokens), the number of each token's document."
        )
    return _apart(model, documents)


def _apart(model: nn.Module, documents: Tensor, visible: Tensor | None = None) -> dict[str, Tensor]:
    """Let each document see itself alone, in places of its own. Shapes: visible (L, L)."""
    places = torch.arange(documents.shape[1], device=documents.device)
    allowed = documents[:, :, None] == documents[:, None, :]  # (B, L, L)
    allowed = allowed if visible is None else allowed & visible
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(allowed.shape, dtype=dtype, device=documents.device)
    mask.masked_fill_(~allowed, torch.finfo(dtype).min)
    starts = torch.where(documents[:, 1:] != documents[:, :-1], places[1:], 0)
    begun = torch.nn.functional.pad(starts, (1, 0)).cummax(1).values
    return {"attention_mask": mask[:, None], "position_ids": places - begun + _first_place(model)}


def _first_place(model: nn.Module) -> int:
    """Models after RoBERTa count places from beyond the number of their padding token."""
    found = (getattr(each, "padding_idx", None) for each in model.modules()
             if hasattr(each, "create_position_ids_from_input_ids"))  # fmt: skip
    padding = next(found, None)
    return 0 if padding is None else padding + 1

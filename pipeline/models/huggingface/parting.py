"""Models of transformers in two: the body, and the output layer that makes logits of its states.

Whether the two are all that the model is, is tried out on a few tokens; others answer whole.
"""

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.language import Parts, keeps_apart, whole


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


@torch.no_grad()
def check_causal(model: Any, where: str) -> None:
    """Refuse a model that sees the tokens it is asked to predict.

    Raises: ModelError if what comes later changes an answer.
    """
    ids = torch.arange(8)[None] % model.config.get_text_config().vocab_size
    ids = ids.to(next(model.parameters()).device)
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    one, another = (model(tokens).logits[:, :-1] for tokens in (ids, other))
    # Of a model with random weights what comes next changes little, but of a causal one nothing.
    if (one - another).abs().max() > 1e-5 * one.abs().max():
        raise ModelError(
            f"{where}: {type(model).__name__} sees the tokens that come next, so it cannot be "
            "asked for them. Give a causal model (of BERT and its kin: is_decoder = true in its "
            "config), or task = 'masked_token'."
        )

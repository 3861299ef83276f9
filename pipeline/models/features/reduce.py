"""From what a module answered to one feature for every row, or for every position.

Knows tensors and rows of tokens; not where the answer came from, nor how a feature is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from pipeline.errors import ModelError
from pipeline.models.language import PADDING, follows_another


@dataclass(frozen=True)
class Tap:
    """A module whose answer is read, and what is made of it; `exponent` is of an attention map."""

    module: str
    reduce: str = "none"
    exponent: float = 2.0


def axis_of(task: str, reduce: str) -> str:
    """Tell what a feature is over: the answers of tokens are over positions, all else over rows."""
    return "positions" if task in TOKENS and reduce == "none" else "rows"


def make_feature(
    answers: Sequence[Tensor], tap: Tap, inputs: Tensor, *, task: str, where: str
) -> Tensor:
    """Reduce a module's answer as its tap says.

    Shapes: answers (B, ...) each; inputs as the network is given them; returns (B, ...), or (P, d)
        of tokens that are not reduced.
    Raises: ModelError if the answer has no shape that can be reduced so, or there is none.
    """
    usable = [each for each in answers if each.ndim >= 2 and len(each) == len(inputs)]
    rule, wanted = RULES[tap.reduce]
    if task in TOKENS and tap.reduce == "none":
        rule, wanted = _at_positions, "(batch, tokens, width)"
    for answer in usable[: None if tap.reduce == "attention_probabilities" else 1]:
        made = rule(answer, tap, inputs, task)
        if made is not None:
            return made
    shapes = ", ".join(str(tuple(each.shape)) for each in answers) or "no tensor"
    raise ModelError(
        f"{where}: its module '{tap.module}' gives {shapes} for a batch of {len(inputs)}; with "
        f"reduce = '{tap.reduce}' a feature must be {wanted}. {_advice(tap.reduce)}"
    )


Rule = Callable[[Tensor, Tap, Tensor, str], Tensor | None]


def _as_it_is(answer: Tensor, tap: Tap, inputs: Tensor, task: str) -> Tensor | None:
    # Padding makes tokens differ in number from batch to batch, so those have no shape to keep.
    return None if _is_text(inputs) and answer.ndim > 2 else answer


def _at_positions(answer: Tensor, tap: Tap, inputs: Tensor, task: str) -> Tensor | None:
    asked = inputs[:, :, : answer.shape[1]]
    if answer.ndim != 3 or asked.shape[2] != answer.shape[1]:
        return None
    return TOKENS[task](answer, asked)


def _mean(answer: Tensor, tap: Tap, inputs: Tensor, task: str) -> Tensor | None:
    """Average maps over their places, tokens over those that are no padding."""
    if answer.ndim == 3:
        present = _present(answer, inputs)
        if present is None:
            return answer.mean(1)
        weights = present.to(answer.dtype)
        return (answer * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
    return answer.flatten(2).mean(2) if answer.ndim > 3 else None


def _first_token(answer: Tensor, tap: Tap, inputs: Tensor, task: str) -> Tensor | None:
    return answer[:, 0] if answer.ndim == 3 else None


def _last_token(answer: Tensor, tap: Tap, inputs: Tensor, task: str) -> Tensor | None:
    if answer.ndim != 3:
        return None
    present = _present(answer, inputs)
    if present is None:
        return answer[:, -1]
    last = (present.sum(1) - 1).clamp(min=0)
    return answer[range(len(answer)), last]


def _attention_map(answer: Tensor, tap: Tap, inputs: Tensor, task: str) -> Tensor | None:
    if answer.ndim != 4:
        return None
    return answer.float().abs().pow(tap.exponent).sum(1)  # (B, height, width)


def _attention_probabilities(answer: Tensor, tap: Tap, inputs: Tensor, task: str) -> Tensor | None:
    if answer.ndim != 4 or answer.shape[2] != answer.shape[3]:
        return None
    if not _is_text(inputs):
        return answer
    length = answer.shape[3]
    present = inputs[:, 1, :length] != PADDING  # (B, L)
    both = (present[:, None, :, None] & present[:, None, None, :]).to(answer.dtype)
    more = inputs.shape[2] - length
    return pad(answer * both, (0, more, 0, more))  # (B, heads, data.length, data.length)


def _is_text(inputs: Tensor) -> bool:
    return inputs.ndim == 3 and not inputs.is_floating_point() and inputs.shape[1] in (2, 3)


def _present(answer: Tensor, inputs: Tensor) -> Tensor | None:
    """Tell tokens from padding; None where there is none. Shapes: returns (B, L)."""
    if not _is_text(inputs) or answer.shape[1] > inputs.shape[2]:
        return None
    return inputs[:, 1, : answer.shape[1]] != PADDING


def _following(answer: Tensor, inputs: Tensor) -> Tensor:
    return answer[:, :-1][follows_another(inputs[:, 1])]


def _masked(answer: Tensor, inputs: Tensor) -> Tensor:
    return answer[inputs[:, 2] >= 0]


# Task -> the vectors at the tokens that are asked for. Shapes: (B, L, d) and (B, n, L) to (P, d).
TOKENS = {"next_token": _following, "masked_token": _masked}
# What is made of an answer, and the shape that the answer must have.
RULES: dict[str, tuple[Rule, str]] = {
    "none": (_as_it_is, "(batch, ...), of text (batch, width)"),
    "mean": (_mean, "(batch, channels, height, width) or (batch, tokens, width)"),
    "first_token": (_first_token, "(batch, tokens, width)"),
    "last_token": (_last_token, "(batch, tokens, width)"),
    "attention_map": (_attention_map, "(batch, channels, height, width)"),
    "attention_probabilities": (_attention_probabilities, "(batch, heads, tokens, tokens)"),
}


def _advice(reduce: str) -> str:
    if reduce == "attention_probabilities":
        return (
            "Name a module that answers with its attention probabilities; of transformers an "
            "attention module, with config.attn_implementation = 'eager'."
        )
    return "Name another module, or another reduce; `pipeline inspect --model RECIPE` shows shapes."

"""Taps: what named modules of a model answer while it is asked, cut to the positions asked for.

A tap is a hook for the length of one call. What becomes of a feature is not known here.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.language import follows_another


def check_taps(model: nn.Module, modules: Iterable[str], where: str) -> None:
    """Refuse names that no module has.

    Raises: ModelError naming the nearest.
    """
    known = [name for name, _ in model.named_modules() if name]
    for module in modules:
        if module not in known:
            close = get_close_matches(module, known, n=1, cutoff=0.0)
            raise ModelError(
                f"{where}: {type(model).__name__} has no module '{module}' to read a feature from; "
                f"the nearest is '{close[0] if close else ''}'. Give a dotted name of "
                "model.named_modules()."
            )


@contextmanager
def read_taps(model: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Collect what modules answer inside the block; of one that is called twice, the last.

    Of an object it is the last hidden state, of a tuple the first tensor.
    """
    found: dict[str, Any] = {}

    def keep(name: str, module: nn.Module, inputs: Any, answer: Any) -> None:
        answer = getattr(answer, "last_hidden_state", answer)
        if isinstance(answer, tuple | list):
            answer = next((each for each in answer if isinstance(each, Tensor)), answer)
        # A copy, for what comes next may work in place.
        found[name] = answer.clone() if isinstance(answer, Tensor) else answer

    with ExitStack() as hooks:
        for name in modules:
            handle = model.get_submodule(name).register_forward_hook(partial(keep, name))
            hooks.callback(handle.remove)
        yield found


def _following(answer: Tensor, inputs: Tensor) -> Tensor:
    return answer[:, :-1][follows_another(inputs[:, 1])]


def _masked(answer: Tensor, inputs: Tensor) -> Tensor:
    return answer[inputs[:, 2] >= 0]


# Task -> the vectors at the tokens that are asked for. Shapes: (B, L, d) and (B, n, L) to (P, d).
TOKENS = {"next_token": _following, "masked_token": _masked}


def at_positions(
    found: Mapping[str, Any], module: str, inputs: Tensor, *, task: str, where: str
) -> Tensor:
    """Cut a module's answer to a vector for every position that is asked for.

    Shapes: the answer (B, d) for labels, (B, L, d) for tokens; inputs as the network is given them;
        returns (P, d).
    Raises: ModelError if the answer has another shape, or there is none.
    """
    answer = found.get(module)
    if isinstance(answer, Tensor) and len(answer) == len(inputs):
        if task == "label" and answer.ndim == 2:
            return answer
        asked = inputs[:, :, : answer.shape[1]] if task in TOKENS and answer.ndim == 3 else None
        if asked is not None and asked.shape[2] == answer.shape[1]:
            return TOKENS[task](answer, asked)
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    wanted = "(batch, width)" if task == "label" else "(batch, tokens, width)"
    raise ModelError(
        f"{where}: its module '{module}' gives {shape} for a batch of {len(inputs)}; a feature "
        f"must be {wanted}. Name another module."
    )

"""Taps: what named modules of a model answer while it is asked.

A tap is a hook for the length of one call. What becomes of an answer is not known here.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import Tensor, nn

from pipeline.errors import ModelError


class AllRead(Exception):  # no error: the way out of a pass that has done its work
    """Every tap has been read, so the rest of the pass is of no use."""


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
                f"the nearest is '{close[0] if close else ''}'. `pipeline inspect --model RECIPE` "
                "lists all of them."
            )


@contextmanager
def read_taps(
    model: nn.Module, modules: Iterable[str], *, then_stop: bool = False
) -> Iterator[dict[str, tuple[Any, ...]]]:
    """Collect what modules answer inside the block; of one that is called twice, the last.

    Each answer is the tuple of all tensors in it; of an object with a last hidden state, that.
    With `then_stop` the block is left by AllRead once every module has answered for the first time.
    """
    wanted = list(dict.fromkeys(modules))
    found: dict[str, tuple[Any, ...]] = {}

    def keep(name: str, module: nn.Module, inputs: Any, answer: Any) -> None:
        answer = getattr(answer, "last_hidden_state", answer)
        several = answer if isinstance(answer, tuple | list) else (answer,)
        # Copies, for what comes next may work in place.
        found[name] = tuple(each.clone() for each in several if isinstance(each, Tensor))
        if then_stop and len(found) == len(wanted):
            raise AllRead

    with ExitStack() as hooks:
        for name in wanted:
            handle = model.get_submodule(name).register_forward_hook(partial(keep, name))
            hooks.callback(handle.remove)
        yield found

"""Weights on disk into a model in memory, all of them or none.

It knows safetensors and torch's own files, never code inside either. It does not know how the model
was built.
"""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ModelError

SHOWN = 5


def read_weights(path: Path, where: str) -> dict[str, Tensor]:
    """Read a state from .safetensors, or from .pt or .pth without running any code in it.

    Raises: ModelError if the file is missing, damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise ModelError(f"{where}: there is no file {path}.")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ModelError(
            f"{where}: {path.name} is of no known kind; allowed are .safetensors, .pt and .pth."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{where}: {path} holds more than tensors, such as a whole model that was pickled; "
            "code in a file is never run. Save its weights where it can be loaded: "
            "torch.save(model.state_dict(), path), or best as .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ModelError(
            f"{where}: {path} cannot be read as weights ({_first_line(error)}). "
            "Save the model's state_dict() again, best as .safetensors."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(
            f"{where}: {path} holds a {type(state).__name__}{_keys(state)} that is not a plain "
            "state_dict; allowed is a mapping from names to tensors. Save model.state_dict()."
        )
    return dict(state)


def _keys(state: object) -> str:
    """Name what a checkpoint of several things has, one of which is most likely meant."""
    keys = [str(key) for key in state][:SHOWN] if isinstance(state, Mapping) else []
    return f" with {', '.join(keys)}" if keys else ""


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Put weights into a model that has exactly these names and shapes.

    Raises: ModelError naming what is missing, unexpected or of another shape.
    """
    own = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    reshaped = [
        f"{name} (model {tuple(own[name].shape)}, file {tuple(weights[name].shape)})"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    problems = [
        *_problem("missing", sorted(own.keys() - weights.keys())),
        *_problem("unexpected", sorted(weights.keys() - own.keys())),
        *_problem("of another shape", reshaped),
    ]
    if problems:
        raise ModelError(
            f"{where}: these weights do not fit {type(model).__name__}\n  "
            + "\n  ".join(problems)
            + "\n  Give the weights of this very architecture, or build the model they belong to."
        )
    model.load_state_dict(dict(weights))


def _problem(kind: str, names: list[str]) -> Iterable[str]:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        yield f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{more}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__

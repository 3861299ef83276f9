"""From a reference in a recipe to a network, by kind.

It knows where networks come from; it does not know what they are used for. A new kind is one
function and one line in KINDS.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from pipeline.errors import ModelError
from pipeline.factories import did_you_mean, load_factory
from pipeline.models.huggingface import load_transformers
from pipeline.models.network import Network
from pipeline.models.runs import read_reference
from pipeline.models.weights import load_weights, read_weights


def load_network(kind: str, *, base: Path, where: str, **arguments: Any) -> Network:
    """Build the network a recipe names.

    `base` is the recipe's folder, from which paths and modules are found; `where` is the recipe's
    key, for messages.

    Raises: ModelError if the kind is unknown or the model cannot be loaded.
    """
    if kind not in KINDS:
        raise ModelError(
            f"{where}.kind: '{kind}' is not known, allowed are {', '.join(KINDS)}"
            f"{did_you_mean(kind, KINDS)}"
        )
    return KINDS[kind](base=base, where=where, **arguments)


# One keyword a key of the recipe, so that the recipe's table can be passed as it is.
def load_python(  # noqa: PLR0913
    *,
    base: Path,
    where: str,
    factory: str,
    arguments: Mapping[str, object] | None = None,
    checkpoint: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    task: str = "label",
) -> Network:
    """Call the user's own factory, and fill its model from a checkpoint if one is given."""
    build = load_factory(factory, base, f"{where}.factory")
    model = build(**_checked_arguments(build, factory, arguments or {}, where))
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{where}.factory: '{factory}' returned a {type(model).__name__}; "
            "allowed is a torch.nn.Module. Return the model itself."
        )
    _refuse_lazy(model, f"{where}.factory: '{factory}'")
    network = Network(model, where=where, mean=mean, std=std, task=task)
    if checkpoint is not None:
        weights = read_weights(base / checkpoint, f"{where}.checkpoint")
        load_weights(model, weights, f"{where}.checkpoint")
    return network


def _refuse_lazy(model: nn.Module, what: str) -> None:
    """Refuse weights of no size yet: they have no digest, and nothing could be loaded into them."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"{what} returned a model whose '{name}' has no size before it is run. Give its "
                "layers their sizes, or let the factory run it once."
            )


def _checked_arguments(
    build: Callable[..., object], factory: str, arguments: Mapping[str, object], where: str
) -> Mapping[str, object]:
    # Bound before the call, so that a TypeError inside the user's function shows its own traceback.
    signature = inspect.signature(build)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"{where}.arguments: '{factory}' cannot be called with {dict(arguments)} ({error}). "
            f"It takes {signature}."
        ) from error
    return arguments


def load_run(*, base: Path, where: str, path: str) -> Network:
    """Rebuild the network of a finished run, with its best weights."""
    reference = read_reference(base / path, f"{where}.path")
    kind, run_base = str(reference.pop("kind")), Path(str(reference.pop("base")))
    weights = read_weights(Path(str(reference.pop("weights"))), f"{where}.path")
    # Weights that the run started from are superseded by those it ended with, and may be gone.
    reference.pop("checkpoint", None)
    network = load_network(kind, base=run_base, where=where, **reference)
    load_weights(network.model, weights, f"{where}.path")
    return network


KINDS: dict[str, Callable[..., Network]] = {
    "python": load_python,
    "run": load_run,
    "transformers": load_transformers,
}

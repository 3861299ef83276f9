"""The copying itself: tensors by name and shape from one model into another, all or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.initialise.architecture import other_settings, translation
from pipeline.models.initialise.rules import choose_layers
from pipeline.models.initialise.stack import Stack, find_stack

SHOWN = 5


@dataclass(frozen=True)
class Copied:
    """What a student begins with: layers of a model, other tensors, and what is still its own.

    `left` and `settings` name tensors, and what the student computes otherwise by its settings.
    """

    layers: tuple[int, ...]
    source_count: int
    others: int
    left: tuple[str, ...]
    settings: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a line, or two."""
        chosen = ", ".join(map(str, self.layers))
        line = (
            f"{len(self.layers)} layers of {self.source_count} ({chosen}) and {self.others} other "
            f"tensors copied, {_listed(self.left)} left as they were"
        )
        if self.settings:
            line += f"\n  its layers are set otherwise: {', '.join(self.settings)}"
        return line


def copy_layers(
    source: nn.Module,
    student: nn.Module,
    layers: str | Sequence[int],
    *,
    stack: str | None = None,
    where: str = "initialise",
) -> Copied:
    """Begin a student as layers of another model: `layers[i]` becomes its layer i.

    Everything beside the layers is copied where name and shape are the same, in the student's own
    precision. `layers` may be a rule, "every_other", "first", "last" or "spread".

    Raises: ModelError if the models do not match; the student is untouched then.
    """
    replacements = translation(source, student, where)

    def rename(name: str) -> str:
        for old, new in replacements:
            name = name.replace(old, new)
        return name

    found = find_stack(source, student, rename, stack=stack, where=where)
    counts = (found.source_count, found.student_count)
    chosen = choose_layers(layers, *counts, where=f"{where}.layers")
    theirs = {rename(name): value for name, value in _tensors(source).items()}
    own = _tensors(student)
    origins = {name: _origin(name, found, chosen) for name in own}
    _check_layers(found, chosen, own, theirs, where)
    unique = {id(value): name for name, value in reversed(own.items())}.values()
    fitting = [name for name in unique if _fits(own[name], theirs.get(origins[name]))]
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(theirs[origins[name]])
    left = [name for name in own if name in set(unique) - set(fitting)]
    return Copied(
        layers=chosen,
        source_count=found.source_count,
        others=sum(not name.startswith(f"{found.name}.") for name in fitting),
        left=tuple(_described(name, own[name], theirs.get(origins[name])) for name in left),
        settings=tuple(other_settings(source, student, chosen)),
    )


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state by name; a tensor that is used in two places has two names."""
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _origin(name: str, stack: Stack, layers: Sequence[int]) -> str:
    """Name the tensor of the source that becomes this one of the student."""
    if not name.startswith(f"{stack.name}."):
        return name
    number, _, rest = name.removeprefix(f"{stack.name}.").partition(".")
    return f"{stack.name}.{layers[int(number)]}.{rest}"


def _check_layers(
    stack: Stack,
    layers: Sequence[int],
    own: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    where: str,
) -> None:
    for number, layer in enumerate(layers):
        here, there = _layer(own, stack, number), _layer(theirs, stack, layer)
        if odd := sorted(here.keys() ^ there.keys()):
            has, lacks = ("the student's", "the other's") if odd[0] in here else (
                "the other's", "the student's")  # fmt: skip
            raise ModelError(
                f"{where}: layer {layer} cannot become layer {number} of the student: {has} has a "
                f"tensor {odd[0]}, {lacks} has not. Only layers that are built alike can be copied."
            )
        for name, value in here.items():
            if value.shape != there[name].shape:
                raise ModelError(
                    f"{where}: {stack.name}.{number}.{name} has shape {tuple(value.shape)}, but "
                    f"that of layer {layer} of the model to begin from {tuple(there[name].shape)}; "
                    "layers of another shape cannot be copied. Give the student the same widths, "
                    "or leave initialise out."
                )


def _layer(tensors: Mapping[str, Tensor], stack: Stack, number: int) -> dict[str, Tensor]:
    prefix = f"{stack.name}.{number}."
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _fits(own: Tensor, theirs: Tensor | None) -> bool:
    return theirs is not None and theirs.shape == own.shape


def _described(name: str, own: Tensor, theirs: Tensor | None) -> str:
    if theirs is None:
        return name
    return f"{name} ({tuple(own.shape)}, there {tuple(theirs.shape)})"


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} ({', '.join(names[:SHOWN])}{more})"

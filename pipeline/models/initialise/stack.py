"""Where the layers of a model lie: the list of modules that it runs through one after the other.

It finds lists by name and length; what is in them is not looked at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from pipeline.errors import ModelError
from pipeline.models.initialise.architecture import layer_count

Rename = Callable[[str], str]


@dataclass(frozen=True)
class Stack:
    """The same list of layers in two models; `name` is what the student calls it."""

    name: str
    source_count: int
    student_count: int


def find_stack(
    source: nn.Module, student: nn.Module, rename: Rename, *, stack: str | None, where: str
) -> Stack:
    """Find the layers of both models, or those that `stack` names.

    It is the one list that has the same name in both and as many modules as the model says it has
    layers, or modules all of one class where the model does not say.

    Raises: ModelError if there is none, or more than one.
    """
    theirs = {rename(name): module for name, module in _lists(source).items()}
    own = _lists(student)
    if stack is None:
        # Of one layer there is nothing to choose.
        likely = _likely(theirs, layer_count(source), 2), _likely(own, layer_count(student), 1)
        found = [name for name in likely[0] if name in likely[1]]
        if len(found) != 1:
            raise ModelError(_ambiguous(found, *likely, where))
        stack = found[0]
    for whose, lists in (("the model to begin from", theirs), ("the student", own)):
        if stack not in lists:
            raise ModelError(
                f"{where}.stack: {whose} has no list of layers '{stack}'; it has {_shown(lists)}."
            )
    return Stack(stack, len(theirs[stack]), len(own[stack]))


Lists = Mapping[str, nn.ModuleList | nn.Sequential]


def _lists(model: nn.Module) -> Lists:
    """All lists of modules by their dotted name, those of a list behind the list itself."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) and name
    }


def _likely(lists: Lists, count: int | None, least: int) -> Lists:
    """Keep lists of so many modules; of unknown number, those of one class and at least a few."""
    likely = dict[str, nn.ModuleList | nn.Sequential]()
    for name, modules in lists.items():
        if any(name.startswith(f"{outer}.") for outer in likely):
            continue  # a part of a layer
        if _is_alike(modules, least) if count is None else len(modules) == count:
            likely[name] = modules
    return likely


def _is_alike(modules: nn.ModuleList | nn.Sequential, least: int) -> bool:
    weighs = next(modules.parameters(), None) is not None
    return weighs and len(modules) >= least and len({type(each) for each in modules}) == 1


def _ambiguous(found: list[str], theirs: Lists, own: Lists, where: str) -> str:
    if found:
        return (
            f"{where}.stack: which list of layers is meant? Both models have {', '.join(found)}. "
            f'Name one: stack = "{found[0]}".'
        )
    return (
        f"{where}: the models have no list of layers in common: the model to begin from has "
        f"{_shown(theirs)}, the student {_shown(own)}. Name a list (a torch.nn.ModuleList or "
        "Sequential) that both have under the same name: stack = '...'."
    )


def _shown(lists: Lists) -> str:
    return ", ".join(f"{name} ({len(modules)})" for name, modules in lists.items()) or "none"

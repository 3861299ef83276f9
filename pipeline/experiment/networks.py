"""From a recipe's `model` to a network, and whether it takes the data it is given."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from pipeline.compute import guard_memory
from pipeline.errors import ModelError, PipelineError, RecipeError, SampleError, see
from pipeline.models import (
    Network,
    context_of,
    copy_layers,
    load_network,
    prepare,
    read_taps,
    vocabulary_of,
)
from pipeline.progress import say
from pipeline.recipe import Recipe
from pipeline.recipe.schema import Model
from pipeline.samples import SampleBatch, Samples, positions_of, read_views, tokens_of


@dataclass(frozen=True)
class ModuleSeen:
    """A module of a network, and the shapes of what it answers to one sample; none if not asked."""

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]


def open_model(recipe: Recipe, model: Model, *, where: str) -> Network:
    """Load the network that a recipe's `model` names; `where` is its dotted key.

    Raises: ModelError if it cannot be loaded.
    """
    arguments = model.model_dump(exclude_none=True)
    return load_network(base=recipe.base, where=where, **arguments)


def open_student_model(recipe: Recipe, *, quiet: bool) -> Network:
    """Load the network that learns, begun as layers of another model if the recipe says so.

    Raises: ModelError if a model cannot be loaded, or the two do not match.
    """
    assert recipe.student
    network = open_model(recipe, recipe.student.model, where="student.model")
    table = recipe.student.initialise
    if table is None:
        return network
    model, source = table.model, "student.initialise.model"
    if model is None:
        assert recipe.teacher  # or the recipe was refused
        model, source = recipe.teacher.model, "teacher.model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a factory without a checkpoint draws the weights that were cached
        begun = open_model(recipe, model, where=source)
    where, student = "student.initialise", network.model
    copied = copy_layers(begun.model, student, table.layers, stack=table.stack, where=where)
    say(f"student: begins as {source}: {copied}", quiet)
    return network


def check_lengths(recipe: Recipe, network: Network, names: Iterable[str]) -> None:
    """Refuse text of longer rows than a model takes at once, before any of it is read.

    Raises: RecipeError naming each dataset of `names` whose rows are too long.
    """
    context = context_of(network.model)
    lengths = {name: getattr(recipe.data[name], "length", 0) for name in names}
    problems = [
        f"data.{name}.length: must be at most {context}, the tokens that {network.where} takes at "
        f"once; got {length}. Cut the text shorter, or give a model of a longer context"
        for name, length in lengths.items()
        if context is not None and length > context
    ]
    if problems:
        raise RecipeError(recipe.file, problems)


@torch.no_grad()
def count_classes(network: Network, samples: Samples, device: torch.device, *, whose: str) -> int:
    """Ask a network on its device about one sample; `whose` is "teacher" or "student".

    Raises: ModelError if it fails, its answer is not logits, or it answers other questions than
        the data asks.
    """
    _check_task(network, samples, whose)
    batch = first_readable(samples)
    inputs, asked = batch.inputs, int(positions_of(samples, batch).counts[0])
    try:
        with guard_memory(1, whose):
            output = network(prepare(inputs, device))
            _check_positions(len(output), asked, samples, whose)
            return int(output.class_count)
    except PipelineError:
        raise
    # The user's own network may raise anything at all; most often, data of another shape.
    except Exception as error:
        shape = " x ".join(map(str, inputs.shape[1:]))
        failure = ModelError(
            f"{whose}.model: failed on a sample of {samples.name}, which is {shape} "
            f"{inputs.dtype.name}: {type(error).__name__}: {error}. Give it data of the shape it "
            "takes, or mend the model."
        )
        raise see(failure, "data-and-teachers.md#models") from error


def first_readable(samples: Samples) -> SampleBatch:
    """Read one sample; the first ones may be such that were skipped when the cache was made."""
    last = len(samples) - 1
    for index in range(last):
        try:
            return read_views(samples, [index], range(index, index + 1))
        except SampleError:
            continue
    return read_views(samples, [last], range(last, last + 1))


@torch.no_grad()
def measure_features(
    network: Network, samples: Samples, device: torch.device
) -> dict[str, tuple[int, ...]]:
    """Ask a network that is tapped about one sample, for the shape of each feature.

    Raises: ModelError if a module's answer cannot be reduced as its tap says.
    """
    # Twice, for with a batch of one an answer to no sample in particular looks like one to each.
    inputs = first_readable(samples).inputs.repeat(2, axis=0)
    output = network(prepare(inputs, device))
    return {name: tuple(feature.shape[1:]) for name, feature in output.features.items()}


@torch.no_grad()
def list_modules(network: Network, samples: Samples, device: torch.device) -> list[ModuleSeen]:
    """Ask a network about one sample, for what each of its modules answers."""
    inputs = prepare(first_readable(samples).inputs, device)
    named = {name: module for name, module in network.model.named_modules() if name}
    with read_taps(network.model, named) as found:
        network(inputs)
    return [
        ModuleSeen(
            name,
            type(module).__name__,
            tuple(tuple(each.shape[1:]) for each in found.get(name, ())),
        )
        for name, module in named.items()
    ]


def _check_task(network: Network, samples: Samples, whose: str) -> None:
    tokens = tokens_of(samples)
    if tokens is None:
        return
    if tokens.task != network.task:
        raise ModelError(
            f"{whose}.model: is for the task '{network.task}', but {samples.name} asks for "
            f"'{tokens.task}'. Give model and data the same task."
        )
    # Where tokens are classes too, whoever counts those says it.
    known = vocabulary_of(network.model)
    if tokens.task == "label" and known is not None and tokens.vocabulary > known:
        raise ModelError(
            f"{whose}.model: knows {known} tokens, but {samples.name} is of {tokens.vocabulary}. "
            "Give the data the tokenizer of the model."
        )


def _check_positions(answered: int, asked: int, samples: Samples, whose: str) -> None:
    if answered != asked:
        raise ModelError(
            f"{whose}.model: gives {answered} answers to a sample of {samples.name}, which asks "
            f"for {asked}. Give model and data the same task: 'label', 'next_token' or "
            "'masked_token'."
        )

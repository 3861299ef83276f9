"""From a recipe's `model` to a network, and whether it takes the data it is given."""

import torch

from pipeline.compute import guard_memory
from pipeline.errors import ModelError, PipelineError
from pipeline.models import Network, load_network, prepare
from pipeline.recipe import Recipe
from pipeline.recipe.schema import Model
from pipeline.samples import Samples, positions_of


def open_model(recipe: Recipe, model: Model, *, where: str) -> Network:
    """Load the network that a recipe's `model` names; `where` is its dotted key.

    Raises: ModelError if it cannot be loaded.
    """
    arguments = model.model_dump(exclude_none=True)
    return load_network(base=recipe.base, where=where, **arguments)


@torch.no_grad()
def count_classes(network: Network, samples: Samples, device: torch.device, *, whose: str) -> int:
    """Ask a network on its device about one sample; `whose` is "teacher" or "student".

    Raises: ModelError if it fails, its answer is not logits, or it answers other questions than
        the data asks.
    """
    batch = samples.read([0])
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
        raise ModelError(
            f"{whose}.model: failed on a sample of {samples.name}, which is {shape} "
            f"{inputs.dtype.name}: {type(error).__name__}: {error}. Give it data of the shape it "
            "takes, or mend the model."
        ) from error


def _check_positions(answered: int, asked: int, samples: Samples, whose: str) -> None:
    if answered != asked:
        raise ModelError(
            f"{whose}.model: gives {answered} answers to a sample of {samples.name}, which asks "
            f"for {asked}. Give model and data the same task: 'label' or 'next_token'."
        )

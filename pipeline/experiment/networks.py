"""From a recipe's `model` to a network, and whether it takes the data it is given."""

import torch

from pipeline.compute import guard_memory
from pipeline.errors import ModelError, PipelineError, SampleError
from pipeline.models import Network, load_network, prepare
from pipeline.recipe import Recipe
from pipeline.recipe.schema import Model
from pipeline.samples import SampleBatch, Samples, positions_of, read_views, views_of


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
    batch = _first_readable(samples)
    inputs, asked = batch.inputs, int(positions_of(samples, batch).counts[0])
    try:
        with guard_memory(1, whose):
            output = network(prepare(inputs, device))
            _check_positions(len(output), asked, samples, whose)
            return int(next(output.blocks(1)).shape[1])
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


def _first_readable(samples: Samples) -> SampleBatch:
    """Read one sample; the first ones may be such that were skipped when the cache was made."""
    step, last = views_of(samples).count, len(samples) - 1
    for index in range(last):
        try:
            return read_views(samples, [index * step])
        except SampleError:
            continue
    return read_views(samples, [last * step])


def _check_positions(answered: int, asked: int, samples: Samples, whose: str) -> None:
    if answered != asked:
        raise ModelError(
            f"{whose}.model: gives {answered} answers to a sample of {samples.name}, which asks "
            f"for {asked}. Give model and data the same task: 'label', 'next_token' or "
            "'masked_token'."
        )

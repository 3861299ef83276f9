"""What several ranks must have in common, and what cannot be trained on several.

It compares what ranks have opened; it trains nothing.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from pipeline.compute import Ranks
from pipeline.errors import PipelineError, RecipeError, list_differences
from pipeline.models import Network
from pipeline.recipe import Recipe

# Losses that compare the samples of a batch with each other.
RELATIONS = ("relational_distance", "relational_angle", "similarity")


def check_several(recipe: Recipe, network: Network, ranks: Ranks) -> None:
    """Refuse what would mean something else where each rank has its own rows of a batch.

    Raises: RecipeError naming all of it.
    """
    problems = [
        f"losses.{number}.kind: '{loss.kind}' compares all samples of a batch with each other, and "
        f"each of {ranks.size} ranks has its own; train on one, or choose another loss"
        for number, loss in enumerate(recipe.losses)
        if loss.kind in RELATIONS
    ]
    if any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        problems.append(
            "student.model: has SyncBatchNorm, which would wait for ever for a rank without rows "
            "of a short batch; give it BatchNorm, of which each rank has its own statistics and "
            "their average is kept"
        )
    if problems:
        raise RecipeError(recipe.file, problems)


def check_same(identity: Mapping[str, Any], ranks: Ranks) -> None:
    """Refuse ranks that have opened other data, caches or weights than the first; all wait here.

    Raises: PipelineError naming what differs.
    """
    first, *others = ranks.gather(identity)
    for rank, other in enumerate(others, 1):
        if lines := list_differences((first, other)):
            head = f"rank {rank} of {ranks.size}: opened something else than rank 0 (there)"
            advice = "Give all machines the same recipe, data, caches and models."
            raise PipelineError("\n  ".join([head, *lines, advice]))

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


def check_several(recipe: Recipe, network: Network) -> None:
    """Refuse a student that several ranks cannot train.

    Raises: RecipeError if it waits for other ranks in its forward pass.
    """
    if any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        line = (
            "student.model: has SyncBatchNorm, which would wait for ever for a rank without rows "
            "of a short batch; give it BatchNorm, of which each rank has its own statistics and "
            "their average is kept"
        )
        raise RecipeError(recipe.file, [line])


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

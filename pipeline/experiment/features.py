"""Where features meet the teacher and the student they are read from, and losses the cache.

A student's feature is reduced as its teacher's was. Whether the two can be compared is found out by
comparing two zeros, so that no loss's rule is written twice.
"""

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.errors import RecipeError, TargetError
from pipeline.experiment.caches import open_named
from pipeline.experiment.data import teachers_of
from pipeline.experiment.networks import measure_features
from pipeline.losses import LOSSES, make_projection
from pipeline.losses.settings import name_losses, settings_of
from pipeline.models import Network, Tap, axis_of
from pipeline.recipe import Recipe
from pipeline.recipe.losses import FeatureLoss, OfFeatures
from pipeline.samples import Samples
from pipeline.targets import FeatureSpec, read_specs

Shape = tuple[int, ...]


def tap_features(recipe: Recipe, network: Network) -> None:
    """Let a teacher be read wherever the recipe's features are.

    Raises: ModelError if there is no such module.
    """
    network.tap(
        {each.name: Tap(each.module, each.reduce, each.exponent) for each in recipe.features}
    )


def plan_features(
    recipe: Recipe, network: Network, samples: Samples, device: torch.device
) -> tuple[FeatureSpec, ...]:
    """Say how each feature of the recipe will be kept, from one question to a tapped teacher.

    Raises: ModelError if a module's answer cannot be reduced as the recipe says.
    """
    if not recipe.features:
        return ()
    shapes = measure_features(network, samples, device)
    specs = []
    for each in recipe.features:
        chosen = each.projection
        specs.append(
            FeatureSpec(
                name=each.name,
                dtype=each.dtype,
                shape=shapes[each.name],
                axis=axis_of(network.task, each.reduce),
                width=chosen.width if chosen else None,
                seed=chosen.seed if chosen else 0,
                reduce=each.reduce,
                exponent=each.exponent,
            )
        )
    return tuple(specs)


def of_features(recipe: Recipe) -> dict[str, FeatureLoss]:
    """Name the losses of a recipe that compare features."""
    names = name_losses([loss.kind for loss in recipe.losses])
    named = zip(names, recipe.losses, strict=True)
    return {name: loss for name, loss in named if isinstance(loss, OfFeatures)}


def find_taps(recipe: Recipe) -> dict[str, Tap]:
    """Say for each loss of features where the student is read, and what is made of it.

    Raises: RecipeError if the cache keeps no such feature; CacheError if there is no cache.
    """
    losses = of_features(recipe)
    if not losses:
        return {}
    specs = cached_specs(recipe)
    missing = {name: loss for name, loss in losses.items() if loss.feature not in specs}
    if missing:
        named = " and ".join(teachers_of(recipe))
        problems = [
            f"losses.{_number(recipe, loss)}.feature: {named} keeps no feature "
            f"'{loss.feature}'; it has {', '.join(specs) or 'none'}. Name one in [[features]] and "
            "cache again"
            for loss in missing.values()
        ]
        raise RecipeError(recipe.file, problems)
    chosen = {name: specs[loss.feature] for name, loss in losses.items()}
    return {
        name: Tap(losses[name].module, spec.reduce, spec.exponent) for name, spec in chosen.items()
    }


def cached_specs(recipe: Recipe) -> dict[str, FeatureSpec]:
    """Say how each feature is kept, in the first cache that keeps it."""
    specs: dict[str, FeatureSpec] = {}
    for place in teachers_of(recipe):
        plan = open_named(recipe, place).plan
        specs = read_specs(plan.about, plan.fields) | specs
    return specs


def match_shapes(
    recipe: Recipe, shapes: Mapping[str, Shape], device: torch.device
) -> nn.ModuleDict | None:
    """Make the projections that the losses ask for, and prove that all of them can be computed.

    Shapes: of one entry of the student's feature of each loss.
    Raises: RecipeError for every loss whose two features cannot be compared.
    """
    specs, projections, problems = cached_specs(recipe), nn.ModuleDict(), []
    for name, loss in of_features(recipe).items():
        own, theirs = shapes[name], specs[loss.feature].kept_shape
        if getattr(loss, "projection", False):
            projections[name] = make_projection(own, theirs).to(device)
            own = theirs
        try:
            function, settings = LOSSES[loss.kind].function, settings_of(loss.model_dump())
            function(torch.zeros(2, *own), torch.zeros(2, *theirs), **settings)
        except TargetError as error:
            problems.append(
                f"losses.{_number(recipe, loss)}.module: '{loss.module}' gives {own}, and the "
                f"feature '{loss.feature}' of the teacher is {theirs}: {error}"
            )
    if problems:
        raise RecipeError(recipe.file, problems)
    return projections if len(projections) else None


def _number(recipe: Recipe, loss: FeatureLoss) -> int:
    return next(place for place, each in enumerate(recipe.losses) if each is loss)

"""What a recipe's models are made of, for features and losses to name, and what features take."""

from dataclasses import asdict
from typing import Any

import torch

from pipeline.errors import RecipeError
from pipeline.experiment.data import open_viewed
from pipeline.experiment.features import plan_features, tap_features
from pipeline.experiment.networks import ModuleSeen, check_lengths, list_modules, open_model
from pipeline.recipe import Recipe
from pipeline.recipe.schema import Model


def describe_models(recipe: Recipe) -> dict[str, Any]:
    """List the modules of a recipe's teacher and student, and what they answer to one sample.

    Raises: RecipeError if the recipe names neither; ModelError if one cannot be asked.
    """
    found = {}
    for role, table, asked in (
        ("teacher", recipe.teacher, recipe.cache),
        ("student", recipe.student, recipe.training),
    ):
        if table:
            name = asked.data if asked else "train"
            found[role] = [asdict(each) for each in _modules(recipe, role, table.model, name)]
    if not found:
        line = "has neither [teacher] nor [student], so there is no model to look into"
        raise RecipeError(recipe.file, [line])
    return {"recipe": recipe.file, "models": found, "features": _planned_features(recipe)}


def _planned_features(recipe: Recipe) -> list[dict[str, Any]]:
    """Say how large the features of a recipe will be, from one question to its teacher."""
    if not (recipe.features and recipe.teacher and recipe.cache):
        return []
    network = open_model(recipe, recipe.teacher.model, where="teacher.model").eval()
    tap_features(recipe, network)
    samples = open_viewed(recipe, recipe.cache.data)
    specs = plan_features(recipe, network, samples, torch.device("cpu"))
    return [{**spec.to_json(), "told": str(spec)} for spec in specs]


def _modules(recipe: Recipe, role: str, model: Model, name: str) -> list[ModuleSeen]:
    if name not in recipe.data:
        line = f"data.{name}: is missing; the {role} is asked about a sample of it"
        raise RecipeError(recipe.file, [line])
    network = open_model(recipe, model, where=f"{role}.model").eval()
    check_lengths(recipe, network, [name])
    return list_modules(network, open_viewed(recipe, name), torch.device("cpu"))

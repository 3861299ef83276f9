"""`pipeline inspect`: a cache, a run, pseudo-labels, a recipe or a sample, in one screen each; or
what models are made of."""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.experiment import describe_models
from pipeline.looking import (
    describe_cache,
    describe_labels,
    describe_recipe,
    describe_run,
    describe_sample,
    find_kind,
    tell_cache,
    tell_labels,
    tell_recipe,
    tell_run,
    tell_sample,
    token_names,
)
from pipeline.recipe import Recipe, load_recipe

run_model = describe_models


def run(
    target: str,
    *,
    rows: int = 5,
    sample: str | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Describe what `target` names; with `sample`, the targets of that sample alone.

    `rows` is how many rows of a cache, or positions of a sample, are decoded. A sample is looked
    for in a cache, or in that of a recipe, whose tokenizer then spells its tokens out.

    Raises: PipelineError if there is nothing to describe, no such sample, or something is wrong
        with what is there.
    """
    kind = find_kind(target)
    if overrides and kind != "recipe":
        raise PipelineError(f"{target}: --set changes values of a recipe, and this is none.")
    recipe = load_recipe(target, overrides) if kind == "recipe" else None
    if sample is not None:
        return _run_sample(target, sample, recipe, kind, positions=rows, quiet=quiet)
    if recipe:
        return describe_recipe(recipe, target)
    if kind == "run":
        return describe_run(target)
    return describe_labels(target) if kind == "labels" else describe_cache(target, rows=rows)


# Each is one thing that the answer depends on.
def _run_sample(
    target: str, sample: str, recipe: Recipe | None, kind: str, *, positions: int, quiet: bool
) -> dict[str, Any]:
    if recipe is None and kind != "cache":
        raise PipelineError(
            f"{target}: --sample shows a sample of a cache; this is none. Name a cache, or a "
            "recipe with [cache]."
        )
    if recipe is None:
        return describe_sample(target, sample, positions=positions, quiet=quiet)
    if recipe.cache is None:
        raise PipelineError(f"{target}: has no [cache], so there is no sample to show.")
    return describe_sample(
        recipe.locate_cache(recipe.cache.path),
        sample,
        positions=positions,
        names=token_names(recipe),
        quiet=quiet,
    )


TELL: dict[str, Callable[[dict[str, Any]], str]] = {
    "cache": tell_cache,
    "run": tell_run,
    "labels": tell_labels,
    "recipe": tell_recipe,
    "sample": tell_sample,
}


def tell(summary: dict[str, Any]) -> str:
    """Lay the description out for a terminal."""
    return _tell_models(summary) if "models" in summary else TELL[summary["what"]](summary)


def _tell_models(summary: dict[str, Any]) -> str:
    """Lay the modules out for a terminal, with how large the features will be."""
    lines = [summary["recipe"]]
    for role, modules in summary["models"].items():
        width = max((len(each["name"]) for each in modules), default=0)
        lines.append(f"  {role}: what each module answers to one sample")
        for each in modules:
            shapes = ", ".join(" x ".join(map(str, shape)) or "1" for shape in each["shapes"])
            lines.append(f"    {each['name']:{width}}  {shapes or 'not asked':20} {each['kind']}")
    if summary["features"]:
        lines.append("  features that the recipe keeps")
        lines += [f"    {each['told']}" for each in summary["features"]]
    return "\n".join(lines)

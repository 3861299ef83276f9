"""What a student is trained on: one dataset, or several that share each batch.

Each is joined to what is known of it, and what no loss could learn from is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import RecipeError, TargetError
from pipeline.experiment.data import Joined, join_data, teachers_of
from pipeline.experiment.features import of_features
from pipeline.experiment.networks import first_readable
from pipeline.losses.settings import settings_of
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.recipe import Recipe
from pipeline.recipe.losses import FROM_CACHE
from pipeline.samples import tokens_of
from pipeline.stream import Stream, no_targets
from pipeline.targets import check_temperature


def training_data(recipe: Recipe, **how: Any) -> list[Joined]:
    """Join the training data to targets and pseudo-labels, where a loss needs them.

    `how` are options of `join_data` and of its streams.

    Raises: RecipeError if a loss has nothing to learn from, or a dataset teaches none;
        PipelineError for data, caches and tables that do not fit together.
    """
    training = recipe.training
    assert training
    needs = {loss.kind for loss in recipe.losses}
    features = list(dict.fromkeys(loss.feature for loss in of_features(recipe).values()))
    needs_cache = bool(features) or "soft_targets" in needs
    options: dict[str, Any] = {
        "window_parts": training.window_parts,
        "group_by_length": training.group_by_length,
        "statistics": _statistics(recipe),
        "features": features,
        "soft": "soft_targets" in needs,
        **how,
    }
    if training.sources:
        data = [
            _join_source(recipe, number, options, needs_cache=needs_cache)
            for number in range(len(training.sources))
        ]
    else:
        taught = teachers_of(recipe) if needs_cache else {}
        options |= {"weights": list(taught.values()), "seed": training.seed}
        options["batch_size"] = training.batch_size
        places = list(taught)
        place = places[0] if places else None
        data = [join_data(recipe, training.data, place, also=places[1:], **options)]
    for joined in data:
        if "soft_targets" in needs and joined.stream.cache:
            _check_soft_targets(recipe, joined.stream)
    _check_needs(recipe, data)
    return data


def _join_source(
    recipe: Recipe, number: int, options: Mapping[str, Any], *, needs_cache: bool
) -> Joined:
    """Join one of several datasets to what is known of it."""
    assert recipe.training
    source = recipe.training.sources[number]
    if not (needs_cache and source.cache):
        options = {**options, "features": []}
    return join_data(
        recipe,
        source.data,
        source.cache if needs_cache else None,
        pseudo_place=source.pseudo_labels,
        only_chosen=source.only_chosen,
        batch_size=source.rows,
        # Of the first source that of a run with no other.
        seed=(recipe.training.seed + number) % 2**63,
        **options,
    )


def _check_needs(recipe: Recipe, data: Sequence[Joined]) -> None:
    """Refuse losses that nothing is there for, and datasets that no loss learns from."""
    assert recipe.training
    needs, names = {loss.kind for loss in recipe.losses}, recipe.training.names
    named = " and ".join(f"data.{name}" for name in names)
    if recipe.training.group_by_length and any(
        tokens_of(joined.stream.samples) is None for joined in data
    ):
        line = (
            f"training.group_by_length: {named} is no text, so all of its samples are "
            "equally long; leave it out"
        )
        raise RecipeError(recipe.file, [line])
    if "hard_labels" in needs and all(joined.highest_label < 0 for joined in data):
        line = (
            f"losses: hard_labels needs labels, but {named} has none; name the label "
            "column, or take the loss out"
        )
        raise RecipeError(recipe.file, [line])
    idle = [
        f"training.sources.{number}: no loss learns from it: data.{names[number]} has "
        f"{_described(joined)}, and the losses are {', '.join(sorted(needs))}"
        for number, joined in enumerate(data)
        if recipe.training.sources and not needs & _offers(joined)
    ]
    if idle:
        raise RecipeError(recipe.file, idle)


def _offers(joined: Joined) -> set[str]:
    """Name the losses that can learn from some data."""
    offered = set[str]()
    if joined.highest_label >= 0:
        offered.add("hard_labels")
    if joined.stream.pseudo_classes:
        offered.add("pseudo_labels")
    return offered | (set(FROM_CACHE) if joined.stream.cache else set())


def _described(joined: Joined) -> str:
    has = {
        "labels": joined.highest_label >= 0,
        "pseudo-labels": joined.stream.pseudo_classes is not None,
        "targets": joined.stream.cache is not None,
    }
    return (
        " and ".join(name for name, there in has.items() if there) or "neither labels nor targets"
    )


def check_alike(recipe: Recipe, data: Sequence[Joined]) -> None:
    """Refuse datasets that cannot be put into one batch."""
    if len(data) == 1:
        return
    shapes = [
        (inputs.shape[1:], inputs.dtype)
        for inputs in (first_readable(joined.stream.samples).inputs for joined in data)
    ]
    lines = [
        f"training.sources.{number}.data: its samples have shape {shape} {dtype}, those of the "
        f"first source {shapes[0][0]} {shapes[0][1]}; a batch is of one shape"
        for number, (shape, dtype) in enumerate(shapes)
        if (shape, dtype) != shapes[0]
    ]
    if lines:
        raise RecipeError(recipe.file, lines)


def _statistics(recipe: Recipe) -> list[str]:
    """Name what of the teacher's certainty the losses weigh positions by."""
    return sorted({each for loss in recipe.losses if (each := getattr(loss, "weigh_by", None))})


def _check_soft_targets(recipe: Recipe, stream: Stream) -> None:
    """Refuse temperatures, tails and divergences that the caches do not serve, each by its loss."""
    problems = []
    targets = no_targets(stream.caches, stream.weights)
    for number, loss in enumerate(recipe.losses):
        if loss.kind != "soft_targets":
            continue
        try:
            check_temperature(loss.temperature, has_tail=targets.has_tail)
        except TargetError as error:
            problems.append(f"losses.{number}.temperature: {error}")
            continue
        try:
            soft_targets_term(targets, count=1.0, **settings_of(loss.model_dump()))
        except TargetError as error:
            problems.append(f"losses.{number}: {error}")
    if problems:
        raise RecipeError(recipe.file, problems)

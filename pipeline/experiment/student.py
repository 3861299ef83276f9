"""Everything that training a student needs, opened and found to fit together.

What is wrong with data, labels, classes, temperatures or models is said here, before a run's folder
is begun.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.compute import keep_freed_memory, pick_device, set_threads
from pipeline.errors import RecipeError, TargetError
from pipeline.experiment.data import Joined, join_data, teachers_of
from pipeline.experiment.features import find_taps, match_shapes, of_features
from pipeline.experiment.networks import (
    check_lengths,
    count_classes,
    measure_features,
    open_student_model,
)
from pipeline.losses.settings import settings_of
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.models import Network, Tap, weights_digest
from pipeline.recipe import Recipe, comparable
from pipeline.recipe.training import Evaluation
from pipeline.samples import tokens_of
from pipeline.stream import Stream, no_targets
from pipeline.targets import check_temperature


@dataclass(frozen=True)
class Setup:
    """What a run is trained with; `identity` is what two runs differ by."""

    recipe: Recipe
    folder: Path
    network: Network
    stream: Stream
    device: torch.device
    evaluations: dict[str, Stream]
    identity: dict[str, Any]
    # By the name of the loss that needs it.
    taps: dict[str, Tap]


def open_student(recipe: Recipe, folder: Path, *, quiet: bool) -> Setup:
    """Open everything that training needs, and refuse what does not fit together.

    Raises: PipelineError for everything a user can mend; nothing has been written by then.
    """
    training = recipe.training
    assert training
    assert recipe.student
    if training.threads:
        set_threads(training.threads)
    keep_freed_memory()
    device = pick_device(training.device)
    asked = {"validation": recipe.validation, "test": recipe.test}
    torch.manual_seed(training.seed)
    network = open_student_model(recipe, quiet=quiet).to(device)
    taps = find_taps(recipe)
    network.tap(taps)
    read = [training.data, *(table.data for table in asked.values() if table)]
    check_lengths(recipe, network, read)
    data = _training_data(recipe, quiet)
    held_out = {name: _held_out(recipe, table, quiet) for name, table in asked.items() if table}
    _check_best_by(recipe, held_out)
    tables = ("student", "losses", "training", "validation", "test")
    settings = comparable(recipe)
    identity = {
        **{table: settings[table] for table in tables},
        **data.identity,
        "held_out": {name: joined.identity for name, joined in held_out.items()},
        "initial_weights": weights_digest(network),
    }
    network.eval()
    for name, joined in {"training": data, **held_out}.items():
        class_count = count_classes(network, joined.stream.samples, device, whose="student")
        _check_classes(f"{name}.data", joined, class_count)
    if taps:
        shapes = measure_features(network, data.stream.samples, device)
        network.projections = match_shapes(recipe, shapes, device)
    evaluations = {name: joined.stream for name, joined in held_out.items()}
    return Setup(recipe, folder, network, data.stream, device, evaluations, identity, taps)


def _training_data(recipe: Recipe, quiet: bool) -> Joined:
    """The training data, with targets where a loss needs them."""
    training = recipe.training
    assert training
    needs = {loss.kind for loss in recipe.losses}
    features = [loss.feature for loss in of_features(recipe).values()]
    needs_cache = features or "soft_targets" in needs
    taught = teachers_of(recipe) if needs_cache else {}
    places = list(taught)
    joined = join_data(
        recipe,
        training.data,
        places[0] if places else None,
        also=places[1:],
        weights=list(taught.values()),
        quiet=quiet,
        batch_size=training.batch_size,
        seed=training.seed,
        window_parts=training.window_parts,
        group_by_length=training.group_by_length,
        statistics=_statistics(recipe),
        features=list(dict.fromkeys(features)),
        soft="soft_targets" in needs,
    )
    if "soft_targets" in needs:
        _check_soft_targets(recipe, joined.stream)
    if training.group_by_length and tokens_of(joined.stream.samples) is None:
        line = (
            f"training.group_by_length: data.{training.data} is no text, so all of its samples are "
            "equally long; leave it out"
        )
        raise RecipeError(recipe.file, [line])
    if "hard_labels" in needs and joined.highest_label < 0:
        line = (
            f"losses: hard_labels needs labels, but data.{training.data} has none; name the label "
            "column, or take the loss out"
        )
        raise RecipeError(recipe.file, [line])
    return joined


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


def _held_out(recipe: Recipe, table: Evaluation, quiet: bool) -> Joined:
    options: dict[str, Any] = {"batch_size": table.batch_size, "seed": None}
    return join_data(recipe, table.data, table.cache, quiet=quiet, **options)


def _check_best_by(recipe: Recipe, held_out: Mapping[str, Joined]) -> None:
    table = recipe.validation
    if table and table.best_by != "teacher_kl" and held_out["validation"].highest_label < 0:
        line = (
            f"validation.best_by: '{table.best_by}' needs labels, but data.{table.data} has none; "
            "name the label column, or compare with a teacher: best_by = 'teacher_kl' and "
            "validation.cache, a cache of that data"
        )
        raise RecipeError(recipe.file, [line])


def _check_classes(where: str, joined: Joined, class_count: int) -> None:
    """Refuse a student that does not fit its data, before anything is written."""
    stream, highest = joined.stream, joined.highest_label
    problem = None
    tokens = tokens_of(stream.samples)
    # Vocabularies are padded for speed; a student's other classes learn to get nothing.
    may_be_wider = tokens is not None and tokens.task != "label"
    taught = stream.spec.class_count if stream.spec else class_count
    if stream.cache and (class_count < taught or (class_count > taught and not may_be_wider)):
        problem = f"{stream.cache.path} holds targets over {taught} classes"
    elif highest >= class_count:
        problem = f"{stream.samples.name} has labels up to {highest}"
    if problem:
        raise TargetError(
            f"student.model: answers with {class_count} classes, but {problem} ({where}). "
            "Give the student the classes of its data and of its teacher."
        )

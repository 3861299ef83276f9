"""Everything that training a student needs, opened and found to fit together.

What is wrong with data, labels, classes, temperatures or models is said here, before a run's folder
is begun.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline.compute import (
    Ranks,
    keep_freed_memory,
    pick_rank_device,
    set_threads,
    use_any_kernels,
)
from pipeline.errors import RecipeError, TargetError
from pipeline.experiment.data import Joined, join_data
from pipeline.experiment.features import find_taps, match_shapes
from pipeline.experiment.networks import (
    check_lengths,
    count_classes,
    measure_features,
    open_student_model,
)
from pipeline.experiment.several import check_same, check_several
from pipeline.experiment.sources import check_alike, training_data
from pipeline.models import Network, Tap, weights_digest
from pipeline.recipe import Recipe, comparable
from pipeline.recipe.training import Evaluation
from pipeline.samples import asks_tokens
from pipeline.stream import Blend, Stream


@dataclass(frozen=True)
class Setup:
    """What a run is trained with; `identity` is what two runs differ by."""

    recipe: Recipe
    folder: Path
    network: Network
    # What is trained on; several where each batch is of several datasets.
    streams: tuple[Stream, ...]
    device: torch.device
    evaluations: dict[str, Stream]
    identity: dict[str, Any]
    # By the name of the loss that needs it.
    taps: dict[str, Tap]
    ranks: Ranks

    @cached_property
    def stream(self) -> Stream | Blend:
        """What the loop reads: the only stream, or all of them side by side."""
        assert self.recipe.training
        return Blend(self.streams) if self.recipe.training.sources else self.streams[0]


def open_student(recipe: Recipe, folder: Path, *, quiet: bool, ranks: Ranks | None = None) -> Setup:
    """Open everything that training needs, and refuse what does not fit together.

    Of several ranks each opens and checks all of it, for each may be on a machine of its own.

    Raises: PipelineError for everything a user can mend; nothing has been written by then.
    """
    ranks = ranks or Ranks()
    training = recipe.training
    assert training
    assert recipe.student
    if training.threads:
        set_threads(training.threads)
    use_any_kernels()  # this process may have asked a teacher before
    keep_freed_memory()
    device = pick_rank_device(training.device, ranks)
    asked = {"validation": recipe.validation, "test": recipe.test}
    torch.manual_seed(training.seed)
    network = open_student_model(recipe, quiet=quiet).to(device)
    if ranks.size > 1:
        check_several(recipe, network)
    taps = find_taps(recipe)
    network.tap(taps)
    read = [*training.names, *(table.data for table in asked.values() if table)]
    check_lengths(recipe, network, read)
    own = {"rank": ranks.rank, "world_size": ranks.size, "quiet": quiet}
    data = training_data(recipe, **own)
    held_out = {name: _held_out(recipe, table, own) for name, table in asked.items() if table}
    _check_best_by(recipe, held_out)
    tables = ("student", "losses", "training", "validation", "test")
    settings = comparable(recipe)
    named = {f"training.sources.{number}": joined for number, joined in enumerate(data)}
    named = named if training.sources else {"training": data[0]}
    known = [joined.identity for joined in data]
    shared = [
        {**each, "rows": source.rows, "only_chosen": source.only_chosen}
        for each, source in zip(known, training.sources, strict=False)
    ]
    identity = {
        **{table: settings[table] for table in tables},
        **({"sources": shared} if training.sources else known[0]),
        "held_out": {name: joined.identity for name, joined in held_out.items()},
        "initial_weights": weights_digest(network),
    }
    network.eval()
    for name, joined in {**named, **held_out}.items():
        class_count = count_classes(network, joined.stream.samples, device, whose="student")
        _check_classes(f"{name}.data", joined, class_count)
    check_alike(recipe, data)
    if taps:
        shapes = measure_features(network, data[0].stream.samples, device)
        network.projections = match_shapes(recipe, shapes, device)
    evaluations = {name: joined.stream for name, joined in held_out.items()}
    streams = tuple(joined.stream for joined in data)
    check_same(identity, ranks)
    return Setup(recipe, folder, network, streams, device, evaluations, identity, taps, ranks)


def _held_out(recipe: Recipe, table: Evaluation, options: Mapping[str, Any]) -> Joined:
    options = {**options, "batch_size": table.batch_size, "seed": None}
    return join_data(recipe, table.data, table.cache, **options)


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
    # Vocabularies are padded for speed; a student's other classes learn to get nothing.
    may_be_wider = asks_tokens(stream.samples)
    taught = stream.spec.class_count if stream.spec else class_count
    labelled = stream.pseudo_classes
    if labelled not in (None, class_count):
        problem = f"its pseudo-labels are of {labelled} classes"
    elif stream.cache and (class_count < taught or (class_count > taught and not may_be_wider)):
        problem = f"{stream.cache.path} holds targets over {taught} classes"
    elif highest >= class_count:
        problem = f"{stream.samples.name} has labels up to {highest}"
    if problem:
        raise TargetError(
            f"student.model: answers with {class_count} classes, but {problem} ({where}). "
            "Give the student the classes of its data and of its teacher."
        )

"""What a recipe may say is what the rooms can do; neither knows the other."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

import pytest

from pipeline.caching.size import ROWS_PER_PART as LARGEST_PART
from pipeline.compute.accelerator import MIXED_PRECISIONS
from pipeline.losses import LOSSES
from pipeline.losses.divergence import DIVERGENCES
from pipeline.losses.settings import BESIDE
from pipeline.losses.soft_targets import WEIGHTS
from pipeline.losses.tails import RULES
from pipeline.models.loading import KINDS as MODEL_KINDS
from pipeline.models.network import PRECISIONS
from pipeline.recipe.losses import Loss, SoftTargets
from pipeline.recipe.schema import (
    Cache,
    Data,
    Model,
    Selection,
    Table,
    Teacher,
)
from pipeline.recipe.training import Training
from pipeline.recipe.views import Mask, Views
from pipeline.samples import KINDS as SAMPLE_KINDS
from pipeline.samples import Views as ViewsOfSamples
from pipeline.samples import make_views
from pipeline.samples.views.masks import Masks
from pipeline.store.backends import BACKENDS
from pipeline.store.plan import COMPRESSIONS
from pipeline.stream import open_cached
from pipeline.stream.stream import ROWS_PER_PART
from pipeline.stream.windows.size import COPIED_PARTS
from pipeline.targets.spec import OF_KIND, Kind
from pipeline.training.optimizer import OPTIMIZERS, SCHEDULES

# A cache is opened by the stream's room, for the samples' room knows none.
DATA_KINDS = SAMPLE_KINDS | {"cache": open_cached}


def tables(choice: Any) -> dict[str, type[Table]]:
    """Name the tables of a choice by their kind."""
    return {choices(table, "kind")[0]: table for table in get_args(get_args(choice)[0])}


def choices(table: type[Table], name: str) -> tuple[str, ...]:
    """List what a field allows; one that may be left out is a union with None."""
    allowed = get_args(table.model_fields[name].annotation)
    return get_args(allowed[0]) if type(None) in allowed else allowed


def defaults(table: type[Table], *others: str) -> dict[str, Any]:
    fields = {k: v for k, v in table.model_fields.items() if k not in ("kind", *others)}
    return {
        name: "required" if field.is_required() else field.default or None
        for name, field in fields.items()
    }


def parameters(function: Callable[..., Any], *others: str) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    return {
        name: "required" if each.default is each.empty else each.default or None
        for name, each in known.items()
        if name not in others
    }


@pytest.mark.parametrize("kind", sorted(DATA_KINDS))
def test_a_dataset_takes_what_its_table_says(kind: str) -> None:
    said = defaults(tables(Data)[kind], "subset", "on_error")
    assert said == parameters(DATA_KINDS[kind], "base", "name")


@pytest.mark.parametrize("kind", sorted(MODEL_KINDS))
def test_a_model_takes_what_its_table_says(kind: str) -> None:
    assert defaults(tables(Model)[kind]) == parameters(MODEL_KINDS[kind], "base", "where")


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_a_loss_takes_what_its_table_says(kind: str) -> None:
    matched = ("student_logits", "targets", "labels", "student_features", "features", "count")
    # Which features are compared is told by name, and looked up before a loss sees them.
    said = defaults(tables(Loss)[kind], *BESIDE)
    assert said == parameters(LOSSES[kind].function, *matched)


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (tables(Data), DATA_KINDS),
        (tables(Model), MODEL_KINDS),
        (tables(Loss), LOSSES),
        (choices(SoftTargets, "tail"), RULES),
        (choices(SoftTargets, "divergence"), DIVERGENCES),
        (choices(SoftTargets, "weigh_by"), dict.fromkeys(WEIGHTS)),
        (choices(Training, "optimizer"), OPTIMIZERS),
        (choices(Training, "schedule"), SCHEDULES),
        (choices(Training, "precision"), MIXED_PRECISIONS),
        (choices(Teacher, "precision"), PRECISIONS),
        (choices(Cache, "backend"), BACKENDS),
        (choices(Cache, "compression"), dict.fromkeys(COMPRESSIONS)),
    ],
    ids=[
        *(
            "data",
            "model",
            "loss",
            "tail",
            "divergence",
            "weigh_by",
            "optimizer",
            "schedule",
            "training precision",
        ),
        *("teacher precision", "backend", "compression"),
    ],
)
def test_every_choice_is_known_to_its_room(said: Any, known: Mapping[str, Any]) -> None:
    assert set(said) == set(known)


def test_views_are_masked_as_their_table_says() -> None:
    assert defaults(Mask) == parameters(Masks, "maskable")
    assert defaults(Views, "mask") == parameters(make_views, "samples", "mask")
    assert defaults(Views, "mask", "augment") == parameters(ViewsOfSamples, "masks", "steps")


def test_every_selection_is_known_to_the_targets() -> None:
    assert set(tables(Selection)) == set(get_args(Kind))


@pytest.mark.parametrize("kind", sorted(tables(Selection)))
def test_a_selection_is_described_by_what_its_table_says(kind: str) -> None:
    kept = {"k", "k_max"}  # what a spec calls k
    said = set(tables(Selection)[kind].model_fields) - {"kind"} - kept
    assert said == set(OF_KIND.get(kind, ()))


def test_a_baseline_is_cut_into_the_parts_of_a_cache_by_default() -> None:
    assert LARGEST_PART == ROWS_PER_PART
    assert Training.model_fields["window_parts"].default == COPIED_PARTS

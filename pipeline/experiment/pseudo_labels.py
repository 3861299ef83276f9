"""What pseudo-labels are made from, opened and found to fit together, before the long work."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RecipeError, TargetError, list_differences
from pipeline.experiment.caches import open_named
from pipeline.experiment.data import open_data
from pipeline.labelling import (
    Asked,
    Calibration,
    Labelling,
    Look,
    Wanted,
    ask_rows,
    fit_temperature,
    judge,
)
from pipeline.models.runs import read_trained_on
from pipeline.recipe import Recipe
from pipeline.recipe.pseudo_labels import Labelling as LabellingTable
from pipeline.samples import IdIndex, Samples, content_digests, tokens_of
from pipeline.samples.images import encode_png
from pipeline.samples.text.tokenizer import open_tokenizer
from pipeline.samples.text.tokens import read_text
from pipeline.store import Cache


@dataclass(frozen=True)
class Planned:
    """Caches that fit together, what is wanted of them, and what two folders differ by."""

    asked: Asked
    labelled: Asked | None
    wanted: Wanted
    settings: dict[str, Any]
    where: str
    look: Look | None = None
    warnings: list[str] = field(default_factory=list)

    def calibrate(self) -> tuple[Labelling, Calibration | None]:
        """Fit the temperature where there are labels, and judge the teacher there.

        Raises: TargetError if the labelled cache has no labels.
        """
        if self.labelled is None:
            return Labelling(self.asked, 1.0, self.wanted, None, self.where), None
        calibration = fit_temperature(self.labelled)
        judged = judge(self.labelled, calibration.temperature)
        labelling = Labelling(self.asked, calibration.temperature, self.wanted, judged, self.where)
        return labelling, calibration


def plan_labels(recipe: Recipe) -> Planned:
    """Open the caches that the recipe names.

    Raises: RecipeError if a cache is missing in the recipe; CacheError if it is not there;
        TargetError if the two are of other teachers or classes, or hold no labels for a rule.
    """
    table = recipe.pseudo_labels
    assert table
    place = table.cache or (recipe.cache.path if recipe.cache else None)
    if place is None:
        line = (
            "pseudo_labels.cache: is missing; name a cache of unlabelled data, here or in [cache]"
        )
        raise RecipeError(recipe.file, [line])
    threads = table.threads or os.cpu_count() or 1
    asked, labelled = ask_rows(open_named(recipe, place), threads), None
    if table.labelled_cache is not None:
        labelled = ask_rows(open_named(recipe, table.labelled_cache), threads)
        _check_same(asked.cache, labelled.cache)
    rule = table.rule.model_dump()
    wanted = Wanted(rule.pop("kind"), rule, table.balanced, table.most_per_class, table.most)
    return Planned(
        asked=asked,
        labelled=labelled,
        wanted=wanted,
        settings=_settings(table, asked, labelled),
        where=f"{recipe.file}: pseudo_labels.rule",
        look=_look(recipe, table.show) if table.show else None,
        warnings=_warn_of_training(recipe, labelled),
    )


def _settings(table: LabellingTable, asked: Asked, labelled: Asked | None) -> dict[str, Any]:
    names = ("rule", "balanced", "most_per_class", "most")
    written = table.model_dump(include=set(names))
    return {
        **written,
        "cache": asked.cache.digest,
        "labelled_cache": labelled.cache.digest if labelled else None,
    }


def _check_same(cache: Cache, labelled: Cache) -> None:
    """Refuse a labelled cache that says nothing of the unlabelled one."""
    facts = [
        {
            "teacher": each.plan.settings["teacher"]["weights"],
            "classes": each.plan.about["targets"]["class_count"],
            "class_names": each.plan.about["class_names"],
        }
        for each in (cache, labelled)
    ]
    for each in facts:  # where only one of them knows names, they are not others
        if any(other["class_names"] is None for other in facts):
            each["class_names"] = None
    if lines := list_differences((facts[0], facts[1])):
        head = (
            f"{labelled.path}: is of another teacher or of other classes than {cache.path} (there)"
        )
        advice = "Cache the labelled data with the very teacher, and the same class_names."
        raise TargetError("\n  ".join([head, *lines, advice]))


def _warn_of_training(recipe: Recipe, labelled: Asked | None) -> list[str]:
    """Say that a teacher is being asked about what it was trained on, if that can be known."""
    if labelled is None or recipe.teacher is None or recipe.teacher.model.kind != "run":
        return []
    trained_on = read_trained_on(recipe.locate(recipe.teacher.model.path), "teacher.model")
    if labelled.cache.plan.settings["data"]["digest"] not in trained_on:
        return []
    return [
        f"{labelled.cache.path}: these are the very samples that the teacher was trained on, on "
        "which it is right too often; temperature, precision and promises are worth nothing. "
        "Hold labelled samples back from the teacher, and cache those"
    ]


def _look(recipe: Recipe, name: str) -> Look:
    """Make what shows samples of [data.NAME] by their ids."""
    if name not in recipe.data:
        line = f"pseudo_labels.show: there is no [data.{name}]; there are {', '.join(recipe.data)}"
        raise RecipeError(recipe.file, [line])
    return look_at(recipe, name)


def look_at(recipe: Recipe, name: str) -> Callable[..., list[bytes | str | None]]:
    """Make what shows samples of [data.NAME], which is there, by their ids: as PNG or as text.

    With digests, too, only those that are still what they were. Shapes: digests (B, 16).

    Raises: SampleError if the data is not what the recipe says.
    """
    samples = open_data(recipe, name)
    decode = None
    if tokens_of(samples) and (source := getattr(recipe.data[name], "tokenizer", None)):
        where = f"data.{name}"
        decode = open_tokenizer(base=recipe.base, where=where, source=source, end=None).decode
    return partial(_show, samples, IdIndex(samples), decode)


def _show(
    samples: Samples,
    index: IdIndex,
    decode: Any,
    ids: Sequence[str],
    digests: NDArray[np.uint8] | None = None,
) -> list[bytes | str | None]:
    shown: list[bytes | str | None] = []
    for number, place in enumerate(index.find(ids).tolist()):
        read = samples.read([place]).inputs if place >= 0 else None
        is_changed = (
            read is not None
            and digests is not None
            and not np.array_equal(content_digests(read)[0], digests[number])
        )
        if read is None or is_changed:
            shown.append(None)
        elif tokens_of(samples):
            shown.append(read_text(read[0], decode) if decode else None)
        else:
            shown.append(encode_png(read[0]))
    return shown

"""From what is given to everything a page shows: each cache counted, each run read.

What cannot be shown beside the numbers, such as samples whose data is not here, is said on the
page.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import CorruptPart, PipelineError
from pipeline.experiment.pseudo_labels import look_at
from pipeline.looking.about import data_name
from pipeline.recipe import Recipe
from pipeline.report.alike import MOST_EXAMPLES, find_pairs, show_examples
from pipeline.report.answers import Answers, count_cache, readings
from pipeline.report.given import Given, GivenCache
from pipeline.report.names import Decode, name_classes, open_decoder
from pipeline.report.page import CacheNumbers, Contents
from pipeline.report.page.evaluation import Look as LookById
from pipeline.report.rows import Look, has_tokens, open_look
from pipeline.report.runs import Run, read_curve, read_run

Advance = Callable[[int], object]
SHOWN_TITLES = 4
CHANGED = (
    "Samples are not shown: what the recipe names is other data than the teacher saw, has changed "
    "since, or is nothing that a page can show."
)


def count_parts(given: Given) -> int:
    """How many parts `gather` reads, those that it reads twice counted so."""
    return sum(
        each.cache.plan.part_count * readings(Answers(each.cache)) for each in given.caches.values()
    )


def gather(given: Given, threads: int, advance: Advance) -> Contents:
    """Read everything; `advance` is told of each part that was read.

    Raises: CorruptPart if a part of a cache is damaged; PipelineError if a document of a run is.
    """
    called = _names([folder for folder, _ in given.runs.values()])
    runs = [
        (read_run(folder, name), recipe)
        for name, (folder, recipe) in zip(called, given.runs.values(), strict=True)
    ]
    names = _names([each.cache.path for each in given.caches.values()])
    recipes = [each.recipe for each in given.caches.values()] + [each for _, each in runs]
    titles = list(dict.fromkeys(each.name for each in recipes if each)) or [
        *names,
        *called,
        *(path.name for path in given.curves),
    ]
    return Contents(
        title=f"Report on {_some(titles)}",
        caches=[
            _numbers(name, each, threads, advance)
            for name, each in zip(names, given.caches.values(), strict=True)
        ],
        runs=[run for run, _ in runs],
        curves={path: read_curve(path) for path in given.curves},
        missing=given.missing,
        looks={run.folder: look for run, recipe in runs if (look := _look_of(run, recipe))},
    )


def _some(titles: Sequence[str]) -> str:
    more = len(titles) - SHOWN_TITLES
    return ", ".join(titles[:SHOWN_TITLES]) + (f" and {more} more" if more > 0 else "")


def _names(places: Sequence[object]) -> list[str]:
    """Call caches and runs by the ends of their places, as far as that tells them apart."""
    ends = [str(place).rstrip("/").rpartition("/")[2] for place in places]
    return [
        str(place) if ends.count(end) > 1 else end for place, end in zip(places, ends, strict=True)
    ]


def _numbers(name: str, given: GivenCache, threads: int, advance: Advance) -> CacheNumbers:
    answers, notes = Answers(given.cache), list[str]()
    frame, counts = count_cache(answers, threads, advance)
    decode, look = _decoder(given, notes), _look(given, notes)
    name_of = name_classes(given.cache, decode)
    pairs = find_pairs(frame, counts)
    examples = show_examples(
        answers,
        pairs[:MOST_EXAMPLES],
        frame.temperature,
        name_of=name_of,
        decode=decode,
        look=look,
    )
    if look and examples and not any(each.picture or each.text for each in examples):
        notes.append(CHANGED)
    return CacheNumbers(name, given.cache, frame, counts, name_of, pairs, examples, notes)


def _decoder(given: GivenCache, notes: list[str]) -> Decode | None:
    tokens = given.cache.plan.about.get("tokens")
    if not tokens:
        return None
    try:
        decode = open_decoder(given.cache, given.recipe)
    except PipelineError as error:
        notes.append(f"Tokens have numbers for names: {error}")
        return None
    if decode is None:
        notes.append(
            "Tokens have numbers for names: the tokenizer that this cache was made with is not "
            "at hand. Give its recipe, which says where it lies."
        )
    return decode


def _look(given: GivenCache, notes: list[str]) -> Look | None:
    """Find what shows the samples of a cache; rows of tokens show themselves."""
    if has_tokens(given.cache):
        return None
    name = data_name(given.cache)
    if name is None or given.recipe is None or name not in given.recipe.data:
        data = f"data.{name} lies" if name else "they lie"
        notes.append(
            f"Samples are not shown: only a recipe says where {data}. Give the recipe in place of "
            "the cache."
        )
        return None
    try:
        return open_look(given.cache, given.recipe, name)
    except CorruptPart:
        raise
    except PipelineError as error:
        notes.append(f"Samples are not shown: {error}")
        return None


def _look_of(run: Run, recipe: Recipe | None) -> LookById | None:
    """Find what shows the samples that a run was evaluated on."""
    if recipe is None or not run.evaluation or not run.evaluation.get("disagreements"):
        return None
    name = str((run.evaluation.get("data") or {}).get("name", "")).removeprefix("data.")
    if name not in recipe.data:
        return None
    return lambda ids: look_at(recipe, name)(ids)  # opened when asked, where an error can be told


def check_place(path: Path) -> None:
    """Refuse a place where no page can be written, before anything is gathered for it.

    Raises: PipelineError with the reason.
    """
    if path.is_dir():
        raise PipelineError(f"{path}: is a folder. Name a file in it, such as {path}/report.html.")
    if not os.access(path.parent, os.W_OK):
        why = "cannot be written" if path.parent.is_dir() else "is not there"
        raise PipelineError(
            f"{path}: the folder {path.parent} {why}. Name another file with --out."
        )


def write_page(path: Path, page: str) -> None:
    """Write a page so that it appears whole or not at all.

    Raises: PipelineError if it cannot be written there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise PipelineError(
            f"{path}: cannot be written ({error.strerror}). Name another file with --out."
        ) from error

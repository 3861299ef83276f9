"""What is to be reported on: the caches, runs and curves that targets of the command name.

A recipe names a run, caches, and the data that shows their samples. What it names and is not there
yet is said in a line, for a report is wanted before all is done, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import CacheError, CorruptPart, PipelineError
from pipeline.looking.about import data_name
from pipeline.recipe import Recipe, load_recipe
from pipeline.store import Cache, open_cache
from pipeline.store.records import PLAN_FILE
from pipeline.training.run_folder import RECIPE

ALLOWED = (
    "allowed are a cache (a folder with plan.json, or s3://bucket/prefix), a run's folder (with "
    "recipe.json), a recipe (.toml), and what `scripts/bench size --json` wrote (.json)"
)


@dataclass(frozen=True)
class GivenCache:
    """A cache, and the recipe that knows its data and tokenizer, if one names it."""

    cache: Cache
    recipe: Recipe | None


@dataclass
class Given:
    """What there is, by the place it was found at, and what is missing."""

    caches: dict[str, GivenCache] = field(default_factory=dict)
    runs: dict[str, tuple[Path, Recipe | None]] = field(default_factory=dict)
    curves: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def find_given(targets: Sequence[str], overrides: Sequence[str]) -> Given:
    """Open the caches and find the runs that are named, each once.

    Raises: PipelineError if a target is none of what is allowed, or nothing is there; CorruptPart
        if a cache's plan or manifest was changed; RecipeError for a recipe.
    """
    given = Given()
    for target in targets:
        _take(given, target, overrides)
    _adopt(given)
    if not (given.caches or given.runs or given.curves):
        raise PipelineError(
            "\n  ".join(["report: there is no cache and no run to report on", *given.missing])
        )
    return given


def _take(given: Given, target: str, overrides: Sequence[str]) -> None:
    path = Path(target)
    if "://" in target:
        _take_cache(given, target, None, "")
    elif target.endswith(".toml"):
        _take_recipe(given, load_recipe(target, overrides))
    elif path.is_file() and target.endswith(".json"):
        given.curves.append(path)
    elif (path / PLAN_FILE).is_file():
        _take_cache(given, path, None, "")
    elif (path / RECIPE).is_file():
        _take_run(given, path, None)
    else:
        what = "holds neither" if path.is_dir() else "is neither" if path.exists() else "is not"
        told = "there" if what == "is not" else "a cache nor a run"
        raise PipelineError(f"{target}: {what} {told}; {ALLOWED}")


def _adopt(given: Given) -> None:
    """Let caches that no recipe names be read with one that has data of that name.

    Whether it is the very data, and the very tokenizer, their digests say.
    """
    every = [each.recipe for each in given.caches.values()] + [r for _, r in given.runs.values()]
    recipes = [recipe for recipe in every if recipe]
    for place, each in given.caches.items():
        name = data_name(each.cache)
        known = next((recipe for recipe in recipes if name in recipe.data), None)
        given.caches[place] = GivenCache(each.cache, each.recipe or known)


def _take_recipe(given: Given, recipe: Recipe) -> None:
    caches = _named_caches(recipe)
    for key, place in caches:
        _take_cache(given, recipe.locate_cache(place), recipe, f"{recipe.file}: {key}: ")
    if recipe.run:
        folder = recipe.locate(recipe.run.path)
        if (folder / RECIPE).is_file():
            _take_run(given, folder, recipe)
        else:
            given.missing.append(
                f"{recipe.file}: run.path: {folder} is not there yet; `pipeline train-student` "
                "makes it"
            )
    if not (caches or recipe.run):
        given.missing.append(f"{recipe.file}: names neither a cache nor a run")


def _named_caches(recipe: Recipe) -> list[tuple[str, str]]:
    """List the caches that a recipe names, each by the first key that does."""
    training, labelling = recipe.training, recipe.pseudo_labels
    named = [
        ("cache.path", recipe.cache.path if recipe.cache else None),
        ("generate.path", recipe.generate.path if recipe.generate else None),
        *(("training.teachers", each.cache) for each in (training.teachers if training else ())),
        *(("training.sources", each.cache) for each in (training.sources if training else ())),
        ("validation.cache", recipe.validation.cache if recipe.validation else None),
        ("test.cache", recipe.test.cache if recipe.test else None),
        ("evaluate.cache", recipe.evaluate.cache if recipe.evaluate else None),
        ("pseudo_labels.cache", labelling.cache if labelling else None),
        ("pseudo_labels.labelled_cache", labelling.labelled_cache if labelling else None),
    ]
    first: dict[str, str] = {}
    for key, place in named:
        if place is not None:
            first.setdefault(place, key)
    return [(key, place) for place, key in first.items()]


def _take_cache(given: Given, where: Path | str, recipe: Recipe | None, who: str) -> None:
    name = where if isinstance(where, str) else str(where.resolve())
    known = given.caches.get(name)
    if known:
        given.caches[name] = GivenCache(known.cache, known.recipe or recipe)
        return
    try:
        given.caches[name] = GivenCache(open_cache(where), recipe)
    except CorruptPart:
        raise
    except CacheError as error:  # not made yet, or not whole
        line = f"{who}{str(error).splitlines()[0]}"
        if line not in given.missing:
            given.missing.append(line)


def _take_run(given: Given, folder: Path, recipe: Recipe | None) -> None:
    name = str(folder.resolve())
    known = given.runs.get(name)
    given.runs[name] = known if known and known[1] else (folder, recipe)

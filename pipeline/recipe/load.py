"""From a TOML file and overrides to a checked recipe, and on to what it is compared by."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel, ValidationError

from pipeline.errors import RecipeError, near_miss, see
from pipeline.recipe.losses import FROM_CACHE
from pipeline.recipe.problems import describe
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.views import Mask

MASKED = "masked_token"
BATCH_SYSTEMS = ("slurm", "pbs", "lsf", "sge")


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply overrides such as `training.epochs=3`, and check all of it.

    Raises: RecipeError with every problem, each with its dotted key, the value and what is allowed.
    """
    file = Path(path)
    written = _read(file)
    problems = [text for each in overrides for text in _override(written, each)]
    try:
        recipe = Recipe.model_validate(written)
    except ValidationError as error:
        problems += describe(error, written, recipe_schema())
    problems += list(_cross_problems(written))
    if problems:
        raise see(RecipeError(file.name, problems), "recipe.md")
    recipe._path, recipe._overrides = file, tuple(overrides)
    return recipe


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors."""
    return Recipe.model_json_schema()


def require_tables(recipe: Recipe, stage: str, *tables: str) -> None:
    """Refuse a recipe that lacks a table this stage reads.

    Raises: RecipeError naming every missing table.
    """
    missing = [table for table in tables if not getattr(recipe, table)]
    if missing:
        lines = [f"{table}: is missing; {stage} needs the table [{table}]" for table in missing]
        raise RecipeError(recipe.file, lines)


def comparable(table: BaseModel) -> dict[str, Any]:
    """Drop what says where or how fast work runs; what is left is what two setups differ by.

    A key that came later than caches that are still used says nothing where it is not set.
    """
    kept = {}
    for name, field in type(table).model_fields.items():
        extra, value = field.json_schema_extra, getattr(table, name)
        counts = extra.get("comparable") if isinstance(extra, dict) else None
        if counts is False or (counts == "where set" and value is None):
            continue
        kept[name] = _plain(value)
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return comparable(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe with its defaults, as JSON, paths as they were written."""
    return dict(json.loads(recipe.model_dump_json()))


def _read(file: Path) -> dict[str, Any]:
    try:
        # Editors of Windows begin a file with a byte order mark, which TOML has no place for.
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        text = _no_such_file(file)
    except IsADirectoryError:
        text = "is a folder, not a recipe (a .toml file)"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        text = f"is not TOML: {error}"
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
    raise RecipeError(str(file), [text])


def _no_such_file(file: Path) -> str:
    """Name the recipe that was meant, if one like it lies there."""
    beside = sorted(path.stem for path in file.parent.glob("*.toml"))
    if near := get_close_matches(file.stem, beside, n=1):
        return f"there is no such file; did you mean '{file.with_name(near[0])}.toml'?"
    return "there is no such file; `pipeline init images` writes a starter"


def _override(written: dict[str, Any], text: str) -> Iterable[str]:
    """Set one value in place; gives the problem if it cannot be set."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        return [f"--set {text}: must be key=value, such as training.epochs=3"]
    *parents, last = key.strip().split(".")
    node: Any = written
    try:
        for step in parents:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        node[int(last) if isinstance(node, list) else last] = _value(value.strip())
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        return [f"--set {text}: the recipe has no place '{key.strip()}'"]
    return []


def _value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    # A name such as 2024-01-01 is meant as text; no key of a recipe is a date.
    return text if isinstance(value, date | time) else value


def _cross_problems(written: Mapping[str, Any]) -> Iterable[str]:
    """Find what no table can see alone, in the recipe as written, so that all shows at once."""
    datasets = _table(written, "data")
    for table, default in (("cache", "train"), ("training", "train"), ("validation", "validation"),
                           ("test", "test")):  # fmt: skip
        if table == "training" and _tables(_table(written, table), "sources"):
            continue
        if table in written:
            yield from _unknown_data(
                datasets, f"{table}.data", _table(written, table).get("data", default)
            )
    evaluate = _table(written, "evaluate")
    yield from _unknown_data(datasets, "evaluate.data", evaluate.get("data"))
    yield from _generate_problems(written)
    yield from _compute_problems(written)
    yield from _source_problems(written)
    yield from _name_problems(written)
    training = _table(written, "training")
    if "training" in written and ("epochs" in training) == ("steps" in training):
        given = "both" if "epochs" in training else "neither"
        yield f"training: needs exactly one of epochs and steps; got {given}"
    if "new_head" in _table(_table(written, "teacher"), "model"):
        yield (
            "teacher.model.new_head: a head that nobody trained cannot teach; give it to a "
            "student, and name the run of that as the teacher"
        )
    yield from _loss_problems(written)
    yield from _view_problems(written)
    initialise = _table(_table(written, "student"), "initialise")
    if initialise and "model" not in initialise and "teacher" not in written:
        yield "student.initialise: needs [teacher], or a model of its own, whose layers to begin as"
    best_by = _table(written, "validation").get("best_by")
    if best_by == "teacher_kl" and "cache" not in _table(written, "validation"):
        yield "validation.best_by: 'teacher_kl' needs validation.cache, a cache of that data"


def _compute_problems(written: Mapping[str, Any]) -> Iterable[str]:
    table = _table(written, "compute")
    if table.get("kind") not in BATCH_SYSTEMS:
        return
    if ("workers" in table) == ("workers_max" in table):
        given = "both" if "workers" in table else "neither"
        yield f"compute: needs exactly one of workers and workers_max; got {given}"
    low, high = table.get("workers_min", 0), table.get("workers_max", 1)
    if isinstance(low, int) and isinstance(high, int) and low > high:
        yield f"compute.workers_min: must be at most workers_max, {high}; got {low}"


def _name_problems(written: Mapping[str, Any]) -> Iterable[str]:
    named = {
        f"data.{name}.class_names": table.get("class_names")
        for name, table in _table(written, "data").items()
        if isinstance(table, Mapping)
    }
    named["student.model.new_head"] = _table(_table(written, "student"), "model").get("new_head")
    for where, names in named.items():
        if _is_list(names) and len(set(map(str, names))) < len(names):
            yield f"{where}: a name occurs twice; every class needs its own"


def _unknown_data(datasets: Mapping[str, Any], where: str, name: object) -> Iterable[str]:
    if isinstance(name, str) and name not in datasets:
        hint = near_miss(name, sorted(datasets)) or "; the recipe has no [data.NAME] table"
        yield f"{where}: there is no dataset '{name}'{hint}"


def _generate_problems(written: Mapping[str, Any]) -> Iterable[str]:
    generate = _table(written, "generate")
    if not generate:
        return
    prompts = generate.get("prompts", "train")
    yield from _unknown_data(_table(written, "data"), "generate.prompts", prompts)
    begun, length = generate.get("prompt_tokens"), generate.get("length")
    if isinstance(begun, int) and isinstance(length, int) and begun >= length:
        yield (
            f"generate.prompt_tokens: must be below generate.length, {length}, or nothing is left "
            f"to write; got {begun}"
        )


def _source_problems(written: Mapping[str, Any]) -> Iterable[str]:
    training = _table(written, "training")
    losses = _tables(written, "losses")
    sources = _tables(training, "sources")
    for number, source in enumerate(sources):
        where = f"training.sources.{number}"
        yield from _unknown_data(_table(written, "data"), f"{where}.data", source.get("data"))
        if "only_chosen" in source and "pseudo_labels" not in source:
            yield f"{where}.only_chosen: says which pseudo-labelled rows are used; there are none"
    for key in ("data", "batch_size", "teachers"):
        if sources and key in training:
            yield f"training.{key}: is what training.sources says of each dataset; leave it out"
    if training.get("follow") and (sources or "teachers" in training or "cache" not in written):
        yield (
            "training.follow: one cache can be followed while it is made, that of [cache]; leave "
            "it out with training.sources, training.teachers, or no [cache]"
        )
    if any("pseudo_labels" in each for each in sources):
        return
    for number, loss in enumerate(losses):
        if loss.get("kind") == "pseudo_labels":
            what = ": pseudo_labels"
        elif loss.get("weigh_by") == "pseudo_label":
            what = ".weigh_by: 'pseudo_label'"
        else:
            continue
        yield (
            f"losses.{number}{what} needs training.sources, one of which names a folder of "
            "pseudo_labels"
        )


def _loss_problems(written: Mapping[str, Any]) -> Iterable[str]:
    losses = _tables(written, "losses")
    if losses and all(loss.get("weight") == 0 for loss in losses):
        yield "losses: every weight is 0, so there is nothing to learn; give one above 0"
    kinds = [loss.get("kind") for loss in losses]
    teachers = _tables(_table(written, "training"), "teachers")
    places = [str(each.get("cache")) for each in teachers]
    if len(set(places)) < len(places):
        yield "training.teachers: a cache occurs twice; give it once, with the sum of the weights"
    sources = _tables(_table(written, "training"), "sources")
    for kind in FROM_CACHE:
        if sources and kind in kinds and not any("cache" in each for each in sources):
            yield f"losses: {kind} needs targets, and no one of training.sources names a cache"
        if not sources and "cache" not in written and not teachers and kind in kinds:
            yield f"losses: {kind} needs the table [cache], which says where the targets lie"
    phases = {loss.get("first_steps") for loss in losses if loss.get("kind") == "hint"}
    if len(phases) > 1:
        shown = ", ".join(sorted("none" if each is None else str(each) for each in phases))
        yield f"losses: the hints of a recipe share one first_steps; got {shown}"
    elif phases - {None} and set(kinds) == {"hint"}:
        yield (
            "losses: after first_steps nothing is left to learn from; add a loss that is no hint, "
            "or leave first_steps out"
        )
    yield from _feature_problems(written)


def _feature_problems(written: Mapping[str, Any]) -> Iterable[str]:
    features = _tables(written, "features")
    names = [str(each.get("name")) for each in features]
    if len(set(names)) < len(names):
        yield "features: a name occurs twice; every feature needs its own"
    for number, feature in enumerate(features):
        if "exponent" in feature and feature.get("reduce") != "attention_map":
            yield (
                f"features.{number}.exponent: is that of reduce = 'attention_map'; got reduce = "
                f"{feature.get('reduce', 'none')!r}. Leave it out"
            )
        scale = f"{feature.get('name')}_scale"
        if feature.get("dtype") == "int8" and scale in names:
            yield f"features: '{scale}' is what '{feature.get('name')}' in int8 keeps its scale as"


def _view_problems(written: Mapping[str, Any]) -> Iterable[str]:
    views = _table(written, "views")
    is_fresh = _table(written, "training").get("views") == "fresh"
    if is_fresh and "augment" not in views:
        yield "training.views: 'fresh' shows what [[views.augment]] says, and the recipe has none"
    if is_fresh and "mix" in views:
        yield (
            "training.views: 'fresh' views cannot be mixed, for the teacher said nothing of mixed "
            "samples. Leave views.mix out, or cache with it"
        )
    if "views" not in written:
        return
    datasets = _table(written, "data").values()
    asks = any(isinstance(each, Mapping) and each.get("task") == MASKED for each in datasets)
    if not asks and not views.get("augment") and "mix" not in views:
        yield (
            "views: says nothing of how samples are seen. Give [[views.augment]] or views.mix for "
            f"images, or data of kind 'text' with task = '{MASKED}'; or leave the table out"
        )
    mask = _table(views, "mask")
    hidden, other = (mask.get(name, getattr(Mask(), name)) for name in ("mask", "random"))
    if all(type(each) in (int, float) for each in (hidden, other)) and hidden + other > 1 + 1e-9:
        yield (
            f"views.mask: mask and random are shares of the same tokens, so they add up to 1 or "
            f"less; got {hidden:g} and {other:g}"
        )


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _tables(written: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    listed = written.get(name)
    return [each for each in listed if isinstance(each, Mapping)] if _is_list(listed) else []


def _table(written: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = written.get(name, {})
    return table if isinstance(table, Mapping) else {}

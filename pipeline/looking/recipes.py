"""A recipe at a glance: what its tables say, what of it is there already, what to type next.

It reads documents beside the data, caches and runs that a recipe names, and opens none of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from pipeline.errors import RecipeError
from pipeline.labelling import read_summary
from pipeline.looking.kinds import SUFFIX
from pipeline.looking.layout import facts_text
from pipeline.looking.runs import run_step
from pipeline.recipe import Recipe, load_recipe
from pipeline.recipe.schema import Data
from pipeline.store import Where, is_planned, missing_parts, read_plan
from pipeline.store.places import as_place
from pipeline.store.records import MANIFEST_FILE
from pipeline.targets.spec import SMALL
from pipeline.training.run_folder import RECIPE, read_result

# The keys of a dataset that name files; of .npz files `path` holds what the others name.
PLACES = ("path", "images", "inputs", "labels", "ids")
# Recipes in the same folder that are read to find which one trains a teacher.
SEARCHED_RECIPES = 100


@dataclass(frozen=True)
class Place:
    """What a recipe names, and how far it has come: `state` is "missing", "begun" or "there"."""

    path: str
    state: str
    told: str

    def to_json(self) -> dict[str, str]:
        return {"path": self.path, "state": self.state, "told": self.told}

    def __str__(self) -> str:
        return f"{self.path}: {self.told}"


def describe_recipe(recipe: Recipe, target: str) -> dict[str, Any]:
    """Say what a recipe's tables say, what is there of it, and the next command.

    Raises: CorruptPart or PipelineError if a document of a cache or a run is damaged.
    """
    data = {
        name: {"kind": table.kind, "files": [each.to_json() for each in _data(recipe, table)]}
        for name, table in recipe.data.items()
    }
    states = {
        "teacher": _teacher(recipe),
        "cache": _cache(recipe.locate_cache(recipe.cache.path)) if recipe.cache else None,
        "written": _cache(recipe.locate_cache(recipe.generate.path)) if recipe.generate else None,
        "pseudo_labels": _labels(recipe),
        "run": _run(recipe.locate(recipe.run.path)) if recipe.run else None,
    }
    tables = recipe.model_dump(mode="json", exclude_none=True)
    return {
        "what": "recipe",
        "recipe": target,
        "tables": tables,
        "data": data,
        **{name: state and state.to_json() for name, state in states.items()},
        "next": _next(recipe, target, data, states),
    }


def _data(recipe: Recipe, table: Data) -> Iterator[Place]:
    """List the files of a dataset, each there or not."""
    named = {key: place for key in PLACES if isinstance(place := getattr(table, key, None), str)}
    if table.kind == "arrays" and "path" in named:
        named = {"path": named["path"]}  # the others name its members
    for place in named.values():
        if "://" in place or table.kind == "cache":
            yield _cache(recipe.locate_cache(place))
            continue
        path = recipe.locate(place)
        is_there = path.exists() or bool(glob(str(path)))
        is_there = is_there and not (path.is_dir() and not any(path.iterdir()))
        yield Place(
            str(path), "there" if is_there else "missing", "there" if is_there else "not there"
        )


def _cache(where: Where) -> Place:
    place = as_place(where)
    if place.missing() or not is_planned(place):
        return Place(str(where), "missing", "not begun")
    plan = read_plan(place)
    if place.size(MANIFEST_FILE) is not None:
        return Place(
            str(where), "there", f"complete, {plan.rows:,} rows in {plan.part_count} parts"
        )
    there = plan.part_count - len(missing_parts(place, plan))
    return Place(str(where), "begun", f"{there} of {plan.part_count} parts")


def _run(folder: Path) -> Place:
    if not (folder / RECIPE).is_file():
        return Place(str(folder), "missing", "not begun")
    step = run_step(folder)
    if read_result(folder) is not None:
        return Place(str(folder), "there", f"ended at step {step}")
    at = "begun, no checkpoint yet" if step is None else f"begun, checkpoint of step {step}"
    return Place(str(folder), "begun", at)


def _teacher(recipe: Recipe) -> Place | None:
    """Say whether a teacher that is named by a path is there; of others nothing is known."""
    model = recipe.teacher and recipe.teacher.model
    if not model:
        return None
    if model.kind == "run":
        return _run(recipe.locate(model.path))
    place = model.checkpoint if model.kind == "python" else None
    if place is None:
        return None
    is_there = recipe.locate(place).exists()
    told = "there" if is_there else "not there"
    return Place(str(recipe.locate(place)), "there" if is_there else "missing", told)


def _labels(recipe: Recipe) -> Place | None:
    table = recipe.pseudo_labels
    if table is None:
        return None
    folder = recipe.locate(table.path)
    if (found := read_summary(folder)) is None:
        return Place(str(folder), "missing", "not there")
    told = f"{found['chosen']:,} of {found['rows']:,} rows have a pseudo-label"
    return Place(str(folder), "there", told)


def _next(
    recipe: Recipe, target: str, data: dict[str, Any], states: dict[str, Place | None]
) -> str:
    """Say what to type next; the first thing that is missing decides."""
    for name, table in data.items():
        for each in table["files"]:
            is_written = table["kind"] == "cache" and recipe.generate  # by this very recipe
            if each["state"] == "missing" and not is_written:
                return f"get {each['path']}, which data.{name} is read from"
    teacher = states["teacher"]
    makes = [name for name in ("cache", "written") if (at := states[name]) and at.state != "there"]
    if recipe.teacher and recipe.targets and makes:
        if teacher and teacher.state != "there":
            return _train_teacher(recipe, teacher)
        if recipe.generate and "written" in makes:
            return f"pipeline generate {target}"
        if "cache" in makes and not recipe.generate:
            return f"pipeline cache-teacher {target}"
    labels, run = states["pseudo_labels"], states["run"]
    if labels and labels.state != "there":
        return f"pipeline pseudo-label {target}"
    if recipe.student and recipe.training and run and run.state != "there":
        return f"pipeline train-student {target}"
    return _when_all_is_there(target, states)


def _when_all_is_there(target: str, states: dict[str, Place | None]) -> str:
    """Say how to look at what was made."""
    if run := states["run"]:
        is_compared = (Path(run.path) / "evaluation.json").exists()
        return f"pipeline {'report' if is_compared else 'evaluate'} {target}"
    ended = states["pseudo_labels"] or states["written"] or states["cache"]
    return f"pipeline inspect {ended.path}" if ended else "give it the tables of a stage"


def _train_teacher(recipe: Recipe, teacher: Place) -> str:
    assert recipe.teacher
    if recipe.teacher.model.kind != "run":
        return f"get {teacher.path}, the weights of the teacher"
    if found := _recipe_of(recipe, Path(teacher.path)):
        return f"pipeline train-student {found}"
    return f"pipeline train-student with the recipe whose run.path is {teacher.path}"


def _recipe_of(recipe: Recipe, run: Path) -> Path | None:
    """Find the recipe beside this one that trains a run."""
    for path in sorted(recipe.base.glob(f"*{SUFFIX}"))[:SEARCHED_RECIPES]:
        try:
            other = load_recipe(path)
        except RecipeError:
            continue  # whoever runs that one is told what is wrong with it
        if other.run and other.locate(other.run.path) == run:
            return path
    return None


def tell_recipe(summary: dict[str, Any]) -> str:
    """Lay the description out for a terminal."""
    tables = summary["tables"]
    facts: dict[str, str | list[str]] = {
        f"data.{name}": f"{table['kind']}, {_files_text(table['files'])}"
        for name, table in summary["data"].items()
    }
    facts |= {
        "views": _views_text(tables.get("views")),
        "teacher": _model_text(tables.get("teacher"), summary["teacher"]),
        "targets": _targets_text(tables.get("targets")),
        "features": [f"{each['name']}: {each['module']}" for each in tables.get("features", ())],
        "cache": _place_text(tables.get("cache"), summary["cache"]),
        "generate": _place_text(tables.get("generate"), summary["written"]),
        "pseudo_labels": _place_text(tables.get("pseudo_labels"), summary["pseudo_labels"]),
        "student": _model_text(tables.get("student"), None),
        "losses": [_loss_text(each) for each in tables.get("losses", ())],
        "training": _training_text(tables.get("training")),
        **{name: f"data.{tables[name]['data']}" for name in ("validation", "test")
           if name in tables},
        "compute": tables.get("compute", {}).get("kind", ""),
        "run": _place_text(tables.get("run"), summary["run"]),
        "next": summary["next"],
    }  # fmt: skip
    width = max(map(len, facts))
    return facts_text(f"{summary['recipe']}: the recipe '{tables['name']}'", facts, width)


def _files_text(files: list[dict[str, str]]) -> str:
    if not files:
        return "made by a function"
    return ", ".join(f"{each['path']}: {each['told']}" for each in files)


def _place_text(table: dict[str, Any] | None, place: dict[str, str] | None) -> str:
    if table is None or place is None:
        return ""
    of = f" (of data.{table['data']}, {table['backend']})" if "backend" in table else ""
    return f"{place['path']}{of}: {place['told']}"


def _views_text(views: dict[str, Any] | None) -> str:
    if views is None:
        return ""
    steps = [each["kind"] for each in views.get("augment", ())]
    told = ", ".join([*steps, *(["masked tokens"] if "mask" in views else [])])
    return f"{views['count']} of each sample{': ' if told else ''}{told}"


def _model_text(table: dict[str, Any] | None, place: dict[str, str] | None) -> str:
    if table is None:
        return ""
    model = table["model"]
    named = model.get("factory") or model.get("path") or "from a config"
    if place and model["kind"] == "run":
        return f"run {place['path']}: {place['told']}"
    at = f"; {place['path']}: {place['told']}" if place else ""
    return f"{model['kind']} {named}{at}"


def _targets_text(table: dict[str, Any] | None) -> str:
    if table is None:
        return ""
    selection = dict(table["selection"])
    options = ", ".join(f"{name} {value}" for name, value in selection.items() if name != "kind")
    tail = f", tail {table['tail']['kind']}" if "tail" in table else ""
    small = f", {SMALL} encoding" if table.get("encoding") == SMALL else ""
    return f"{selection['kind']}{' ' if options else ''}{options}{tail}{small}"


def _loss_text(loss: dict[str, Any]) -> str:
    at = f", T = {loss['temperature']:g}" if "temperature" in loss else ""
    of = f", feature {loss['feature']}" if "feature" in loss else ""
    return f"{loss['kind']}: weight {loss['weight']:g}{at}{of}"


def _training_text(training: dict[str, Any] | None) -> str:
    if training is None:
        return ""
    steps, epochs = training.get("steps"), training.get("epochs")
    how_long = f"{steps} steps" if steps else f"{epochs} epochs"
    sources = training["sources"]
    names = [each["data"] for each in sources] or [training["data"]]
    rows = sum(each["rows"] for each in sources) or training["batch_size"]
    return (
        f"{how_long} of batches of {rows} of {', '.join(f'data.{name}' for name in names)}, "
        f"{training['optimizer']}, learning rate {training['learning_rate']:g}"
    )

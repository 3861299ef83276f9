"""Telling what a person named: a cache, a run, pseudo-labels or a recipe, by what lies there."""

from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.labelling import SUMMARY_FILE, TABLE_FILE
from pipeline.store.records import PLAN_FILE
from pipeline.training.run_folder import RECIPE

Kind = Literal["cache", "run", "labels", "recipe"]
SUFFIX = ".toml"
# The file by which a folder is known -> what it is.
KNOWN_BY: dict[str, Kind] = {
    PLAN_FILE: "cache",
    RECIPE: "run",
    SUMMARY_FILE: "labels",
    TABLE_FILE: "labels",
}
SHOWN = 5


def find_kind(target: str) -> Kind:
    """Tell what `target` is; of addresses and of what is not there, whoever opens it says more.

    Raises: PipelineError if it is none of what can be shown, naming what was looked for.
    """
    if target.endswith(SUFFIX):
        return "recipe"
    place = Path(target)
    if "://" in target or not place.exists():
        return "cache"
    if place.is_dir():
        for name, kind in KNOWN_BY.items():
            if (place / name).is_file():
                return kind
    raise PipelineError(
        f"{target}: is nothing that can be shown: {_found(place)}. Looked for {PLAN_FILE} (a "
        f"cache), {RECIPE} (a run), {SUMMARY_FILE} (pseudo-labels) in a folder, and for a file "
        f"that ends in {SUFFIX} (a recipe). Name one of these."
    )


def _found(place: Path) -> str:
    if not place.is_dir():
        return "it is a file"
    names = sorted(path.name for path in place.iterdir())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"the folder holds {', '.join(names[:SHOWN])}{more}" if names else "the folder is empty"

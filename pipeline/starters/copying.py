"""Starters, what belongs to each, and putting it into a user's folder."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.starters.sample import write_arrays, write_images, write_text, write_unlabelled

SAMPLE = "sample"
# How the lines of a recipe begin that say what to type.
COMMAND_MARK = "#   pipeline "


@dataclass(frozen=True)
class Starter:
    """The recipes, in the order in which they are run; the modules and the data that they name."""

    recipes: tuple[str, ...]
    modules: tuple[str, ...]
    samples: tuple[Callable[[Path], None], ...]

    @property
    def files(self) -> tuple[str, ...]:
        """All that is copied."""
        return (*self.recipes, *self.modules)


def _with_teacher(name: str, *samples: Callable[[Path], None], has_models: bool = True) -> Starter:
    modules = ("models.py",) if has_models else ()
    return Starter((f"{name}.toml", f"{name}-teacher.toml"), modules, samples)


STARTERS = {
    "arrays": _with_teacher("arrays", write_arrays),
    "images": _with_teacher("images", write_images),
    "pseudo-labels": _with_teacher("pseudo-labels", write_images, write_unlabelled),
    "text": _with_teacher("text", write_text, has_models=False),
    "transformers": _with_teacher("transformers", write_images),
}


def write_starter(name: str, folder: Path, *, force: bool) -> list[str]:
    """Write a starter and the sample data it runs on; gives the names of what was written.

    Sample data that is there already stays as it is.

    Raises: PipelineError if another file is there already, unless it is to be replaced.
    """
    starter = STARTERS[name]
    there = [each for each in starter.files if _is_another(name, each, folder / each)]
    if there and not force:
        raise PipelineError(
            f"init: {', '.join(there)} {'is' if len(there) == 1 else 'are'} here already; "
            "nothing was written. Use --force to overwrite, or another folder."
        )
    for write in starter.samples:
        write(folder / SAMPLE)
    for each in starter.files:
        with as_file(_source(name, each)) as source:
            shutil.copyfile(source, folder / each)
    return [*starter.files, f"{SAMPLE}/"]


def _is_another(name: str, file: str, place: Path) -> bool:
    """Whether a place holds something else than would be written; starters share modules."""
    if not place.exists():
        return False
    return not place.is_file() or place.read_bytes() != _source(name, file).read_bytes()


def first_line(name: str) -> str:
    """Say what a starter is for, as its recipe does."""
    return _lines(name)[0].lstrip("# ")


def commands_of(name: str) -> list[str]:
    """List what to type, in order, as the head of its recipe says it."""
    said = [line[len(COMMAND_MARK) :] for line in _lines(name) if line.startswith(COMMAND_MARK)]
    # What a command is for stands behind it, some spaces away.
    return [f"pipeline {line.split('   ')[0].strip()}" for line in said]


def _lines(name: str) -> list[str]:
    return _source(name, STARTERS[name].recipes[0]).read_text(encoding="utf-8").splitlines()


def _source(name: str, file: str) -> Traversable:
    """Find a file of a starter; modules are the same for all of them."""
    templates = files("pipeline.starters") / "templates"
    return templates / name / file if file.endswith(".toml") else templates / file

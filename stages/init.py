"""`pipeline init`: write a commented starter recipe, and the module of models it names."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, near_miss

# template -> its files; the first is the recipe, and its name is what the user edits.
TEMPLATES = {
    "arrays": ("arrays.toml", "models.py"),
    "images": ("images.toml", "models.py"),
    "text": ("text.toml",),
    "transformers": ("transformers.toml", "models.py"),
}


def run(template: str | None, *, force: bool = False, folder: Path = Path()) -> dict[str, Any]:
    """Copy the files of a template into `folder`.

    Raises: PipelineError if there is no such template, or a file is there already.
    """
    if template is None:
        return {"templates": {name: _first_line(names[0]) for name, names in TEMPLATES.items()}}
    if template not in TEMPLATES:
        raise PipelineError(
            f"init: there is no template '{template}'{near_miss(template, list(TEMPLATES))}"
        )
    names = TEMPLATES[template]
    there = [name for name in names if (folder / name).exists()]
    if there and not force:
        raise PipelineError(
            f"init: {', '.join(there)} {'is' if len(there) == 1 else 'are'} here already; "
            "nothing was written. Use --force to overwrite, or another folder."
        )
    for name in names:
        with as_file(_source(name)) as source:
            shutil.copyfile(source, folder / name)
    return {"written": list(names)}


def tell(summary: dict[str, Any]) -> str:
    """Say what was written and what to do next."""
    if "templates" in summary:
        lines = [f"  {name:14}{about}" for name, about in summary["templates"].items()]
        return "\n".join(["Starters:", *lines, "Write one here with: pipeline init NAME"])
    recipe = summary["written"][0]
    return "\n".join(
        [
            f"wrote {', '.join(summary['written'])}",
            f"edit {recipe}, then: pipeline cache-teacher {recipe} --dry-run",
        ]
    )


def _source(name: str) -> Any:
    return files("pipeline.recipe") / "templates" / name


def _first_line(name: str) -> str:
    return str(_source(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# "))

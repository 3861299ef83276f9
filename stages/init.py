"""`pipeline init`: write a commented starter recipe, what it names, and data that it runs on."""

from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, near_miss
from pipeline.starters import STARTERS, commands_of, first_line, write_starter


def run(template: str | None, *, force: bool = False, folder: Path = Path()) -> dict[str, Any]:
    """Write a starter into `folder`; without a name, list them.

    Raises: PipelineError if there is no such starter, or a file is there already.
    """
    if template is None:
        return {"templates": {name: first_line(name) for name in STARTERS}}
    if template not in STARTERS:
        raise PipelineError(
            f"init: there is no template '{template}'{near_miss(template, list(STARTERS))}"
        )
    written = write_starter(template, folder, force=force)
    return {"written": written, "commands": commands_of(template)}


def tell(summary: dict[str, Any]) -> str:
    """Say what was written and what to do next."""
    if "templates" in summary:
        lines = [f"  {name:15}{about}" for name, about in summary["templates"].items()]
        return "\n".join(["Starters:", *lines, "Write one here with: pipeline init NAME"])
    return "\n".join(
        [
            f"wrote {', '.join(summary['written'])}",
            "it runs as it is, on the data in sample/:",
            *(f"  {command}" for command in summary["commands"]),
        ]
    )

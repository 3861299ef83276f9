"""The numbers of one training run, from its folder, whether it has ended or not.

Curves have a bounded number of points, whatever the number of steps: each is the mean of steps that
follow one another. What a metric means is its own name's business.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.training.run_folder import METRICS, RECIPE, read_json, read_result

EVALUATION = "evaluation.json"
# More than a line of a page can show.
MOST_POINTS = 400
# What a line says beside the losses.
NO_LOSS = ("step", "epoch", "learning_rate", "gradient_share", "validation")
SHAPE = {"models": list, "classes": list, "disagreements": list, "data": dict, "conditions": dict}

# By name, the steps and values of what was measured.
Curves = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Run:
    """What a run was begun with, how it went and how it ended; `result` is None before its end."""

    name: str
    folder: Path
    identity: Mapping[str, Any]
    recipe: Mapping[str, Any]
    result: Mapping[str, Any] | None
    losses: Curves
    validation: Curves
    shares: Curves
    evaluation: Mapping[str, Any] | None
    steps: int


@dataclass
class _Mean:
    """Values of steps that follow one another, on their way to one point of a curve."""

    wanted: int
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def take(self, step: float, value: float, curve: list[tuple[float, float]]) -> None:
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) == self.wanted:
            self.end(curve)

    def end(self, curve: list[tuple[float, float]]) -> None:
        if self.steps:
            count = len(self.steps)
            curve.append((sum(self.steps) / count, sum(self.values) / count))
            self.steps.clear()
            self.values.clear()


def read_run(folder: Path, name: str = "") -> Run:
    """Read a run's folder; it is called by that of the folder if no other name is given.

    Raises: PipelineError if a document there is damaged.
    """
    begun = read_json(folder / RECIPE)
    curves, last = _read_curves(folder)
    return Run(
        name=name or folder.name,
        folder=folder,
        identity=begun.get("identity", {}),
        recipe=begun.get("recipe", {}),
        result=read_result(folder),
        evaluation=read_evaluation(folder),
        steps=last,
        **curves,
    )


def _read_curves(folder: Path) -> tuple[dict[str, Curves], int]:
    """Read the metrics twice, to know how many points there are before they are averaged.

    Gives curves by their group, and the last step.
    """
    lengths, last = dict.fromkeys(GROUPS, 0), 0
    for line in _lines(folder):
        last = max(last, int(line["step"]))
        for group, read in GROUPS.items():
            lengths[group] += bool(read(line))
    curves: dict[str, Curves] = {group: {} for group in GROUPS}
    means: dict[tuple[str, str], _Mean] = {}
    for line in _lines(folder):
        for group, read in GROUPS.items():
            wanted = -(-lengths[group] // MOST_POINTS)
            for name, value in read(line).items():
                curve = curves[group].setdefault(name, [])
                means.setdefault((group, name), _Mean(wanted)).take(line["step"], value, curve)
    for (group, name), mean in means.items():
        mean.end(curves[group][name])
    return curves, last


def _losses(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in NO_LOSS}


# Which curves a line of metrics has points of.
GROUPS: dict[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
    "losses": _losses,
    "validation": lambda line: line.get("validation") or {},
    "shares": lambda line: line.get("gradient_share") or {},
}


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the metrics line by line; a run that was killed, or still writes, may cut the last."""
    path = folder / METRICS
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith("\n"):
                return
            try:
                line = json.loads(text)
            except ValueError as error:
                raise PipelineError(
                    f"{path}: line {number} is damaged ({error}). Restore the file, or delete the "
                    "run's folder and train again."
                ) from error
            yield line


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Read what `pipeline evaluate` left in a run, if it was asked.

    Raises: PipelineError if that is not what it writes.
    """
    path = folder / EVALUATION
    if not path.is_file():
        return None
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(
            f"{path}: is not JSON ({error}). Delete it, or run `pipeline evaluate` again."
        ) from error
    wrong = _find_wrong(document)
    if wrong:
        raise PipelineError(
            f"{path}: is not what `pipeline evaluate` writes: {', '.join(wrong)}. Run it again."
        )
    return dict(document)


def _find_wrong(document: Any) -> list[str]:
    if not isinstance(document, dict):
        return ["it is no object"]
    wrong = [
        f"{key} is no {kind.__name__}"
        for key, kind in SHAPE.items()
        if not isinstance(document.get(key) or kind(), kind)
    ]
    if not wrong and not all("name" in each for each in document.get("models") or ()):
        wrong.append("a model has no name")
    return wrong


def read_curve(path: Path) -> list[dict[str, float]]:
    """Read what `scripts/bench size --json` wrote: bytes a position, and divergence at each T.

    Units: bytes; ours and others in nats.
    Raises: PipelineError if the file is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        details = [each["details"] for each in document["figures"]]
        points = [each for each in details if "bytes" in each]
        found = [
            {name: float(each[name]) for name in ("bytes", "temperature", "ours", "others")}
            for each in points
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path}: is not what `scripts/bench size --json FILE` writes ({error!r}). Give such a "
            "file, a cache, a run's folder or a recipe."
        ) from error
    if not found:
        raise PipelineError(
            f"{path}: has no figure of bytes a position. Write it with "
            "`scripts/bench size --json FILE`, or leave it out."
        )
    return found

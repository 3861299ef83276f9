"""What a cache says of each of its rows, at one temperature: a class, and how sure the teacher is.

Reads parts, one at a time; neither the teacher nor the samples are needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.compute import map_threads
from pipeline.errors import TargetError
from pipeline.kept_targets import KeptTargets
from pipeline.labelling.certainty import measure_certainty
from pipeline.store import Cache
from pipeline.targets import Targets

# What is known of a row. Half the bytes of float64; doubt tells apart what confidence does not.
ANSWER = np.dtype([("label", "<i4"), ("doubt", "<f4"), ("margin", "<f4"), ("entropy", "<f4")])
Answers = NDArray[Any]


@dataclass(frozen=True)
class Asked:
    """A cache of rows with one position each, which are asked for their class."""

    cache: Cache
    threads: int

    @cached_property
    def kept(self) -> KeptTargets:
        """What was kept of each answer."""
        return KeptTargets(self.cache)

    def targets(self, part: int) -> Targets:
        """Read the targets of a part, with their statistics.

        Raises: CorruptPart if it is damaged.
        """
        return self.kept.decode(self.cache.read_part(part, self.kept.names))

    def labels(self, part: int) -> NDArray[np.int64]:
        """Read the labels of a part, -1 where there is none. Shapes: returns (rows,)."""
        return self.cache.read_samples(part).labels

    def each_part(self, function: Callable[[int], Any]) -> Iterator[Any]:
        """Ask every part, on threads; answers come in the order of the parts."""
        return map_threads(function, range(self.cache.plan.part_count), self.threads)

    def answers(self, temperature: float) -> Iterator[Answers]:
        """Say of every row what the teacher would call it. Shapes: yields (rows of a part,)."""
        return self.each_part(partial(answer_part, self, temperature))


def ask_rows(cache: Cache, threads: int) -> Asked:
    """Take a cache whose rows can have a label each.

    Raises: TargetError if its rows have several positions or views.
    """
    views = cache.plan.about.get("views")
    tokens = cache.plan.about.get("tokens")
    problem = None
    if tokens and tokens["task"] != "label":
        problem = f"is of text with the task '{tokens['task']}', a position a token"
    elif views:
        problem = f"holds {views['count']} views of each sample"
    if problem:
        raise TargetError(
            f"{cache.path}: {problem}; a pseudo-label is of a sample, as it is. Give a cache of a "
            "classifier, made without [views]."
        )
    return Asked(cache, threads)


def answer_part(asked: Asked, temperature: float, part: int) -> Answers:
    """Say of every row of a part what the teacher would call it. Shapes: returns (rows,)."""
    with torch.inference_mode():
        found = measure_certainty(asked.targets(part), temperature)
    answers = np.empty(len(found.classes), ANSWER)
    answers["label"] = found.classes.numpy()
    for name in ("doubt", "margin", "entropy"):
        answers[name] = getattr(found, name).numpy()
    return answers


def confidence(answers: Answers) -> NDArray[np.float32]:
    """Give the probability of the first choice, as tables hold it. Shapes: returns (n,)."""
    found: NDArray[np.float32] = np.exp(-answers["doubt"])
    return found

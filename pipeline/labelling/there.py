"""The answers of a cache's rows, taken by workers: each opens the cache by itself.

What comes back is 16 bytes a row, in the order of the parts; neither targets nor samples travel.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pipeline.compute import map_workers, open_workers
from pipeline.errors import CacheError
from pipeline.labelling.answers import Answers, Asked, answer_part, ask_rows
from pipeline.store import open_cache


@dataclass(frozen=True)
class Order:
    """Which cache a worker is asked about, and at which temperature."""

    cache: str
    digest: str
    temperature: float


def answers_there(
    asked: Asked, temperature: float, compute: Mapping[str, Any], *, tell: Callable[[str], None]
) -> Iterator[Answers]:
    """Say of every row what the teacher would call it, on the workers that a recipe describes.

    Workers are started when the first answer is asked for, and stopped after the last; `tell` is
    given a word about them.

    Shapes: yields (rows of a part,).
    Raises: PipelineError if there are no workers, or as a worker met it: CorruptPart for a damaged
        part, CacheError if the worker finds another cache there.
    """
    where = str(asked.cache.path)
    place = where if "://" in where else str(Path(where).resolve())
    order = Order(place, asked.cache.digest, temperature)
    with open_workers(**compute) as workers:
        tell(f"waiting for {workers}")
        yield from map_workers(
            workers, partial(answer_there, order), range(asked.cache.plan.part_count)
        )


def answer_there(order: Order, part: int) -> Answers:
    """Answer for the rows of one part; the cache stays open in the worker."""
    return answer_part(_open(order.cache, order.digest), order.temperature, part)


@lru_cache(maxsize=1)
def _open(where: str, digest: str) -> Asked:
    asked = ask_rows(open_cache(where), threads=1)
    if asked.cache.digest != digest:
        raise CacheError(
            f"{where}: is another cache where a worker looks ({asked.cache.digest[:16]}) than the "
            f"one asked about ({digest[:16]}). Name one that all machines see."
        )
    return asked

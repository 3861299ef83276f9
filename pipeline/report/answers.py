"""All positions of a cache, counted part by part: memory does not grow with the rows.

Reads parts on threads, one part each. What is shown of a vocabulary is chosen by a reading of its
first choices alone, before all else is counted in a second one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.compute import map_threads
from pipeline.kept_targets import KeptTargets
from pipeline.report.counts import Counts, Frame, count, count_nothing
from pipeline.report.rows import has_tokens, open_masks, position_labels, task_of
from pipeline.samples import Views
from pipeline.store import Cache, SampleTable
from pipeline.stream.tokens.cached import ROW
from pipeline.targets import Targets, decode

# Classes against each other, and one by one; more are not read by anybody.
MOST_IN_MATRIX, MOST_IN_TABLE = 40, 1000
# Numbers decoded at once: 16 MiB of float32.
BLOCK_NUMBERS = 2**22
# Positions whose logits of all classes are rebuilt: more would change no figure that is shown.
MOST_REBUILT = 30_000
# Where what a teacher finds alike shows best. One that is sure says a single class at T = 1; one
# that is not, as of language, says many there, and nothing but all of them at 4.
SURE_FROM, SURE_TEMPERATURE = 0.5, 4.0


@dataclass(frozen=True)
class Answers:
    """A cache whose positions are read a block at a time."""

    cache: Cache

    @cached_property
    def kept(self) -> KeptTargets:
        """What was kept of each answer."""
        return KeptTargets(self.cache)

    @cached_property
    def masks(self) -> Views | None:
        """What hid tokens from the teacher, if anything did."""
        return open_masks(self.cache)

    def read(self, part: int) -> tuple[dict[str, NDArray[Any]], SampleTable, NDArray[np.int64]]:
        """Read the targets of a part as they are stored, its rows, and the label of each position.

        Shapes: arrays (P, ...), labels (P,).
        Raises: CorruptPart if the part is damaged.
        """
        tokens = ROW if has_tokens(self.cache) and task_of(self.cache) != "label" else ()
        arrays = self.cache.read_part(part, (*self.kept.names, *tokens))
        table = self.cache.read_samples(part)
        kept = {name: arrays.pop(name) for name in tokens}
        labels = position_labels(self.cache, table, kept, self.masks)
        return arrays, table, labels

    def decode(self, arrays: dict[str, NDArray[Any]], positions: slice) -> Targets:
        """Read the targets of some positions back, with their statistics."""
        return self.kept.decode({name: array[positions] for name, array in arrays.items()})

    def blocks(self, arrays: dict[str, NDArray[Any]]) -> Iterator[tuple[slice, Targets]]:
        """Decode a part, so many positions at a time that memory has a bound."""
        count = len(next(iter(arrays.values())))
        for start in range(0, count, self._block):
            places = slice(start, min(start + self._block, count))
            yield places, self.decode(arrays, places)

    @cached_property
    def _block(self) -> int:
        spec = self.kept.spec
        widths = [spec.class_count if spec.rank else spec.k, spec.draws, MOST_IN_MATRIX]
        return max(1, BLOCK_NUMBERS // sum(widths))

    def count_first(self, part: int) -> NDArray[np.int64]:
        """Count how often each class is the first choice. Shapes: returns (C,)."""
        spec = self.kept.spec
        by_kind = {"all": ("logits", "range"), "sampled": ("top",)}
        wanted = by_kind.get(spec.kind, ("classes",))
        names = [name for name in self.kept.names if name in wanted]
        arrays = self.cache.read_part(part, names)
        total = np.zeros(spec.class_count, np.int64)
        if spec.kind != "all":
            first = arrays["top"] if "top" in arrays else arrays["classes"][:, 0]
            return total + np.bincount(first, minlength=len(total))
        for places in range(0, len(arrays["logits"]), self._block):
            cut = {name: array[places : places + self._block] for name, array in arrays.items()}
            found = decode(spec, cut, statistics=()).top_classes()
            total += np.bincount(found.numpy(), minlength=len(total))
        return total

    def count(self, frame: Frame, part: int) -> Counts:
        """Count all positions of a part."""
        total = count_nothing(frame)
        with torch.inference_mode():
            arrays, _, labels = self.read(part)
            for places, targets in self.blocks(arrays):
                true = torch.from_numpy(labels[places])
                total += count(frame, targets, true, part=part, start=places.start)
        return total


def count_cache(
    answers: Answers, threads: int, advance: Callable[[int], object]
) -> tuple[Frame, Counts]:
    """Count all positions of a cache; `advance` is told of each part that was read.

    Raises: CorruptPart if a part is damaged.
    """
    parts = range(answers.cache.plan.part_count)
    frame = _frame(answers, threads, parts, advance)
    total = count_nothing(frame)
    for each in map_threads(lambda part: answers.count(frame, part), parts, threads):
        total += each
        advance(1)
    return frame, total


def readings(answers: Answers) -> int:
    """How often each part is read by `count_cache`."""
    return 2 if answers.kept.spec.class_count > MOST_IN_MATRIX else 1


def _frame(
    answers: Answers, threads: int, parts: Sequence[int], advance: Callable[[int], object]
) -> Frame:
    spec, manifest = answers.kept.spec, answers.cache.manifest
    positions = manifest["positions"]
    sure = manifest["statistics"].get("confidence_sum", positions) / positions
    how: dict[str, Any] = {
        "temperature": SURE_TEMPERATURE if sure >= SURE_FROM else 1.0,
        "every": max(1, -(-positions // MOST_REBUILT)) if spec.rank else 1,
    }
    if readings(answers) == 1:
        return Frame(spec, torch.arange(spec.class_count), spec.class_count, **how)
    total = np.zeros(spec.class_count, np.int64)
    for each in map_threads(answers.count_first, parts, threads):
        total += each
        advance(1)
    order = np.argsort(-total, kind="stable")[:MOST_IN_TABLE]
    shown = order if spec.class_count <= MOST_IN_TABLE else order[total[order] > 0]
    matrix = min(MOST_IN_MATRIX, int((total[order] > 0).sum()))
    return Frame(spec, torch.from_numpy(shown.copy()), matrix, **how)

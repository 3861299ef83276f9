"""Batches made of several streams: so many rows of each, every step.

Each stream keeps its own order and its own place; the one with the most batches says what an epoch
is, and the others go round as often as they must. It knows no rows: streams read them.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.stream.batch import Batch
from pipeline.stream.stream import Stream


@dataclass(frozen=True)
class Blended:
    """One batch of each stream, for a student to see at once.

    Shapes: inputs (B, ...), of all batches one behind another.
    """

    batches: tuple[Batch, ...]

    @property
    def inputs(self) -> Tensor:
        """Put the inputs one behind another."""
        return torch.cat([batch.inputs for batch in self.batches])

    @property
    def ids(self) -> list[str]:
        """Name the samples, in the order of the inputs."""
        return [sample_id for batch in self.batches for sample_id in batch.ids]

    @property
    def row_count(self) -> int:
        """How many samples it has: B."""
        return sum(batch.row_count for batch in self.batches)


class Blend:
    """Streams side by side; state and length are those of a stream."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = tuple(streams)
        self._longest = max(self.streams, key=len)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self._longest)

    @property
    def epoch(self) -> int:
        """The epoch of the stream with the most batches."""
        return self._longest.epoch

    def forever(self) -> Generator[Blended]:
        """Iterate over batch after batch; every stream goes on from its own place."""
        with ExitStack() as stack:
            sources = [stack.enter_context(closing(each.forever())) for each in self.streams]
            yield from map(Blended, zip(*sources, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch of each stream lies; `batch` is that of the longest."""
        states = [each.state_dict() for each in self.streams]
        return {"batch": self._longest.state_dict()["batch"], "streams": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the very batches that a saved state says come next.

        Raises: PipelineError if a stream makes batches of another size.
        """
        for each, own in zip(self.streams, state["streams"], strict=True):
            each.load_state_dict(own)

"""Which rows of a batch are whose, where several ranks go through one order together.

Arithmetic alone: every rank knows every batch, and takes its own rows of each.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import PipelineError
from pipeline.stream.order import Piece, Rows


@dataclass(frozen=True)
class Slices:
    """One rank of `world_size`: its rows of a batch are consecutive, as many as others or one less.

    Of a batch that has fewer rows than there are ranks, some have none.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise PipelineError(
                f"stream: rank {self.rank} of world_size {self.world_size} is not possible; ranks "
                "are numbered from 0 to world_size - 1. Give what torchrun says in RANK and "
                "WORLD_SIZE."
            )

    def of(self, rows: int) -> range:
        """Say which rows of a batch are this rank's."""
        start, stop = (-(-rows * each // self.world_size) for each in (self.rank, self.rank + 1))
        return range(start, stop)

    def cut(self, piece: Piece) -> Rows:
        """Keep what is this rank's of a piece of a batch.

        Places come back in order: which rows a batch has is random; their order need not be.

        Shapes: returns (at most as many as the piece has,), ascending.
        """
        places: Rows = np.sort(piece.places)
        if self.world_size == 1:
            return places
        own = self.of(piece.batch_rows)
        return places[max(own.start - piece.begins, 0) : max(own.stop - piece.begins, 0)]

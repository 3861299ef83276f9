"""From places in a window to a batch: samples are read and shown, and what is known of them is put
beside them.

It knows where rows lie, and not in which order they come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.samples import Samples, Views, join_batches, mix_rows
from pipeline.stream.batch import Batch, Held, as_tensor, labels_of
from pipeline.stream.known import Known
from pipeline.stream.order import Rows
from pipeline.stream.stored import Picked
from pipeline.stream.windows.buffers import Buffers
from pipeline.stream.windows.loader import Loader, Parts
from pipeline.stream.windows.near import Near
from pipeline.stream.windows.places import Places

# Between the views of two copies of a row in one epoch: more than there are epochs.
COPY_VIEWS = 2**32


@dataclass(frozen=True)
class Maker:
    """What makes the batches of a stream; samples are shown in their views, or where these are
    fresh, in new ones each epoch.
    """

    samples: Samples
    views: Views
    is_fresh: bool
    known: Known
    loader: Loader
    places: Places
    near: Near
    buffers: Buffers = field(default_factory=Buffers)

    def indices(self, parts: Parts, places: Rows, epoch: int) -> Rows:
        """Say which samples of the dataset some rows of an epoch are. Shapes: places (n,)."""
        found: Rows = self.loader.load(parts).window.indices[self.places.at(parts, places, epoch)]
        return found

    def take(self, parts: Parts, places: Rows, epoch: int) -> Held:
        """Copy rows out of a window; nothing else may hold on to it, or two would be in memory.

        Shapes: places (n,).
        Raises: CorruptPart if a file is damaged; SampleError if a sample cannot be read.
        """
        if not len(places):  # a rank without rows of a batch reads one, to know what rows are like
            return self.take(parts, np.zeros(1, np.int64), epoch).without_rows()
        loaded = self.loader.load(parts)
        window, whole = loaded.window, loaded.whole
        at = self.places.at(parts, places, epoch)
        samples = self.near.hold(parts, epoch, window.indices, self.places.of(parts, epoch))
        read = samples.read(window.indices[at])
        if self.views.change:
            # Held-out data is asked the same questions at every evaluation.
            later = epoch if self.is_fresh else 0
            numbers = window.views[at] + later
            if self.known.has_pseudo_labels and self.is_fresh:
                numbers += COPY_VIEWS * self.places.copy(parts, places, epoch)
            shown = self.views.show(read, numbers)
            find = window.partners(at, later)
            sizes = window.sizes(at)
            read = mix_rows(samples, self.views, shown, numbers, part_rows=sizes, find=find)
        picked = Picked(whole, as_tensor(window.entries_of(at))) if whole else None
        names = self.known.targets if whole else ()
        return Held(read, window.gather(at, self.buffers.empty, without=names), picked)

    def join(self, held: Sequence[Held]) -> Batch:
        """Make a batch of its pieces, which may lie in several windows."""
        read = join_batches([each.read for each in held])
        labels = labels_of(self.samples, read)
        return Batch(read.names, as_tensor(read.inputs), labels, *self.known.tell(held))

"""Rows of a dataset as a model sees them: read, shown in their views, mixed with their partners."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.samples.batch import Indices, Mixed, SampleBatch, Samples
from pipeline.samples.views.mix import draw_partners, mix
from pipeline.samples.views.views import Numbers, Views, split_rows, views_of

# Of rows, the indices and the views that they are: where a row is, in whatever is read.
Find = Callable[[NDArray[np.int64]], tuple[Numbers, Numbers]]
Look = Callable[[int, SampleBatch], None]


def read_views(
    samples: Samples, rows: Indices, part: range, look: Look | None = None
) -> SampleBatch:
    """Read rows of a dataset as they are seen; all lie in one part.

    `look` is told of samples as they are, with the index of the first, where rows follow one
    another.

    Shapes: rows (B,), counting samples and views.
    """
    count, views = len(samples), views_of(samples)
    indices, numbers = split_rows(rows, count)
    # Rows that follow one another go on with the first sample in the next view.
    is_run = isinstance(rows, range)
    cuts = (np.flatnonzero(np.diff(indices) < 0) + 1).tolist() if is_run else list[int]()
    read = []
    for run in np.split(indices, cuts):
        read.append(samples.read(run))
        if look:
            look(int(run[0]), read[-1])
    shown = views.show(join_batches(read), numbers)

    def find(places: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
        return split_rows(part.start + places, count)

    return mix_rows(samples, views, shown, numbers, part_rows=len(part), find=find)


def join_batches(batches: Sequence[SampleBatch]) -> SampleBatch:
    """Put batches one behind another; all are mixed, or none."""
    if len(batches) == 1:
        return batches[0]
    mixed = [each.mixed for each in batches if each.mixed]
    return SampleBatch(
        [sample_id for each in batches for sample_id in each.ids],
        np.concatenate([each.inputs for each in batches]),
        np.concatenate([each.labels for each in batches]),
        Mixed(
            np.concatenate([each.labels for each in mixed]),
            np.concatenate([each.shares for each in mixed]),
        )
        if mixed
        else None,
    )


# Each is one thing that only the caller knows.
def mix_rows(
    samples: Samples,
    views: Views,
    shown: SampleBatch,
    numbers: Numbers,
    *,
    part_rows: int | NDArray[np.int64],
    find: Find,
) -> SampleBatch:
    """Mix each row with a partner of its part, shown in the view of the partner's own row.

    `find` gives the samples and views of rows by their places in the part.

    Shapes: shown and numbers of B rows.
    Source: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
    """
    if views.mix is None:
        return shown
    places = draw_partners(views.keys(shown.ids, numbers, b"partner"), part_rows)
    indices, theirs = find(places)
    partners = views.show(samples.read(indices), theirs)
    keys = views.keys(shown.ids, numbers, b"mix")
    inputs, shares = mix(views.mix["kind"], shown.inputs, partners.inputs, keys, views.mix["alpha"])
    return replace(shown, inputs=inputs, mixed=Mixed(partners.labels, shares))

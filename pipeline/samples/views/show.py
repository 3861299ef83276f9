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


def read_views(samples: Samples, rows: Indices, part: range) -> SampleBatch:
    """Read rows of a dataset as they are seen; all lie in one part.

    Shapes: rows (B,), counting samples and views.
    """
    count = len(samples)
    indices, numbers = split_rows(rows, count)
    batch = read_samples(samples, indices)
    views = views_of(samples)
    shown = views.show(batch, numbers)

    def find(places: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
        return split_rows(part.start + places, count)

    return mix_rows(samples, views, shown, numbers, part_rows=len(part), find=find)


def read_samples(samples: Samples, indices: NDArray[np.int64]) -> SampleBatch:
    """Read samples, those that follow one another at once. Shapes: indices (B,), at least one."""
    cuts = np.flatnonzero(np.diff(indices) != 1) + 1
    if len(cuts) != 1:  # one run, or in any order
        return samples.read(indices)
    first, last = (samples.read(run) for run in np.split(indices, cuts))
    return join(first, last)


def join(first: SampleBatch, last: SampleBatch) -> SampleBatch:
    """Put one batch behind another."""
    return SampleBatch(
        first.ids + last.ids,
        np.concatenate([first.inputs, last.inputs]),
        np.concatenate([first.labels, last.labels]),
    )


# Each is one thing that only the caller knows.
def mix_rows(  # noqa: PLR0913
    samples: Samples,
    views: Views,
    shown: SampleBatch,
    numbers: Numbers,
    *,
    part_rows: int | Sequence[int],
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
    inputs, shares = mix(
        views.mix["kind"], shown.inputs, partners.inputs, keys, views.mix["alpha"]
    )
    return replace(shown, inputs=inputs, mixed=Mixed(partners.labels, shares))

"""What a cache says of the samples that it was made from: which they were, and how they were shown.

It knows no order and no batches.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError, SampleError
from pipeline.samples import (
    Samples,
    Views,
    check_samples,
    replay_views,
    tokens_of,
    views_of,
)
from pipeline.store import Cache, SampleTable
from pipeline.stream.tokens.rows import decode_token_counts
from pipeline.stream.windows.fetching import Fetcher
from pipeline.stream.windows.window import Finder

Digests = NDArray[np.uint8]
# Tables of samples that come from an object store while one is compared.
TABLES_AHEAD = 32


def check_cached(
    samples: Samples,
    cache: Cache,
    count: int,
    finder: Finder,
    advance: Callable[[int], None] | None,
) -> None:
    """Prove that the first so many rows of a cache, each sample once, by its first view, are still
    in the dataset; `finder` remembers where, so that it need not read the same tables again.

    Raises: SampleError that counts those which are not.
    """
    at_hand: tuple[int, SampleTable]

    def expected() -> Iterator[tuple[list[str], Digests]]:
        nonlocal at_hand
        for at_hand in _tables_of(cache, count):
            part, table = at_hand
            left = count - part * cache.plan.rows_per_part
            yield table.ids[:left], table.digests[:left]

    check_samples(
        samples,
        expected(),
        where=str(cache.path),
        advance=advance,
        locator=finder.locator,
        found=lambda indices: finder.note(*at_hand, indices),
    )


def _tables_of(cache: Cache, count: int) -> Iterator[tuple[int, SampleTable]]:
    """Read the tables of the parts that hold the first so many rows."""
    parts, ahead = range(-(-count // cache.plan.rows_per_part)), Fetcher(cache, (), True)
    for part in parts:
        ahead.ask(parts[part : part + TABLES_AHEAD])
        ahead.wait([part])
        yield part, cache.read_samples(part, check=part not in ahead.proved)


def check_not_empty(samples: Samples, rows: int) -> None:
    """Refuse to wait for batches of no rows.

    Raises: PipelineError if there are none.
    """
    if not rows:
        raise PipelineError(
            f"{samples.name}: holds no sample, so no batch will ever come. Give data that has some."
        )


def shown_views(samples: Samples, cache: Cache | None, fresh: Views | None) -> Views:
    """Make the views in which samples are shown: those of the cache, if it has some.

    Raises: SampleError if there are views of its own to samples that the teacher saw in others.
    """
    if cache is None:
        return fresh or views_of(samples)
    settings, tokens = cache.plan.about.get("views"), tokens_of(samples)
    if fresh and settings:
        raise SampleError(
            f"{cache.path}: holds views of its own, so its samples cannot be shown in fresh ones; "
            "the teacher saw others. Leave fresh out, or cache the samples as they are."
        )
    if fresh:
        return fresh
    counts = None
    if settings and tokens:
        counts = decode_token_counts(cache.read_shared(), tokens.vocabulary)
    return replay_views(samples, settings, counts, where=str(cache.path))

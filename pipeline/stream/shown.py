"""What a cache says of the samples that it was made from: which they were, and how they were shown.

It knows no order and no batches.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError, SampleError
from pipeline.samples import Samples, Views, replay_views, tokens_of, views_of
from pipeline.store import Cache
from pipeline.stream.token_rows import decode_token_counts
from pipeline.stream.windows.fetching import Fetcher

Digests = NDArray[np.uint8]
# Tables of samples that come from an object store while one is compared.
TABLES_AHEAD = 32


def identities_of(cache: Cache, count: int) -> Iterator[tuple[list[str], Digests]]:
    """Read what the samples were, once each: by their first view."""
    parts, ahead = range(-(-count // cache.plan.rows_per_part)), Fetcher(cache, (), True)
    for part in parts:
        ahead.ask(parts[part : part + TABLES_AHEAD])
        ahead.wait([part])
        table = cache.read_samples(part, check=part not in ahead.proved)
        left = count - part * cache.plan.rows_per_part
        yield table.ids[:left], table.digests[:left]


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

"""Where do inputs come from?

A dataset has a length, a lasting id for every sample, and reads any of them as one array with
labels. Its kinds are functions in one table. A scan reads everything once and either describes the
dataset, digest included, or says all that is wrong with it; targets made from it find their samples
again by id, and a digest proves them unchanged.

This room knows no model, no target and no cache. To add a kind: a function that opens it, a line in
`KINDS`, a test.
"""

from pipeline.samples.batch import (
    Names,
    SampleBatch,
    Samples,
    content_digests,
    hold_samples,
    read_labels,
    spell,
)
from pipeline.samples.contents import ContentLog
from pipeline.samples.kinds import KINDS, open_samples
from pipeline.samples.match import IdIndex, Locator, check_samples
from pipeline.samples.scan import Scan, Skipped, scan_samples
from pipeline.samples.subsets import Subset, subset, without
from pipeline.samples.text.tokens import (
    Maskable,
    Positions,
    Tokens,
    asks_tokens,
    positions_of,
    row_lengths,
    tokens_of,
)
from pipeline.samples.views.masks import unmask
from pipeline.samples.views.show import join_batches, mix_rows, read_views
from pipeline.samples.views.views import (
    Viewed,
    Views,
    make_views,
    replay_views,
    split_rows,
    views_of,
)

__all__ = [
    "KINDS",
    "ContentLog",
    "IdIndex",
    "Locator",
    "Maskable",
    "Names",
    "Positions",
    "SampleBatch",
    "Samples",
    "Scan",
    "Skipped",
    "Subset",
    "Tokens",
    "Viewed",
    "Views",
    "asks_tokens",
    "check_samples",
    "content_digests",
    "hold_samples",
    "join_batches",
    "make_views",
    "mix_rows",
    "open_samples",
    "positions_of",
    "read_labels",
    "read_views",
    "replay_views",
    "row_lengths",
    "scan_samples",
    "spell",
    "split_rows",
    "subset",
    "tokens_of",
    "unmask",
    "views_of",
    "without",
]

"""How does a teacher's answer become parts of a cache?

`plan_cache` fixes everything that can change a byte, `make_parts` turns rows into committed parts,
and `make_cache` does both and tells of it. Neither decides which machine makes which part.
"""

from pipeline.caching.answer import answer
from pipeline.caching.make import make_parts
from pipeline.caching.plan import Work, plan_cache, plan_written
from pipeline.caching.whole import (
    Share,
    finish_cache,
    make_cache,
    tell_cache,
    tell_digest,
    tell_kept,
)

__all__ = [
    "Share",
    "Work",
    "answer",
    "finish_cache",
    "make_cache",
    "make_parts",
    "plan_cache",
    "plan_written",
    "tell_cache",
    "tell_digest",
    "tell_kept",
]

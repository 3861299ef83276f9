"""A cache that many workers make: `make_cache_there` schedules, and workers commit the parts.

Neither weights nor rows travel: a worker opens the recipe itself, from files that all of them see.
"""

from pipeline.caching.spread.client import make_cache_there

__all__ = ["make_cache_there"]

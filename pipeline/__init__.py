"""Distil from a cached teacher: the parts that people with a training loop of their own use.

`open_cache` opens a cache, `open_samples` the raw data, `Stream` joins and shuffles the two, and
`soft_targets` and `hard_labels` are the losses. Nothing is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.losses import hard_labels, soft_targets
    from pipeline.samples import open_samples
    from pipeline.store import open_cache
    from pipeline.stream import Stream

__all__ = ["Stream", "hard_labels", "open_cache", "open_samples", "soft_targets"]

_ROOMS = {
    "Stream": "pipeline.stream",
    "hard_labels": "pipeline.losses",
    "open_cache": "pipeline.store",
    "open_samples": "pipeline.samples",
    "soft_targets": "pipeline.losses",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return __all__

"""Compute: where does work run, on what, and with which guarantees?

It knows devices, threads and memory; it does not know what is computed on them.
"""

from pipeline.compute.accelerator import make_accelerator
from pipeline.compute.background import Background
from pipeline.compute.devices import (
    device_kind,
    pick_device,
    set_threads,
    software_versions,
    use_deterministic_kernels,
)
from pipeline.compute.memory import guard_memory, keep_freed_memory
from pipeline.compute.ranks import Ranks, join_ranks, pick_rank_device
from pipeline.compute.threads import map_threads

__all__ = [
    "Background",
    "Ranks",
    "device_kind",
    "guard_memory",
    "join_ranks",
    "keep_freed_memory",
    "make_accelerator",
    "map_threads",
    "pick_device",
    "pick_rank_device",
    "set_threads",
    "software_versions",
    "use_deterministic_kernels",
]

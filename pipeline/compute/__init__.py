"""Compute: where does work run, on what, and with which guarantees?

It knows devices, threads, memory and workers; it does not know what is computed on them.
"""

from pipeline.compute.accelerator import make_accelerator
from pipeline.compute.background import Background
from pipeline.compute.devices import (
    device_kind,
    pick_device,
    set_threads,
    software_versions,
    use_any_kernels,
    use_deterministic_kernels,
)
from pipeline.compute.memory import guard_memory, keep_freed_memory
from pipeline.compute.ranks import Ranks, join_ranks, pick_rank_device
from pipeline.compute.schedule import Done, ask_workers, map_workers
from pipeline.compute.telling import tell_later
from pipeline.compute.threads import map_threads
from pipeline.compute.workers import Workers, open_workers

__all__ = [
    "Background",
    "Done",
    "Ranks",
    "Workers",
    "ask_workers",
    "device_kind",
    "guard_memory",
    "join_ranks",
    "keep_freed_memory",
    "make_accelerator",
    "map_threads",
    "map_workers",
    "open_workers",
    "pick_device",
    "pick_rank_device",
    "set_threads",
    "software_versions",
    "tell_later",
    "use_any_kernels",
    "use_deterministic_kernels",
]

"""The host's memory: kept where it is wanted again at once, and said plainly when there is none.

It recognises a failure and names the next batch size; it never changes one.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import PipelineError

# What allocators other than CUDA's say; they raise a plain RuntimeError.
ALLOCATION_FAILURES = ("can't allocate memory", "not enough memory", "out of memory")


# Of glibc's malloc.h, and the largest block it lets live outside its own mappings.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_KEPT_BLOCK = 32 * 2**20
KEPT_BYTES = 2**30
# Threads have heaps of this size, one after another; an empty one is given back, whatever may be
# kept, unless so much is to be left at the top.
HEAP_BYTES = 64 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next batch asks for just that much again.

    glibc otherwise gives activations back to the system after each layer and has them zeroed anew:
    a CNN of 28 x 28 images took 57 to 62 ms a batch without this, 47 with it. In a thread, which is
    where a worker of Dask computes, it took 150 or 100, as activations met the ends of heaps.
    Elsewhere, nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TOP_PAD, HEAP_BYTES)


@contextmanager
def guard_memory(batch_size: int, where: str) -> Iterator[None]:
    """Turn an allocation failure into one that names the batch size tried and the one to try.

    Raises: PipelineError on an allocation failure; anything else passes.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise PipelineError(f"{where}: out of memory with {_advice(batch_size)}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(text in str(error) for text in ALLOCATION_FAILURES)


def _advice(batch_size: int) -> str:
    if batch_size == 1:
        return (
            "batch_size = 1, the smallest there is. "
            "Try precision = 'bfloat16', or a device with more memory."
        )
    return (
        f"batch_size = {batch_size}; try batch_size = {batch_size // 2}. "
        "Nothing was changed for you, because batch_size is part of the fingerprint."
    )

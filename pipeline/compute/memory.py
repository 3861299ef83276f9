"""Out of memory, said in a way that can be acted upon.

It recognises the failure and names the next batch size; it never changes one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import PipelineError

# What allocators other than CUDA's say; they raise a plain RuntimeError.
ALLOCATION_FAILURES = ("can't allocate memory", "not enough memory", "out of memory")


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

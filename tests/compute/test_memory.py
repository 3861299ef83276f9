import platform
import subprocess
import sys

import pytest
import torch

from pipeline.compute import guard_memory, keep_freed_memory
from pipeline.errors import PipelineError

# More than any machine's address space, so that the allocator itself refuses.
TOO_MANY = 1 << 50


def test_failed_allocation_names_the_batch_size_tried_and_the_next() -> None:
    with pytest.raises(PipelineError) as caught, guard_memory(256, "teacher"):
        torch.empty(TOO_MANY)
    assert str(caught.value) == (
        "teacher: out of memory with batch_size = 256; try batch_size = 128. "
        "Nothing was changed for you, because batch_size is part of the fingerprint."
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("MPS out of memory"),
    ],
    ids=["cuda", "numpy", "mps"],
)
def test_every_allocator_is_understood(error: BaseException) -> None:
    with pytest.raises(PipelineError) as caught, guard_memory(7, "training"):
        raise error
    assert "batch_size = 7; try batch_size = 3." in str(caught.value)
    assert caught.value.__cause__ is error


def test_smallest_batch_gets_other_advice() -> None:
    with pytest.raises(PipelineError) as caught, guard_memory(1, "teacher"):
        raise MemoryError
    assert str(caught.value) == (
        "teacher: out of memory with batch_size = 1, the smallest there is. "
        "Try precision = 'bfloat16', or a device with more memory."
    )


def test_other_failures_pass_unchanged() -> None:
    with (
        pytest.raises(RuntimeError, match=r"shapes cannot be multiplied"),
        guard_memory(4, "teacher"),
    ):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_freed_memory_may_be_kept_on_any_system() -> None:
    keep_freed_memory()
    assert float(torch.ones(1000, 1000).sum()) == 1e6


# Two blocks of 25 MiB fill most of a thread's first heap, so that a third one begins another.
IN_A_THREAD = """
from resource import RUSAGE_THREAD, getrusage
from threading import Thread
import numpy as np
from pipeline.compute import keep_freed_memory

def work():
    keep_freed_memory()
    held, faults = [np.ones(25 * 2**20, np.uint8) for _ in range(2)], []
    for _ in range(8):
        before = getrusage(RUSAGE_THREAD).ru_minflt
        np.ones(25 * 2**20, np.uint8)
        faults.append(getrusage(RUSAGE_THREAD).ru_minflt - before)
    print(*faults)

thread = Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's memory")
def test_a_thread_keeps_what_it_frees_as_well() -> None:
    command = [sys.executable, "-c", IN_A_THREAD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *later = map(int, done.stdout.split())
    assert first > 100
    assert max(later[1:]) < 10

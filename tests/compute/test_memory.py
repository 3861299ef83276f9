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

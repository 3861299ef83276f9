"""Memory that is used again, and never while somebody looks at it."""

import numpy as np
import torch

from pipeline.stream.windows.buffers import MOST, Buffers

SHAPE, HALF = (256, 128), np.dtype(np.float16)


def test_what_nobody_looks_at_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.empty(SHAPE, HALF)
    place = first.ctypes.data
    del first
    assert buffers.empty(SHAPE, HALF).ctypes.data == place
    assert len(buffers.known) == 1


def test_what_a_tensor_or_a_view_looks_at_is_not() -> None:
    buffers = Buffers()
    tensor = torch.from_numpy(buffers.empty(SHAPE, HALF))[3:5]
    view = buffers.empty(SHAPE, HALF)[::2]
    tensor.fill_(1)
    view[:] = 2
    buffers.empty(SHAPE, HALF)[:] = 3
    assert len(buffers.known) == 3
    assert bool((tensor == 1).all())
    assert (view == 2).all()


def test_batches_that_differ_a_little_share_memory() -> None:
    buffers = Buffers()
    for rows in (256, 250, 270, 240):
        assert buffers.empty((rows, 128), HALF).shape == (rows, 128)
    assert len(buffers.known) == 1


def test_memory_is_not_kept_without_end() -> None:
    buffers = Buffers()
    held = [buffers.empty(SHAPE, HALF) for _ in range(2 * MOST)]
    assert len(buffers.known) == MOST
    assert len({each.ctypes.data for each in held}) == 2 * MOST


def test_small_arrays_are_new_ones() -> None:
    buffers = Buffers()
    assert buffers.empty((3,), HALF).shape == (3,)
    assert not buffers.known

"""Numbers that a device has yet to compute, asked for now and looked at later."""

from collections.abc import Callable

import torch
from torch import Tensor


def tell_later(numbers: Tensor) -> Callable[[], list[float]]:
    """Begin to copy numbers to host memory; what is returned waits for them, and for them alone.

    A GPU that was given more to do in between goes on with it. One that is asked for its numbers
    at once has nothing to do until it is given more.

    Shapes: numbers (n,), without a graph; the answer has n.
    """
    if numbers.device.type != "cuda":
        return numbers.tolist
    there = numbers.to("cpu", non_blocking=True)  # into pinned memory
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
    copied.record(torch.cuda.current_stream(numbers.device))

    def tell() -> list[float]:
        copied.synchronize()
        told: list[float] = there.tolist()
        return told

    return tell

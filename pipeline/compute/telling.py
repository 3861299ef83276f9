"""Numbers that a device has yet to compute, asked for now and looked at later."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def tell_later(numbers: Sequence[Tensor | float]) -> Callable[[], list[float]]:
    """Begin to copy numbers to host memory; what is returned waits for them, and for them alone.

    A GPU that was given more to do in between goes on with it. One that is asked for its numbers
    at once has nothing to do until it is given more.

    Shapes: numbers () each, of one device, without a graph.
    """
    awaited = [each for each in numbers if isinstance(each, Tensor) and each.device.type == "cuda"]
    if not awaited:
        return lambda: [float(number) for number in numbers]
    assert len(awaited) == len(numbers), "numbers of several devices"
    joined = torch.stack(awaited)
    there = joined.to("cpu", non_blocking=True)  # into pinned memory
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
    copied.record(torch.cuda.current_stream(joined.device))

    def tell() -> list[float]:
        copied.synchronize()
        told: list[float] = there.tolist()
        return told

    return tell

"""The accelerate object that a training loop runs on: device and precision.

It builds; it does not know the model, the losses or the loop. Of several ranks each has one of its
own, which knows of no other: what they share goes through `Ranks`.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from accelerate import Accelerator

MIXED_PRECISIONS = {"float32": "no", "bfloat16": "bf16"}
# By these accelerate would learn of other ranks, and wrap the model in what averages gradients.
OF_RANKS = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


def make_accelerator(precision: str, *, device: torch.device) -> "Accelerator":
    """Build an Accelerator for this device; weights stay float32, `bfloat16` means autocast.

    Raises: PipelineError if training in this precision is not possible.
    """
    if precision not in MIXED_PRECISIONS:
        raise PipelineError(
            f"training.precision: '{precision}' is not known; "
            f"allowed are {', '.join(MIXED_PRECISIONS)}."
        )
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # accelerate keeps a process's first setup for ever and refuses another; a second run may
    # differ.
    AcceleratorState._reset_state(reset_partial_state=True)
    with ExitStack() as stack:
        # The only way that accelerate offers to choose one device of several.
        stack.enter_context(_environment("ACCELERATE_TORCH_DEVICE", str(device)))
        for name in OF_RANKS:
            stack.enter_context(_environment(name, None))
        return Accelerator(
            mixed_precision=MIXED_PRECISIONS[precision],
            cpu=device.type == "cpu",
        )


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable for a while, or unset it."""
    before = os.environ.get(name)
    _set(name, value)
    try:
        yield
    finally:
        _set(name, before)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value

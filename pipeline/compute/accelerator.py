"""The accelerate object that a training loop runs on: device, precision, accumulation.

It builds; it does not know the model, the losses or the loop. One process for now.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from accelerate import Accelerator

MIXED_PRECISIONS = {"float32": "no", "bfloat16": "bf16"}


def make_accelerator(precision: str, *, device: torch.device, accumulate: int = 1) -> "Accelerator":
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
    with _environment("ACCELERATE_TORCH_DEVICE", str(device)):
        return Accelerator(
            mixed_precision=MIXED_PRECISIONS[precision],
            gradient_accumulation_steps=accumulate,
            cpu=device.type == "cpu",
        )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    # The only way that accelerate offers to choose one device of several.
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

"""The clock, and waiting for a device that works on behind the caller's back."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Answer = TypeVar("Answer")


def timed(call: Callable[[], Answer]) -> tuple[float, Answer]:
    """Give the seconds that a call takes, and its answer."""
    started = time.perf_counter()
    answer = call()
    return time.perf_counter() - started, answer


def wait_for(device: torch.device) -> None:
    """Return once a device has done all that it was asked; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

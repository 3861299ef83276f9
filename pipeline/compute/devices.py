"""The device, and everything about it and the software that can change a floating-point result.

It reports and pins; it does not decide what of it belongs into a fingerprint.
"""

import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from pipeline.errors import PipelineError

AVAILABLE: dict[str, Callable[[], int]] = {
    "cuda": torch.cuda.device_count,
    "mps": lambda: int(torch.backends.mps.is_available()),
    "cpu": lambda: 1,
}
# Each of these writes or computes bytes of a cache; the rest of what is installed does not.
SOFTWARE = ("torch", "numpy", "zarr", "numcodecs", "pyarrow", "pillow")


def pick_device(name: str) -> torch.device:
    """Turn a recipe's device into torch's; `auto` takes the fastest there is.

    Raises: PipelineError if this machine has no such device.
    """
    if name == "auto":
        return torch.device(_names()[0])
    kind, _, index = name.partition(":")
    count = AVAILABLE.get(kind, lambda: 0)()
    if not count or (index and not (index.isdecimal() and int(index) < count)):
        raise PipelineError(
            f"device: '{name}' is not on this machine; allowed are auto, {', '.join(_names())}. "
            "With 'auto' the fastest is taken."
        )
    return torch.device(name)


def device_kind(device: torch.device) -> str:
    """Name the kind of hardware: on another kind the same recipe may differ in the last bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return device.type


def set_threads(count: int) -> None:
    """Pin the threads of one operation: their number changes the order of sums, so the last bits.

    Raises: PipelineError below one thread.
    """
    if count < 1:
        raise PipelineError(f"threads: must be at least 1; got {count}.")
    torch.set_num_threads(count)


def use_deterministic_kernels() -> None:
    """Allow only kernels that give the same bits each time; where there is none, torch raises."""
    # cuBLAS reads it when first used; without it its sums depend on the stream they run in.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same switch as use_deterministic_algorithms, without a second of importing a compiler.
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory costs a pass over every activation and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def use_any_kernels() -> None:
    """Allow the fastest kernels again: some that a student needs have no deterministic version."""
    torch.set_deterministic_debug_mode("default")


def software_versions(also: Sequence[str] = ()) -> dict[str, str]:
    """List the versions of what can change the bytes of a cache, and of what is named besides."""
    found = {}
    for name in sorted({*SOFTWARE, *also}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _names() -> list[str]:
    return [
        f"{kind}:{index}" if kind == "cuda" and index else kind
        for kind, count in AVAILABLE.items()
        for index in range(count())
    ]

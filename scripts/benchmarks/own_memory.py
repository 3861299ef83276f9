"""The most memory of its own that a process had: what it cannot give back, unlike mapped files."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.compute import keep_freed_memory


def peak_mib(module: str, *arguments: object) -> float:
    """Call `tell_peak` of one of these modules in a process of its own, and read what it prints."""
    shown = ", ".join(repr(each) for each in arguments)
    code = f"from benchmarks.{module} import tell_peak; tell_peak({shown})"
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=paths)
    return float(ended.stdout)


def print_peak(batches: Iterable[object]) -> None:
    """Go through batches and print the peak, in MiB, looked at after every one."""
    keep_freed_memory()
    print(max((_anonymous_kib() for _ in batches), default=0) / 1024)


def _anonymous_kib() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0

"""The stream of this project and those of others, on the same rows, each as its users would begin.

The others are installed into a virtual environment of their own, `.venv-peers` beside `.venv`
(five minutes, and five gigabytes); not part of `scripts/bench all`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks import lm_targets, stream
from benchmarks.measure import Figure, Options, say
from pipeline.compute import keep_freed_memory, set_threads

COMMAND = "scripts/bench peers"
ROOT = Path(__file__).resolve().parents[2]
VENV, FORMATS = ROOT / ".venv-peers", Path(__file__).with_name("peer_formats.py")
PACKAGES = ("numpy", "torch", "mosaicml-streaming", "litdata", "webdataset", "pylance", "datasets")
KINDS = ("mosaicml-streaming", "litdata", "webdataset", "lance", "datasets", "a file a sample")
# Ours takes at most so much of what the best of these takes: alone, and with two workers.
NAMED, BARS = KINDS[:3], {0: 1 / 15, 2: 1 / 3}
NO_BAR = 1.0
# Of ours beside one of theirs: about as long, for the machine is slow and fast by turns.
EPOCHS = 15


def run(options: Options) -> list[Figure]:
    """Write the rows in every format, and read them by turns."""
    install()
    set_threads(1)
    keep_freed_memory()
    rows = lm_targets.QUICK_ROWS if options.quick else lm_targets.ROWS
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        lm_targets.write(folder / "cache", rows)
        lm_targets.write_raw(folder / "cache", folder / "raw")
        for kind in KINDS:
            say(f"peers: writing {kind}")
            _ask(folder, kind, rows, 0, "write")
        ours_stream = stream.open_stream(folder / "cache", rows)
        stream.epoch(ours_stream)
        figures = []
        for workers, bar in BARS.items():
            taken = {kind: _ratios(folder, kind, rows, workers, ours_stream, options)
                     for kind in KINDS}  # fmt: skip
            figures += _figures(taken, workers, bar)
        return figures


def install() -> None:
    """Install what is compared, once."""
    if (VENV / "installed").exists():
        return
    say(f"peers: installing into {VENV}; this takes minutes")
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    # The torch that their torchvision fits, which may be one for GPUs.
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES]
    subprocess.run(command, check=True)
    (VENV / "installed").touch()


def _ratios(
    folder: Path, kind: str, rows: int, workers: int, ours: "stream.Stream", options: Options
) -> list[float]:
    say(f"peers: {kind}, {workers} workers")
    found = []
    for _ in range(options.rounds):
        theirs_s = float(_ask(folder, kind, rows, workers))
        ours_s = median(stream.epoch(ours) for _ in range(EPOCHS))
        found.append(ours_s / theirs_s)
    return found


def _ask(folder: Path, kind: str, rows: int, workers: int, *words: str) -> str:
    command = [str(VENV / "bin" / "python"), "-W", "ignore", str(FORMATS), kind]
    command += [str(folder / "raw"), str(rows), str(folder / kind.replace(" ", "-"))]
    ended = subprocess.run(
        [*command, str(workers), *words], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise SystemExit(f"bench: {kind}: {ended.stderr[-2000:]}")
    return (ended.stdout.split() or [""])[-1]


def _figures(taken: dict[str, list[float]], workers: int, bar: float) -> list[Figure]:
    best = max(NAMED, key=lambda kind: median(taken[kind]))
    with_workers = f"with {workers} workers" if workers else "in one process"
    return [
        Figure(
            f"an epoch of ours / of {kind}, {with_workers}",
            values,
            "x",
            bar if kind == best else NO_BAR,
            COMMAND,
            f"{1 / median(values):.1f} times as fast",
        )
        for kind, values in taken.items()
    ]

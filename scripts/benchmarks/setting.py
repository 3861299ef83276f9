"""A folder with images in files, networks and a recipe: what the benchmarks work on.

The images are random, which costs a network as much as any others. Nothing is timed here.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

IMAGE = (1, 28, 28)
CLASSES = 10
TEACHER_BATCH, STUDENT_BATCH = 256, 128

RECIPE = f"""
name = "bench"

[data.train]
kind = "arrays"
inputs = "images.npy"
labels = "labels.npy"

[teacher]
model = {{ kind = "python", factory = "networks:teacher" }}
batch_size = {TEACHER_BATCH}
device = "cpu"

[targets]
selection = {{ kind = "top_k", k = 4 }}

[cache]
path = "cache"

[student]
model = {{ kind = "python", factory = "networks:student" }}

[[losses]]
kind = "soft_targets"
weight = 0.9
temperature = 4.0

[[losses]]
kind = "hard_labels"
weight = 0.1

[training]
epochs = 1
batch_size = {STUDENT_BATCH}
device = "cpu"

[run]
path = "run"
"""


@contextmanager
def setting(rows: int) -> Iterator[Path]:
    """Make the folder, hand out the recipe's path, and remove everything afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        shutil.copyfile(Path(__file__).with_name("networks.py"), folder / "networks.py")
        _write_images(folder, rows)
        recipe = folder / "bench.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        yield recipe


def _write_images(folder: Path, rows: int) -> None:
    """Write the arrays block by block: the maker's memory must not grow with the rows either."""
    generator = np.random.Generator(np.random.Philox(0))
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(rows, *IMAGE)
    )
    for start in range(0, rows, 4096):
        block = images[start : start + 4096]
        block[...] = generator.integers(0, 256, block.shape, dtype=np.uint8)
    images.flush()
    np.save(folder / "labels.npy", generator.integers(0, CLASSES, rows))

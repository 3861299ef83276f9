"""A laboratory of a few kilobytes: data, models, a recipe, and the command line in this process."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.cli import main

ROWS, CLASSES, SHAPE = 60, 5, (1, 4, 4)

RECIPE = """\
name = "tiny"

[data.train]
kind = "parquet"
path = "train.parquet"
id = "id"
label = "label"
shape = [1, 4, 4]
dtype = "uint8"

[data.validation]
kind = "parquet"
path = "validation.parquet"
id = "id"
label = "label"
shape = [1, 4, 4]
dtype = "uint8"

[teacher]
model = { kind = "python", factory = "tiny_models:teacher" }
batch_size = 4
threads = 1

[targets]
selection = { kind = "top_k", k = 2 }

[cache]
path = "cache"
rows_per_part = 8

[student]
model = { kind = "python", factory = "tiny_models:student" }

[[losses]]
kind = "soft_targets"
weight = 0.9
temperature = 4.0

[[losses]]
kind = "hard_labels"
weight = 0.1

[training]
epochs = 2
batch_size = 8
learning_rate = 1e-2
log_every = 1
threads = 1

[validation]
data = "validation"

[run]
path = "run"
"""

# For recipes with data that has no labels, in unlabelled.parquet.
UNLABELLED = """\
[data.unlabelled]
kind = "parquet"
path = "unlabelled.parquet"
id = "id"
shape = [1, 4, 4]
dtype = "uint8"
"""

MODELS = '''\
"""Networks for 1 x 4 x 4 images; files beside this one make the teacher slow or sick."""

import time
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


class Teacher(nn.Sequential):
    """Sleeps `slow` seconds a batch; answers NaN to images whose first pixel is 255 if `sick`."""

    def forward(self, images):
        logits = super().forward(images)
        if (HERE / "slow").exists():
            time.sleep(float((HERE / "slow").read_text()))
        if (HERE / "sick").exists():
            logits[images.flatten(1)[:, 0] == 1.0] = float("nan")
        return logits


def teacher(classes=5, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        linear = nn.Linear(16, classes)
    for each in range(classes):
        linear.weight.data[each, 3 * each % 16] += 4.0
    return Teacher(nn.Flatten(), linear)


def student(classes=5, dropout=0.2):
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(16, classes))
'''


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Lab:
    """A folder with train.parquet, validation.parquet, tiny_models.py and recipe.toml."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def edit(self, old: str, new: str) -> None:
        """Replace text of the recipe, which must be there."""
        text = self.recipe.read_text()
        assert old in text
        self.recipe.write_text(text.replace(old, new))

    def cache_teacher(self, *options: str) -> Answer:
        return run_cli("cache-teacher", str(self.recipe), *options)

    def train_student(self, *options: str) -> Answer:
        return run_cli("train-student", str(self.recipe), *options)

    def metrics(self, run: str = "run") -> list[dict[str, Any]]:
        """Read the lines of a run's metrics."""
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def options(*values: str) -> list[str]:
    """Turn values for the recipe into words of a command line."""
    return [word for value in values for word in ("--set", value)]


def run_cli(*arguments: str) -> Answer:
    """Run the command line in this process; nothing of it is replaced."""
    stdout, stderr, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["pipeline", *arguments]
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = argv
        torch.set_deterministic_debug_mode("default")
    status = ended.value.code
    return Answer(status if isinstance(status, int) else 0, stdout.getvalue(), stderr.getvalue())


def write_samples(path: Path, table: dict[str, Any]) -> None:
    """Write columns id, image and label as Parquet."""
    images = [image.reshape(-1).tolist() for image in table["image"]]
    pq.write_table(
        pa.table(
            {
                "id": pa.array(table["id"]),
                "image": pa.array(images, pa.list_(pa.uint8())),
                "label": pa.array(table["label"], pa.int64()),
            }
        ),
        path,
    )


def draw_samples(rows: int, *, seed: int, prefix: str) -> dict[str, Any]:
    """Draw images of five classes, each bright in pixels of its own, that can be told apart."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    images = random.integers(0, 120, (rows, *SHAPE), dtype=np.uint8)
    images.reshape(rows, 16)[np.arange(rows), 3 * labels] = 250
    return {
        "id": [f"{prefix}{row:03d}" for row in range(rows)],
        "image": images,
        "label": labels.tolist(),
    }

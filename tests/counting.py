"""A laboratory whose teacher and data take notes: who was asked what, how often, and by whom."""

import json

from laboratory import Lab, options

NOTING = '''
import os

with_notes = (HERE / "notes").mkdir(exist_ok=True)


def note(kind, what):
    with open(HERE / "notes" / kind, "a") as file:
        file.write(f"{what} {os.getpid()}\\n")


class Noting(Teacher):
    """Notes each batch by the sum of its images; raises where `broken` says."""

    def forward(self, images):
        if len(images) > 1:
            note("asked", float(images.sum()))
        if (HERE / "broken").exists() and any(
            f"{float(each.sum()):.4f}" in (HERE / "broken").read_text() for each in images
        ):
            raise ZeroDivisionError("in the teacher's own code")
        return super().forward(images)


def noting():
    model = teacher()
    return Noting(*model)


class Digits:
    def __init__(self):
        import pyarrow.parquet as pq

        self.rows = pq.read_table(HERE / "train.parquet").to_pylist()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        import numpy as np

        note("read", index)
        row = self.rows[index]
        image = np.array(row["image"], np.uint8).reshape(1, 4, 4)
        return {"id": row["id"], "input": image, "label": row["label"]}


def digits():
    return Digits()
'''
# Of the 60 rows, in parts of 8 and batches of 4.
BATCHES = 15


def take_notes(lab: Lab) -> None:
    """Give the laboratory a teacher that takes notes."""
    with (lab.folder / "tiny_models.py").open("a") as file:
        file.write(NOTING)
    lab.edit("tiny_models:teacher", "tiny_models:noting")


def alone(lab: Lab, *overrides: str) -> str:
    """Make the cache by one process in another folder; gives its digest."""
    answer = lab.cache_teacher(
        *("--json", "--quiet", "--part-range", "1/1"),
        *options("cache.path=alone", *overrides),
    )
    assert answer.status == 0, answer.stderr
    for kind in (lab.folder / "notes").glob("*"):
        kind.unlink()
    return str(json.loads(answer.stdout)["digest"])


def notes(lab: Lab, kind: str) -> list[list[str]]:
    path = lab.folder / "notes" / kind
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def digest(lab: Lab) -> str:
    return str(json.loads((lab.cache / "manifest.json").read_bytes())["digest"])

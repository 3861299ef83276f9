"""A cache of a size that language models make: top-64 of 49,152 classes, 512 positions a row.

No teacher is asked: classes are as rare as words are, logits fall as those of a model do, and every
row differs. What streams are compared by is the raw bytes of the same fields, an array each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.samples import content_digests
from pipeline.samples.arrays import ArraySamples
from pipeline.store import Field, Plan, SampleTable, claim_part, commit_part, finish, write_plan
from pipeline.targets import TargetSpec, target_fields

CLASSES, KEPT, POSITIONS, PART_ROWS = 49_152, 64, 512, 128
ROWS, QUICK_ROWS = 3_712, 256
SPEC = TargetSpec("top_k", CLASSES, KEPT)
# The tokens say how long rows are; what streams read is the rest.
TOKENS = Field("tokens", "uint16", (POSITIONS,), "rows")
FIELDS = target_fields(SPEC)
# What losses read; the statistics are for those who ask for them.
READ = ("classes", "logits", "tail")
POSITION_BYTES = sum(each.entry_bytes for each in FIELDS if each.name in READ)

Arrays = dict[str, NDArray[np.generic]]


def samples_of(rows: int) -> ArraySamples:
    """Give the samples, in memory and tiny, so that reading them hides nothing."""
    inputs = np.arange(rows, dtype=np.int64)[:, None]
    ids = np.array([f"{row:07d}" for row in range(rows)])
    return ArraySamples("rows", None, inputs, np.zeros(rows, np.int64), ids)


def write(folder: Path, rows: int, *, compression: str = "none", backend: str = "zarr") -> None:
    """Write it part by part, in constant memory."""
    plan = plan_of(rows, backend, compression)
    write_plan(folder, plan)
    for part in range(plan.part_count):
        own = plan.part_range(part)
        with claim_part(folder, part):
            commit_part(folder, plan, part, table_of(own), draw(part, len(own)), {})
    finish(folder, plan)


def plan_of(rows: int, backend: str, compression: str) -> Plan:
    """Plan a cache of so many rows."""
    return Plan(
        rows=rows,
        rows_per_part=PART_ROWS,
        backend=backend,
        compression=compression,
        fields=(*FIELDS, TOKENS),
        settings={},
        about={"targets": SPEC.to_json(), "tokens": {"task": "next_token"}},
    )


@contextmanager
def planned(folder: Path, plan: Plan) -> Iterator[None]:
    """Begin a cache, and hold its first part."""
    write_plan(folder, plan)
    with claim_part(folder, 0):
        yield


def table_of(rows: range) -> SampleTable:
    """Describe some rows."""
    read = samples_of(rows.stop).read(rows)
    count = len(rows)
    return SampleTable(
        ids=read.ids,
        digests=content_digests(read.inputs),
        views=np.zeros(count, np.int32),
        labels=read.labels,
        positions=np.full(count, POSITIONS, np.int32),
    )


def draw(part: int, rows: int) -> Arrays:
    """Draw the fields of a part. Shapes: each (rows * POSITIONS, ...)."""
    generator = np.random.Generator(np.random.Philox(part))
    count = rows * POSITIONS
    rare = generator.standard_exponential((count, KEPT), np.float32)
    falling = np.cumsum(generator.standard_exponential((count, KEPT), np.float32), axis=1)
    made: Arrays = {
        "classes": ((CLASSES - 1) * (1 - np.exp(-rare / 3))).astype(np.uint16),
        "logits": (-np.log1p(falling)).astype(np.float16),
        "tail": generator.standard_normal((count, *FIELDS[2].shape), np.float32),
        "tokens": generator.integers(0, CLASSES, (rows, POSITIONS), np.uint16),
    }
    return made | {
        each.name: generator.random(count, np.float32) for each in FIELDS if each.name not in made
    }


def write_raw(cache: Path, folder: Path) -> None:
    """Put the chunks of an uncompressed cache end to end, a file for each field that is read."""
    folder.mkdir()
    for name in READ:
        with (folder / name).open("wb") as raw:
            for chunk in sorted((cache / "targets").glob(f"*.zarr/{name}/c.*")):
                raw.write(chunk.read_bytes())


def gather_raw(folder: Path, rows: int, batch: int, seed: int) -> Iterator[Arrays]:
    """Gather whole rows, shuffled over all, from memory maps into one set of buffers."""
    maps, made = {}, {}
    for each in FIELDS:
        if each.name in READ:
            shape = (POSITIONS, *each.shape)
            maps[each.name] = np.memmap(folder / each.name, each.dtype, "r", shape=(rows, *shape))
            made[each.name] = np.empty((batch, *shape), each.dtype)
    order = np.random.default_rng(seed).permutation(rows)
    for start in range(0, rows, batch):
        chosen = order[start : start + batch]
        for name, array in maps.items():
            np.take(array, chosen, axis=0, out=made[name][: len(chosen)], mode="clip")
        yield made

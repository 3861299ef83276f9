"""What every backend must do, and the tiny caches that the tests of the store write.

The content of a part follows from its plan and number, so any two ways of writing must agree.
"""

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from pipeline.store import (
    Field,
    Plan,
    SampleTable,
    Where,
    claim_part,
    commit_part,
    finish,
    missing_parts,
    open_cache,
    write_plan,
)
from pipeline.store.backends import BACKENDS
from pipeline.store.fields import AXES, DTYPES, Array
from pipeline.store.plan import COMPRESSIONS

KINDS = [(backend, compression) for backend in BACKENDS for compression in COMPRESSIONS]
FIELDS = (
    Field("classes", "uint8", (4,), "positions"),
    Field("logits", "float16", (4,), "positions"),
    Field("entropy", "float32", (), "positions"),
    Field("embedding", "float16", (3,), "rows"),
)
KILLED = 99
Given = TypeVar("Given", bound=Where)


def tiny_plan(backend: str = "zarr", compression: str = "none", **changes: Any) -> Plan:
    """Plan seven rows in three parts."""
    values: dict[str, Any] = {
        "rows": 7,
        "rows_per_part": 3,
        "fields": FIELDS,
        "settings": {"selection": {"kind": "top_k", "k": 4}, "seed": 1},
        "about": {"class_names": ["null", "één"]},
    }
    return Plan(backend=backend, compression=compression, **(values | changes))


@st.composite
def plans(draw: st.DrawFn, backend: str, compression: str) -> Plan:
    """Draw plans with any fields, any row count and any part size."""
    shapes = st.lists(st.integers(1, 4), max_size=2).map(tuple)
    kinds = st.tuples(st.sampled_from(DTYPES), shapes, st.sampled_from(AXES[:2]))
    drawn = draw(st.lists(kinds, min_size=1, max_size=3))
    fields = tuple(Field(f"field_{index}", *kind) for index, kind in enumerate(drawn))
    return tiny_plan(
        backend,
        compression,
        rows=draw(st.integers(1, 9)),
        rows_per_part=draw(st.integers(1, 10)),
        fields=fields,
        settings={"seed": draw(st.integers(0, 2**31))},
    )


def part_content(plan: Plan, part: int) -> tuple[SampleTable, dict[str, Array]]:
    """Make a part: ragged positions, empty rows, any bit pattern, NaN among them."""
    rng = np.random.default_rng([plan.settings["seed"], part])
    rows = len(plan.part_range(part))
    samples = SampleTable(
        ids=[f"sample/{row:04d}-ø" for row in plan.part_range(part)],
        digests=rng.integers(0, 256, (rows, 16), dtype=np.uint8),
        views=rng.integers(0, 4, rows, dtype=np.int32),
        labels=rng.integers(-1, 3, rows),
        positions=rng.integers(0, 4, rows, dtype=np.int32),
    )
    lengths = {"rows": rows, "positions": int(samples.positions.sum())}
    arrays = {}
    for field in plan.fields:
        raw = rng.bytes(lengths[field.axis] * field.entry_bytes)
        arrays[field.name] = np.frombuffer(raw, field.numpy_dtype).reshape(-1, *field.shape)
    return samples, arrays


def write_part(folder: Where, plan: Plan, part: int) -> bool:
    """Claim and commit a part, unless others hold it."""
    with claim_part(folder, part) as is_ours:
        if not is_ours:
            return False
        samples, arrays = part_content(plan, part)
        statistics = {"entries": part + 1, "mass": 0.1 * part}
        commit_part(folder, plan, part, samples, arrays, statistics)
        return True


def write_cache(folder: Given, plan: Plan, order: Sequence[int] | None = None) -> Given:
    """Write what is missing, in order of parts or in the order given, and finish."""
    write_plan(folder, plan)
    missing = missing_parts(folder, plan)
    for part in missing if order is None else order:
        assert write_part(folder, plan, part) or part not in missing
    finish(folder, plan)
    return folder


def share_cache(folder: Where, plan: Plan, pause_s: float) -> list[int]:
    """Write parts beside other processes until all are there; returns those made here."""
    write_plan(folder, plan)
    made: list[int] = []
    while missing := missing_parts(folder, plan):
        before = len(made)
        for part in missing:
            with claim_part(folder, part) as is_ours:
                if is_ours:
                    time.sleep(pause_s)
                    samples, arrays = part_content(plan, part)
                    commit_part(folder, plan, part, samples, arrays, {"entries": part + 1})
                    made.append(part)
        if len(made) == before:
            time.sleep(pause_s)
    finish(folder, plan)
    return made


def write_and_die(folder: Path, plan: Plan, steps: int) -> None:
    """Write a cache, but leave without a word before the step of that number.

    A step is any call by which Python makes, opens for writing, renames or removes something in
    the folder.
    """
    left = steps

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if _is_step(event, arguments) and str(folder) in str(arguments[0]):
            left -= 1
            if left == 0:
                os._exit(KILLED)

    sys.addaudithook(count)
    write_cache(folder, plan)


def _is_step(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def digests(folder: Path) -> dict[str, str]:
    """Map every path below the folder to the SHA-256 of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def check_written_is_read(folder: Path, plan: Plan) -> None:
    """Whatever is written to a cache is read from it, bit for bit."""
    cache = open_cache(write_cache(folder, plan))
    for part in range(plan.part_count):
        samples, arrays = part_content(plan, part)
        assert_equal_samples(cache.read_samples(part), samples)
        assert_equal_arrays(cache.read_part(part), arrays)
        assert_equal_arrays(cache.read_part(part, check=False), arrays)


def assert_equal_arrays(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    """Compare bits, so that NaN equals NaN; what is read can be written to."""
    assert sorted(found) == sorted(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name
        assert found[name].flags.writeable


def assert_equal_samples(found: SampleTable, wanted: SampleTable) -> None:
    """Compare every column."""
    assert found.ids == wanted.ids
    for name in ("digests", "views", "labels", "positions"):
        left, right = getattr(found, name), getattr(wanted, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)

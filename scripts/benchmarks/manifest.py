"""A cache of 100,000 parts: opening it, finding what is missing of it, finishing it.

Every document is valid and every file is there, but all parts hold the same few bytes, written
without a teacher; so what is measured is what grows with the number of parts alone.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Figure, Options, say
from pipeline.store import (
    Built,
    Plan,
    SampleTable,
    build_part,
    finish,
    missing_parts,
    open_cache,
    write_plan,
)
from pipeline.store.documents import canonical, sealed
from pipeline.store.plan import part_name
from pipeline.store.records import MANIFEST_FILE, record_path
from pipeline.targets import TargetSpec, encode, target_fields

COMMAND = "scripts/bench manifest"
PARTS, QUICK_PARTS = 100_000, 50
OPEN_BAR_S, MISSING_BAR_S, FINISH_BAR_S = 1.0, 1.0, 60.0
SPEC = TargetSpec("top_k", 100, 4)


def run(options: Options) -> list[Figure]:
    """Measure each with the disk's cache warm, finishing once, for it takes long."""
    parts = QUICK_PARTS if options.quick else PARTS
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name) / "cache"
        say(f"manifest: writing {parts:,} parts")
        plan = write_parts(folder, parts)
        say("manifest: finishing, opening")
        finish_s = [_seconds(lambda: finish(folder, plan))]
        size = (folder / MANIFEST_FILE).stat().st_size
        open_s = [_seconds(lambda: open_cache(folder)) for _ in range(options.rounds)]
        missing_s = [_seconds(lambda: missing_parts(folder, plan)) for _ in range(options.rounds)]
    of = f"of {parts:,} parts"
    note = f"the manifest has {size:,} bytes"
    return [
        Figure(f"opening a cache {of}", open_s, "s", OPEN_BAR_S, COMMAND, note),
        Figure(f"missing_parts {of}", missing_s, "s", MISSING_BAR_S, COMMAND),
        Figure(f"finish {of}", finish_s, "s", FINISH_BAR_S, COMMAND),
    ]


def write_parts(folder: Path, parts: int) -> Plan:
    """Write the files and the record of every part; not flushed, for nobody wants them back."""
    plan = Plan(
        rows=parts,
        rows_per_part=1,
        backend="parquet",
        compression="none",
        fields=target_fields(SPEC),
        settings={},
        about={"targets": SPEC.to_json()},
    )
    write_plan(folder, plan)
    for name in ("samples", "targets", "parts"):
        (folder / name).mkdir()
    built = _build(folder, plan)
    for part in range(parts):
        _write(folder, plan, part, built)
    return plan


def _build(folder: Path, plan: Plan) -> Built:
    samples = SampleTable(
        ids=["sample"],
        digests=np.zeros((1, 16), np.uint8),
        views=np.zeros(1, np.int32),
        labels=np.zeros(1, np.int64),
        positions=np.ones(1, np.int32),
    )
    arrays = encode(SPEC, torch.zeros(1, SPEC.class_count))
    return build_part(folder, plan, 0, samples, arrays, {"labelled": 1, "teacher_right": 0})


def _write(folder: Path, plan: Plan, part: int, built: Built) -> None:
    """Write the one part that was built under the name of another."""
    first, name, rows = part_name(0), part_name(part), plan.part_range(part)
    for path, content in built.contents:
        (folder / path.replace(first, name)).write_bytes(content)
    entries: list[dict[str, Any]] = built.record["files"]
    record = {key: value for key, value in built.record.items() if key != "digest"} | {
        "part": part,
        "row_start": rows.start,
        "row_stop": rows.stop,
        "files": [{**each, "path": each["path"].replace(first, name)} for each in entries],
    }
    (folder / record_path(part)).write_bytes(canonical(sealed(record, key="digest")))


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started

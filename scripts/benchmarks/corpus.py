"""A cache of as many rows as asked for, of a teacher that never was, in the real format."""

from pathlib import Path

import numpy as np
import torch

from pipeline.store import Plan, SampleTable, claim_part, commit_part, finish, write_plan
from pipeline.targets import TargetSpec, encode, target_fields

CLASSES, KEPT, PART_ROWS = 10, 4, 8192
SPEC = TargetSpec("top_k", CLASSES, KEPT)
# How much likelier than others a teacher finds the truth, in nats: right for some 93 of 100 rows.
EDGE = 4.0


def write(folder: str, rows: int, is_labelled: bool) -> None:
    """Write it part by part, in constant memory."""
    plan = Plan(
        rows=rows,
        rows_per_part=PART_ROWS,
        backend="zarr",
        compression="none",
        fields=target_fields(SPEC),
        settings={"teacher": {"weights": "none"}, "data": {"digest": folder}},
        about={"targets": SPEC.to_json(), "class_names": None},
    )
    write_plan(Path(folder), plan)
    generator = np.random.Generator(np.random.Philox(1 if is_labelled else 0))
    for part in range(plan.part_count):
        within = plan.part_range(part)
        truth = generator.integers(0, CLASSES, len(within))
        logits = generator.standard_normal((len(within), CLASSES), np.float32)
        logits[np.arange(len(within)), truth] += EDGE
        table = SampleTable(
            ids=[f"{row:09d}" for row in within],
            digests=generator.integers(0, 256, (len(within), 16), np.uint8),
            views=np.zeros(len(within), np.int32),
            labels=truth if is_labelled else np.full(len(within), -1),
            positions=np.ones(len(within), np.int32),
        )
        with claim_part(Path(folder), part):
            arrays = encode(SPEC, torch.from_numpy(logits))
            commit_part(Path(folder), plan, part, table, arrays, {})
    finish(Path(folder), plan)

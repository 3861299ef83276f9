"""Samples, targets and caches of a few hundred bytes, whose every value follows from its row."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.samples import Samples, content_digests
from pipeline.samples.arrays import ArraySamples
from pipeline.store import (
    Cache,
    Plan,
    SampleTable,
    claim_part,
    commit_part,
    finish,
    open_cache,
    write_plan,
)
from pipeline.targets import Targets, TargetSpec, encode, target_fields

CLASSES = 5


def make_samples(rows: int, order: NDArray[np.int64] | None = None) -> ArraySamples:
    """Make samples s0, s1, ... whose input begins with their number; `order` rearranges them."""
    order = np.arange(rows) if order is None else order
    noise = np.random.default_rng(0).normal(size=(rows, 2))
    inputs = np.column_stack([np.arange(rows), noise]).astype(np.float32)
    ids = np.array([f"s{row}" for row in range(rows)])
    labels = np.arange(rows) % CLASSES
    return ArraySamples("data.train", None, inputs[order], labels[order], ids[order])


def make_logits(rows: int, seed: int = 1) -> torch.Tensor:
    """Draw what a teacher says of each row. Shapes: returns (rows, CLASSES)."""
    return torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(seed))


def make_spec(k: int) -> TargetSpec:
    """Keep k of the classes; all of them if they are all asked for."""
    return TargetSpec("all" if k == CLASSES else "top_k", CLASSES, k)


# Each keyword is one thing that a cache can differ in.
def make_cache(  # noqa: PLR0913
    folder: Path,
    samples: Samples,
    *,
    rows_per_part: int,
    k: int = 2,
    backend: str = "zarr",
    logits: torch.Tensor | None = None,
    about: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Cache:
    """Write the whole cache of some samples, without any teacher. Shapes: logits (N, C)."""
    logits = make_logits(len(samples)) if logits is None else logits
    classes = logits.shape[1]
    spec = TargetSpec("all" if k == classes else "top_k", classes, k)
    plan = Plan(
        rows=len(samples),
        rows_per_part=rows_per_part,
        backend=backend,
        compression="none",
        fields=target_fields(spec),
        settings=dict(settings or {}),
        about={"targets": spec.to_json(), **(about or {})},
    )
    write_plan(folder, plan)
    for part in range(plan.part_count):
        rows = plan.part_range(part)
        read = samples.read(rows)
        table = SampleTable(
            ids=read.ids,
            digests=content_digests(read.inputs),
            views=np.zeros(len(rows), np.int32),
            labels=read.labels,
            positions=np.ones(len(rows), np.int32),
        )
        with claim_part(folder, part):
            arrays = encode(spec, logits[rows.start : rows.stop])
            commit_part(folder, plan, part, table, arrays, {"labelled": len(rows)})
    finish(folder, plan)
    return open_cache(folder)


def assert_same_targets(one: object, other: object) -> None:
    """Prove that targets say the same, wherever the first ones are."""
    assert isinstance(one, Targets)
    assert isinstance(other, Targets)
    for name in (each.name for each in fields(Targets)):
        there, here = getattr(one, name), getattr(other, name)
        if isinstance(here, torch.Tensor):
            assert there.dtype == here.dtype
            torch.testing.assert_close(there.cpu(), here, msg=name)
        elif name != "statistics":
            assert there == here
    assert one.statistics.keys() == other.statistics.keys()
    for name, here in other.statistics.items():
        torch.testing.assert_close(one.statistics[name].cpu(), here)

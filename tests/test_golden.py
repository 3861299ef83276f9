"""Caches written once by each version of the format stay readable for ever, also without us.

`python tests/test_golden.py` writes the caches of the present version; those of older versions are
never written again.
"""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from numpy.typing import NDArray

from pipeline.samples import content_digests
from pipeline.store import (
    Plan,
    SampleTable,
    claim_part,
    commit_part,
    encode_shared,
    find_faults,
    finish,
    open_cache,
    write_plan,
)
from pipeline.targets import (
    Basis,
    TargetSpec,
    basis_fields,
    decode,
    decode_basis,
    encode,
    encode_basis,
    low_rank_logits,
    tail_mass,
    target_fields,
)

GOLDEN = Path(__file__).parent / "golden"
ROWS, CLASSES, KEPT = 7, 6, 2
KINDS = {"v1-zarr-lz4": ("zarr", "lz4"), "v1-parquet-none": ("parquet", "none")}
SPEC = TargetSpec("top_k", CLASSES, KEPT)
# Caches that keep the shape of their tail, and what they say of two rows: probabilities at T = 2.
RANK = TargetSpec("top_k", CLASSES, KEPT, rank=3)
SMALL = TargetSpec("top_k", CLASSES, KEPT, (1.0,), 4, ((4, 1), (2, 1), (1, 2)), is_small=True)
SHAPED = {"v1-rank-parquet-zstd": RANK, "v1-small-zarr-none": SMALL}
SAYS = {
    "v1-rank-parquet-zstd": {
        0: [0.341321, 0.072147, 0.303041, 0.100691, 0.047921, 0.13488],
        5: [0.070218, 0.027339, 0.100019, 0.341335, 0.136654, 0.324435],
    },
    "v1-small-zarr-none": {
        0: [0.379161, 0.001054, 0.336616, 0.00075, 0.281757, 0.000662],
        5: [0.007571, 0.312908, 0.004935, 0.343863, 0.003886, 0.326837],
    },
}
Floats = NDArray[np.float64]


def teacher_logits() -> Floats:
    """Logits that need no random generator. Shapes: returns (7, 6)."""
    row, column = np.mgrid[0:ROWS, 0:CLASSES]
    logits: Floats = 4.0 * np.sin(1.0 + 2.0 * row + 3.0 * column) + 0.25 * column
    return logits


def exact_tail(logits: Floats, temperature: float) -> Floats:
    """The mass of all but the two largest classes. Shapes: logits (P, C); returns (P,)."""
    powers = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    left_out: Floats = np.sort(powers, axis=1)[:, :-KEPT]
    masses: Floats = left_out.sum(1) / powers.sum(1)
    return masses


def spline_tail(nodes: list[float], tail: Floats, kept: Floats, temperature: float) -> float:
    """The tail's mass of one position, from FORMAT.md section 7.4 alone."""
    pairs = sorted(zip([b / (1 + b) for b in nodes], tail, strict=False))
    u = np.array([0.0, *(knot for knot, _ in pairs)])
    y = np.array([math.log(CLASSES - KEPT), *(value for _, value in pairs)])
    h, count = np.diff(u), len(u)
    system, right = np.eye(count), np.zeros(count)
    right[0], right[-1] = tail[-2], 4 * tail[-1]
    for i in range(1, count - 1):
        system[i, i - 1 : i + 2] = 1 / h[i - 1], 2 / h[i - 1] + 2 / h[i], 1 / h[i]
        right[i] = 3 * ((y[i] - y[i - 1]) / h[i - 1] ** 2 + (y[i + 1] - y[i]) / h[i] ** 2)
    slope = np.linalg.solve(system, right)
    place = 1 / (1 + temperature)
    i = min(int(np.searchsorted(u, place, side="right")) - 1, count - 2)
    t = (place - u[i]) / h[i]
    value = (
        y[i] * (1 + 2 * t) * (1 - t) ** 2
        + y[i + 1] * t**2 * (3 - 2 * t)
        + h[i] * (slope[i] * t * (1 - t) ** 2 - slope[i + 1] * t**2 * (1 - t))
    )
    mass = math.exp(value)
    return mass / (mass + float(np.exp(kept / temperature).sum()))


def plain_fields(folder: Path, part: str) -> dict[str, Floats]:
    """Read logits and tail with zarr or pyarrow alone."""
    if (folder / "targets" / f"{part}.zarr").exists():
        path = folder / "targets" / f"{part}.zarr"
        arrays = {name: zarr.open_array(path / name, mode="r") for name in ("logits", "tail")}
        return {name: np.asarray(array[...], float) for name, array in arrays.items()}
    table = pq.read_table(folder / "targets" / f"{part}.parquet")
    fields = {}
    for name in ("logits", "tail"):
        metadata = table.schema.field(name).metadata
        shape, dtype = json.loads(metadata[b"shape"]), metadata[b"dtype"].decode()
        entries = [np.frombuffer(each, f"<{np.dtype(dtype).str[1:]}") for each in
                   table[name].to_pylist()]  # fmt: skip
        fields[name] = np.stack(entries).reshape(-1, *shape).astype(float)
    return fields


@pytest.mark.parametrize("name", KINDS)
def test_golden_caches_are_whole(name: str) -> None:
    assert find_faults(GOLDEN / name) == []


@pytest.mark.parametrize("temperature", [1.0, 4 / 3, 2.0, 2.5, 3.0, 7.0, 16.0, 20.0])
@pytest.mark.parametrize("name", KINDS)
def test_golden_caches_mean_what_they_meant(name: str, temperature: float) -> None:
    cache = open_cache(GOLDEN / name)
    spec = TargetSpec.from_json(cache.plan.about["targets"])
    masses = [tail_mass(decode(spec, cache.read_part(part)), temperature) for part in range(2)]
    exact = exact_tail(teacher_logits(), temperature)
    assert torch.cat(masses).numpy() == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 20.0])
@pytest.mark.parametrize("name", KINDS)
def test_tail_is_readable_from_the_document_alone(name: str, temperature: float) -> None:
    plan = json.loads((GOLDEN / name / "plan.json").read_text())
    nodes = plan["about"]["targets"]["nodes"]
    found = []
    for part in ("00000", "00001"):
        fields = plain_fields(GOLDEN / name, part)
        found += [
            spline_tail(nodes, tail, kept, temperature)
            for tail, kept in zip(fields["tail"], fields["logits"], strict=True)
        ]
    cache = open_cache(GOLDEN / name)
    ours = [tail_mass(decode(SPEC, cache.read_part(part)), temperature) for part in range(2)]
    assert found == pytest.approx(torch.cat(ours).tolist(), abs=1e-6)


@pytest.mark.parametrize("name", SHAPED)
def test_golden_shapes_mean_what_they_meant(name: str) -> None:
    assert find_faults(GOLDEN / name) == []
    for row, probs in SAYS[name].items():
        assert read_probs(name)[row].tolist() == pytest.approx(probs, abs=1e-5)


def read_probs(name: str) -> torch.Tensor:
    """Give what a cache with a shape says at T = 2. Shapes: returns (7, 6)."""
    cache = open_cache(GOLDEN / name)
    spec = TargetSpec.from_json(cache.plan.about["targets"])
    assert spec == SHAPED[name]
    basis = decode_basis(cache.read_shared(), spec)
    parts = [decode(spec, cache.read_part(part), basis) for part in range(2)]
    return torch.cat([low_rank_logits(targets, 2.0).softmax(1) for targets in parts])


def make_basis(spec: TargetSpec) -> Basis:
    """Make a basis that needs no random generator."""
    row, column = np.mgrid[0:CLASSES, 0 : spec.rank]
    vectors = torch.from_numpy(np.cos(1.0 + 3.0 * row + 2.0 * column)).half().float()
    bias = torch.linspace(-1.0, 1.0, CLASSES)
    return Basis(bias, torch.ones(CLASSES), vectors, spec.bits)


def make_golden(
    folder: Path, backend: str, compression: str, spec: TargetSpec, basis: Basis | None = None
) -> None:
    """Write a golden cache of the present version."""
    shared = None
    if basis:
        fields, arrays = basis_fields(spec), encode_basis(basis)
        shared = encode_shared(fields, arrays, backend=backend, compression=compression)
    plan = Plan(
        rows=ROWS,
        rows_per_part=4,
        backend=backend,
        compression=compression,
        fields=target_fields(spec),
        settings={"written by": "tests/test_golden.py"},
        about={
            "targets": spec.to_json(),
            "class_names": None,
            "skipped": [],
            **({"shared": shared.about} if shared else {}),
        },
    )
    write_plan(folder, plan, shared)
    for part in range(plan.part_count):
        rows = plan.part_range(part)
        logits = torch.from_numpy(teacher_logits()[rows.start : rows.stop])
        table = SampleTable(
            ids=[f"sample-{row}" for row in rows],
            digests=content_digests(np.array(rows, np.int64)[:, None]),
            views=np.zeros(len(rows), np.int32),
            labels=np.array([row % CLASSES - (row == 5) * 6 for row in rows], np.int64),
            positions=np.ones(len(rows), np.int32),
        )
        with claim_part(folder, part):
            commit_part(folder, plan, part, table, encode(spec, logits, basis), {})
    finish(folder, plan)


if __name__ == "__main__":
    for name, (backend, compression) in KINDS.items():
        make_golden(GOLDEN / name, backend, compression, SPEC)
    for name, spec in SHAPED.items():
        backend, compression = name.split("-")[2:]
        make_golden(GOLDEN / name, backend, compression, spec, make_basis(spec))
        print(name, {row: read_probs(name)[row].tolist() for row in (0, 5)})

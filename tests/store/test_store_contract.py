"""Every backend with every compression, held to the same contract; zarr and pyarrow as referees."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import contract
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import CacheError
from pipeline.store import Field, Plan, find_faults, open_cache
from pipeline.store.backends import BACKENDS
from pipeline.store.places.disk import read_file

kinds = pytest.mark.parametrize(("backend", "compression"), contract.KINDS)


@kinds
@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(draws=st.data())
def test_what_is_written_is_read(backend: str, compression: str, draws: st.DataObject) -> None:
    plan = draws.draw(contract.plans(backend, compression))
    with tempfile.TemporaryDirectory() as folder:
        contract.check_written_is_read(Path(folder, "cache"), plan)
        assert find_faults(Path(folder, "cache")) == []


@kinds
def test_backends_agree(backend: str, compression: str, tmp_path: Path) -> None:
    plan = contract.tiny_plan(backend, compression)
    found = open_cache(contract.write_cache(tmp_path / "here", plan)).read_part(1)
    reference = open_cache(contract.write_cache(tmp_path / "there", contract.tiny_plan("zarr")))
    contract.assert_equal_arrays(found, reference.read_part(1))


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_plain_zarr_reads_what_the_format_says(compression: str, tmp_path: Path) -> None:
    folder = contract.write_cache(tmp_path / "cache", contract.tiny_plan("zarr", compression))
    plan = json.loads((folder / "plan.json").read_text())
    samples = pq.read_table(folder / "samples" / "00001.parquet")
    group = zarr.open_group(folder / "targets" / "00001.zarr", mode="r")
    wanted_samples, wanted = contract.part_content(contract.tiny_plan(), 1)
    assert sorted(group.array_keys()) == sorted(field["name"] for field in plan["fields"])
    for field in plan["fields"]:
        array = np.asarray(group[field["name"]])
        assert array.dtype.name == field["dtype"]
        assert list(array.shape[1:]) == field["shape"]
        assert array.tobytes() == wanted[field["name"]].tobytes()
    assert samples["id"].to_pylist() == wanted_samples.ids


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_plain_pyarrow_reads_what_the_format_says(compression: str, tmp_path: Path) -> None:
    folder = contract.write_cache(tmp_path / "cache", contract.tiny_plan("parquet", compression))
    over_positions = pq.read_table(folder / "targets" / "00001.parquet")
    over_rows = pq.read_table(folder / "targets" / "00001.rows.parquet")
    samples = pq.read_table(folder / "samples" / "00001.parquet")
    wanted_samples, wanted = contract.part_content(contract.tiny_plan(), 1)
    for table, name in [
        (over_positions, "classes"),
        (over_positions, "logits"),
        (over_rows, "embedding"),
    ]:
        metadata = table.schema.field(name).metadata
        dtype, shape = metadata[b"dtype"].decode(), json.loads(metadata[b"shape"])
        raw = b"".join(table[name].to_pylist())
        array = np.frombuffer(raw, dtype).reshape(-1, *shape)
        assert array.tobytes() == wanted[name].tobytes()
    assert over_positions["entropy"].to_numpy().tobytes() == wanted["entropy"].tobytes()
    labels = [None if label == -1 else label for label in wanted_samples.labels.tolist()]
    assert samples["label"].to_pylist() == labels
    assert samples["positions"].to_pylist() == wanted_samples.positions.tolist()
    assert samples["digest"].to_pylist() == [row.tobytes() for row in wanted_samples.digests]


@kinds
def test_large_parts_are_divided_into_chunks(
    backend: str, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.backends.zarr.CHUNK_BYTES", 200)
    monkeypatch.setattr("pipeline.store.backends.parquet.ROW_GROUP_BYTES", 200)
    plan = contract.tiny_plan(backend, compression, rows=200, rows_per_part=100)
    contract.check_written_is_read(tmp_path / "cache", plan)
    chunks = list((tmp_path / "cache" / "targets" / "00000.zarr" / "logits").glob("c.*.0"))
    assert backend == "parquet" or len(chunks) > 5


def test_chosen_fields_are_read_alone(tmp_path: Path) -> None:
    cache = open_cache(contract.write_cache(tmp_path / "cache", contract.tiny_plan()))
    assert sorted(cache.read_part(0, ["logits", "embedding"])) == ["embedding", "logits"]
    with pytest.raises(CacheError, match=r"has no field logit; it has classes, logits, entropy"):
        cache.read_part(0, ["logit"])


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(contract.write_cache(tmp_path / "cache", contract.tiny_plan("zarr", "lz4")))
    opened: list[str] = []

    def count(path: Path, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        opened.append(path.name)
        return read_file(path, into)

    monkeypatch.setattr("pipeline.store.places.folder.read_file", count)
    cache.read_part(0)
    assert sorted(opened) == sorted(["00000.json", *["zarr.json"] * 5, *["c.0.0"] * 3, "c.0"])


@pytest.mark.parametrize("name", BACKENDS)
def test_plan_takes_every_backend(name: str) -> None:
    assert contract.tiny_plan(name).backend == name


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"backend": "hdf5"}, "plan: backend 'hdf5' is not one of zarr, parquet"),
        ({"compression": "gzip"}, "plan: compression 'gzip' is not one of none, lz4, zstd"),
        ({"rows": 0}, "plan: rows is 0; a cache has at least one"),
        ({"rows_per_part": 0}, "plan: rows_per_part is 0; it must be at least 1"),
        ({"fields": ()}, "plan: fields is empty; a cache has at least one"),
        ({"fields": contract.FIELDS[:1] * 2}, "plan: a field is named twice: classes, classes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_plan_refuses_what_the_format_has_not(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(CacheError) as caught:
        contract.tiny_plan(**{"backend": "zarr", **changes})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("Logits", "uint8", (), "rows"), "field 'Logits': a name is 1 to 64 of a-z, 0-9 and _, "),
        (("logits", "bool", (), "rows"), "field 'logits': dtype 'bool' is not one of int8, int16"),
        (("logits", "int8", (0,), "rows"), r"field 'logits': shape \(0,\) is not a tuple of whole"),
        (("logits", "int8", (), "cols"), "field 'logits': axis 'cols' is not one of positions, ro"),
    ],
    ids=["name", "dtype", "shape", "axis"],
)
def test_field_refuses_what_the_format_has_not(
    arguments: tuple[str, str, tuple[int, ...], str], text: str
) -> None:
    with pytest.raises(CacheError, match=text):
        Field(*arguments)


@given(rows=st.integers(1, 10_000), rows_per_part=st.integers(1, 10_000))
def test_parts_cover_every_row_once(rows: int, rows_per_part: int) -> None:
    plan = Plan(rows, rows_per_part, "zarr", "none", contract.FIELDS, {}, {})
    ranges = [plan.part_range(part) for part in range(plan.part_count)]
    assert ranges[0].start == 0
    assert ranges[-1].stop == rows
    assert all(left.stop == right.start for left, right in pairwise(ranges))
    assert all(0 < len(one) <= rows_per_part for one in ranges)

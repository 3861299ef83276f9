"""Who helps with a cache that was planned takes what the scan found, and scans nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from laboratory import Lab, draw_samples, options, write_samples

from pipeline.caching import join
from pipeline.errors import CacheError, FingerprintMismatch, IncompleteCache, SampleError
from pipeline.experiment import data
from pipeline.recipe import load_recipe
from pipeline.samples import Samples, Scan, scan_samples
from pipeline.store import open_cache
from stages import cache_teacher

LOW_RANK = "targets.tail={ kind = 'low_rank', rank = 1, positions = 20 }"


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every scan of a dataset, which goes on as ever."""
    noted = list[str]()

    def note(samples: Samples, **rest: Any) -> Scan:
        noted.append(samples.name)
        return scan_samples(samples, **rest)

    monkeypatch.setattr(data, "scan_samples", note)
    return noted


def make(lab: Lab, *parts: int, overrides: tuple[str, ...] = ()) -> None:
    """Make some parts of the cache and stop, as if killed."""
    with pytest.raises(IncompleteCache):
        cache_teacher.run(load_recipe(lab.recipe, overrides), quiet=True, order=parts)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize("also", [(), (LOW_RANK,)], ids=["bucket", "low_rank"])
def test_who_joins_does_not_scan_and_makes_the_same_bytes(
    lab: Lab, scans: list[str], also: tuple[str, ...]
) -> None:
    whole = lab.cache_teacher("--quiet", *options("cache.path=whole", *also))
    assert whole.status == 0, whole.stderr
    make(lab, 3, overrides=also)
    assert scans == ["data.train"] * 2
    make(lab, 0, 7, overrides=also)
    assert lab.cache_teacher("--quiet", *options(*also)).status == 0
    assert len(scans) == 2
    assert files(lab.cache) == files(lab.folder / "whole")


def test_what_was_left_out_stays_left_out(lab: Lab, scans: list[str]) -> None:
    table = draw_samples(60, seed=0, prefix="s")
    table["image"] = [*table["image"][:11], table["image"][11][:, :2], *table["image"][12:]]
    write_samples(lab.folder / "train.parquet", table)
    lab.edit('shape = [1, 4, 4]\ndtype = "uint8"\n\n[data.v', 'shape = [1, 4, 4]\ndtype = "uint8"\n'
             'on_error = "skip"\n\n[data.v')  # fmt: skip
    make(lab, 0)
    assert lab.cache_teacher("--quiet").status == 0
    assert len(scans) == 1
    cache = open_cache(lab.cache)
    assert cache.plan.rows == 59
    assert [each["id"] for each in cache.plan.about["skipped"]] == ["s011"]
    assert "s011" not in cache.read_samples(1).ids


@pytest.mark.parametrize("column", ["id", "label", "image"])
def test_a_sample_that_is_another_by_now_is_refused(lab: Lab, column: str) -> None:
    make(lab, 0)
    table = draw_samples(60, seed=0, prefix="s")
    table[column] = list(table[column])
    table[column][20] = {"id": "new", "label": 4, "image": table["image"][21]}[column]
    write_samples(lab.folder / "train.parquet", table)
    name = "new" if column == "id" else "s020"
    with pytest.raises(SampleError, match=rf"1 of 8 samples changed after .* scanned: {name};"):
        cache_teacher.run(load_recipe(lab.recipe), quiet=True)


def test_other_settings_are_refused_by_name(lab: Lab, scans: list[str]) -> None:
    make(lab, 0)
    overrides = ("teacher.batch_size=8", "teacher.model.arguments.seed=1")
    with pytest.raises(FingerprintMismatch) as refused:
        cache_teacher.run(load_recipe(lab.recipe, overrides), quiet=True)
    assert "teacher.batch_size: there 4, here 8" in str(refused.value)
    assert "teacher.weights: there" in str(refused.value)
    assert len(scans) == 1


def test_more_samples_are_another_setup(lab: Lab) -> None:
    make(lab, 0)
    write_samples(lab.folder / "train.parquet", draw_samples(61, seed=0, prefix="s"))
    with pytest.raises(FingerprintMismatch, match=r"data\.digest: there .*, here "):
        cache_teacher.run(load_recipe(lab.recipe), quiet=True)


def test_what_a_crash_or_another_plan_left_is_no_reason_to_stop(lab: Lab, scans: list[str]) -> None:
    make(lab, 0)
    left = lab.cache / ".scratch" / join.SCAN_FILE
    left.write_bytes(left.read_bytes().replace(b'"count": 60', b'"count": 61'))
    make(lab, 1)
    assert len(scans) == 2
    assert json.loads(left.read_bytes())["scan"]["count"] == 60


def test_a_changed_block_is_found_before_it_is_believed(lab: Lab) -> None:
    make(lab, 0)
    left = lab.cache / ".scratch" / join.CONTENTS_FILE
    content = bytearray(left.read_bytes())
    content[777] ^= 1
    left.write_bytes(content)
    join._read_block.cache_clear()
    with pytest.raises(CacheError, match=r"contents.bin in its scratch area was changed; .*"):
        cache_teacher.run(load_recipe(lab.recipe), quiet=True)


def test_entries_are_read_across_blocks(
    lab: Lab, scans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "BLOCK", 7)
    make(lab, 0)
    assert lab.cache_teacher("--quiet").status == 0
    assert len(scans) == 1
    assert not (lab.cache / ".scratch").exists()

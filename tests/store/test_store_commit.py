"""Stopping and going on: any order, any crash and any number of writers end in the same bytes."""

import errno
import fcntl
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path

import contract
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CacheError, CorruptPart, FingerprintMismatch, IncompleteCache
from pipeline.store import (
    check_plan,
    claim_part,
    commit_part,
    find_faults,
    finish,
    missing_parts,
    open_cache,
    write_plan,
)

# A server that forks children quickly and has no threads of its own.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["pytest", "hypothesis.strategies", "numcodecs", "pyarrow.parquet", "zarr", "zarr.codecs"]
)
backends = pytest.mark.parametrize("backend", ["zarr", "parquet"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Digests of a cache that was written in one go, by backend."""
    root = tmp_path_factory.mktemp("whole")
    return {
        backend: contract.digests(
            contract.write_cache(root / backend, contract.tiny_plan(backend, "lz4"))
        )
        for backend in ("zarr", "parquet")
    }


@backends
@settings(max_examples=6)
@given(order=st.permutations(range(3)))
def test_any_order_of_parts_gives_the_same_bytes(
    backend: str,
    order: list[int],
    whole: dict[str, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("order") / "cache"
    contract.write_cache(folder, contract.tiny_plan(backend, "lz4"), order)
    assert contract.digests(folder) == whole[backend]


def test_a_second_run_changes_nothing(whole: dict[str, dict[str, str]], tmp_path: Path) -> None:
    plan = contract.tiny_plan("zarr", "lz4")
    contract.write_cache(tmp_path / "cache", plan)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    contract.write_cache(tmp_path / "cache", plan, order=[0, 1, 2])
    assert {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()
    } == times


@backends
@pytest.mark.parametrize(
    "stride", [19, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "every"]
)
def test_killed_before_a_step_and_repeated_gives_the_same_bytes(
    backend: str, stride: int, tmp_path: Path
) -> None:
    two_fields = (contract.FIELDS[1], contract.FIELDS[3])
    plan = contract.tiny_plan(backend, "lz4", rows=2, rows_per_part=1, fields=two_fields)
    whole = contract.digests(contract.write_cache(tmp_path / "whole", plan))
    for step in count(1, stride):
        folder = tmp_path / str(step)
        writer = PROCESSES.Process(target=contract.write_and_die, args=(folder, plan, step))
        writer.start()
        writer.join()
        assert writer.exitcode in (0, contract.KILLED)
        contract.write_cache(folder, plan)
        assert contract.digests(folder) == whole, f"killed before step {step}"
        if writer.exitcode == 0:
            break
    assert step > 50


def test_killed_again_and_again_ends_in_the_same_bytes(
    whole: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    plan = contract.tiny_plan("zarr", "lz4")
    exit_codes = []
    for step in range(25, 230, 29):
        writer = PROCESSES.Process(
            target=contract.write_and_die, args=(tmp_path / "cache", plan, step)
        )
        writer.start()
        writer.join()
        exit_codes.append(writer.exitcode)
    assert exit_codes[0] == contract.KILLED
    assert exit_codes[-1] == 0
    assert contract.digests(tmp_path / "cache") == whole["zarr"]


@backends
def test_writers_at_once_share_the_parts(backend: str, tmp_path: Path) -> None:
    plan = contract.tiny_plan(backend, rows=24, rows_per_part=2)
    with ProcessPoolExecutor(3, PROCESSES) as pool:
        shares = [
            pool.submit(contract.share_cache, tmp_path / "shared", plan, 0.02) for _ in range(3)
        ]
        made = sorted(part for share in shares for part in share.result())
    assert made == list(range(12))
    contract.share_cache(tmp_path / "alone", plan, 0.0)
    assert contract.digests(tmp_path / "shared") == contract.digests(tmp_path / "alone")


def test_threads_cannot_claim_a_part_twice(tmp_path: Path) -> None:
    write_plan(tmp_path / "cache", contract.tiny_plan())
    claimed = list[bool]()

    def try_to_claim() -> None:
        with claim_part(tmp_path / "cache", 1) as is_ours:
            claimed.append(is_ours)

    with claim_part(tmp_path / "cache", 1):
        thread = threading.Thread(target=try_to_claim)
        thread.start()
        thread.join()
        with claim_part(tmp_path / "cache", 2) as is_ours:
            assert is_ours
    assert claimed == [False]
    try_to_claim()
    assert claimed == [False, True]
    assert not (tmp_path / "cache" / ".scratch").exists()


def test_a_folder_that_others_clear_away_under_a_claim_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(tmp_path / "cache", contract.tiny_plan())
    mkdir, refused = os.mkdir, list[str]()

    def there_and_gone(path: os.PathLike[str], *arguments: int) -> None:
        if Path(path).name == ".scratch" and not refused:
            refused.append(str(path))
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        mkdir(path, *arguments)

    monkeypatch.setattr(os, "mkdir", there_and_gone)
    with claim_part(tmp_path / "cache", 0) as is_ours:
        assert is_ours
        assert (tmp_path / "cache/.scratch/00000").is_dir()
    assert len(refused) == 1


def test_a_committed_part_is_not_claimed_again(tmp_path: Path) -> None:
    plan = contract.tiny_plan()
    write_plan(tmp_path / "cache", plan)
    assert contract.write_part(tmp_path / "cache", plan, 1)
    assert not contract.write_part(tmp_path / "cache", plan, 1)
    assert missing_parts(tmp_path / "cache", plan) == [0, 2]


def test_a_failure_while_making_a_part_frees_it(tmp_path: Path) -> None:
    plan = contract.tiny_plan()
    write_plan(tmp_path / "cache", plan)
    with (
        pytest.raises(FileNotFoundError, match="a sample's file"),
        claim_part(tmp_path / "cache", 0),
    ):
        raise FileNotFoundError("a sample's file")
    assert contract.write_part(tmp_path / "cache", plan, 0)


def test_another_fingerprint_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    settings = {"selection": {"kind": "top_k", "k": 4}, "seed": 1, "dataset": {"digest": "ab"}}
    write_plan(folder, contract.tiny_plan(settings=settings, rows=7))
    settings = {"selection": {"kind": "top_k", "k": 8}, "seed": 1, "views": True}
    with pytest.raises(FingerprintMismatch) as caught:
        write_plan(folder, contract.tiny_plan(settings=settings, rows=9))
    assert str(caught.value) == (
        f"{folder}: this cache was made from another setup, so it cannot be continued\n"
        "  dataset: there {'digest': 'ab'}, here nothing\n"
        "  selection.k: there 4, here 8\n"
        "  views: there nothing, here True\n"
        "  rows: there 7, here 9\n"
        "  Cache into another folder, or delete this one."
    )


def test_plan_is_checked_without_writing(tmp_path: Path) -> None:
    check_plan(tmp_path / "cache", contract.tiny_plan())
    assert not (tmp_path / "cache").exists()
    write_plan(tmp_path / "cache", contract.tiny_plan())
    with pytest.raises(FingerprintMismatch, match="compression: there 'none', here 'lz4'"):
        check_plan(tmp_path / "cache", contract.tiny_plan("zarr", "lz4"))


def test_only_the_first_differences_are_shown(tmp_path: Path) -> None:
    write_plan(tmp_path / "cache", contract.tiny_plan(settings={f"k{i}": 0 for i in range(11)}))
    with pytest.raises(FingerprintMismatch, match=r"k6: there 0, here 1\n  and 3 more\n  Cache"):
        write_plan(tmp_path / "cache", contract.tiny_plan(settings={f"k{i}": 1 for i in range(11)}))


def test_incomplete_cache_says_which_parts_are_missing(tmp_path: Path) -> None:
    folder, plan = tmp_path / "cache", contract.tiny_plan(rows=40, rows_per_part=1)
    write_plan(folder, plan)
    for part in (0, 4, 5, 9):
        contract.write_part(folder, plan, part)
    text = (
        f"{folder}: not complete: 36 of 40 parts are missing (1-3, 6-8, 10-39). "
        "Run `pipeline cache-teacher RECIPE` or `pipeline generate RECIPE` to go on."
    )
    for ask in (lambda: finish(folder, plan), lambda: open_cache(folder)):
        with pytest.raises(IncompleteCache) as caught:
            ask()
        assert str(caught.value) == text


def test_all_parts_without_a_manifest_is_incomplete(tmp_path: Path) -> None:
    folder = contract.write_cache(tmp_path / "cache", contract.tiny_plan())
    (folder / "manifest.json").unlink()
    with pytest.raises(IncompleteCache, match="all parts are there, but no manifest yet"):
        open_cache(folder)


def test_finish_refuses_a_committed_part_that_lost_a_file(tmp_path: Path) -> None:
    folder, plan = tmp_path / "cache", contract.tiny_plan("parquet")
    contract.write_cache(folder, plan)
    (folder / "manifest.json").unlink()
    (folder / "targets" / "00001.parquet").unlink()
    with pytest.raises(CorruptPart) as caught:
        finish(folder, plan)
    assert str(caught.value) == (
        f"{folder}: part 1: targets/00001.parquet: is missing. Delete parts/00001.json and "
        "run the same command again to make it anew."
    )
    (folder / "parts" / "00001.json").unlink()
    contract.write_cache(folder, plan)
    assert find_faults(folder) == []


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CacheError) as caught:
        write_plan(tmp_path / "cache", contract.tiny_plan())
    assert str(caught.value) == (
        f"{tmp_path / 'cache'}: is a file, not a folder. Name another path for the cache."
    )


def test_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(CacheError) as caught:
        write_plan(tmp_path, contract.tiny_plan())
    assert str(caught.value) == (
        f"{tmp_path}: holds thesis.tex and is not a cache. Name a new folder or an empty one."
    )
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"cannot write .*/file.*: Not a directory\. Allow this"):
        write_plan(tmp_path / "file" / "cache", contract.tiny_plan())


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Be a user whom permissions bind, also where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_unwritable_folder_is_refused(tmp_path: Path, unprivileged: None) -> None:
    folder = tmp_path / "locked" / "cache"
    if os.access(tmp_path, os.W_OK, effective_ids=True):
        (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CacheError) as caught:
        write_plan(folder, contract.tiny_plan())
    assert str(caught.value) == (
        f"{folder}: cannot write {folder}: Permission denied. Allow this user to write there, "
        "or name another folder for the cache."
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_full_disk_says_that_nothing_is_lost(
    number: int, whole: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan = tmp_path / "cache", contract.tiny_plan("zarr", "lz4")
    write_plan(folder, plan)
    contract.write_part(folder, plan, 0)

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CacheError) as caught:
            contract.write_part(folder, plan, 1)
    begin, _, end = str(caught.value).partition(" left) ")
    assert begin.startswith(f"{folder}: disk full (")
    assert end == (
        f"while writing {folder}. Free some space and run the same command again; nothing is lost, "
        "finished parts are kept."
    )
    assert contract.digests(contract.write_cache(folder, plan)) == whole["zarr"]


def test_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(CacheError) as caught:
        write_plan(tmp_path / "cache", contract.tiny_plan())
    assert str(caught.value) == (
        f"{tmp_path / 'cache'}: this file system has no locks (Operation not supported), so "
        "writers cannot be kept apart. Cache into a folder on a local disk and copy it when it is "
        "complete."
    )


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        ("logits", np.zeros((9, 4), "float32"), "field 'logits': is float32 (9, 4); the plan says"),
        ("logits", np.zeros((1, 4), "float16"), "field 'logits': is float16 (1, 4); the plan says"),
        ("logit", np.zeros(3), "logit given or planned, but not both"),
    ],
    ids=["dtype", "shape", "name"],
)
def test_arrays_that_are_not_the_plans_are_refused(
    name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]], text: str, tmp_path: Path
) -> None:
    folder, plan = tmp_path / "cache", contract.tiny_plan()
    write_plan(folder, plan)
    samples, arrays = contract.part_content(plan, 0)
    with claim_part(folder, 0), pytest.raises(CacheError) as caught:
        commit_part(folder, plan, 0, samples, arrays | {name: array}, {})
    assert str(caught.value).startswith(f"{folder}: part 0: {text}")
    assert missing_parts(folder, plan) == [0, 1, 2]


def test_statistics_must_be_finite_numbers(tmp_path: Path) -> None:
    folder, plan = tmp_path / "cache", contract.tiny_plan()
    write_plan(folder, plan)
    samples, arrays = contract.part_content(plan, 0)
    with claim_part(folder, 0), pytest.raises(CacheError, match=r"part 0: statistics.mass is nan"):
        commit_part(folder, plan, 0, samples, arrays, {"mass": float("nan")})


def test_statistics_are_added_up_in_the_manifest(tmp_path: Path) -> None:
    cache = open_cache(contract.write_cache(tmp_path / "cache", contract.tiny_plan()))
    assert cache.manifest["statistics"] == {"entries": 6, "mass": 0.0 + 0.1 + 0.2}

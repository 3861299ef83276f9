"""Whatever happens to cache-teacher, the cache ends in the same bytes."""

import hashlib
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from laboratory import Answer, Lab
from nursery import Child, Nursery, wait_until

from pipeline.errors import IncompleteCache
from pipeline.recipe import load_recipe
from stages import cache_teacher

KILLS = 20
# Of a batch, 15 of which make the cache: long enough that a run can be caught in the middle.
SLOW_S = 0.004
PARTS = range(8)
VARIANTS = ["zarr lz4", "parquet none"]
ORDERS = {"backwards": PARTS[::-1], "odd first": [1, 3, 5, 7, 0, 2, 4, 6], "mixed": [5, 0, 7, 2]}


def settings(variant: str) -> list[str]:
    backend, compression = variant.split()
    return ["--set", f"cache.backend={backend}", "--set", f"cache.compression={compression}"]


def digest_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\n{path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def undisturbed(lab: Lab, variant: str = "zarr none") -> str:
    """Make the cache in one go in another folder, and digest it."""
    answer = lab.cache_teacher("--quiet", *settings(variant), "--set", "cache.path=undisturbed")
    assert answer.status == 0, answer.stderr
    return digest_files(lab.folder / "undisturbed")


def wait_for_part(lab: Lab, count: int = 1) -> None:
    """Wait until some parts are committed."""
    wait_until(lambda: len(list(lab.cache.glob("parts/*.json"))) >= count)


def start(lab: Lab, nursery: Nursery, *options: str) -> Child:
    return nursery.start("cache-teacher", str(lab.recipe), *options)


def timed(child: Child) -> tuple[Answer, float]:
    began_s = time.monotonic()
    return child.wait(), time.monotonic() - began_s


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_twenty_times_and_continued_ends_in_the_same_bytes(
    lab: Lab, nursery: Nursery, variant: str
) -> None:
    lab.edit("rows_per_part = 8", "rows_per_part = 12")
    expected, options = undisturbed(lab, variant), settings(variant)
    (lab.folder / "slow").write_text(str(SLOW_S))
    answer, whole_s = timed(start(lab, nursery, *options))
    assert (answer.status, digest_files(lab.cache)) == (0, expected)
    shutil.rmtree(lab.cache)
    moments, killed, finished = random.Random(variant), 0, 0
    while killed < KILLS or not finished:
        child = start(lab, nursery, *options)
        if killed < KILLS:
            time.sleep(moments.uniform(0.1, 0.9) * whole_s)
            child.kill(signal.SIGKILL)
        answer = child.wait()
        if answer.status == -signal.SIGKILL:
            killed += 1
            continue
        # It was faster than the knife: its bytes are right, and the next one begins anew.
        assert answer.status == 0, answer.stderr
        assert digest_files(lab.cache) == expected
        finished += 1
        shutil.rmtree(lab.cache)


@pytest.mark.parametrize("name", ORDERS)
def test_parts_made_in_any_order_are_the_same_bytes(lab: Lab, name: str) -> None:
    expected, recipe = undisturbed(lab), load_recipe(lab.recipe)
    if missing := set(PARTS) - set(ORDERS[name]):
        with pytest.raises(IncompleteCache, match=f"{len(missing)} of 8 parts are missing"):
            cache_teacher.run(recipe, quiet=True, order=ORDERS[name])
        cache_teacher.run(recipe, quiet=True)
    else:
        cache_teacher.run(recipe, quiet=True, order=ORDERS[name])
    assert digest_files(lab.cache) == expected


def test_two_started_at_once_both_finish_and_the_bytes_are_the_same(
    lab: Lab, nursery: Nursery
) -> None:
    expected = undisturbed(lab)
    (lab.folder / "slow").write_text("0.02")
    children = [start(lab, nursery) for _ in range(2)]
    answers = [child.wait() for child in children]
    assert [answer.status for answer in answers] == [0, 0], answers
    assert digest_files(lab.cache) == expected


def test_of_two_different_recipes_at_once_one_refuses(lab: Lab, nursery: Nursery) -> None:
    (lab.folder / "slow").write_text("0.02")
    children = [start(lab, nursery), start(lab, nursery, "--set", "targets.selection.k=3")]
    answers = [child.wait() for child in children]
    assert sorted(answer.status for answer in answers) == [0, 2], answers
    (refused,) = (answer for answer in answers if answer.status)
    assert "this cache was made from another setup, so it cannot be continued" in refused.stderr
    (lab.folder / "slow").unlink()
    k = 2 if answers[0].status == 0 else 3
    assert lab.cache_teacher("--set", f"targets.selection.k={k}").status == 0


def test_one_of_two_killed_leaves_its_part_to_the_other(lab: Lab, nursery: Nursery) -> None:
    expected = undisturbed(lab)
    (lab.folder / "slow").write_text("0.02")
    doomed, other = start(lab, nursery), start(lab, nursery)
    wait_for_part(lab)
    doomed.kill(signal.SIGKILL)
    assert [doomed.wait().status, other.wait().status] == [-signal.SIGKILL, 0]
    assert digest_files(lab.cache) == expected


def test_interrupted_says_so_in_one_line_and_continues_to_the_same_bytes(
    lab: Lab, nursery: Nursery
) -> None:
    expected = undisturbed(lab)
    (lab.folder / "slow").write_text("0.02")
    child = start(lab, nursery, "--quiet")
    wait_for_part(lab)
    child.kill(signal.SIGINT)
    answer = child.wait()
    assert answer.status == 130
    assert answer.stdout == ""
    there = len(list((lab.cache / "parts").glob("*.json")))
    assert answer.stderr.strip() == (
        f"interrupted; {there} of 8 parts are committed in {lab.cache}; the same command goes on"
    )
    assert not (lab.cache / "manifest.json").exists()
    assert start(lab, nursery).wait().status == 0
    assert digest_files(lab.cache) == expected


def test_a_continued_run_makes_only_what_is_missing(lab: Lab) -> None:
    expected, recipe = undisturbed(lab), load_recipe(lab.recipe)
    with pytest.raises(IncompleteCache):
        cache_teacher.run(recipe, quiet=True, order=[2])
    kept = (lab.cache / "parts" / "00002.json").stat().st_mtime_ns
    answer = lab.cache_teacher("--json")
    assert json.loads(answer.stdout)["made_rows"] == 52
    assert "8 of 60 rows are there already" in answer.stderr
    assert (lab.cache / "parts" / "00002.json").stat().st_mtime_ns == kept
    assert digest_files(lab.cache) == expected


def test_a_complete_cache_is_left_alone(cached_lab: Lab) -> None:
    before = {path: path.stat().st_mtime_ns for path in cached_lab.cache.rglob("*")}
    answer = cached_lab.cache_teacher("--json")
    assert (answer.status, json.loads(answer.stdout)["made_rows"]) == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in cached_lab.cache.rglob("*")} == before


def test_another_name_for_the_recipe_is_no_other_setup(cached_lab: Lab) -> None:
    assert cached_lab.cache_teacher("--set", "name=renamed").status == 0

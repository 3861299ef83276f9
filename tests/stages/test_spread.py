"""A cache that several processes make through Dask is the cache that one process makes."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from counting import BATCHES, alone, digest, notes, take_notes
from laboratory import Lab, options
from nursery import Nursery, wait_until

from pipeline.compute import Workers, open_workers
from pipeline.termination import AGAIN, TERMINATED


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """Start two workers once, for they import for seconds."""
    with open_workers("local", workers=2) as started:
        yield started


@pytest.fixture
def spread(lab: Lab, workers: Workers) -> Lab:
    """Give a laboratory whose recipe names the workers, and whose teacher and data take notes."""
    take_notes(lab)
    address = workers.client.scheduler.address
    with lab.recipe.open("a") as file:
        file.write(f'\n[compute]\nkind = "dask"\naddress = "{address}"\n')
    return lab


def test_two_workers_make_the_bytes_of_one_and_scan_once(spread: Lab) -> None:
    spread.edit('kind = "parquet"\npath = "train.parquet"\nid = "id"\nlabel = "label"\n'
                'shape = [1, 4, 4]\ndtype = "uint8"',
                'kind = "python"\nfactory = "tiny_models:digits"')  # fmt: skip
    (spread.folder / "slow").write_text("0.02")
    expected = alone(spread)
    answer = spread.cache_teacher()
    assert answer.status == 0, answer.stderr
    assert digest(spread) == expected
    assert "60/60 rows" in answer.stderr
    assert "made 60 rows" in answer.stdout
    asked = notes(spread, "asked")
    assert len(asked) == BATCHES
    assert len({pid for _, pid in asked}) == 2
    assert str(os.getpid()) not in {pid for _, pid in asked}
    # Once for the scan, once for its part; the first one tells each worker of its shape besides.
    times = Counter(int(index) for index, _ in notes(spread, "read"))
    assert {times[index] for index in range(1, 60)} == {2}
    assert not (spread.cache / ".scratch").exists()


def test_a_worker_that_is_killed_costs_only_its_part(spread: Lab, nursery: Nursery) -> None:
    expected = alone(spread)
    (spread.folder / "slow").write_text("0.05")
    child = nursery.start("cache-teacher", str(spread.recipe), "--quiet")
    wait_until(lambda: len(list(spread.cache.glob("parts/*.json"))) >= 2)
    os.kill(int(notes(spread, "asked")[-1][1]), signal.SIGKILL)
    answer = child.wait()
    assert answer.status == 0, answer.stderr
    assert digest(spread) == expected
    # At the worst both batches of the part in hand are asked for again.
    assert len(notes(spread, "asked")) <= BATCHES + 2


def test_a_part_that_always_fails_is_told_and_the_rest_is_made(spread: Lab) -> None:
    expected = alone(spread)
    table = spread.folder / "train.parquet"
    image = np.array(pq.read_table(table)["image"][20].as_py(), np.float32) / 255
    (spread.folder / "broken").write_text(f"{float(image.sum()):.4f}")
    answer = spread.cache_teacher("--quiet")
    assert answer.status == 2
    assert answer.stdout == ""
    assert answer.stderr == (
        f"error: {spread.cache}: 1 of 8 parts failed, each three times\n"
        "  part 2: ZeroDivisionError: in the teacher's own code\n"
        "  Parts that are made are kept; mend what these say and run the same command again.\n"
    )
    assert len(list(spread.cache.glob("parts/*.json"))) == 7
    (spread.folder / "broken").unlink()
    asked = len(notes(spread, "asked"))
    assert spread.cache_teacher("--quiet").status == 0
    assert (digest(spread), len(notes(spread, "asked")) - asked) == (expected, 2)


def test_workers_of_another_setup_refuse_by_name(spread: Lab) -> None:
    assert spread.cache_teacher("--quiet").status == 0
    answer = spread.cache_teacher("--quiet", *options("targets.selection.k=3"))
    assert answer.status == 2
    assert "this cache was made from another setup, so it cannot be continued" in answer.stderr
    assert "about.targets.k: there 2, here 3" in answer.stderr
    assert "as the worker sees it, process " in answer.stderr


def test_a_recipe_that_is_wrong_is_wrong_on_a_worker_too(spread: Lab) -> None:
    answer = spread.cache_teacher("--quiet", *options("targets.selection.k=9"))
    assert answer.status == 2
    assert "targets.selection.k: must be between 1 and 5, the classes of the" in answer.stderr


def test_of_a_dry_run_workers_know_nothing(spread: Lab) -> None:
    answer = spread.cache_teacher("--dry-run", *options("compute.address=nowhere:1"))
    assert answer.status == 0
    assert "nothing was written" in answer.stdout


def test_a_client_that_is_told_to_end_stops_its_workers(lab: Lab, nursery: Nursery) -> None:
    take_notes(lab)
    expected = alone(lab)
    (lab.folder / "slow").write_text("0.2")
    words = options("compute.kind=local", "compute.workers=2")
    child = nursery.start("cache-teacher", str(lab.recipe), "--quiet", *words)
    wait_until(lambda: bool(list(lab.cache.glob("parts/*.json"))))
    child.kill(signal.SIGTERM)
    answer = child.wait()
    assert (answer.status, answer.stderr) == (AGAIN, f"{TERMINATED}\n")
    pids = {pid for _, pid in notes(lab, "asked")}
    wait_until(lambda: not any(Path("/proc", pid).exists() for pid in pids))
    (lab.folder / "slow").unlink()
    assert lab.cache_teacher("--quiet").status == 0
    assert digest(lab) == expected

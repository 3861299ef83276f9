"""Every command on a cache in an object store; and a student that begins before it is complete."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from laboratory import Lab, options, run_cli
from nursery import Nursery, wait_until

from loopback import BUCKET, Faults, environment, object_store, proxy
from pipeline.store import open_cache
from pipeline.store.places import as_place


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with object_store() as port:
        yield port


@pytest.fixture
def far(lab: Lab, port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the recipe at a cache in an object store, with a spool of its own."""
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{uuid4().hex}/cache"
    lab.edit('path = "cache"', f'path = "{url}"')
    lab.edit("[student]", '[spool]\npath = "spool"\nmax_bytes = 200000\n\n[student]')
    return url


def taken(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir() if each.name != ".lock")


def weights(lab: Lab, run: str) -> bytes:
    return (lab.folder / run / "best.safetensors").read_bytes()


def test_every_command_works_on_it(lab: Lab, cached_lab: Lab, far: str) -> None:
    made = lab.cache_teacher("--json", "--quiet")
    assert made.status == 0, made.stderr
    assert json.loads(made.stdout)["digest"] == open_cache(cached_lab.cache).digest
    assert as_place(far).files(".scratch") == []
    assert run_cli("verify", far, "--quiet").stdout == (
        f"{far}: whole; every byte is what was committed\n"
    )
    audit = run_cli("verify", str(lab.recipe), "--audit", "7", "--quiet")
    assert "largest difference of a kept logit 0" in audit.stdout
    assert "rows       60 in 8 parts" in run_cli("inspect", far).stdout
    pages = []
    for place in (far, str(cached_lab.cache)):
        page = lab.folder / "page.html"
        assert run_cli("report", place, "--out", str(page), "--quiet").status == 0
        pages.append(page.read_text().replace(place, "the cache"))
    assert pages[0] == pages[1]
    again = lab.cache_teacher("--quiet")
    assert "nothing to do" in again.stdout


def test_a_student_learns_the_same_from_it(lab: Lab, cached_lab: Lab, far: str) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    for place, run in ((far, "far"), (str(cached_lab.cache), "near")):
        changes = (f"cache.path={place}", f"run.path={run}", "training.window_parts=2")
        answer = lab.train_student("--quiet", *options(*changes))
        assert answer.status == 0, answer.stderr
    assert weights(lab, "far") == weights(lab, "near")
    assert 0 < taken(lab.folder / "spool") <= 200_000


def test_a_spool_too_small_for_it_changes_nothing(lab: Lab, cached_lab: Lab, far: str) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    for limit, run in ((10**6, "wide"), (3000, "narrow")):
        changes = (f"spool.max_bytes={limit}", f"spool.path={run}-spool", f"run.path={run}")
        answer = lab.train_student("--quiet", *options(*changes, "training.window_parts=1"))
        assert answer.status == 0, answer.stderr
        assert taken(lab.folder / f"{run}-spool") <= limit
    assert weights(lab, "wide") == weights(lab, "narrow")


def test_killed_again_and_again_it_ends_in_the_same_bytes(
    lab: Lab, cached_lab: Lab, far: str, nursery: Nursery, port: int
) -> None:
    (lab.folder / "slow").write_text("0.01")
    for _ in range(3):
        child = nursery.start(
            "cache-teacher", str(lab.recipe), "--quiet", environment=environment(port)
        )
        before = len(as_place(far).names("parts"))
        ends = time.monotonic() + 20
        while len(as_place(far).names("parts")) < before + 2 and time.monotonic() < ends:
            time.sleep(0.01)
        child.kill()
        assert child.wait().status == -9
    (lab.folder / "slow").unlink()
    assert lab.cache_teacher("--quiet").status == 0
    assert open_cache(far).digest == open_cache(cached_lab.cache).digest
    assert as_place(far).files(".scratch") == []


def test_a_bad_way_to_the_store_changes_nothing(
    lab: Lab, cached_lab: Lab, far: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(0.03)
    with proxy(port, faults) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between}")
        # Another address is another client.
        changes = options(f"cache.path={far}-bad", "run.path=bad")
        for answer in (
            lab.cache_teacher("--quiet", *changes),
            run_cli("verify", f"{far}-bad", "--quiet"),
            lab.train_student("--quiet", *changes),
        ):
            assert answer.status == 0, answer.stderr
    monkeypatch.undo()
    near = options(f"cache.path={cached_lab.cache}", "run.path=near")
    assert lab.train_student("--quiet", *near).status == 0
    assert weights(lab, "bad") == weights(lab, "near")
    assert sum(faults.counts.values()) - faults.counts["passed"] > 2


def test_a_store_that_cannot_keep_writers_apart_is_refused_before_the_data_is_read(
    lab: Lab, far: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(port, Faults(is_weak=True)) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between}")
        answer = lab.cache_teacher(*options(f"cache.path={far}-weak"))
    assert answer.status == 2
    assert answer.stderr.startswith(f"error: {far}-weak: this store does not honour")


def test_shares_and_workers_make_the_same_there(lab: Lab, cached_lab: Lab, far: str) -> None:
    digest = open_cache(cached_lab.cache).digest
    for share in ("2/3", "1/3", "3/3"):
        answer = lab.cache_teacher("--quiet", "--part-range", share)
        assert answer.status == 0, answer.stderr
    assert open_cache(far).digest == digest
    with lab.recipe.open("a") as file:
        file.write('\n[compute]\nkind = "local"\nworkers = 2\n')
    answer = lab.cache_teacher("--quiet", *options(f"cache.path={far}-spread"))
    assert answer.status == 0, answer.stderr
    assert open_cache(f"{far}-spread").digest == digest
    assert as_place(f"{far}-spread").files(".scratch") == []


def test_only_caches_may_lie_there(lab: Lab) -> None:
    answer = lab.train_student("--quiet", *options("run.path=s3://bucket/run"))
    assert answer.status == 2
    assert answer.stderr == (
        "error: recipe.toml: 1 problem\n"
        "  s3://bucket/run: only caches may lie in an object store; give a path\n"
    )


@pytest.mark.parametrize("views", ["", '[views]\ncount = 2\n[[views.augment]]\nkind = "flip"\n'])
def test_a_student_that_follows_learns_the_same_as_one_that_waits(
    lab: Lab, views: str, nursery: Nursery
) -> None:
    lab.edit("[teacher]", f"{views}[teacher]")
    follow = ("--follow", "--quiet", *options("training.window_parts=2"))
    child = nursery.start("train-student", str(lab.recipe), *follow)
    said = child.output.with_suffix(".stderr")
    # On a busy machine the cache would be there before the student looks.
    wait_until(lambda: said.exists() and "not been planned yet; waiting" in said.read_text())
    (lab.folder / "slow").write_text("0.02")
    assert lab.cache_teacher("--quiet").status == 0
    answer = child.wait()
    assert answer.status == 0, answer.stderr
    assert lab.train_student(*follow, *options("run.path=later")).status == 0
    assert weights(lab, "run") == weights(lab, "later")
    waited = json.loads((lab.run / "result.json").read_text())
    assert waited["cache"] == open_cache(lab.cache).plan.fingerprint


def test_a_student_follows_no_cache_of_other_data(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = lab.train_student("--follow", "--quiet", *options("training.data=validation"))
    assert answer.status == 2
    assert "is being made of other data than data.validation: its digest is" in answer.stderr


def test_following_needs_one_cache(lab: Lab) -> None:
    teachers = 'training.teachers=[{ cache = "cache" }]'
    answer = lab.train_student("--follow", "--quiet", *options(teachers))
    assert answer.status == 2
    assert "training.follow: one cache can be followed while it is made" in answer.stderr

"""Whatever happens to cache-teacher, the cache ends in the same bytes."""

import hashlib
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from laboratory import Lab
from nursery import Nursery

from pipeline.recipe import load_recipe
from stages import cache_teacher

# 15 batches of a teacher this slow: an undisturbed run takes a quarter of a second longer.
SLOW_S = 0.015
KILLS = 20
LATEST_KILL_S = 0.25

VARIANTS = [
    ("zarr", "none"),
    ("zarr", "lz4"),
    ("parquet", "none"),
]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


def settings(backend: str, compression: str) -> list[str]:
    return ["--set", f"cache.backend={backend}", "--set", f"cache.compression={compression}"]


def digest_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\n{path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def undisturbed(lab: Lab, *options: str) -> str:
    answer = lab.cache_teacher("--quiet", *options, "--set", "cache.path=undisturbed")
    assert answer.status == 0, answer.stderr
    return digest_files(lab.folder / "undisturbed")


@pytest.mark.parametrize(("backend", "compression"), VARIANTS)
def test_killed_twenty_times_and_continued_ends_in_the_same_bytes(
    lab: Lab, nursery: Nursery, backend: str, compression: str
) -> None:
    options = settings(backend, compression)
    expected = undisturbed(lab, *options)
    (lab.folder / "slow").write_text(str(SLOW_S))
    moments = random.Random(f"{backend} {compression}")
    killed = 0
    while killed < KILLS:
        child = nursery.start("cache-teacher", str(lab.recipe), *options)
        time.sleep(moments.uniform(0.0, LATEST_KILL_S))
        child.kill()
        status = child.wait().status
        assert status in (0, -signal.SIGKILL)
        if status == 0:
            break
        killed += 1
    (lab.folder / "slow").unlink()
    answer = nursery.start("cache-teacher", str(lab.recipe), *options).wait()
    print("KILLED", killed)
    assert answer.status == 0, answer.stderr
    assert digest_files(lab.cache) == expected

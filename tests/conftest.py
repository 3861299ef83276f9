"""What tests share: a laboratory of their own each, for they break things."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from laboratory import MODELS, RECIPE, ROWS, Lab, draw_samples, write_samples
from nursery import Nursery

# An example may take as long as it takes: the machine is shared, and no test is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, on which the small models of tests are not at home, from all but tests of one."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def lab_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the laboratory once; tests take copies."""
    folder = tmp_path_factory.mktemp("laboratory")
    write_samples(folder / "train.parquet", draw_samples(ROWS, seed=0, prefix="s"))
    write_samples(folder / "validation.parquet", draw_samples(20, seed=1, prefix="v"))
    (folder / "tiny_models.py").write_text(MODELS)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="session")
def cached_source(lab_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the laboratory's cache once; tests take copies."""
    folder = tmp_path_factory.mktemp("cached") / "laboratory"
    shutil.copytree(lab_source, folder)
    answer = Lab(folder).cache_teacher("--quiet")
    assert answer.status == 0, answer.stderr
    return folder


@pytest.fixture
def lab(lab_source: Path, tmp_path: Path) -> Lab:
    """Give a laboratory without a cache."""
    return _copy(lab_source, tmp_path)


@pytest.fixture
def cached_lab(cached_source: Path, tmp_path: Path) -> Lab:
    """Give a laboratory with a complete cache of 8 parts."""
    return _copy(cached_source, tmp_path)


def _copy(source: Path, tmp_path: Path) -> Lab:
    return Lab(Path(shutil.copytree(source, tmp_path / f"lab{len(list(tmp_path.iterdir()))}")))


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Give a place where command lines are born quickly, to be killed."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the disk out of it: only a power cut could tell, and the tests take half the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

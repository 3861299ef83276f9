"""Tasks on workers that come and go; the workers are real, and stand still in between."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.compute import Workers, ask_workers, open_workers, schedule
from pipeline.compute import workers as module
from pipeline.compute.workers import job_options, visible_devices
from pipeline.errors import PipelineError, RecipeError


@pytest.fixture(scope="module")
def pair() -> Iterator[Workers]:
    with open_workers("local", workers=2) as started:
        yield started


class Watched:
    """A client that counts the futures that are in flight."""

    def __init__(self, client: Any) -> None:
        self.client, self.loop, self.most = client, client.loop, 0
        self.last: list[Any] = []

    def map(self, *words: Any, **options: Any) -> Any:
        futures = self.last = self.client.map(*words, **options)
        pending = [each for each in self.client.futures.values() if each.status == "pending"]
        self.most = max(self.most, len(pending))
        return futures

    def gather(self, futures: Any) -> Any:
        return self.client.gather(futures)

    def nthreads(self) -> Any:
        return self.client.nthreads()


def fails_at_first(folder: Path, times: int, number: int) -> int:
    """Fail so many times, counted in a file, and then answer."""
    path = folder / str(number)
    tried = int(path.read_text()) if path.exists() else 0
    path.write_text(str(tried + 1))
    if tried < times:
        raise ValueError(f"try {tried + 1}")
    return number


def always_die_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wait_for(path: Path, number: int) -> int:
    while not path.exists():
        time.sleep(0.01)
    return number


def die_at_first(folder: Path, number: int) -> int:
    path = folder / str(number)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_every_question_is_answered_and_few_are_in_flight(pair: Workers) -> None:
    watched = Watched(pair.client)
    many = ask_workers(replace(pair, client=watched), abs, range(0, -200, -1))
    found = {done.question: done.answer for done in many}
    assert found == {-number: [number] for number in range(200)}
    assert watched.most <= 2 * schedule.AHEAD


def test_nothing_asked_is_nothing_done(pair: Workers) -> None:
    assert list(ask_workers(pair, abs, [])) == []


def test_what_fails_twice_is_asked_a_third_time(pair: Workers, tmp_path: Path) -> None:
    (done,) = ask_workers(pair, partial(fails_at_first, tmp_path, 2), [7])
    assert (done.answer, done.error) == ([7], None)


def test_what_fails_three_times_is_told_and_the_others_go_on(pair: Workers, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / str(number)).write_text("9")
    found = {
        done.question: done
        for done in ask_workers(pair, partial(fails_at_first, tmp_path, 3), range(4))
    }
    assert str(found[0].error) == "try 3"
    assert [found[number].answer for number in (1, 2, 3)] == [[1], [2], [3]]
    assert (tmp_path / "0").read_text() == "3"


def test_a_worker_that_dies_gives_its_task_to_another(pair: Workers, tmp_path: Path) -> None:
    found = [done.answer for done in ask_workers(pair, partial(die_at_first, tmp_path), [3])]
    assert found == [[3]]


@pytest.mark.slow
def test_who_kills_every_worker_is_told_and_what_waited_there_is_done(pair: Workers) -> None:
    found = {done.question: done for done in ask_workers(pair, always_die_at_two, range(6))}
    assert [found[number].answer for number in (0, 1, 3, 4, 5)] == [[0], [1], [3], [4], [5]]
    assert "attempted to run task" in str(found[2].error).lower()


def test_an_error_about_a_recipe_travels_whole() -> None:
    error = pickle.loads(pickle.dumps(RecipeError("tiny.toml", ["one", "two"])))
    assert (error.problems, str(error)) == (
        ("one", "two"),
        "tiny.toml: 2 problems\n  one\n  two",
    )


@pytest.mark.parametrize(
    ("named", "expected"), [(None, ["0", "1", "0"]), ("3,GPU-5f", ["3", "GPU-5f", "3"])]
)
def test_each_worker_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, named: str | None, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    found = [visible_devices(worker)["CUDA_VISIBLE_DEVICES"] for worker in range(3)]
    assert found == expected


def test_without_gpus_nothing_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_devices(0) == {}


@pytest.mark.parametrize(
    ("kind", "library", "name"),
    [("local", "distributed", "distributed"), ("slurm", "dask_jobqueue", "dask-jobqueue")],
)
def test_a_library_that_is_missing_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, library: str, name: str
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda each: None if each == library else object())
    with pytest.raises(PipelineError) as refused, open_workers(kind):
        pass
    assert str(refused.value) == (
        f"compute: {name} is not installed, which spreads work over workers. "
        "pip install 'teacher-logit-cache[cluster]', or leave the table [compute] out."
    )


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.2)
    with (
        pytest.raises(PipelineError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:9' \("),
        open_workers("dask", address="tcp://127.0.0.1:9"),
    ):
        pass


def test_a_job_says_what_the_recipe_says_and_takes_one_task_at_a_time() -> None:
    found = job_options(
        cores=4,
        memory="8GB",
        queue="gpu",
        walltime="01:00:00",
        interface="ib0",
        setup=["module load cuda"],
        extra=["--gres=gpu:1"],
    )
    assert found == {
        "cores": 4,
        "memory": "8GB",
        "processes": 1,
        "queue": "gpu",
        "walltime": "01:00:00",
        "interface": "ib0",
        "job_script_prologue": ["module load cuda"],
        "job_extra_directives": ["--gres=gpu:1"],
        "worker_extra_args": ["--nthreads", "1"],
    }


def test_a_scheduler_that_goes_away_is_told_and_not_waited_for(
    pair: Workers, tmp_path: Path
) -> None:
    # Which is what Dask does to futures when it loses its scheduler.
    watched = Watched(pair.client)
    threading.Timer(0.5, lambda: pair.client.cancel(watched.last)).start()
    answers = ask_workers(
        replace(pair, client=watched), partial(wait_for, tmp_path / "go"), range(2)
    )
    with pytest.raises(
        PipelineError, match=r"this machine's workers went away \(.*\)\. Parts that"
    ):
        list(answers)
    (tmp_path / "go").touch()

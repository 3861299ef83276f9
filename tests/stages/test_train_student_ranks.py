"""Students on several ranks, through the command line: what torchrun would start, by hand."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from laboratory import Answer, Lab, options
from nursery import Child, Nursery, wait_until

# Without dropout, whose draws are each rank's own.
STEADY = ("student.model.arguments={ dropout = 0.0 }", "training.gradients_every=4")


def train(nursery: Nursery, lab: Lab, size: int, *values: str) -> list[Answer]:
    return [child.wait() for child in start(nursery, lab, size, *values)]


def start(nursery: Nursery, lab: Lab, size: int, *values: str, seconds: int = 60) -> list[Child]:
    return nursery.start_ranks(
        size,
        "train-student",
        str(lab.recipe),
        "--json",
        *options(*values),
        environment={"PIPELINE_RANK_TIMEOUT_S": f"{seconds}"},
    )


def assert_same_lines(lines: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(lines) == len(expected)
    for one, other in zip(lines, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=2e-6, abs=1e-6)


@pytest.fixture
def lab(cached_lab: Lab) -> Lab:
    """Give a laboratory with one run of one rank, "alone"."""
    answer = cached_lab.train_student("--quiet", *options(*STEADY, "run.path=alone"))
    assert answer.status == 0, answer.stderr
    return cached_lab


def read_result(lab: Lab, run: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((lab.folder / run / "result.json").read_text())
    return result


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_train_the_student_of_one(size: int, lab: Lab, nursery: Nursery) -> None:
    first, *others = train(nursery, lab, size, *STEADY)
    assert first.status == 0, first.stderr
    assert others == [Answer(0, "", "")] * (size - 1)
    assert_same_lines(lab.metrics(), lab.metrics("alone"))
    alone, together = read_result(lab, "alone"), read_result(lab, "run")
    assert (alone.pop("ranks"), together.pop("ranks")) == (1, size)
    for result in (alone, together):
        del result["elapsed_s"], result["test"]
    # A share is written with four digits.
    assert together.pop("gradient_share") == pytest.approx(alone.pop("gradient_share"), abs=1e-4)
    assert flat(together) == pytest.approx(flat(alone), rel=1e-6)
    identities = [json.loads((lab.folder / run / "recipe.json").read_text())["identity"]
                  for run in ("alone", "run")]  # fmt: skip
    assert identities[0] == identities[1]


def flat(result: dict[str, Any]) -> dict[str, float]:
    numbers = {name: each for name, each in result.items() if isinstance(each, int | float)}
    return {**numbers, **result["validation"]}


@pytest.mark.parametrize("size", [1, 3])
def test_a_run_of_two_ranks_goes_on_with_the_rest_of_the_epoch_on_any_number(
    size: int, cached_lab: Lab, nursery: Nursery
) -> None:
    settings = (*STEADY, "training.checkpoint_every=3", "training.epochs=6")
    assert cached_lab.train_student("--quiet", *options(*settings, "run.path=alone")).status == 0
    children = start(nursery, cached_lab, 2, *settings)
    pointer = cached_lab.run / "last.json"
    wait_until(lambda: pointer.exists() and json.loads(pointer.read_text())["step"] > 3)
    for child in children:
        child.kill(signal.SIGKILL)
    for child in children:
        child.wait()
    assert not (cached_lab.run / "result.json").exists()
    answers = train(nursery, cached_lab, size, *settings)
    assert [answer.status for answer in answers] == [0] * size
    assert f"goes on with {size} rank" in answers[0].stderr
    assert_same_lines(
        [line for line in cached_lab.metrics() if line["step"] <= 40],
        [line for line in cached_lab.metrics("alone") if line["step"] <= 40],
    )
    assert [line["step"] for line in cached_lab.metrics() if "loss" in line] == list(range(1, 49))


def test_stopped_ranks_go_on_bit_for_bit(cached_lab: Lab, nursery: Nursery) -> None:
    settings = ("training.checkpoint_every=3", "training.epochs=5")  # with dropout
    undisturbed = train(nursery, cached_lab, 2, *settings, "run.path=undisturbed")
    assert [answer.status for answer in undisturbed] == [0, 0]
    children = start(nursery, cached_lab, 2, *settings)
    wait_until(lambda: (cached_lab.run / "last.json").exists())
    children[1].kill(signal.SIGTERM)
    ended = [child.wait() for child in children]
    assert [answer.status for answer in ended] == [2, 2]
    assert [answer.status for answer in train(nursery, cached_lab, 2, *settings)] == [0, 0]
    for name in ("metrics.jsonl", "best.safetensors"):
        bytes_of = [(cached_lab.folder / run / name).read_bytes() for run in ("run", "undisturbed")]
        assert bytes_of[0] == bytes_of[1]


def errors(answers: list[Answer]) -> list[str]:
    """List what all ranks have said is wrong."""
    told = [line for answer in answers for line in answer.stderr.split("error: ")[1:]]
    assert [answer.stdout for answer in answers] == [""] * len(answers)
    return told


def test_what_all_ranks_find_is_told_once_and_nothing_is_written(
    cached_lab: Lab, nursery: Nursery
) -> None:
    for values, told in (
        (("training.epocs=3",), "recipe.toml: 1 problem\n  training.epocs: unknown key; did you"),
        (("cache.path=nowhere",), f"{cached_lab.folder}/nowhere: there is no such folder."),
    ):
        answers = train(nursery, cached_lab, 2, *values)
        assert [answer.status for answer in answers] == [2, 2]
        (error,) = errors(answers)
        assert error.startswith(told)
        assert not cached_lab.run.exists()


def test_what_one_rank_finds_stops_all(cached_lab: Lab, nursery: Nursery) -> None:
    other = Lab(Path(shutil.copytree(cached_lab.folder, cached_lab.folder.parent / "other")))
    shutil.rmtree(other.cache)
    answers = of_two_machines(nursery, cached_lab, other)
    assert [answer.status for answer in answers] == [2, 2]
    assert errors(answers)[0].startswith(f"{other.cache}: there is no such folder.")
    assert not cached_lab.run.exists()


def test_ranks_that_read_other_data_are_refused(cached_lab: Lab, nursery: Nursery) -> None:
    other = Lab(Path(shutil.copytree(cached_lab.folder, cached_lab.folder.parent / "other")))
    shutil.copy(other.folder / "train.parquet", other.folder / "validation.parquet")
    answers = of_two_machines(nursery, cached_lab, other)
    assert [answer.status for answer in answers] == [2, 2]
    (error,) = errors(answers)
    first, second, last = error.strip().split("\n")
    assert first == "rank 1 of 2: opened something else than rank 0 (there)"
    assert second.startswith("  held_out.validation.data: there '")
    assert last == "  Give all machines the same recipe, data, caches and models."
    assert not cached_lab.run.exists()


def of_two_machines(nursery: Nursery, one: Lab, other: Lab) -> list[Answer]:
    """Start a rank in each laboratory, as if they were on machines of their own."""
    return [
        child.wait()
        for child in nursery.start_ranks(
            2, "train-student", str(one.recipe), "--quiet", others=(str(other.recipe),)
        )
    ]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_is_killed_ends_the_others_with_one_error(
    lost: int, cached_lab: Lab, nursery: Nursery
) -> None:
    children = start(nursery, cached_lab, 2, "training.epochs=5000")
    wait_until(lambda: (cached_lab.run / "last.json").exists())
    children[lost].kill(signal.SIGKILL)
    answers = [child.wait() for child in children]
    assert answers[1 - lost].status == 2
    left = 1 - lost
    assert errors(answers) == [
        f"rank {left} of 2: another rank was lost: it was killed, or its machine is gone. The same "
        "command goes on from the last checkpoint.\n"
    ]


def test_a_rank_that_hangs_ends_the_others_in_time(cached_lab: Lab, nursery: Nursery) -> None:
    children = start(nursery, cached_lab, 2, "training.epochs=5000", seconds=1)
    wait_until(lambda: (cached_lab.run / "last.json").exists())
    children[1].kill(signal.SIGSTOP)
    answer = children[0].wait()
    assert answer.status == 2
    assert "rank 0 of 2: another rank was lost: it has not answered for 1 s" in answer.stderr
    children[1].kill(signal.SIGKILL)
    children[1].wait()


def test_a_loss_that_is_not_finite_is_told_by_the_rank_that_met_it(
    cached_lab: Lab, nursery: Nursery
) -> None:
    answers = train(nursery, cached_lab, 2, "training.learning_rate=1e30", "training.epochs=9")
    assert [answer.status for answer in answers] == [2, 2]
    (error,) = errors(answers)
    assert " became " in error
    assert "on a batch that begins with the samples s" in error


def test_synchronised_statistics_are_refused(cached_lab: Lab, nursery: Nursery) -> None:
    models = cached_lab.folder / "tiny_models.py"
    models.write_text(models.read_text() + SYNCHRONISED)
    answers = train(nursery, cached_lab, 2, 'student.model.factory="tiny_models:synchronised"')
    (error,) = errors(answers)
    assert error == (
        f"{cached_lab.recipe.name}: 1 problem\n"
        "  student.model: has SyncBatchNorm, which would wait for ever for a rank without rows of "
        "a short batch; give it BatchNorm, of which each rank has its own statistics and their "
        "average is kept\n"
    )
    assert not cached_lab.run.exists()


def test_students_that_begin_with_other_weights_are_refused(
    cached_lab: Lab, nursery: Nursery
) -> None:
    models = cached_lab.folder / "tiny_models.py"
    models.write_text(models.read_text() + OF_RANK)
    answers = train(nursery, cached_lab, 2, 'student.model.factory="tiny_models:of_rank"')
    (error,) = errors(answers)
    assert "rank 1 of 2: opened something else than rank 0 (there)\n  initial_weights: " in error
    assert not cached_lab.run.exists()


OF_RANK = """

def of_rank():
    import os
    torch.manual_seed(int(os.environ["RANK"]))
    return student()
"""
SYNCHRONISED = """

def synchronised():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.SyncBatchNorm(5))
"""


def test_a_dry_run_is_told_once(cached_lab: Lab, nursery: Nursery) -> None:
    children = nursery.start_ranks(2, "train-student", str(cached_lab.recipe), "--dry-run")
    first, second = (child.wait() for child in children)
    assert first.stdout.endswith("dry run: would take 16 steps; nothing was written\n")
    assert second == Answer(0, "", "")


@pytest.mark.slow
def test_torchrun_starts_them(lab: Lab) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", "-m", "pipeline", "train-student", str(lab.recipe), *options(*STEADY)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.count("16 steps, best at step") == 1
    assert_same_lines(lab.metrics(), lab.metrics("alone"))

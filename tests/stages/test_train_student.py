"""A run is what its recipe says, whatever interrupts it."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from laboratory import Lab, run_cli
from nursery import Nursery, wait_until

KILLS = 4
# Everything that a checkpoint has to remember: dropout, two batches a step, a rate that changes.
HARD_TO_RESUME = """\
epochs = 18
accumulate = 2
warmup_steps = 3
schedule = "cosine"
clip_norm = 1.0
checkpoint_every = 3
"""
STEPS = 18 * 4


def steps_of(lab: Lab, run: str = "run") -> list[dict[str, float]]:
    return [line for line in lab.metrics(run) if "loss" in line]


def losses_of(lab: Lab, run: str) -> list[float]:
    return [line["loss"] for line in steps_of(lab, run)]


def cache_validation(lab: Lab) -> list[str]:
    """Cache the validation set too; gives the options that name it."""
    options = ["--set", "cache.data=validation", "--set", "cache.path=validation"]
    assert lab.cache_teacher("--quiet", *options).status == 0
    return ["--set", "validation.cache=validation"]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("metrics.jsonl", "best.safetensors")}


def wait_for_checkpoint(lab: Lab, after: int = 0) -> int:
    """Wait for a checkpoint later than step `after`, or the end; gives its step."""
    pointer, ended = lab.run / "last.json", lab.run / "result.json"

    def step() -> int:
        return int(json.loads(pointer.read_text())["step"]) if pointer.exists() else 0

    wait_until(lambda: step() > after or ended.exists())
    return step()


def test_killed_again_and_again_continues_bit_for_bit(cached_lab: Lab, nursery: Nursery) -> None:
    cached_lab.edit("epochs = 2\n", HARD_TO_RESUME)
    assert cached_lab.train_student("--quiet", "--set", "run.path=undisturbed").status == 0
    moments, step, killed = random.Random(0), 0, 0
    for _ in range(KILLS):
        child = nursery.start("train-student", str(cached_lab.recipe))
        step = wait_for_checkpoint(cached_lab, after=step)
        time.sleep(moments.uniform(0.0, 0.03))
        child.kill(signal.SIGKILL)
        killed += child.wait().status == -signal.SIGKILL
    assert killed, "the run was always faster than the knife"
    answer = cached_lab.train_student()
    assert answer.status == 0, answer.stderr
    assert "train-student: 0/" not in answer.stderr
    assert bytes_of(cached_lab.run) == bytes_of(cached_lab.folder / "undisturbed")
    assert [line["step"] for line in steps_of(cached_lab)] == list(range(1, STEPS + 1))


def test_interrupted_says_so_in_one_line_and_goes_on(cached_lab: Lab, nursery: Nursery) -> None:
    cached_lab.edit("epochs = 2\n", HARD_TO_RESUME)
    child = nursery.start("train-student", str(cached_lab.recipe), "--quiet")
    wait_for_checkpoint(cached_lab)
    child.kill(signal.SIGINT)
    answer = child.wait()
    assert (answer.status, answer.stdout) == (130, "")
    step = json.loads((cached_lab.run / "last.json").read_text())["step"]
    assert answer.stderr.strip() == (
        f"interrupted; the checkpoint of step {step} is in {cached_lab.run}; the same command goes "
        "on from there"
    )
    answer = cached_lab.train_student()
    assert answer.status == 0
    assert "train-student: 0/" not in answer.stderr


def test_the_same_recipe_gives_the_same_run(cached_lab: Lab) -> None:
    for run in ("first", "second"):
        assert cached_lab.train_student("--quiet", "--set", f"run.path={run}").status == 0
    assert bytes_of(cached_lab.folder / "first") == bytes_of(cached_lab.folder / "second")
    other = ["--set", "run.path=other", "--set", "training.seed=1"]
    assert cached_lab.train_student("--quiet", *other).status == 0
    assert losses_of(cached_lab, "other") != losses_of(cached_lab, "first")


def test_patience_ends_a_run_early(cached_lab: Lab) -> None:
    # At this rate nothing gets better after the first evaluation.
    options = ["training.learning_rate=1e-12", "training.epochs=50", "training.patience=3"]
    answer = cached_lab.train_student("--json", *(f for each in options for f in ("--set", each)))
    assert answer.status == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert (result["steps"], result["best_step"]) == (4 * 8, 8)


def test_two_batches_of_8_a_step_are_one_of_16(cached_lab: Lab) -> None:
    cached_lab.edit("tiny_models:student", "tiny_models:student_without_dropout")
    models = cached_lab.folder / "tiny_models.py"
    added = "\n\ndef student_without_dropout():\n    return student(dropout=0.0)\n"
    models.write_text(models.read_text() + added)
    sizes = {"large": (16, 1), "small": (8, 2)}
    for run, (batch_size, accumulate) in sizes.items():
        options = [f"run.path={run}", f"training.batch_size={batch_size}"]
        options += [f"training.accumulate={accumulate}", "training.epochs=4"]
        answer = cached_lab.train_student("--quiet", *(f for o in options for f in ("--set", o)))
        assert answer.status == 0, answer.stderr
    assert len(losses_of(cached_lab, "large")) == 16
    assert losses_of(cached_lab, "small") == pytest.approx(losses_of(cached_lab, "large"), rel=1e-5)


def test_bfloat16_trains_near_float32(cached_lab: Lab) -> None:
    for precision in ("float32", "bfloat16"):
        options = [f"run.path={precision}", f"training.precision={precision}"]
        answer = cached_lab.train_student("--quiet", *(f for o in options for f in ("--set", o)))
        assert answer.status == 0, answer.stderr
    half, full = losses_of(cached_lab, "bfloat16"), losses_of(cached_lab, "float32")
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_a_cache_of_the_validation_set_compares_with_the_teacher(cached_lab: Lab) -> None:
    options = cache_validation(cached_lab)
    answer = cached_lab.train_student("--json", *options, "--set", "validation.best_by=teacher_kl")
    assert answer.status == 0, answer.stderr
    found = [line["validation"] for line in cached_lab.metrics() if "validation" in line]
    assert all(each["teacher_kl"] > 0 for each in found)
    assert all(0 <= each["teacher_agreement"] <= 1 for each in found)
    best = json.loads(answer.stdout)["validation"]
    assert best["teacher_kl"] == min(each["teacher_kl"] for each in found)


def test_the_best_by_nll_is_kept(cached_lab: Lab) -> None:
    answer = cached_lab.train_student(
        "--json", "--set", "validation.best_by=nll", "--set", "training.epochs=6"
    )
    result = json.loads(answer.stdout)
    found = {
        line["step"]: line["validation"] for line in cached_lab.metrics() if "validation" in line
    }
    assert result["validation"] == found[result["best_step"]]
    assert result["validation"]["nll"] == min(each["nll"] for each in found.values())


def test_a_dry_run_writes_nothing(cached_lab: Lab) -> None:
    before = sorted(cached_lab.folder.rglob("*"))
    for command in ("train-student", "cache-teacher"):
        answer = run_cli(command, str(cached_lab.recipe), "--dry-run", "--set", "cache.path=cache")
        assert answer.status == 0, answer.stderr
        assert answer.stdout.endswith(" nothing was written\n")
    answer = cached_lab.cache_teacher("--dry-run", "--set", "cache.path=elsewhere")
    assert answer.status == 0
    assert answer.stdout.startswith(
        f"{cached_lab.folder}/elsewhere: 60 rows in 8 parts, 2 of 5 classes kept\n"
    )
    after = sorted(path for path in cached_lab.folder.rglob("*") if "__pycache__" not in str(path))
    assert after == [path for path in before if "__pycache__" not in str(path)]


def test_a_finished_run_is_a_teacher(cached_lab: Lab) -> None:
    assert cached_lab.train_student("--quiet").status == 0
    cached_lab.edit(
        'kind = "python", factory = "tiny_models:teacher"', 'kind = "run", path = "run"'
    )
    options = ["--quiet", "--set", "cache.path=second", "--set", "run.path=stone"]
    assert cached_lab.cache_teacher(*options).status == 0
    assert cached_lab.train_student(*options).status == 0


def test_hard_labels_alone_need_no_cache(lab: Lab) -> None:
    text = lab.recipe.read_text()
    soft = '[[losses]]\nkind = "soft_targets"\nweight = 0.9\ntemperature = 4.0\n\n'
    lab.recipe.write_text(text.replace(soft, ""))
    answer = lab.train_student("--json", "--quiet", "--set", "training.epochs=30")
    assert json.loads(answer.stdout)["validation"]["accuracy"] >= 0.9


def test_soft_targets_teach_what_the_teacher_knows(cached_lab: Lab) -> None:
    cached_lab.edit('[[losses]]\nkind = "hard_labels"\nweight = 0.1\n', "")
    options = ["--set", "training.epochs=30", "--set", "student.model.arguments={dropout=0.0}"]
    answer = cached_lab.train_student("--json", "--quiet", *options)
    assert json.loads(answer.stdout)["validation"]["accuracy"] >= 0.9


def test_an_ended_run_is_told_again_and_left_alone(cached_lab: Lab) -> None:
    first = cached_lab.train_student()
    before = {path: path.stat().st_mtime_ns for path in cached_lab.run.rglob("*")}
    again = cached_lab.train_student()
    assert (again.status, again.stdout) == (0, first.stdout)
    assert f"{cached_lab.run}: this run has ended; delete the folder to train it again\n" in (
        again.stderr
    )
    lock = cached_lab.run / ".lock"
    now = {path: path.stat().st_mtime_ns for path in cached_lab.run.rglob("*")}
    assert now | {lock: 0} == before | {lock: 0}


def test_two_at_once_on_one_run_do_not_mix(cached_lab: Lab, nursery: Nursery) -> None:
    cached_lab.edit("epochs = 2\n", "epochs = 20\n")
    first = nursery.start("train-student", str(cached_lab.recipe))
    wait_for_checkpoint(cached_lab)
    second = cached_lab.train_student("--quiet")
    assert second.status == 2
    assert second.stderr == (
        f"error: {cached_lab.run}: another process is training this run. Wait for it, or name "
        "another folder with --set run.path=...\n"
    )
    assert first.wait().status == 0

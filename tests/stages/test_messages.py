"""What a stranger reads when something is wrong: one message, where, what, what to do."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from laboratory import ROWS, Answer, Lab, draw_samples, run_cli, write_samples

MENDABLE, FAULT = 2, 1


def sets(*settings: str) -> list[str]:
    return [word for each in settings for word in ("--set", each)]


def assert_says(answer: Answer, *, status: int = MENDABLE, text: str) -> None:
    """The whole of standard error is one message, and standard output is empty."""
    assert (answer.status, answer.stdout) == (status, "")
    assert answer.stderr == f"error: {text}\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system that holds 160 kB; this takes a privileged user."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only a privileged user can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_cache_teacher_and_keeps_what_is_done(
    cached_lab: Lab, small_disk: Path
) -> None:
    cache = small_disk / "cache"
    answer = cached_lab.cache_teacher("--quiet", *sets(f"cache.path={cache}"))
    done = len(list(cache.glob("parts/*.json")))
    assert 0 < done < 8
    assert (answer.status, answer.stdout) == (MENDABLE, "")
    assert answer.stderr.startswith(f"error: {cache}: disk full (0.0 MB left) while writing ")
    assert answer.stderr.endswith(
        "Free some space and run the same command again; nothing is lost, finished parts are "
        "kept.\n"
    )
    assert answer.stderr.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert cached_lab.cache_teacher("--quiet", *sets(f"cache.path={cache}")).status == 0
    manifest = (cached_lab.cache / "manifest.json").read_bytes()
    assert (cache / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("ballast_bytes", range(110_000, 160_000, 12_000))
def test_a_full_disk_stops_train_student_wherever_it_is(
    cached_lab: Lab, small_disk: Path, ballast_bytes: int
) -> None:
    (small_disk / "ballast").write_bytes(bytes(ballast_bytes))
    path = sets(f"run.path={small_disk}/run", "training.checkpoint_every=1")
    answer = cached_lab.train_student("--quiet", *path)
    if answer.status == 0:
        assert (small_disk / "run" / "result.json").exists()
        return
    assert_says(
        answer,
        text=f"{small_disk}/run: disk full (0.0 MB left). Free some space and run the same command "
        "again; it goes on from the last checkpoint.",
    )
    (small_disk / "ballast").unlink()
    assert cached_lab.train_student("--quiet", *path).status == 0


UNWRITABLE = {
    "below a file": ("recipe.toml/cache", "Not a directory"),
    "proc": ("/proc/cache", "No such file or directory"),
    "too long": ("x" * 300, "File name too long"),
}


@pytest.mark.parametrize("place", UNWRITABLE)
def test_a_folder_that_cannot_be_written_is_named(cached_lab: Lab, place: str) -> None:
    path, why = UNWRITABLE[place]
    where = cached_lab.folder / path
    assert_says(
        cached_lab.cache_teacher("--quiet", *sets(f"cache.path={path}")),
        text=f"{where}: cannot write {where}: {why}. Allow this user to write there, or name "
        "another folder for the cache.",
    )
    assert_says(
        cached_lab.train_student("--quiet", *sets(f"run.path={path}")),
        text=f"{where}: cannot write there: {why}. Allow this user to write, or name another "
        "folder with --set run.path=...",
    )


def test_a_file_or_a_foreign_folder_is_no_place_for_a_cache_or_a_run(cached_lab: Lab) -> None:
    lab, file = cached_lab, cached_lab.recipe
    assert_says(
        lab.cache_teacher("--quiet", *sets("cache.path=recipe.toml")),
        text=f"{file}: is a file, not a folder. Name another path for the cache.",
    )
    assert_says(
        lab.train_student("--quiet", *sets("cache.path=recipe.toml")),
        text=f"{file}: is a file, not a folder. Name the folder of a cache.",
    )
    (lab.folder / "mine").mkdir()
    (lab.folder / "mine" / "thesis.tex").touch()
    assert_says(
        lab.cache_teacher("--quiet", *sets("cache.path=mine")),
        text=f"{lab.folder}/mine: holds thesis.tex and is not a cache. "
        "Name a new folder or an empty one.",
    )
    assert_says(
        lab.train_student("--quiet", *sets("cache.path=mine")),
        text=f"{lab.folder}/mine: is not a cache: it has no plan.json. Name another folder.",
    )
    assert_says(
        lab.train_student("--quiet", *sets("run.path=cache")),
        text=f"{lab.cache}: holds manifest.json, parts, plan.json, samples, targets and is not a "
        "run. Name a new folder or an empty one with --set run.path=...",
    )
    assert run_cli("verify", str(lab.cache), "--quiet").status == 0


def sicken(lab: Lab, *rows: int) -> None:
    """Make the teacher answer NaN to some samples."""
    table = draw_samples(ROWS, seed=0, prefix="s")
    for row in rows:
        table["image"][row].reshape(-1)[0] = 255
    write_samples(lab.folder / "train.parquet", table)
    (lab.folder / "sick").touch()


def test_nan_logits_name_the_samples_and_finished_parts_stay(lab: Lab) -> None:
    sicken(lab, 41, 42)
    assert_says(
        lab.cache_teacher("--quiet"),
        text="teacher: its logits are NaN or infinite for 2 of 4 samples of a batch (s041, s042); "
        "every logit must be finite.\n"
        "  Try teacher.precision = 'float32', or look at these samples. Finished parts are kept.",
    )
    done = {path: path.stat().st_mtime_ns for path in lab.cache.glob("parts/*.json")}
    assert 0 < len(done) <= 5
    (lab.folder / "sick").unlink()
    assert lab.cache_teacher("--quiet").status == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_teacher_of_other_classes_than_the_labels_is_refused(lab: Lab) -> None:
    advice = (
        "but the teacher answers with 3 classes; give the data the teacher was trained for, or "
        "leave out the label column and class_names"
    )
    three = "teacher.model.arguments={classes=3}"
    assert_says(
        lab.cache_teacher("--quiet", *sets(three)),
        text=f"recipe.toml: 1 problem\n  data.train: has labels up to 4, {advice}",
    )
    five = 'data.train.class_names=["ant", "bee", "cat", "dog", "elk"]'
    assert_says(
        lab.cache_teacher("--quiet", *sets(three, five)),
        text="recipe.toml: 1 problem\n  data.train: has 5 classes (ant, bee, cat, dog, elk), "
        f"{advice}",
    )
    assert not lab.cache.exists()


def test_more_kept_classes_than_there_are_is_refused(lab: Lab) -> None:
    assert_says(
        lab.cache_teacher("--quiet", *sets("targets.selection.k=6")),
        text="recipe.toml: 1 problem\n  targets.selection.k: must be between 1 and 5, the classes "
        "of the teacher; got 6",
    )


def test_a_student_of_other_classes_is_refused_before_its_run_is_begun(cached_lab: Lab) -> None:
    advice = "Give the student the classes of its data and of its teacher."
    assert_says(
        cached_lab.train_student("--quiet", *sets("student.model.arguments={classes=7}")),
        text=f"student.model: answers with 7 classes, but {cached_lab.cache} holds targets over 5 "
        f"classes (training.data). {advice}",
    )
    soft = '[[losses]]\nkind = "soft_targets"\nweight = 0.9\ntemperature = 4.0\n'
    cached_lab.edit(soft, "")
    assert_says(
        cached_lab.train_student("--quiet", *sets("student.model.arguments={classes=3}")),
        text="student.model: answers with 3 classes, but data.train has labels up to 4 "
        f"(training.data). {advice}",
    )
    assert cached_lab.train_student("--quiet").status == 0


@pytest.mark.parametrize("command", ["cache-teacher", "train-student"])
def test_an_empty_dataset_is_refused(cached_lab: Lab, command: str) -> None:
    write_samples(cached_lab.folder / "empty.parquet", draw_samples(0, seed=0, prefix="s"))
    name = "train" if command == "cache-teacher" else "validation"
    setting = f"data.{name}.path=empty.parquet"
    assert_says(
        run_cli(command, str(cached_lab.recipe), "--quiet", *sets(setting)),
        text=f"data.{name}: there are no samples; it must have at least one",
    )


FIVE_MISTAKES = """\
name = "five"

[data.train]
kind = "parqet"
path = "train.parquet"

[teacher]
model = { kind = "python", factory = "tiny_models:teacher", chekpoint = "x" }
batch_size = 0

[targets]
selection = { kind = "top_k", k = "2" }

[cache]
path = "cache"
data = "trian"
"""


@pytest.mark.parametrize("command", ["cache-teacher", "train-student", "verify"])
def test_five_mistakes_are_reported_at_once(lab: Lab, command: str) -> None:
    lab.recipe.write_text(FIVE_MISTAKES)
    assert_says(
        run_cli(command, str(lab.recipe)),
        text="recipe.toml: 5 problems\n"
        "  data.train: unknown kind 'parqet'; did you mean 'parquet'?\n"
        "  teacher.model.chekpoint: unknown key; did you mean 'checkpoint'?\n"
        "  teacher.batch_size: must be at least 1; got 0\n"
        "  targets.selection.k: must be a valid integer; got '2'\n"
        "  cache.data: there is no dataset 'trian'; did you mean 'train'?\n"
        "  see pipeline/guide/recipe.md",
    )


def test_a_recipe_that_is_not_one_says_what_it_is(lab: Lab) -> None:
    assert_says(
        run_cli("train-student", str(lab.folder)),
        text=f"{lab.folder}: 1 problem\n  is a folder, not a recipe (a .toml file)",
    )
    lab.recipe.write_text("name = tiny\n")
    answer = lab.cache_teacher()
    assert answer.stderr.startswith(f"error: {lab.recipe}: 1 problem\n  is not TOML: ")
    assert "line 1" in answer.stderr


def test_missing_tables_are_all_named_for_each_stage(lab: Lab) -> None:
    lab.recipe.write_text('name = "bare"\n')
    needs = {
        "cache-teacher": ["teacher", "targets", "cache"],
        "train-student": ["student", "losses", "training", "run"],
        "verify": ["cache"],
    }
    for command, tables in needs.items():
        lines = [f"  {each}: is missing; {command} needs the table [{each}]" for each in tables]
        head = f"recipe.toml: {len(tables)} problem{'s' if len(tables) > 1 else ''}"
        assert_says(run_cli(command, str(lab.recipe)), text="\n".join([head, *lines]))


def test_overrides_that_cannot_be_set_are_reported_with_the_rest(lab: Lab) -> None:
    assert_says(
        lab.train_student(*sets("epochs", "name.x=1", "losses.7.weight=1", "training.epoch=3")),
        text="recipe.toml: 4 problems\n"
        "  --set epochs: must be key=value, such as training.epochs=3\n"
        "  --set name.x=1: the recipe has no place 'name.x'\n"
        "  --set losses.7.weight=1: the recipe has no place 'losses.7.weight'\n"
        "  training.epoch: unknown key; did you mean 'epochs'?\n"
        "  see pipeline/guide/recipe.md",
    )


def test_a_run_begun_with_another_recipe_names_the_keys(cached_lab: Lab) -> None:
    assert cached_lab.train_student("--quiet").status == 0
    answer = cached_lab.train_student(
        "--quiet", *sets("training.learning_rate=0.5", "training.seed=0", "losses.1.weight=0.2")
    )
    assert_says(
        answer,
        text=f"{cached_lab.run}: this run was begun with another setup, so it cannot be continued\n"
        "  losses.1.weight: there 0.1, here 0.2\n"
        "  training.learning_rate: there 0.01, here 0.5\n"
        "  Name another folder with --set run.path=..., or delete this one.",
    )
    # What says only how or how often is no other setup.
    assert cached_lab.train_student("--quiet", *sets("training.log_every=3")).status == 0


def test_a_cache_begun_with_another_recipe_names_the_keys(cached_lab: Lab) -> None:
    answer = cached_lab.cache_teacher("--quiet", *sets("teacher.batch_size=8", "cache.path=cache"))
    assert (answer.status, answer.stdout) == (MENDABLE, "")
    assert answer.stderr.startswith(
        f"error: {cached_lab.cache}: this cache was made from another setup, so it cannot be "
        "continued\n  teacher.batch_size: there 4, here 8\n"
    )
    assert answer.stderr.endswith(
        "  Cache into another folder, or delete this one.\n  see pipeline/guide/recipe.md\n"
    )


DAMAGE = {
    "last.json": "{run}/last.json: the run cannot be continued from here, it is not readable",
    "recipe.json": "{run}/recipe.json: is damaged (",
    "result.json": "{run}/result.json: is damaged (",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_document_of_a_run_is_named(cached_lab: Lab, name: str) -> None:
    assert cached_lab.train_student("--quiet").status == 0
    if name != "result.json":
        (cached_lab.run / "result.json").unlink()
    (cached_lab.run / name).write_text('{"half":')
    answer = cached_lab.train_student("--quiet")
    assert (answer.status, answer.stdout) == (MENDABLE, "")
    assert answer.stderr.startswith(f"error: {DAMAGE[name].format(run=cached_lab.run)}")


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "progress.json"])
def test_a_flipped_byte_in_a_checkpoint_is_refused(cached_lab: Lab, name: str) -> None:
    assert cached_lab.train_student("--quiet").status == 0
    (cached_lab.run / "result.json").unlink()
    path = cached_lab.run / "checkpoints" / "000016" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_says(
        cached_lab.train_student("--quiet"),
        text=f"{path}: the run cannot be continued from here, its SHA-256 is not the one it was "
        "saved with. Restore the file, or delete last.json in the run's folder to train from the "
        "start.",
    )
    (cached_lab.run / "last.json").unlink()
    assert cached_lab.train_student("--quiet").status == 0


def test_a_flipped_byte_in_the_weights_of_a_finished_run_is_refused(cached_lab: Lab) -> None:
    assert cached_lab.train_student("--quiet").status == 0
    path = cached_lab.run / "best.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    cached_lab.edit(
        'kind = "python", factory = "tiny_models:teacher"', 'kind = "run", path = "run"'
    )
    assert_says(
        cached_lab.cache_teacher("--quiet", *sets("cache.path=second")),
        text=f"teacher.model.path: {path} is not what its run ended with: its SHA-256 differs. "
        "Restore the file, or train that run again.",
    )


def test_a_run_that_has_not_ended_is_no_teacher(cached_lab: Lab) -> None:
    cached_lab.edit(
        'kind = "python", factory = "tiny_models:teacher"', 'kind = "run", path = "run"'
    )
    there = cached_lab.folder / "run"
    answer = cached_lab.cache_teacher("--quiet")
    assert_says(
        answer,
        text=f"teacher.model.path: there is no folder {there}. Train that run first, or mend the "
        "path.",
    )
    there.mkdir()
    assert_says(
        cached_lab.cache_teacher("--quiet"),
        text=f"teacher.model.path: {there} is not a finished run (no model.json). Continue it with "
        "'pipeline train-student' until it ends.",
    )


def test_a_model_that_fails_on_the_data_names_the_shape(cached_lab: Lab) -> None:
    table = draw_samples(20, seed=1, prefix="v")
    table["image"] = table["image"][:, :, :3, :3]
    write_samples(cached_lab.folder / "small.parquet", table)
    why = (
        "which is 1 x 3 x 3 uint8: RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x9 "
        "and 16x5). Give it data of the shape it takes, or mend the model.\n"
        "  see pipeline/guide/data-and-teachers.md#models\n"
    )
    small = {
        name: sets(f"data.{name}.path=small.parquet", f"data.{name}.shape=[1,3,3]")
        for name in ("train", "validation")
    }
    teacher = cached_lab.cache_teacher("--quiet", *small["train"], *sets("cache.path=small"))
    assert teacher.status == MENDABLE
    assert teacher.stderr == f"error: teacher.model: failed on a sample of data.train, {why}"
    student = cached_lab.train_student("--quiet", *small["validation"])
    assert student.status == MENDABLE
    assert student.stderr == f"error: student.model: failed on a sample of data.validation, {why}"
    assert not (cached_lab.run / "recipe.json").exists()


def test_a_recipe_saved_with_a_byte_order_mark_is_read(lab: Lab) -> None:
    lab.recipe.write_text(lab.recipe.read_text(), encoding="utf-8-sig")
    assert lab.cache_teacher("--dry-run").status == 0


def test_a_temperature_below_one_is_refused_where_a_tail_was_left_out(cached_lab: Lab) -> None:
    assert_says(
        cached_lab.train_student("--quiet", *sets("losses.0.temperature=0.5")),
        text="recipe.toml: 1 problem\n  losses.0.temperature: targets: temperature 0.5 cannot be "
        "served; these targets allow 1 or above, as classes were left out. Choose another "
        "temperature, or cache all classes.",
    )
    assert not cached_lab.run.exists() or not (cached_lab.run / "recipe.json").exists()


def test_a_warm_up_that_never_ends_is_refused(cached_lab: Lab) -> None:
    assert_says(
        cached_lab.train_student("--quiet", *sets("training.warmup_steps=16")),
        text="recipe.toml: 1 problem\n  training.warmup_steps: must be below the 16 steps of this "
        "run; got 16",
    )


def test_a_place_that_cannot_be_a_cache_is_refused_before_the_data_is_read(lab: Lab) -> None:
    answer = lab.cache_teacher(*sets("cache.path=recipe.toml"))
    assert answer.status == 2
    assert "reading data.train" not in answer.stderr


def test_an_incomplete_cache_says_what_is_missing_and_how_to_go_on(cached_lab: Lab) -> None:
    (cached_lab.cache / "manifest.json").unlink()
    go_on = "Run `pipeline cache-teacher RECIPE` or `pipeline generate RECIPE` to go on."
    assert_says(
        cached_lab.train_student("--quiet"),
        text=f"{cached_lab.cache}: all parts are there, but no manifest yet. {go_on}",
    )
    for part in (2, 3, 6):
        (cached_lab.cache / "parts" / f"0000{part}.json").unlink()
    assert_says(
        cached_lab.train_student("--quiet"),
        text=f"{cached_lab.cache}: not complete: 3 of 8 parts are missing (2-3, 6). {go_on}",
    )


@pytest.mark.parametrize("command", ["train-student", "inspect", "verify"])
def test_a_cache_that_is_not_there_says_so(lab: Lab, command: str) -> None:
    target = lab.recipe if command == "train-student" else lab.cache
    assert_says(
        run_cli(command, str(target), "--quiet"),
        text=f"{lab.cache}: there is no such folder. Name the folder of a cache, or make it with "
        "`pipeline cache-teacher RECIPE`.",
    )


def test_a_factory_that_is_not_there_names_the_near_one(lab: Lab) -> None:
    assert_says(
        lab.cache_teacher("--quiet", *sets("teacher.model.factory=tiny_models:techer")),
        text="teacher.model.factory: 1 problem\n  'tiny_models' has no function 'techer'; did you "
        "mean 'teacher'? it offers Teacher, student, teacher",
    )


def test_a_sample_that_cannot_be_used_is_named_and_may_be_skipped(lab: Lab) -> None:
    table = draw_samples(ROWS, seed=0, prefix="s")
    table["image"] = list(table["image"])
    table["image"][9] = np.zeros((1, 3, 4), np.uint8)
    write_samples(lab.folder / "train.parquet", table)
    answer = lab.cache_teacher("--quiet")
    assert (answer.status, answer.stdout) == (MENDABLE, "")
    assert answer.stderr.startswith("error: data.train: 1 fault in 60 samples\n")
    assert "s009" in answer.stderr
    assert answer.stderr.endswith('or set on_error = "skip" to leave them out.\n')
    answer = lab.cache_teacher("--json", *sets("data.train.on_error=skip"))
    assert (answer.status, json.loads(answer.stdout)["rows"]) == (0, 59)
    assert "data.train: skipped s009: " in answer.stderr
    assert "1 skipped" in run_cli("inspect", str(lab.cache)).stdout
    answer = lab.train_student("--quiet", *sets("data.train.on_error=skip"))
    assert answer.status == 0, answer.stderr

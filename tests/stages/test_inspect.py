"""What `pipeline inspect` says of caches, runs, pseudo-labels and recipes, whole or not."""

import json
from pathlib import Path
from typing import Any

import pytest
from laboratory import Lab, options, run_cli


def facts(text: str) -> dict[str, str]:
    """Read the facts that a head is followed by; lists lose all but their first line."""
    found = [line.split(maxsplit=1) for line in text.splitlines()[1:]]
    return {pair[0]: pair[-1] for pair in found}


def inspect(*arguments: object) -> str:
    answer = run_cli("inspect", *map(str, arguments))
    assert (answer.status, answer.stderr) == (0, "")
    assert len(answer.stdout.splitlines()) < 30
    return answer.stdout


def inspect_json(target: Path) -> Any:
    return json.loads(run_cli("inspect", str(target), "--json").stdout)


def train(lab: Lab, *values: str) -> None:
    answer = lab.train_student("--quiet", *options(*values))
    assert answer.status == 0, answer.stderr


def test_a_cache_that_is_not_complete_is_described_by_the_parts_there(cached_lab: Lab) -> None:
    whole = inspect_json(cached_lab.cache)
    (cached_lab.cache / "manifest.json").unlink()
    for part in (0, 2, 3):
        (cached_lab.cache / f"parts/0000{part}.json").unlink()
    text = inspect(cached_lab.cache, "--rows", 1)
    assert "there      5 of 8 parts; missing are 0, 2-3\n" in text
    assert "what follows is of the first 5 parts there" in text
    assert "Run `pipeline cache-teacher RECIPE`" in text
    assert "\n  s008 (label 3)\n" in text  # the first row of part 1
    shown = inspect_json(cached_lab.cache)
    assert (whole["complete"], shown["complete"]) == (True, False)
    assert (shown["positions"], shown["parts_there"]) == (8 + 8 + 8 + 8 + 4, 5)
    assert 0 < shown["size_bytes"] < whole["size_bytes"]


def test_sums_over_all_parts_are_those_of_the_manifest(cached_lab: Lab) -> None:
    whole = inspect_json(cached_lab.cache)
    (cached_lab.cache / "manifest.json").unlink()
    assert "there      all 8 parts, but no manifest yet" in inspect(cached_lab.cache)
    shown = inspect_json(cached_lab.cache)
    for key in ("positions", "size_bytes", "entropy", "kept_mass", "teacher_accuracy"):
        assert shown[key] == pytest.approx(whole[key])
    assert shown["decoded"] == whole["decoded"]


def test_a_cache_without_a_part_is_described_by_its_plan(cached_lab: Lab) -> None:
    (cached_lab.cache / "manifest.json").unlink()
    for path in (cached_lab.cache / "parts").iterdir():
        path.unlink()
    text = inspect(cached_lab.cache)
    assert "0 of 8 parts; missing are 0-7" in text
    assert "kept       2 of 5 classes (top_k)" in text
    assert "entropy" not in text


def test_a_run_that_ended_is_told_in_one_screen(cached_lab: Lab) -> None:
    train(cached_lab, "training.gradients_every=4")
    text = inspect(cached_lab.run)
    assert text.startswith(f"{cached_lab.run}: run of the recipe 'tiny', ended\n")
    told, lines = facts(text), cached_lab.metrics()
    steps = [line for line in lines if "loss" in line]
    assert told["student"] == "python tiny_models:student, 85 parameters"
    assert told["steps"].startswith("16, the best is step ")
    assert f"{steps[0]['loss']:.4g} at step 1 to {steps[-1]['loss']:.4g}" in told["loss"]
    shown = inspect_json(cached_lab.run)
    for name in ("loss", "soft_targets", "hard_labels"):
        assert shown["losses"][name] == {"first": steps[0][name], "last": steps[-1][name]}
    share = shown["gradient_share"]["soft_targets"]
    assert share["first"] == steps[0]["gradient_share"]["soft_targets"]
    assert "soft_targets (weight 0.9, T = 4): " in text
    assert shown["taught_by"]["cache"][:16] in text
    assert shown["files"]["best.safetensors"] > 0
    assert told["next"].startswith("`pipeline evaluate RECIPE`")
    (cached_lab.run / "evaluation.json").write_text("{}")
    assert 'model = { kind = "run", path = "' in facts(inspect(cached_lab.run))["next"]


def test_a_run_that_has_not_ended_says_from_where_it_goes_on(cached_lab: Lab) -> None:
    train(cached_lab)
    (cached_lab.run / "result.json").unlink()
    with (cached_lab.run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 17, "lo')  # as a kill leaves it
    told = facts(inspect(cached_lab.run))
    assert told["steps"] == "16, in epoch 2 of 2; the last checkpoint is of step 16"
    assert told["next"].endswith("goes on from step 16")
    (cached_lab.run / "last.json").unlink()
    (cached_lab.run / "metrics.jsonl").unlink()
    told = facts(inspect(cached_lab.run))
    assert told["loss"] == "nothing was logged yet"
    assert told["next"].endswith("begins anew")


def test_pseudo_labels_are_summarised(cached_lab: Lab) -> None:
    table = '[pseudo_labels]\npath = "labels"\nrule = { kind = "threshold", at_least = 0.2 }\n'
    cached_lab.recipe.write_text(cached_lab.recipe.read_text() + table)
    labels = cached_lab.folder / "labels"
    before = facts(inspect(cached_lab.recipe))
    assert before["pseudo_labels"] == f"{labels}: not there"
    assert before["next"] == f"pipeline pseudo-label {cached_lab.recipe}"
    answer = run_cli("pseudo-label", str(cached_lab.recipe), "--json", "--quiet")
    chosen = json.loads(answer.stdout)["chosen"]
    told = facts(inspect(labels))
    assert told["rows"].startswith(f"60, of which {chosen} have a pseudo-label")
    assert told["rule"] == "threshold: at_least 0.2"
    assert told["precision"].startswith("not known")
    after = facts(inspect(cached_lab.recipe))
    assert after["pseudo_labels"] == f"{labels}: {chosen} of 60 rows have a pseudo-label"
    (labels / "summary.json").unlink()
    assert "makes them anew" in inspect(labels)


def test_a_recipe_says_what_is_there_and_what_to_type_next(lab: Lab) -> None:
    def told() -> dict[str, str]:
        return facts(inspect(lab.recipe))

    def types(command: str) -> str:
        return f"pipeline {command} {lab.recipe}"

    assert told()["data.train"] == f"parquet, {lab.folder}/train.parquet: there"
    assert told()["cache"] == f"{lab.cache} (of data.train, zarr): not begun"
    assert told()["next"] == types("cache-teacher")
    assert lab.cache_teacher("--quiet").status == 0
    (lab.cache / "manifest.json").unlink()
    (lab.cache / "parts/00002.json").unlink()
    assert told()["cache"].endswith("7 of 8 parts")
    assert told()["next"] == types("cache-teacher")
    assert lab.cache_teacher("--quiet").status == 0
    assert told()["cache"].endswith("complete, 60 rows in 8 parts")
    assert (told()["run"], told()["next"]) == (f"{lab.run}: not begun", types("train-student"))
    train(lab)
    assert told()["run"] == f"{lab.run}: ended at step 16"
    assert told()["next"] == types("evaluate")
    (lab.run / "result.json").unlink()
    assert told()["run"] == f"{lab.run}: begun, checkpoint of step 16"
    assert told()["next"] == types("train-student")


def test_a_recipe_whose_data_is_missing_says_which(lab: Lab) -> None:
    (lab.folder / "validation.parquet").unlink()
    told = facts(inspect(lab.recipe))
    assert told["data.validation"].endswith("validation.parquet: not there")
    assert told["next"] == (
        f"get {lab.folder}/validation.parquet, which data.validation is read from"
    )


def test_a_recipe_names_the_one_that_trains_its_teacher(lab: Lab) -> None:
    other = lab.folder / "student.toml"
    text = lab.recipe.read_text().replace('path = "run"', 'path = "other"')
    python = 'model = { kind = "python", factory = "tiny_models:teacher" }'
    other.write_text(text.replace(python, 'model = { kind = "run", path = "run" }'))
    told = facts(inspect(other))
    assert told["teacher"] == f"run {lab.run}: not begun"
    assert told["next"] == f"pipeline train-student {lab.recipe}"


def test_values_of_a_recipe_are_set_and_of_nothing_else(cached_lab: Lab) -> None:
    text = inspect(cached_lab.recipe, *options("training.epochs=7"))
    assert facts(text)["training"].startswith("7 epochs of batches of 8 of data.train, adamw")
    answer = run_cli("inspect", str(cached_lab.cache), *options("training.epochs=7"))
    assert (answer.status, answer.stderr) == (
        2,
        f"error: {cached_lab.cache}: --set changes values of a recipe, and this is none.\n",
    )


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_what_is_nothing_of_ours_says_what_was_looked_for(tmp_path: Path, kind: str) -> None:
    target, found = tmp_path / "thing", "the folder is empty"
    if kind == "file":
        target.write_text("")
        found = "it is a file"
    else:
        target.mkdir()
    if kind == "folder":
        (target / "notes.txt").write_text("")
        found = "the folder holds notes.txt"
    answer = run_cli("inspect", str(target))
    assert (answer.status, answer.stdout) == (2, "")
    assert answer.stderr == (
        f"error: {target}: is nothing that can be shown: {found}. Looked for plan.json (a cache), "
        "recipe.json (a run), summary.json (pseudo-labels) in a folder, and for a file that ends "
        "in .toml (a recipe). Name one of these.\n"
    )

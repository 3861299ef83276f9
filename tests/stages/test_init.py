"""Starters run as they are: each command that the head of its recipe names, in order."""

import shlex
from pathlib import Path

import pytest
from laboratory import run_cli

from pipeline.recipe import load_recipe
from pipeline.starters import STARTERS, commands_of

# What makes them quick, in the order of the commands; `-m slow` runs them as they are.
FEW = "data.train.subset={count=60, balanced=true}"
ONCE = ["training.epochs=1", "training.warmup_steps=0"]
QUICK = {
    "arrays": {"train-student": [FEW, *ONCE], "cache-teacher": [FEW]},
    "images": {"train-student": [FEW, *ONCE], "cache-teacher": [FEW]},
    "transformers": {"train-student": [FEW, *ONCE], "cache-teacher": [FEW]},
    "pseudo-labels": {
        "train-student": ["training.epochs=3"],
        "pseudo-label": ["pseudo_labels.rule.at_least=0.2"],
    },
    "text": {
        "train-student": ["data.train.subset={count=64}", *ONCE],
        "cache-teacher": ["data.train.subset={count=64}"],
    },
}
SHORT = ["evaluate.rounds=1", "data.validation.subset={count=50}"]


def run_starter(name: str, folder: Path, quick: dict[str, list[str]]) -> list[str]:
    """Begin a starter in a folder and run all of its commands; gives the stages that ran."""
    assert run_cli("init", name).status == 0
    ran = []
    for command in commands_of(name):
        assert command.startswith("pipeline ")
        _, stage, *arguments = shlex.split(command)
        sets = [*quick.get(stage, []), *(SHORT if stage == "evaluate" and quick else [])]
        answer = run_cli(
            stage, *arguments, "--quiet", *(word for each in sets for word in ("--set", each))
        )
        assert answer.status == 0, (command, answer.stderr)
        ran.append(stage)
    return ran


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_starter(name, tmp_path, QUICK[name])
    assert ran[:2] == ["train-student", "cache-teacher"]
    assert ran[-2:] == ["train-student", "evaluate"]
    assert list(tmp_path.glob("runs/*/model_card.md"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_runs_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_starter(name, tmp_path, {})
    assert list(tmp_path.glob("runs/*/model_card.md"))


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_says_what_it_is_and_what_to_type(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = run_cli("init", name).stdout
    assert all(f"  {command}\n" in f"{told}\n" for command in commands_of(name))
    for recipe in STARTERS[name].recipes:
        assert load_recipe(tmp_path / recipe).name == Path(recipe).stem
        named = {word for command in commands_of(name) for word in command.split()}
        assert recipe in named
    listed = run_cli("init").stdout
    assert f"  {name} " in listed


def test_sample_data_is_like_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in STARTERS:
        assert run_cli("init", name, "--force").status == 0
    classes = sorted(path.name for path in (tmp_path / "sample/images/train").iterdir())
    assert len(classes) == 10
    assert "zero" in classes
    assert len(list(tmp_path.glob("sample/images/train/*/*.png"))) == 600
    assert len(list(tmp_path.glob("sample/unlabelled/*.png"))) == 400
    assert (tmp_path / "sample/arrays/train-inputs.npy").exists()
    assert list(tmp_path.glob("sample/text/train/*.txt"))
    recipe = load_recipe(tmp_path / "pseudo-labels.toml")
    assert list(recipe.data["unlabelled"].class_names or ()) == classes


def test_sample_data_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "sample/images/train/cats/mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert run_cli("init", "images").status == 0
    assert [path.name for path in (tmp_path / "sample/images").rglob("*.png")] == ["mine.png"]


def test_without_the_projects_data_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "__file__", str(tmp_path / "lib/pipeline/__init__.py"))
    answer = run_cli("init", "images")
    assert answer.status == 2
    assert "this installation is the package alone" in answer.stderr
    assert list(tmp_path.iterdir()) == []

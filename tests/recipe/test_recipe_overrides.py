from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, load_recipe, resolved

TEXT = """\
name = "x"
[data.train]
kind = "arrays"
inputs = "a.npy"
[training]
epochs = 3
[[losses]]
kind = "hard_labels"
weight = 1.0
[[losses]]
kind = "hard_labels"
weight = 2.0
"""


def load(tmp_path: Path, *overrides: str) -> Recipe:
    path = tmp_path / "x.toml"
    path.write_text(TEXT)
    return load_recipe(path, overrides)


def value_at(recipe: Recipe, key: str) -> Any:
    node: Any = resolved(recipe)
    for step in key.split("."):
        node = node[int(step)] if isinstance(node, list) else node[step]
    return node


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.epochs=5", "training.epochs", 5),
        (" training.epochs = 5 ", "training.epochs", 5),
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("name=plain text", "name", "plain text"),
        ('name="5"', "name", "5"),
        ("data.train.inputs=other/b=c.npy", "data.train.inputs", "other/b=c.npy"),
        ("losses.1.weight=0.5", "losses.1.weight", 0.5),
        ("data.train.class_names=['a', 'b']", "data.train.class_names", ["a", "b"]),
        ("data.train.subset={ count = 2 }", "data.train.subset.count", 2),
        ("data.train.subset.count=2", "data.train.subset.count", 2),
        ("run.path=runs/x", "run.path", "runs/x"),
        ("losses=[]", "losses", []),
        ("name=2024-01-01", "name", "2024-01-01"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_override_sets_one_value_as_toml_or_text(
    override: str, key: str, value: object, tmp_path: Path
) -> None:
    assert value_at(load(tmp_path, override), key) == value


def test_later_overrides_win(tmp_path: Path) -> None:
    assert value_at(load(tmp_path, "name=a", "name=b"), "name") == "b"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training", "--set training: must be key=value, such as training.epochs=3"),
        ("=3", "--set =3: must be key=value, such as training.epochs=3"),
        ("losses.2.weight=1", "--set losses.2.weight=1: the recipe has no place 'losses.2.weight'"),
        ("losses.x=1", "--set losses.x=1: the recipe has no place 'losses.x'"),
        ("name.x=1", "--set name.x=1: the recipe has no place 'name.x'"),
        ("name.x.y=1", "--set name.x.y=1: the recipe has no place 'name.x.y'"),
        ("training.epoch=1", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("training.epochs=many", "training.epochs: must be a valid integer; got 'many'"),
    ],
)
def test_an_override_without_a_place_is_refused(
    override: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as refused:
        load(tmp_path, override)
    assert refused.value.problems == (problem,)


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "recipes").mkdir()
    load(tmp_path / "recipes")
    monkeypatch.chdir(tmp_path / "here")
    recipe = load_recipe("../recipes/x.toml")

    assert recipe.base == Path("../recipes")
    assert recipe.file == "x.toml"
    assert recipe.locate("caches/c") == Path("../recipes/caches/c")
    assert recipe.locate("../runs/r") == Path("../runs/r")
    assert recipe.locate(str(tmp_path / "c")) == tmp_path / "c"


def test_a_path_through_a_link_is_not_shortened(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    recipe = load(tmp_path)
    assert recipe.locate("link/../c") == tmp_path / "link/../c"
    assert recipe.locate("far/../c") == tmp_path / "c"

import dataclasses
from pathlib import Path

import pytest

from pipeline.errors import RecipeError
from pipeline.factories import call_factory, load_factory

SOURCE = """
from dataclasses import dataclass
from math import sqrt

@dataclass
class Pair:
    left: int
    right: int

def make_pair(left, right=2):
    return Pair(left, right)

def fail():
    return 1 / 0
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "my_models.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("first = 1\nsecond = frist\n")
    (tmp_path / "needy.py").write_text("import no_such_library\n")
    return tmp_path


def test_factory_beside_the_recipe_is_found_and_called(base: Path) -> None:
    pair = call_factory("my_models:make_pair", base, "student.model", left=1)
    assert dataclasses.astuple(pair) == (1, 2)


def test_importable_factory_is_found(tmp_path: Path) -> None:
    assert load_factory("os.path:basename", tmp_path, "x")("a/b") == "b"


def test_module_is_loaded_once_for_one_place_and_anew_for_another(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def make():\n    return {folder!r}\n")
    first, again = (load_factory("mine:make", tmp_path / "a", "x") for _ in range(2))
    other = load_factory("mine:make", tmp_path / "b", "x")
    assert first is again
    assert (first(), other()) == ("a", "b")


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        (
            "my_models",
            'must be "module:function", such as "my_models:small_cnn"; got \'my_models\'',
        ),
        (
            "my_models:make_pear",
            "'my_models' has no function 'make_pear'; did you mean 'make_pair'? "
            "it offers Pair, fail, make_pair",
        ),
        ("my_model:make_pair", "did you mean 'my_models'?"),
        (
            "broken:make",
            "importing 'broken' failed: NameError: name 'frist' is not defined. Did you mean",
        ),
        (
            "needy:make",
            "importing 'needy' failed: ModuleNotFoundError: No module named 'no_such_library'",
        ),
        (
            "my_models:fail",
            "my_models:fail() failed: ZeroDivisionError: division by zero (my_models.py, line 14)",
        ),
    ],
    ids=["no colon", "function", "module", "broken", "needs a library", "fails"],
)
def test_faulty_reference_is_named(base: Path, reference: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        call_factory(reference, base, "data.train.factory")
    assert str(caught.value).startswith("data.train.factory: 1 problem\n  ")
    assert problem.split(". Did")[0] in str(caught.value)


def test_module_that_failed_is_tried_again(base: Path) -> None:
    with pytest.raises(RecipeError):
        load_factory("broken:make", base, "x")
    with pytest.raises(RecipeError, match=r"broken\.py, line 2"):
        load_factory("broken:make", base, "x")

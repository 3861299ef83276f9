"""What the pages tell people to type runs, in the order in which it stands there, on a copy of the
data that ships; recipes are cut short, and so are their data, but nothing else of them is changed.
"""

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from laboratory import run_cli
from test_docs import PAGES, ROOT, blocks

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, load_recipe

STAGES = ("cache-teacher", "train-student", "generate", "pseudo-label", "evaluate", "report")
FASHION = Path("/usr/share/datasets/fashion-mnist")
# Too many to read in a test; the images of digits are as few as they are.
MOST_ROWS = {"text": 24, "idx": 256, "cache": 24}
# Real teachers, which scripts/assets fetches: their recipes are run by tests marked "assets".
NEED_ASSETS = {"smollm2", "tweets", "tweets-teacher", "photographs"}


def typed_lines() -> Iterator[list[str]]:
    """List the commands of ours on all pages, one after another."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["pipeline"]:
                    yield words[1:]


def named_recipes(words: list[str]) -> list[str]:
    return [Path(word).stem for word in words if word.endswith(".toml")]


def few_rows(recipe: Recipe) -> list[str]:
    """Say what leaves little of a recipe's data."""
    sets = []
    for name, table in recipe.data.items():
        most = MOST_ROWS.get(table.kind)
        if most is None:
            continue
        if table.subset is None:
            sets.append(f"data.{name}.subset={{count={most}}}")
        elif (table.subset.count or most + 1) > most:
            sets.append(f"data.{name}.subset.count={most}")
    return sets


def cut_short(recipe: Recipe, stage: str) -> list[str]:
    """Say what makes a recipe quick: a few steps, over little data."""
    sets = few_rows(recipe)
    if recipe.training:
        sets += ["training.warmup_steps=0", "training.log_every=1"]
        if recipe.training.steps:
            sets += ["training.steps=4", "training.evaluate_every=4"]
        else:
            sets.append("training.epochs=1")
    if stage == "generate":
        sets.append("generate.count=1")
    if stage == "evaluate":
        sets.append("evaluate.rounds=1")
    if recipe.pseudo_labels and stage == "pseudo-label":
        # A teacher of one epoch is sure of nothing, and can promise nothing.
        sets.append('pseudo_labels.rule={kind="threshold", at_least=0.05}')
    if recipe.views and recipe.views.count > 2:
        sets.append("views.count=2")
    return sets


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a copy of the project's data to run in."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("assets"))
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def run_line(words: list[str]) -> None:
    """Run a command of a page, cut short."""
    stage, *arguments = words
    recipes = [word for word in arguments if word.endswith(".toml")]
    more = []
    if stage in STAGES and recipes:
        sets = arguments[arguments.index("--set") + 1 :: 2] if "--set" in arguments else []
        more = cut_short(load_recipe(recipes[0], sets), stage)
    options = [word for each in more for word in ("--set", each)]
    answer = run_cli(stage, *arguments, *options)
    assert answer.status == 0, (words, more, answer.stderr[-2000:])


@pytest.mark.assets
def test_what_the_pages_say_of_real_teachers_runs(place: Path) -> None:
    (place / "data/assets").symlink_to(ROOT / "data/assets")
    lines = [words for words in typed_lines() if NEED_ASSETS & set(named_recipes(words))]
    assert {name for words in lines for name in named_recipes(words)} == NEED_ASSETS
    for words in lines:
        run_line(words)


def test_what_the_pages_say_runs(place: Path) -> None:
    ran = set()
    for words in typed_lines():
        names = named_recipes(words)
        if NEED_ASSETS & set(names) or any(word.startswith("fashion") for word in names):
            continue
        run_line(words)
        ran |= set(names)
    assert len(ran) > 10
    # Whatever was trained can be compared, reported and looked at, whether a page says so or not.
    for name in sorted(ran):
        recipe = f"data/recipes/{name}.toml"
        if not name.endswith("teacher"):
            run_line(["evaluate", recipe])
        run_line(["report", recipe, "--out", f"{name}.html"])
        run_line(["inspect", recipe])


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
@pytest.mark.parametrize("name", ["fashion", "fashion-features", "fashion-unlabelled"])
def test_fashion_runs(name: str, place: Path) -> None:
    few = name == "fashion-unlabelled"
    teacher = "fashion-few" if few else "fashion-teacher"
    lines = [["train-student", f"data/recipes/{teacher}.toml"]]
    lines += [["cache-teacher", f"data/recipes/{name}.toml"]]
    if few:
        held_out = [
            "--set",
            "cache.data=calibration",
            "--set",
            "cache.path=../../caches/fashion-calibration",
        ]
        lines += [["cache-teacher", f"data/recipes/{name}.toml", *held_out]]
        lines += [["pseudo-label", f"data/recipes/{name}.toml"]]
    for words in [*lines, ["train-student", f"data/recipes/{name}.toml"]]:
        run_line(words)


def test_a_recipe_that_is_cut_short_is_still_one() -> None:
    for path in (ROOT / "data/recipes").glob("*.toml"):
        sets = cut_short(load_recipe(path), "train-student")
        try:
            load_recipe(path, sets)
        except RecipeError as error:
            pytest.fail(f"{path.name}: {error}")

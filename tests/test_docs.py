import math
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from laboratory import run_cli
from torch.distributed.run import get_args_parser

from pipeline.cli import pipeline
from pipeline.recipe import load_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    ".github/CONTRIBUTING.md",
    "pipeline/DECISIONS.md",
    "pipeline/guide/own-loop.md",
    "pipeline/store/FORMAT.md",
]


def blocks(page: str, language: str) -> list[str]:
    """Cut the fenced blocks of a language out of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shell_lines(language: str = "bash") -> list[str]:
    """List what the pages tell people to type, line by line."""
    lines = [
        line for page in PAGES for block in blocks(page, language) for line in block.splitlines()
    ]
    return sorted({line for line in lines if line.strip() and not line.startswith("#")})


EXAMPLES = {
    block.splitlines()[0].removeprefix("# example: "): block
    for block in blocks("README.md", "python")
}


@pytest.mark.parametrize("command", sorted(pipeline.commands))
def test_every_command_is_in_the_readme(command: str) -> None:
    table = re.findall(r"^\| `pipeline ([\w-]+)", README, re.MULTILINE)
    assert command in table
    assert pipeline.commands[command].help


def test_the_readme_names_no_command_that_is_not_there() -> None:
    named = set(re.findall(r"`pipeline ([a-z][\w-]*)", README))
    assert named - set(pipeline.commands) == set()


@pytest.mark.parametrize("line", shell_lines())
def test_a_line_to_type_is_a_command_that_parses_and_files_that_exist(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "torchrun":
        told = get_args_parser().parse_args(words[1:])
        assert (told.module, told.training_script) == (True, "pipeline")
        words = ["pipeline", *told.training_script_args]
    if words[0] == "source":
        assert words[1] == ".venv/bin/activate"  # which scripts/install makes
    elif words[0] == "pipeline":
        command = pipeline.commands[words[1]]
        with click.Context(pipeline) as context:
            command.make_context(words[1], words[2:], parent=context)
    else:
        assert os.access(ROOT / words[0], os.X_OK)
    recipes = [word for word in words if word.endswith(".toml")]
    assert all((ROOT / word).is_file() for word in recipes)


def commands_of(block: str) -> list[list[str]]:
    """Let a shell go through a block; gives the words of the commands of ours that it runs."""
    shown = 'pipeline() { printf "%s\\n" "$*"; }\n' + block
    said = subprocess.run(["bash", "-euc", shown], capture_output=True, text=True, check=True)
    return [line.split() for line in said.stdout.splitlines()]


def test_what_is_shown_of_object_stores_is_of_a_recipe() -> None:
    (block,) = (block for block in blocks("README.md", "sh") if "s3://" in block)
    recipes = [load_recipe(ROOT / words[1], words[3::2]) for words in commands_of(block)]
    assert [str(each.locate_cache(each.cache.path)) for each in recipes if each.cache] == (
        2 * ["s3://bucket/digits"]
    )


def test_the_loop_of_rounds_sets_what_recipes_have() -> None:
    (loop,) = (block for block in blocks("README.md", "sh") if "for round" in block)
    lines = commands_of(loop)
    assert [words[0] for words in lines] == 2 * [
        *("cache-teacher", "cache-teacher", "pseudo-label", "train-student"),
    ]
    *_, training = (load_recipe(ROOT / words[1], words[3::2]).training for words in lines)
    assert training is not None
    assert training.sources[1].pseudo_labels == "../../pseudo-labels/round-2"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_the_readme_shows_every_room() -> None:
    rooms = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "pipeline").iterdir()
        if path.name[0] not in "_." and path.suffix in ("", ".py", ".md")
    }
    house = README.partition("## The house")[2]
    assert {
        room for room in rooms if not re.search(rf"^  {re.escape(room)} ", house, re.M)
    } == set()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the cache of digits in a folder of its own, from a teacher that learned little."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("assets"))
    recipes = folder / "data/recipes"
    for arguments in (
        ["train-student", f"{recipes}/digits-teacher.toml", "--set", "training.epochs=1"],
        ["cache-teacher", f"{recipes}/digits.toml"],
    ):
        answer = run_cli(*arguments, "--quiet")
        assert answer.status == 0, answer.stderr
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_is_printed(
    name: str, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits)
    there: dict[str, Any] = {"__name__": "example"}
    exec(compile(EXAMPLES[name], f"README.md, {name}", "exec"), there)
    assert math.isfinite(float(there["loss"].detach()))


def test_every_example_has_a_name_of_its_own() -> None:
    found = blocks("README.md", "python")
    assert len(EXAMPLES) == len(found) > 0
    assert all(block.startswith("# example: ") for block in found)

import math
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from laboratory import run_cli
from torch.distributed.run import get_args_parser

from pipeline.cli import pipeline
from pipeline.recipe import load_recipe, recipe_schema, require_tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = sorted(page.relative_to(ROOT).as_posix() for page in ROOT.glob("pipeline/guide/*.md"))
FOR_USERS = ["README.md", *GUIDE]
PAGES = [
    *FOR_USERS,
    ".github/CONTRIBUTING.md",
    "pipeline/DECISIONS.md",
    "pipeline/guide/own-loop.md",
    "pipeline/store/FORMAT.md",
]
TEXT = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
SCHEMA = recipe_schema()
# Keys of tables are the user's own, or a library's, where the schema names none.
ANY = "*"
# Options that are not of our commands: of all of click's, of Slurm, of scripts/bench.
OF_OTHERS = {"--help", "--signal", "--plot"}
# Files that are named as keys are.
FILES = {"pseudo_labels.parquet"}


def blocks(page: str, language: str) -> list[str]:
    """Cut the fenced blocks of a language out of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT[page], re.MULTILINE | re.DOTALL)


def users_blocks(language: str) -> list[str]:
    """Cut the fenced blocks of a language out of all pages for users."""
    return [block for page in FOR_USERS for block in blocks(page, language)]


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


@pytest.mark.parametrize("page", FOR_USERS)
def test_a_page_names_no_command_that_is_not_there(page: str) -> None:
    named = set(re.findall(r"(?:`|^|\$ )pipeline ([a-z][\w-]*)", TEXT[page], re.MULTILINE))
    assert named - set(pipeline.commands) == set()


OPTIONS = sorted(
    {
        name
        for command in pipeline.commands.values()
        for option in command.params
        for name in option.opts
        if name.startswith("--")
    }
)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_on_a_page(option: str) -> None:
    assert any(re.search(rf"{option}\b", TEXT[page]) for page in FOR_USERS)


@pytest.mark.parametrize("page", FOR_USERS)
def test_a_page_names_no_option_that_is_not_there(page: str) -> None:
    named = set(re.findall(r"`(?:pipeline [^`]*)?(--[a-z][a-z-]+)", TEXT[page]))
    assert named - set(OPTIONS) - OF_OTHERS == set()


def keys_of(node: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """List the dotted keys of a JSON Schema; a list is what it holds, and any key is a star."""
    if "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]]
    for option in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from keys_of(option, above)
    if "items" in node:
        yield from keys_of(node["items"], above)
    named = dict(node.get("properties", {}))
    if free := node.get("additionalProperties"):
        named[ANY] = free if isinstance(free, Mapping) else {}
    for key, below in named.items():
        yield f"{above}{key}"
        yield from keys_of(below, f"{above}{key}.")


KEYS = set(keys_of(SCHEMA))


def is_key(dotted: str) -> bool:
    """Tell whether a recipe may have this key; numbers of lists count as nothing."""
    found = [""]
    for step in dotted.split("."):
        if not step.isdigit():
            found = [
                f"{above}{known}."
                for above in found
                for known in (step, ANY)
                if f"{above}{known}" in KEYS
            ]
    return bool(found)


def written_keys(table: Any, above: str = "") -> Iterator[str]:
    """List the dotted keys of a table that somebody wrote."""
    if isinstance(table, list):
        for each in table:
            yield from written_keys(each, above)
    elif isinstance(table, dict):
        for key, below in table.items():
            yield f"{above}{key}"
            yield from written_keys(below, f"{above}{key}.")


def test_keys_are_told_apart() -> None:
    assert is_key("training.sources.1.pseudo_labels")
    assert is_key("data.anything.path")
    assert is_key("student.model.config.model_type")
    assert not is_key("training.epoch")
    assert not is_key("data.train.pathh")


@pytest.mark.parametrize("page", FOR_USERS)
def test_a_page_names_no_key_that_is_not_there(page: str) -> None:
    tops = "|".join(SCHEMA["properties"])
    shown = rf"`((?:{tops})(?:\.[a-z_0-9]+)+)(?: = [^`]*)?`"
    # There a name with a dot is Python's.
    named = set(re.findall(shown, TEXT[page]) if page != "pipeline/guide/own-loop.md" else ())
    named |= set(re.findall(r"--set\s+'?([a-z_][\w.-]*)=", TEXT[page]))
    for block in blocks(page, "toml"):
        named |= set(written_keys(tomllib.loads(block)))
    named |= set(re.findall(r"`\[\[?([\w.]{2,})\]", TEXT[page]))
    assert {key for key in named if not is_key(key.replace("NAME", "train"))} - FILES == set()


@pytest.mark.parametrize("table", SCHEMA["properties"])
def test_every_table_of_a_recipe_is_on_a_page(table: str) -> None:
    shown = rf"\[\[?{table}(\.\w+)?\]|`{table}\.\w|^\| `{table}`"
    assert any(re.search(shown, TEXT[page], re.MULTILINE) for page in FOR_USERS)


@pytest.mark.parametrize("table", SCHEMA["properties"])
def test_every_key_of_a_table_is_in_the_section_of_the_table(table: str) -> None:
    sections = re.split(r"^## ", TEXT["pipeline/guide/recipe.md"], flags=re.MULTILINE)[1:]
    about = "".join(each for each in sections if re.match(rf"[^\n]*\[{table}[\].]", each))
    # What a model is, is told of the teacher's.
    told = {key for key in KEYS if ".model." in key and table != "teacher"}
    below = {key.rpartition(".")[2] for key in KEYS - told if key.startswith(f"{table}.")} - {ANY}
    assert {key for key in below if f"`{key}`" not in about} == set()


@pytest.mark.parametrize("recipe", sorted(path.name for path in ROOT.glob("data/recipes/*.toml")))
def test_every_recipe_is_on_a_page(recipe: str) -> None:
    assert any(f"data/recipes/{recipe}" in TEXT[page] for page in FOR_USERS)


@pytest.mark.parametrize("page", GUIDE)
def test_every_page_of_the_guide_is_linked_from_the_readme(page: str) -> None:
    assert f"]({page})" in README


def check_command(words: list[str]) -> None:
    """Parse a command of ours as it would, and its recipe with what is set, where that is there."""
    with click.Context(pipeline) as context:
        parsed = (
            pipeline.commands[words[0]].make_context(words[0], words[1:], parent=context).params
        )
    recipe = parsed.get("recipe") or parsed.get("target") or ""
    if (ROOT / recipe).is_file():
        load_recipe(ROOT / recipe, parsed["overrides"])


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
        check_command(words[1:])
    else:
        assert os.access(ROOT / words[0], os.X_OK)
    recipes = [word for word in words if word.endswith(".toml")]
    assert all((ROOT / word).is_file() for word in recipes)


# What a block may run, made harmless.
STAND_INS = """
pipeline() { printf "%q " "$@"; echo; }
pip() { [ "$1" = install ]; }
torchrun() { while [ "$1" != pipeline ]; do shift; done; "$@"; }
"""


def commands_of(block: str) -> list[list[str]]:
    """Let a shell go through a block; gives the words of the commands of ours that it runs."""
    shown = f"{STAND_INS}\n{block}"
    said = subprocess.run(["bash", "-euc", shown], capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in said.stdout.splitlines()]


@pytest.mark.parametrize("block", users_blocks("sh"), ids=lambda block: block.splitlines()[0][:40])
def test_a_shell_goes_through_a_block_and_its_commands_parse(block: str) -> None:
    commands = commands_of(block)
    assert commands
    for words in commands:
        check_command(words)


def test_what_is_shown_of_object_stores_is_of_a_recipe() -> None:
    (block,) = (block for block in users_blocks("sh") if "s3://" in block)
    recipes = [load_recipe(ROOT / words[1], words[3::2]) for words in commands_of(block)]
    assert [str(each.locate_cache(each.cache.path)) for each in recipes if each.cache] == (
        2 * ["s3://bucket/digits"]
    )


def test_the_loop_of_rounds_sets_what_recipes_have() -> None:
    (loop,) = (block for block in users_blocks("sh") if "for round" in block)
    lines = commands_of(loop)
    assert [words[0] for words in lines] == 2 * [
        *("cache-teacher", "cache-teacher", "pseudo-label", "train-student"),
    ]
    *_, training = (load_recipe(ROOT / words[1], words[3::2]).training for words in lines)
    assert training is not None
    assert training.sources[1].pseudo_labels == "../../pseudo-labels/round-2"


def anchors(page: Path) -> set[str]:
    """Name the headings of a page as links do: lower case, hyphens for spaces, no punctuation."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = [
        re.sub(r"[^\w\- ]", "", each.lower()) for each in re.findall(r"^#+ (.*)", text, re.M)
    ]
    assert len(set(headings)) == len(headings), f"{page}: two headings are alike"
    return {heading.replace(" ", "-") for heading in headings}


def leads_somewhere(page: str, link: str) -> bool:
    """Tell whether the file of a link is there, and the heading in it."""
    place, _, anchor = link.partition("#")
    there = (ROOT / page).parent / place if place else ROOT / page
    return there.exists() and (not anchor or anchor in anchors(there))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]) if "://" not in link]
    assert [link for link in links if not leads_somewhere(page, link)] == []


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


def test_the_recipe_of_a_given_cache_is_whole(tmp_path: Path) -> None:
    (block,) = blocks("pipeline/guide/faq.md", "toml")
    recipe = tmp_path / "given.toml"
    recipe.write_text(block, encoding="utf-8")
    require_tables(load_recipe(recipe), "train-student", "student", "losses", "training", "run")


def test_a_cache_is_read_without_this_project(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = blocks("pipeline/guide/faq.md", "python")
    assert "pipeline" not in re.findall(r"import (\w+)", block)
    monkeypatch.chdir(digits)
    there: dict[str, Any] = {}
    exec(compile(block, "faq.md", "exec"), there)
    assert there["logits"].shape == (100, 10)
    assert len(there["rows"]) == 100


def test_every_example_has_a_name_of_its_own() -> None:
    found = blocks("README.md", "python")
    assert len(EXAMPLES) == len(found) > 0
    assert all(block.startswith("# example: ") for block in found)


def test_errors_point_to_pages_that_are_there() -> None:
    named = [
        page
        for path in (ROOT / "pipeline").rglob("*.py")
        for page in re.findall(r'\bsee\(.*?, "([\w-]+\.md[^"]*)"', path.read_text(), re.DOTALL)
    ]
    assert len(named) > 5
    assert [page for page in named if not leads_somewhere("pipeline/guide/faq.md", page)] == []

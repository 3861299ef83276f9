import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from laboratory import Lab, run_cli

from pipeline.cli import pipeline

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(pipeline.commands)


def test_the_commands_are_the_stages_and_the_schema() -> None:
    stages = {path.stem.replace("_", "-") for path in (ROOT / "stages").glob("[a-z]*.py")}
    assert set(COMMANDS) == stages | {"schema"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_ends_in_an_example(command: str) -> None:
    answer = run_cli(command, "--help")
    assert answer.status == 0
    assert answer.stderr == ""
    assert answer.stdout.startswith(f"Usage: pipeline {command} ")
    text = pipeline.commands[command].help
    assert text is not None
    last = text.strip().splitlines()[-1].strip()
    assert re.fullmatch(rf"Example: pipeline {command}( .*)?", last)
    assert last in " ".join(answer.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command: str) -> None:
    options = [each for each in pipeline.commands[command].params if isinstance(each, click.Option)]
    assert {"quiet", "as_json"} <= {each.name for each in options}
    assert all(each.help for each in options)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands(option: str) -> None:
    answer = run_cli(option)
    assert answer.status == 0
    assert all(f"\n  {command} " in answer.stdout for command in COMMANDS)


def test_the_version_is_that_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert version is not None
    answer = run_cli("--version")
    assert (answer.status, answer.stdout) == (0, f"pipeline, version {version[1]}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "No such command 'train'; did you mean 'train-student'?"),
        (["cache"], "No such command 'cache'; did you mean 'cache-teacher'?"),
        (["inspct"], "No such command 'inspct'; did you mean 'inspect'?"),
        (["zzz"], f"No such command 'zzz'; allowed: {', '.join(COMMANDS)}"),
        (["verify"], "Missing argument 'CACHE_OR_RECIPE'"),
        (["cache-teacher"], "Missing argument 'RECIPE'"),
        (["verify", "x", "--audit", "0"], "Invalid value for '--audit'"),
        (["inspect", "x", "--row", "1"], "No such option '--row'. Did you mean '--rows'?"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_exits_with_2(arguments: list[str], said: str) -> None:
    answer = run_cli(*arguments)
    assert answer.status == 2
    assert answer.stdout == ""
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_what_a_user_can_mend_is_one_message_and_exits_with_2(tmp_path: Path) -> None:
    recipe = tmp_path / "none.toml"
    answer = run_cli("cache-teacher", str(recipe))
    assert answer.status == 2
    assert answer.stderr == (
        f"error: {recipe}: 1 problem\n"
        "  there is no such file; `pipeline init images` writes a starter\n"
    )


def test_a_recipe_that_is_not_there_names_the_near_one(lab: Lab) -> None:
    answer = run_cli("cache-teacher", str(lab.folder / "recipes.toml"))
    assert (answer.status, answer.stderr) == (
        2,
        f"error: {lab.folder}/recipes.toml: 1 problem\n"
        f"  there is no such file; did you mean '{lab.recipe}'?\n",
    )


def complete(mode: str, words: str = "") -> str:
    """Answer a shell, as another process, for what is written are bytes."""
    last = words.split()[-1] if words else ""
    count = str(len(words.split()) - 1)
    environment = {
        **os.environ,
        "_PIPELINE_COMPLETE": mode,
        "COMP_WORDS": words,
        "COMP_CWORD": last if mode == "fish_complete" else count,
    }
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str) -> None:
    assert f"_PIPELINE_COMPLETE={shell}_complete" in complete(f"{shell}_source")
    assert f"{shell}_source" in run_cli("--help").stdout


# What is typed so far, and what the shell is offered: plain words, or names of files.
COMPLETED = {
    "a command": ("tra", "plain,train-student"),
    "an option": ("inspect --sam", "plain,--sample"),
    "a starter": ("init im", "plain,images"),
    "a recipe": ("cache-teacher data/rec", "file,data/rec"),
    "a target": ("inspect runs/di", "file,runs/di"),
}


@pytest.mark.parametrize("typed", COMPLETED)
def test_what_is_typed_is_completed(typed: str) -> None:
    text, offered = COMPLETED[typed]
    assert complete("bash_complete", f"pipeline {text}").splitlines() == [offered]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_commands_and_files(shell: str) -> None:
    assert "train-student" in complete(f"{shell}_complete", "pipeline tra")
    assert complete(f"{shell}_complete", "pipeline verify caches/di").startswith("file")


def test_what_keeps_nothing_half_done_begins_anew(
    cached_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.verify.find_faults", interrupt)
    answer = run_cli("verify", str(cached_lab.cache), "--quiet")
    assert (answer.status, answer.stderr.strip()) == (
        130,
        "interrupted; the same command begins anew",
    )


def test_our_own_mistakes_show_their_traceback(tmp_path: Path) -> None:
    # As another process, for a traceback is what the interpreter prints on its way out.
    code = "import stages.init, pipeline.cli; stages.init.run = None; pipeline.cli.main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "init"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_the_module_is_the_command(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", "init", "arrays"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == (
        "wrote arrays.toml, arrays-teacher.toml, models.py, sample/\n"
        "it runs as it is, on the data in sample/:\n"
        "  pipeline train-student arrays-teacher.toml\n"
        "  pipeline cache-teacher arrays.toml\n"
        "  pipeline train-student arrays.toml\n"
        "  pipeline evaluate arrays.toml\n"
    )


def test_the_schema_is_json() -> None:
    answer = run_cli("schema")
    assert answer.status == 0
    assert json.loads(answer.stdout)["title"] == "Recipe"


def test_json_goes_to_standard_output_and_all_else_does_not(cached_lab: Lab) -> None:
    answer = run_cli("inspect", str(cached_lab.cache), "--json")
    assert json.loads(answer.stdout)["rows"] == 60
    answer = cached_lab.cache_teacher("--json")
    assert json.loads(answer.stdout)["made_rows"] == 0
    assert "60 of 60 rows are there already" in answer.stderr
    assert cached_lab.cache_teacher("--json", "--quiet").stderr == ""


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_starters_are_listed(as_json: list[str]) -> None:
    answer = run_cli("init", *as_json)
    assert answer.status == 0
    for name in ("arrays", "images", "transformers"):
        assert name in answer.stdout


def test_a_starter_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text("mine")
    answer = run_cli("init", "images")
    assert answer.status == 2
    assert answer.stderr == (
        "error: init: models.py is here already; nothing was written. Use --force to overwrite, "
        "or another folder.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["models.py"]
    assert run_cli("init", "images", "--force").status == 0
    assert (tmp_path / "models.py").read_text() != "mine"
    assert run_cli("init", "arrays").status == 0  # whose models.py is the very one
    answer = run_cli("init", "image")
    assert answer.stderr == ("error: init: there is no template 'image'; did you mean 'images'?\n")
    assert run_cli("init", "zebra").stderr == (
        "error: init: there is no template 'zebra'; allowed: arrays, images, pseudo-labels, "
        "text, transformers\n"
    )


def test_a_cache_is_shown_in_one_screen(cached_lab: Lab) -> None:
    answer = run_cli("inspect", str(cached_lab.cache), "--rows", "2")
    assert answer.status == 0
    lines = answer.stdout.splitlines()
    assert len(lines) < 24
    assert lines[0] == str(cached_lab.cache)
    facts = {line[2:12].strip(): line[13:] for line in lines}
    assert facts["rows"] == "60 in 8 parts"
    assert facts["kept"] == "2 of 5 classes (top_k)"
    assert facts["data"].startswith("data.train (parquet), digest ")
    assert "s000 (label 0)" in answer.stdout
    assert "s002" not in answer.stdout


def test_what_inspect_decodes_is_the_teachers_distribution(cached_lab: Lab) -> None:
    shown = json.loads(run_cli("inspect", str(cached_lab.cache), "--json").stdout)
    assert len(shown["decoded"]) == 5
    assert shown["entropy"] > 0
    for row in shown["decoded"]:
        probabilities = list(row["classes"].values())
        assert len(probabilities) == 2
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) < 1
    masses = list(shown["kept_mass_of_part_0"].values())
    assert masses == sorted(masses, reverse=True)

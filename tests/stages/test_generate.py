"""Text that the teacher wrote, with its soft targets, as a cache that teaches by itself."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laboratory import Answer, Lab, options, run_cli
from nursery import Nursery, wait_until
from test_text import LOW_RANK, MODELS, RECIPE, VERSES

from pipeline import open_cache
from pipeline.experiment import open_data
from pipeline.recipe import load_recipe
from pipeline.stream.tokens.rows import decode_rows

TABLE = """\
[generate]
path = "written"
prompt_tokens = 5
length = 20
count = 3
seed = 4

[student.model]
"""
WRITTEN = 'data.train={ kind = "cache", path = "written" }'


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    (folder / "train.txt").write_text("\n".join(VERSES))
    (folder / "validation.txt").write_text("\n".join(VERSES[:3]))
    (folder / "text_models.py").write_text(MODELS)
    recipe = RECIPE.replace("[student.model]\n", TABLE).replace("pack = true", "pack = false")
    (folder / "recipe.toml").write_text(recipe)
    answer = run_cli("generate", str(folder / "recipe.toml"), "--quiet")
    assert answer.status == 0, answer.stderr
    return folder


@pytest.fixture
def lab(source: Path, tmp_path: Path) -> Lab:
    return Lab(Path(shutil.copytree(source, tmp_path / "lab")))


def generate(lab: Lab, *values: str) -> Answer:
    return run_cli("generate", str(lab.recipe), *options(*values))


def read_rows(lab: Lab, name: str = "written") -> dict[str, list[int]]:
    """Give the tokens of every row by its id."""
    cache, rows = open_cache(lab.folder / name), {}
    for part in range(cache.plan.part_count):
        inputs = decode_rows(cache.read_part(part, ("tokens", "sizes", "starts")))
        for sample_id, (tokens, documents) in zip(
            cache.read_samples(part).ids, inputs, strict=True
        ):
            rows[sample_id] = tokens[documents == 0].tolist()
    return rows


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_rows_begin_as_their_prompts_do_and_every_prompt_is_continued_as_often_as_asked(
    lab: Lab,
) -> None:
    prompts = open_data(load_recipe(lab.recipe), "train")
    rows, count = read_rows(lab), len(prompts)
    assert len(rows) == 3 * count
    for number in range(3):
        for place in range(count):
            row = rows[f"{prompts.ids(place, place + 1)[0]}~{number}"]
            begun = prompts.read([place]).inputs[0, 0, :5].tolist()
            assert row[:5] == begun
            assert len(row) == 20
    assert len(set(map(tuple, rows.values()))) > 2 * count


def test_targets_are_those_that_cache_teacher_gives_of_the_same_text(lab: Lab) -> None:
    asked = run_cli("cache-teacher", str(lab.recipe), *options(WRITTEN, "cache.path=again"))
    assert asked.status == 0, asked.stderr
    ours, theirs = (open_cache(lab.folder / name) for name in ("written", "again"))
    assert ours.plan.rows == theirs.plan.rows
    for part in range(ours.plan.part_count):
        again = theirs.read_part(part)
        for name, array in ours.read_part(part).items():
            assert np.array_equal(array, again[name]), name
        assert np.array_equal(ours.read_samples(part).digests, theirs.read_samples(part).digests)
        assert ours.read_samples(part).ids == theirs.read_samples(part).ids


def test_a_student_learns_from_what_was_written(lab: Lab) -> None:
    answer = lab.train_student("--json", "--quiet", *options(WRITTEN, "cache.path=written"))
    assert answer.status == 0, answer.stderr
    lines = [line for line in lab.metrics() if "loss" in line]
    assert lines[-1]["soft_targets"] < lines[0]["soft_targets"]
    digest = open_cache(lab.folder / "written").digest
    assert json.loads(answer.stdout)["cache"] == digest


def test_it_is_whole_and_says_how_it_was_written(lab: Lab) -> None:
    assert run_cli("verify", str(lab.folder / "written")).status == 0
    audit = run_cli(
        "verify", str(lab.recipe), "--audit", "9", "--json", *options("cache.path=written")
    )
    assert audit.status == 0, audit.stderr
    assert json.loads(audit.stdout)["audit"]["rows"] == 9
    assert json.loads(audit.stdout)["audit"]["largest_difference"] == 0
    told: dict[str, Any] = json.loads(
        run_cli("inspect", str(lab.folder / "written"), "--json").stdout
    )
    settings = told["settings"]["generate"]
    assert settings["temperature"] == 1.0
    assert (settings["seed"], settings["count"], settings["top_k"]) == (4, 3, None)
    shown = run_cli("inspect", str(lab.folder / "written")).stdout
    assert (
        "written    3 of each prompt of 5 tokens, up to 20 tokens, temperature 1, seed 4" in shown
    )


def test_other_parts_hold_the_same_text(lab: Lab) -> None:
    assert generate(lab, "generate.path=other", "cache.rows_per_part=5").status == 0
    assert read_rows(lab, "other") == read_rows(lab)


def test_a_part_that_is_gone_is_written_again_to_the_same_bytes(lab: Lab) -> None:
    before = bytes_of(lab.folder / "written")
    (lab.folder / "written/manifest.json").unlink()
    (lab.folder / "written/parts/00002.json").unlink()
    answer = generate(lab)
    assert answer.status == 0, answer.stderr
    assert bytes_of(lab.folder / "written") == before


def test_what_tails_share_is_learned_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ("generate.path=shaped", LOW_RANK)
    assert generate(lab, *values).status == 0
    before = bytes_of(lab.folder / "shaped")
    (lab.folder / "shaped/manifest.json").unlink()
    (lab.folder / "shaped/parts/00002.json").unlink()

    def learn(*args: Any, **options: Any) -> None:
        raise AssertionError("it was learned again")

    monkeypatch.setattr("pipeline.caching.shape.fit_basis", learn)
    assert generate(lab, *values).status == 0
    assert bytes_of(lab.folder / "shaped") == before


def test_killed_again_and_again_by_two_it_ends_in_the_same_bytes(
    lab: Lab, nursery: Nursery
) -> None:
    before = bytes_of(lab.folder / "written")
    shutil.rmtree(lab.folder / "written")
    parts = lab.folder / "written/parts"
    for round_ in range(3):
        children = [nursery.start("generate", str(lab.recipe)) for _ in range(2)]
        wait_until(lambda: parts.exists() and len(list(parts.iterdir())) > round_)  # noqa: B023
        time.sleep(0.01)
        for child in children:
            child.kill(signal.SIGKILL)
            child.wait()
    assert generate(lab).status == 0
    kept = {name: each for name, each in bytes_of(lab.folder / "written").items()
            if not name.startswith(".")}  # fmt: skip
    assert kept == {name: each for name, each in before.items() if not name.startswith(".")}


def test_another_sampler_is_another_cache(lab: Lab) -> None:
    answer = generate(lab, "generate.temperature=0.5")
    assert answer.status == 2
    assert "generate.temperature: there 1.0, here 0.5" in answer.stderr


def test_a_dry_run_writes_nothing(lab: Lab) -> None:
    answer = run_cli("generate", str(lab.recipe), "--dry-run", *options("generate.path=dry"))
    assert answer.status == 0
    assert "dry: 51 rows in 9 parts" in answer.stdout
    assert not (lab.folder / "dry").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["generate.prompt_tokens=20"],
            "generate.prompt_tokens: must be below generate.length, 20, or nothing is left to "
            "write; got 20",
        ),
        (["generate.top_p=1.5"], "generate.top_p: must be less than or equal to 1; got 1.5"),
        (
            ["generate.temperature=-1.0"],
            "generate.temperature: must be at least 0; got -1.0",
        ),
        (
            ["generate.prompts=trian"],
            "generate.prompts: there is no dataset 'trian'; did you mean 'train'?",
        ),
        (
            ["data.train.task=label"],
            "generate.prompts: data.train asks for 'label'; text is continued from data of kind",
        ),
    ],
    ids=["nothing left", "top_p", "temperature", "near miss", "labels"],
)
def test_what_cannot_be_written_is_refused_before_anything_is(
    lab: Lab, values: list[str], message: str
) -> None:
    answer = generate(lab, "generate.path=other", *values)
    assert answer.status == 2
    assert message in answer.stderr
    assert not (lab.folder / "other").exists()


def test_a_model_of_a_shorter_context_is_refused(lab: Lab) -> None:
    pytest.importorskip("transformers")
    small = (
        'teacher.model={ kind = "transformers", task = "next_token", config = { model_type = '
        '"gpt2", vocab_size = 257, n_embd = 8, n_layer = 1, n_head = 1, n_positions = 24, '
        "bos_token_id = 0, eos_token_id = 0 } }"
    )
    answer = generate(lab, small, "generate.length=40", "generate.path=other")
    assert answer.status == 2
    assert "generate.length: must be at most 24, the tokens that teacher.model takes at once" in (
        answer.stderr
    )


@pytest.mark.slow
def test_workers_write_what_one_process_writes(lab: Lab) -> None:
    values = ("generate.path=spread", "compute.kind=local", "compute.workers=2")
    answer = generate(lab, *values)
    assert answer.status == 0, answer.stderr
    assert bytes_of(lab.folder / "spread") == bytes_of(lab.folder / "written")

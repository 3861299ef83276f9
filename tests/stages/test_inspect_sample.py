"""What `pipeline inspect --sample` says of one sample's targets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laboratory import Lab, options, run_cli
from test_text import MODELS, RECIPE, VERSES
from tiny import make_cache, make_logits, make_samples

from pipeline.errors import SampleError
from pipeline.looking import describe_sample
from pipeline.samples.arrays import ArraySamples

ABOUT: dict[str, Any] = {"class_names": ["ant", "bee", "cat", "dog", "eel"]}
ROWS = 11


@pytest.mark.parametrize("k", [2, 5], ids=["top-2", "all"])
def test_a_sample_is_decoded_at_three_temperatures(tmp_path: Path, k: int) -> None:
    cache = make_cache(tmp_path, make_samples(ROWS), rows_per_part=4, k=k, about=ABOUT)
    found = describe_sample(tmp_path, "s6")
    (view,) = found["views"]
    assert (view["row"], view["part"], view["label"]) == (6, 1, "bee")
    (position,) = view["positions"]
    for temperature in (1, 2, 4):
        truth = (make_logits(ROWS)[6] / temperature).softmax(0)
        shown = {
            each["number"]: each["probabilities"][f"{temperature}"] for each in position["classes"]
        }
        assert len(shown) == k
        for number, probability in shown.items():
            assert probability == pytest.approx(float(truth[number]), abs=2e-3)
        left = 1 - sum(float(truth[number]) for number in shown)
        assert position["tail"][f"{temperature}"] == pytest.approx(left, abs=5e-3)
    truth = make_logits(ROWS)[6].softmax(0)
    assert position["classes"][0]["class"] == ABOUT["class_names"][int(truth.argmax())]
    assert position["confidence"] == pytest.approx(float(truth.max()), abs=1e-3)
    assert position["entropy"] == pytest.approx(float(-(truth * truth.log()).sum()), abs=1e-3)
    assert position["left_out"] == cache.plan.about["targets"]["class_count"] - k


def test_a_sample_is_laid_out_with_bars(cached_lab: Lab) -> None:
    answer = run_cli("inspect", str(cached_lab.cache), "--sample", "s013")
    assert (answer.status, answer.stderr) == (0, "")
    lines = answer.stdout.splitlines()
    assert lines[0] == f"{cached_lab.cache}: sample s013"
    assert lines[1] == "  view 0: row 13, in part 1, label 3"
    assert lines[2].startswith("    entropy ")
    assert lines[3].split() == ["class", "T=1", "T=2", "T=4"]
    assert lines[4].split()[0] == "3"
    assert "#" in lines[4]
    assert lines[-1].startswith("      tail of 3 ")


def test_a_sample_is_found_by_way_of_the_recipe(cached_lab: Lab) -> None:
    by_cache = run_cli("inspect", str(cached_lab.cache), "--sample", "s001")
    assert run_cli("inspect", str(cached_lab.recipe), "--sample", "s001") == by_cache


def test_every_view_of_a_sample_is_shown(lab: Lab) -> None:
    views = '[views]\ncount = 3\nseed = 7\naugment = [{ kind = "noise", std = 0.1 }]\n'
    lab.recipe.write_text(lab.recipe.read_text() + views)
    assert lab.cache_teacher("--quiet").status == 0
    shown = json.loads(run_cli("inspect", str(lab.cache), "--sample", "s007", "--json").stdout)
    assert [(each["view"], each["row"]) for each in shown["views"]] == [(0, 7), (1, 67), (2, 127)]
    answer = run_cli("inspect", str(lab.cache), "--sample", "s007")
    assert answer.stdout.count("  view ") == 3


@pytest.fixture
def text_lab(tmp_path: Path) -> Lab:
    (tmp_path / "train.txt").write_text("\n".join(VERSES))
    (tmp_path / "validation.txt").write_text("\n".join(VERSES[:3]))
    (tmp_path / "text_models.py").write_text(MODELS)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    lab = Lab(tmp_path)
    assert lab.cache_teacher("--quiet").status == 0
    return lab


def test_tokens_are_spelled_by_the_recipes_tokenizer(text_lab: Lab) -> None:
    arguments = ["--sample", "train.txt:2#0", "--rows", "3"]
    spelled = run_cli("inspect", str(text_lab.recipe), *arguments, "--json")
    (view,) = json.loads(spelled.stdout)["views"]
    assert VERSES[1].startswith(view["text"][:20])
    assert [each["label"] for each in view["positions"]] == [
        repr(each) for each in view["text"][1:4]
    ]
    assert all(each["class"].startswith(("'", '"')) for each in view["positions"][0]["classes"])
    numbers = run_cli("inspect", str(text_lab.cache), *arguments)
    assert (
        f"\n    tokens: '{' '.join(str(each) for each in VERSES[1][:5].encode())}" in numbers.stdout
    )
    assert numbers.stdout.count("    position ") == 3
    assert "more positions; --rows N shows N of them\n" in numbers.stdout
    assert numbers.stdout.endswith(
        "  give the recipe in place of the cache to see tokens as text\n"
    )
    assert "see tokens as text" not in run_cli("inspect", str(text_lab.recipe), *arguments).stdout


def test_tokens_are_not_spelled_by_another_tokenizer(text_lab: Lab) -> None:
    other = options("data.train.end=end")
    answer = run_cli("inspect", str(text_lab.recipe), "--sample", "train.txt:2#0", *other)
    assert answer.status == 2
    assert "was made with another tokenizer (there " in answer.stderr


@pytest.mark.parametrize(
    "selection",
    ["{ kind = 'sampled', draws = 6 }", "{ kind = 'hybrid', k = 2, draws = 6 }",
     "{ kind = 'top_p', p = 0.5, k_max = 4 }"],
    ids=["sampled", "hybrid", "top_p"],
)  # fmt: skip
def test_every_selection_shows_what_is_known_of_a_position(text_lab: Lab, selection: str) -> None:
    settings = options(f"targets.selection={selection}", "cache.path=other")
    assert text_lab.cache_teacher("--quiet", *settings).status == 0
    answer = run_cli(
        "inspect", str(text_lab.folder / "other"), "--sample", "train.txt:2#0", "--json"
    )
    (view,) = json.loads(answer.stdout)["views"]
    for position in view["positions"]:
        shown = position["classes"]
        masses = [each["probabilities"]["1"] for each in shown]
        assert masses == sorted(masses, reverse=True)
        assert 0 < sum(masses) <= 1.001
        assert sum(each["draws"] for each in shown) == (0 if "top_p" in selection else 6)
        kept = sum(each["probabilities"]["2"] for each in shown if not each["draws"])
        assert kept + position["tail"]["2"] == pytest.approx(1, abs=0.01)


def test_an_unknown_id_names_near_ones_and_how_to_list_them(cached_lab: Lab) -> None:
    answer = run_cli("inspect", str(cached_lab.cache), "--sample", "s0044")
    assert (answer.status, answer.stdout) == (2, "")
    assert answer.stderr.startswith(
        f"error: {cached_lab.cache}: no row is of the sample 's0044'; near ids are s044, "
    )
    assert answer.stderr.endswith(
        f"`pipeline inspect {cached_lab.cache} --rows 20` lists the first ids; all are in the "
        "column id of samples/*.parquet.\n"
    )
    answer = run_cli("inspect", str(cached_lab.cache), "--sample", "nothing-like-it")
    assert "'nothing-like-it'. `pipeline" in answer.stderr


def test_near_ids_are_sought_among_a_bounded_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.looking.search.COMPARED_IDS", 8)
    ids = np.array([f"sample-{each:02d}" for each in range(12)])
    samples = make_samples(12)
    named = ArraySamples("data.train", None, samples.inputs, samples.label_rows, ids)
    make_cache(tmp_path, named, rows_per_part=5, about=ABOUT)
    with pytest.raises(SampleError, match="near ids are sample-0") as refused:
        describe_sample(tmp_path, "sample-011")
    assert "sample-11" not in str(refused.value)


def test_of_a_cache_that_is_not_complete_the_parts_there_are_searched(cached_lab: Lab) -> None:
    (cached_lab.cache / "manifest.json").unlink()
    (cached_lab.cache / "parts/00001.json").unlink()
    assert run_cli("inspect", str(cached_lab.cache), "--sample", "s030").status == 0
    answer = run_cli("inspect", str(cached_lab.cache), "--sample", "s009")
    assert answer.status == 2
    assert "no row of the 7 parts that are there is of the sample 's009'; near ids are " in (
        answer.stderr
    )


def test_features_are_not_read_for_a_sample(cached_lab: Lab) -> None:
    for path in (cached_lab.cache / "targets").glob("*.zarr"):
        if path.name != "00003.zarr":
            (path / "logits" / "c.0.0").unlink()
    assert run_cli("inspect", str(cached_lab.cache), "--sample", "s024").status == 0
    assert run_cli("inspect", str(cached_lab.cache), "--sample", "s000").status == 1


def test_only_a_cache_has_samples(cached_lab: Lab) -> None:
    assert cached_lab.train_student("--quiet", *options("training.epochs=1")).status == 0
    answer = run_cli("inspect", str(cached_lab.run), "--sample", "s000")
    assert answer.stderr == (
        f"error: {cached_lab.run}: --sample shows a sample of a cache; this is none. Name a cache, "
        "or a recipe with [cache].\n"
    )

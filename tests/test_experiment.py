from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import Lab

from pipeline.errors import ModelError, SampleError
from pipeline.experiment import count_classes, join_data, open_data, open_model, scan_data
from pipeline.recipe import Recipe, load_recipe

ARRAYS = """\
name = "arrays"
[data.train]
kind = "arrays"
inputs = "inputs.npy"
on_error = "skip"
"""


@pytest.fixture
def partly_broken(tmp_path: Path) -> Recipe:
    """Twenty samples, of which seven are not finite and are to be skipped."""
    inputs = np.ones((20, 3), np.float32)
    inputs[::3, 1] = np.nan
    np.save(tmp_path / "inputs.npy", inputs)
    (tmp_path / "arrays.toml").write_text(ARRAYS)
    return load_recipe(tmp_path / "arrays.toml")


def test_a_subset_is_what_everyone_sees(lab: Lab) -> None:
    recipe = load_recipe(lab.recipe, ["data.train.subset={ count = 10, balanced = true }"])
    samples = open_data(recipe, "train")
    assert len(samples) == 10
    assert samples.name == "data.train"
    assert scan_data(recipe, "train", quiet=True).scan.label_counts == dict.fromkeys(range(5), 2)


def test_samples_that_were_skipped_are_gone_and_named(
    partly_broken: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    data = scan_data(partly_broken, "train", quiet=False)
    assert len(data.samples) == data.scan.count == 13
    assert data.samples.ids(0, 3) == ["1", "2", "4"]
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert [line.partition(":")[0] for line in said] == ["data.train"] * 6
    assert said[0].startswith("data.train: skipped 0: ")
    assert said[5] == "data.train: skipped 7 samples in all"


def test_quiet_is_quiet(partly_broken: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    scan_data(partly_broken, "train", quiet=True)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_stream_says_what_it_reads(cached_lab: Lab) -> None:
    recipe = load_recipe(cached_lab.recipe)
    plain = join_data(recipe, "train", None, quiet=True, batch_size=8)
    soft = join_data(recipe, "train", "cache", quiet=True, batch_size=8)
    assert plain.highest_label == soft.highest_label == 4
    assert plain.stream.cache is None
    assert soft.stream.cache is not None
    assert plain.identity == {"data": soft.stream.cache.plan.settings["data"]["digest"]}
    assert soft.identity["cache"] == soft.stream.cache.digest


def test_samples_beyond_the_cache_are_not_used_and_said_to_be(
    cached_lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    half = load_recipe(
        cached_lab.recipe, ["cache.path=half", "data.train.subset={ count = 20, seed = 1 }"]
    )
    overrides = ("--set", "cache.path=half", "--set", "data.train.subset={ count = 20, seed = 1 }")
    assert cached_lab.cache_teacher(*overrides, "--quiet").status == 0
    whole = load_recipe(cached_lab.recipe)
    joined = join_data(whole, "train", "half", quiet=False, batch_size=100)
    assert "data.train: 40 samples are not in " in capsys.readouterr().err
    [batch] = joined.stream
    assert sorted(batch.ids) == sorted(open_data(half, "train").ids(0, 20))


def test_unlabelled_data_has_no_highest_label(cached_lab: Lab) -> None:
    labelled = join_data(load_recipe(cached_lab.recipe), "train", "cache", quiet=True, batch_size=8)
    cached_lab.edit('label = "label"\n', "")
    recipe = load_recipe(cached_lab.recipe)
    assert join_data(recipe, "train", None, quiet=True, batch_size=8).highest_label == -1
    unlabelled = join_data(recipe, "train", "cache", quiet=True, batch_size=8)
    assert unlabelled.highest_label == -1
    assert unlabelled.identity["cache"] == labelled.identity["cache"]
    assert unlabelled.identity != labelled.identity


def test_data_that_is_missing_is_named_by_its_key(lab: Lab) -> None:
    with pytest.raises(SampleError, match=r"data\.train\.path: .*none\.parquet"):
        open_data(load_recipe(lab.recipe, ["data.train.path=none.parquet"]), "train")


def test_a_model_is_named_by_its_key(lab: Lab) -> None:
    recipe = load_recipe(lab.recipe, ["student.model.arguments={ clases = 3 }"])
    assert recipe.student is not None
    with pytest.raises(ModelError, match=r"student\.model\.arguments: .*'clases'"):
        open_model(recipe, recipe.student.model, where="student.model")


def test_classes_are_counted_by_asking(lab: Lab) -> None:
    recipe = load_recipe(lab.recipe, ["teacher.model.arguments={ classes = 7 }"])
    assert recipe.teacher is not None
    network = open_model(recipe, recipe.teacher.model, where="teacher.model").eval()
    samples, cpu = open_data(recipe, "train"), torch.device("cpu")
    assert count_classes(network, samples, cpu, whose="teacher") == 7

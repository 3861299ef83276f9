"""Features of images through the command line: of any shape, sized before, refused, audited."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import RECIPE as TINY
from laboratory import Lab, draw_samples, run_cli, write_samples
from torch import nn

from pipeline import Stream, open_cache
from pipeline.experiment import open_data, open_model
from pipeline.recipe import load_recipe

MODELS = """\
import torch
from torch import nn
from torch import nn


class Odd(nn.Module):
    # Answers an image that is asked about alone with one line less.
    def forward(self, maps):
        return maps[:, :, 1:] if len(maps) == 1 else maps


def make(width=6):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), Odd(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(4 * width, 5),
    )
"""
FEATURES = (
    "features=[{ name = 'map', module = '1' }, "
    "{ name = 'small', module = '1', dtype = 'int8', projection = { width = 2, seed = 3 } }, "
    "{ name = 'where', module = '1', reduce = 'attention_map', dtype = 'float32' }, "
    "{ name = 'mean', module = '1', reduce = 'mean', dtype = 'bfloat16' }]"
)
# Numbers of each, and bytes: 6 x 4 x 4 in float16; 2 x 4 x 4 in int8 and a scale; 4 x 4; 6.
BYTES = 6 * 16 * 2 + 2 * 16 + 4 + 16 * 4 + 6 * 2


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "own.py").write_text(MODELS)
    samples = draw_samples(20, seed=0, prefix="s")
    write_samples(tmp_path / "train.parquet", samples)
    write_samples(tmp_path / "validation.parquet", samples)
    recipe = TINY.replace("tiny_models:teacher", "own:make").replace(
        "tiny_models:student", "own:make"
    )
    (tmp_path / "recipe.toml").write_text(recipe)
    return Lab(tmp_path)


def features_of(lab: Lab, names: list[str]) -> dict[str, torch.Tensor]:
    """Stream one epoch and put its features in the order of the samples."""
    recipe = load_recipe(lab.recipe)
    stream = Stream(open_data(recipe, "train"), open_cache(lab.cache), batch_size=7, features=names)
    batches = list(stream)
    order = np.argsort([each for batch in batches for each in batch.ids])
    return {name: torch.cat([batch.features[name] for batch in batches])[order] for name in names}


def direct(lab: Lab) -> torch.Tensor:
    """Ask the model itself for its maps, in the order of the samples."""
    recipe = load_recipe(lab.recipe)
    assert recipe.teacher
    network = open_model(recipe, recipe.teacher.model, where="teacher.model").eval()
    samples = open_data(recipe, "train")
    order = np.argsort(samples.ids(0, len(samples)))
    inputs = torch.from_numpy(samples.read(order).inputs)
    with torch.no_grad():
        maps: torch.Tensor = nn.Sequential(*network.model.children())[:2](inputs.float() / 255)
    return maps


@pytest.mark.parametrize("layout", ["zarr-none", "zarr-lz4", "parquet-none"])
def test_features_of_any_shape_come_back_in_any_layout(lab: Lab, layout: str) -> None:
    backend, compression = layout.split("-")
    options = [f"cache.backend={backend}", f"cache.compression={compression}", FEATURES]
    words = [word for each in options for word in ("--set", each)]
    answer = lab.cache_teacher("--quiet", *words)
    assert answer.status == 0, answer.stderr
    found, maps = features_of(lab, ["map", "small", "where", "mean"]), direct(lab)
    assert torch.allclose(found["map"].float(), maps, rtol=1e-3, atol=1e-6)
    assert found["small"].shape == (20, 2, 4, 4)
    assert torch.allclose(found["where"], maps.square().sum(1), rtol=1e-5)
    assert torch.allclose(found["mean"].float(), maps.mean((2, 3)), rtol=2**-8)
    audited = run_cli("verify", str(lab.recipe), "--audit", "9", "--json", *words)
    assert json.loads(audited.stdout)["audit"]["largest_feature_difference"] == 0
    told = run_cli("inspect", str(lab.cache)).stdout
    assert "map 6 x 4 x 4 float16, 192 bytes a row\n" in told
    assert "small 6 x 4 x 4 onto 2 channels int8, 36 bytes a row\n" in told


def test_the_size_is_told_before_the_teacher_runs(lab: Lab) -> None:
    planned = json.loads(lab.cache_teacher("--json", "--dry-run", "--set", FEATURES).stdout)
    assert planned["feature_bytes"] == 20 * BYTES
    answer = lab.cache_teacher("--set", FEATURES)
    assert f"{20 * BYTES / 1e3:.2f} kB of them features\ncache-teacher: 0/20" in answer.stderr


def test_more_bytes_than_allowed_are_refused_before_anything_is_written(lab: Lab) -> None:
    answer = lab.cache_teacher("--quiet", "--set", FEATURES, "--set", "cache.max_bytes=5000")
    assert answer.status == 2
    assert answer.stderr.endswith(
        "more than the 5,000 allowed; 3,840 of them are 'feature_map'. Keep less (a feature's "
        "reduce, dtype or projection; a smaller selection), or allow more\n"
    )
    assert not lab.cache.exists()


def test_a_shape_that_changes_between_batches_is_refused(lab: Lab) -> None:
    tapped = ["--set", "features=[{ name = 'odd', module = '2' }]"]
    answer = lab.cache_teacher("--quiet", *tapped, "--set", "teacher.batch_size=7")
    assert answer.status == 2  # a part of 8 rows ends with a batch of one
    assert answer.stderr == (
        "error: features: 'odd' has shape (6, 3, 4) here, but (6, 4, 4) for the first sample; a "
        "cache keeps one shape. Name a module whose answers are all alike, or a reduce that makes "
        "them so, such as 'mean'. The batch begins with the sample s007.\n"
    )


def test_the_modules_of_both_models_are_listed_with_their_shapes(lab: Lab) -> None:
    told = run_cli("inspect", "--model", str(lab.recipe)).stdout
    assert "  teacher: what each module answers to one sample\n" in told
    assert "    0  6 x 4 x 4            Conv2d\n" in told
    assert "    5  5                    Linear\n" in told
    listed = json.loads(run_cli("inspect", "--model", "--json", str(lab.recipe)).stdout)
    assert [each["name"] for each in listed["models"]["student"]] == [*"012345"]
    assert listed["models"]["teacher"][3]["shapes"] == [[6, 2, 2]]
    assert "features that the recipe keeps" not in told
    told = run_cli("inspect", "--model", str(lab.recipe), "--set", FEATURES).stdout
    assert "    small 6 x 4 x 4 onto 2 channels int8, 36 bytes a row\n" in told


def test_another_projection_is_another_cache(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet", "--set", FEATURES).status == 0
    answer = lab.cache_teacher("--quiet", "--set", FEATURES.replace("seed = 3", "seed = 4"))
    assert answer.status == 2
    assert "features.1.projection.seed: there 3, here 4" in answer.stderr

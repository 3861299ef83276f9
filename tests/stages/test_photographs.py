"""A real ImageNet classifier over real photographs, its features read by plain zarr."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from laboratory import run_cli

from pipeline.experiment import open_data, open_model
from pipeline.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "data/recipes/photographs.toml"
# Half a unit in the last place of float16; and of int8, of an entry's largest number.
FLOAT16, INT8 = 2**-11, 0.5 / 127


@pytest.mark.assets
def test_features_of_a_real_classifier_are_those_of_a_direct_forward(tmp_path: Path) -> None:
    assets = [sys.executable, str(ROOT / "scripts/assets"), "efficientnet-lite0", "photographs"]
    subprocess.run(assets, check=True)
    answer = run_cli("cache-teacher", str(RECIPE), "--quiet", "--set", f"cache.path={tmp_path}/c")
    assert answer.status == 0, answer.stderr

    group: Any = zarr.open_group(tmp_path / "c/targets/00000.zarr", mode="r")
    recipe = load_recipe(RECIPE)
    assert recipe.teacher
    model = open_model(recipe, recipe.teacher.model, where="teacher.model").model.eval()
    pixels = torch.from_numpy(open_data(recipe, "train").read(range(16)).inputs)
    found = dict[str, torch.Tensor]()
    for name in ("_bn1", "_blocks.8", "_avg_pooling"):
        keep = lambda module, given, answer, name=name: found.update({name: answer.clone()})  # noqa: E731
        model.get_submodule(name).register_forward_hook(keep)
    with torch.inference_mode():
        logits = model((pixels.float() - 127) / 128)

    def error(field: str, direct: torch.Tensor) -> torch.Tensor:
        return (torch.from_numpy(np.asarray(group[field])).float() - direct).abs()

    near = 1e-4  # a normalisation in another order of operations
    assert bool((error("feature_map", found["_bn1"]) <= found["_bn1"].abs() * FLOAT16 + near).all())
    attention = found["_blocks.8"].square().sum(1)
    assert torch.allclose(torch.from_numpy(group["feature_attention"][:]), attention, rtol=1e-4)
    embedding = found["_avg_pooling"]
    decoded = torch.from_numpy(group["feature_embedding"][:]).float() * torch.from_numpy(
        group["feature_embedding_scale"][:]
    ).view(-1, 1, 1, 1)
    largest = embedding.amax((1, 2, 3), keepdim=True)
    assert bool(((decoded - embedding).abs() <= largest * (INT8 + 1e-4)).all())
    classes = torch.from_numpy(group["classes"][:].astype(np.int64))
    assert torch.equal(classes[:, 0], logits.argmax(1))

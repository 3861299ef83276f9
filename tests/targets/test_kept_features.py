"""Features as arrays and back: dtypes, shapes, random projections."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TargetError
from pipeline.targets import FeatureSpec, decode_feature, encode_features, read_specs
from pipeline.targets.features import project

FEATURE = torch.randn(6, 4, 3, 2, generator=torch.Generator().manual_seed(0)) * 10
# Half a unit in the last place of each dtype, relative; int8 relative to an entry's largest number.
STEPS = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 0.0}


def spec(dtype: str = "float16", **options: Any) -> FeatureSpec:
    return FeatureSpec("map", dtype, (4, 3, 2), "rows", **options)


@pytest.mark.parametrize("dtype", sorted(STEPS))
def test_a_feature_comes_back_to_the_rounding_of_its_dtype(dtype: str) -> None:
    arrays = encode_features({"map": FEATURE}, [spec(dtype)])
    decoded = decode_feature(spec(dtype), arrays)
    assert decoded.dtype == getattr(torch, dtype)
    assert bool(((decoded.float() - FEATURE).abs() <= STEPS[dtype] * FEATURE.abs()).all())


def test_int8_has_a_scale_a_row() -> None:
    mixed = torch.cat([FEATURE, FEATURE * 1e-4, torch.zeros(1, 4, 3, 2)])
    arrays = encode_features({"map": mixed}, [spec("int8")])
    assert arrays["feature_map_scale"].shape == (13,)
    decoded = decode_feature(spec("int8"), arrays)
    largest = mixed.abs().amax((1, 2, 3), keepdim=True)
    assert bool(((decoded - mixed).abs() <= largest * (0.5 / 127 + 1e-6)).all())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_fields_are_what_the_arrays_are(dtype: str) -> None:
    chosen = spec(dtype, width=2)
    arrays = encode_features({"map": FEATURE}, [chosen])
    assert chosen.kept_shape == (2, 3, 2)
    assert [field.name for field in chosen.fields] == list(arrays)
    for field in chosen.fields:
        assert arrays[field.name].dtype == field.numpy_dtype
        assert arrays[field.name].shape == (6, *field.shape)


def test_a_spec_is_read_back_from_its_json() -> None:
    chosen = spec("int8", width=2, seed=5)
    assert read_specs({"features": [chosen.to_json()]}, chosen.fields) == {"map": chosen}


def test_a_cache_that_does_not_say_it_keeps_plain_vectors() -> None:
    plain = FeatureSpec("last", "float32", (5,), "positions")
    assert read_specs({}, plain.fields) == {"last": plain}


def test_another_shape_than_was_planned_is_refused() -> None:
    with pytest.raises(TargetError) as caught:
        encode_features({"map": FEATURE[:, :, :2]}, [spec()])
    assert str(caught.value) == (
        "features: 'map' has shape (4, 2, 2) here, but (4, 3, 2) for the first sample; a cache "
        "keeps one shape. Name a module whose answers are all alike, or a reduce that makes them "
        "so, such as 'mean'."
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_what_is_not_finite_is_refused(dtype: str) -> None:
    bad = FEATURE.clone()
    bad[2, 1, 1, 1] = float("inf")
    with pytest.raises(TargetError, match=f"'map' is not finite in {dtype} at 1 of 6 rows. Give"):
        encode_features({"map": bad}, [spec(dtype)])


@given(seed=st.integers(0, 2**40), channels=st.integers(1, 40), width=st.integers(1, 8))
def test_a_projection_is_linear_and_follows_from_its_seed(
    seed: int, channels: int, width: int
) -> None:
    one = torch.randn(3, channels, generator=torch.Generator().manual_seed(1))
    projected = project(one, width, seed)
    assert projected.shape == (3, width)
    assert torch.equal(projected, project(one.clone(), width, seed))
    assert torch.allclose(project(2 * one, width, seed), 2 * projected, atol=1e-5)
    assert torch.allclose(
        project(torch.eye(channels), width, seed).abs(), torch.tensor(width**-0.5)
    )


def test_a_map_is_projected_place_by_place() -> None:
    projected = project(FEATURE, 2, 7)
    assert torch.allclose(projected[:, :, 1, 1], project(FEATURE[:, :, 1, 1], 2, 7), atol=1e-5)


def test_a_projection_keeps_squared_distances_on_average() -> None:
    pair = torch.randn(2, 300, generator=torch.Generator().manual_seed(3))
    apart = float((pair[0] - pair[1]).square().sum())
    found = [
        float(np.square(np.subtract(*project(pair, 16, seed).numpy())).sum()) for seed in range(200)
    ]
    # One draw has a relative deviation of sqrt(2 / 16); their mean, of a fourteenth of it.
    assert np.mean(found) / apart == pytest.approx(1, abs=4 * (2 / 16 / 200) ** 0.5)


def test_the_signs_of_a_seed_are_what_they_were() -> None:
    projected = project(torch.eye(3), 5, 7) * 5**0.5
    wanted = [[-1, 1, 1, 1, 1], [-1, -1, -1, 1, -1], [-1, 1, 1, -1, -1]]
    assert torch.equal(projected.round(), torch.tensor(wanted, dtype=torch.float32))

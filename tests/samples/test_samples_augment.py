"""Augmentations and mixing: what they do, and that nothing but an image's own key decides it."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.keyed import view_key
from pipeline.samples.views.augment import (
    augment,
    colour,
    crop,
    flip,
    library_versions,
    move,
    noise,
    shift,
)
from pipeline.samples.views.mix import draw_partners, draw_shares, mix

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 10), dtype=np.uint8)
STEPS: list[tuple[str, dict[str, Any]]] = [
    ("crop", {"padding": 2}),
    ("crop", {"padding": 3, "mode": "reflect"}),
    ("flip", {}),
    ("shift", {"pixels": 1.5}),
    ("colour", {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5}),
    ("noise", {"std": 0.1}),
]


def keys(count: int, purpose: bytes = b"", seed: int = 0) -> list[bytes]:
    return [view_key(seed, f"s{number}", 0, purpose) for number in range(count)]


def keys_of(count: int, seed: int = 0) -> Callable[[bytes], list[bytes]]:
    return lambda purpose: keys(count, purpose, seed)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step[0]))
def test_a_view_has_the_shape_and_dtype_of_its_sample(
    step: tuple[str, dict[str, Any]], dtype: type
) -> None:
    images: NDArray[Any] = IMAGES.astype(dtype)
    before = images.copy()
    shown = augment(images, keys_of(6), [step])
    assert (shown.shape, shown.dtype) == (images.shape, images.dtype)
    assert np.array_equal(images, before)
    assert not np.array_equal(shown, images)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**40), chosen=st.permutations(range(6)), count=st.integers(1, 6))
def test_an_image_is_shown_alike_whatever_it_comes_with(
    seed: int, chosen: list[int], count: int
) -> None:
    whole = augment(IMAGES, keys_of(6, seed), STEPS)
    some = chosen[:count]
    few = augment(IMAGES[some], lambda purpose: [keys(6, purpose, seed)[i] for i in some], STEPS)
    assert np.array_equal(few, whole[some])


def test_steps_of_one_kind_draw_apart() -> None:
    once = augment(IMAGES.astype(float), keys_of(6), [("noise", {"std": 1.0})]) - IMAGES
    twice = augment(IMAGES.astype(float), keys_of(6), [("noise", {"std": 1.0})] * 2) - IMAGES
    assert not np.allclose(twice, 2 * once)


@given(down=st.integers(-9, 9), right=st.integers(-9, 9))
def test_a_move_by_whole_pixels_is_exact_and_leaves_zeros(down: int, right: int) -> None:
    moved = move(IMAGES[:1], np.array([[down, right]], float))[0]
    for row in range(8):
        for column in range(10):
            here = (row - down, column - right)
            inside = 0 <= here[0] < 8 and 0 <= here[1] < 10
            wanted = IMAGES[0, :, here[0], here[1]] if inside else np.zeros(3)
            assert np.array_equal(moved[:, row, column], wanted)


def test_a_move_by_half_a_pixel_is_the_mean_of_two() -> None:
    moved = move(IMAGES[:1], np.array([[0.0, 0.5]]))[0]
    means = (IMAGES[0, :, :, 1:].astype(float) + IMAGES[0, :, :, :-1]) / 2
    assert np.array_equal(moved[:, :, 1:], means)


def test_shifts_reach_in_all_directions_and_no_further() -> None:
    dot = np.zeros((200, 1, 9, 9))
    dot[:, 0, 4, 4] = 1
    shown = shift(dot, keys(200), pixels=1.5)
    places = np.arange(9) - 4
    means = np.stack([(shown.sum((1, 3)) * places).sum(1), (shown.sum((1, 2)) * places).sum(1)])
    assert np.allclose(shown.sum((1, 2, 3)), 1)
    assert means.min() < -1.3
    assert means.max() > 1.3
    assert np.abs(means).max() <= 1.5


@pytest.mark.parametrize("mode", ["zero", "edge", "reflect"])
def test_a_crop_is_a_window_of_the_padded_image(mode: str) -> None:
    shown = crop(IMAGES, keys(6), padding=2, mode=mode)
    named = {"zero": "constant", "edge": "edge", "reflect": "reflect"}[mode]
    around = ((0, 0), (0, 0), (2, 2), (2, 2))
    padded = np.pad(IMAGES, around, mode=named)  # type: ignore[call-overload]
    for image, cut in zip(padded, shown, strict=True):
        windows = [image[:, r : r + 8, c : c + 10] for r in range(5) for c in range(5)]
        assert any(np.array_equal(cut, window) for window in windows)
    starts = {cut.tobytes() for cut in crop(np.repeat(IMAGES[:1], 400, 0), keys(400), padding=2)}
    assert len(starts) == 25


def test_flips_are_as_frequent_as_asked() -> None:
    images = np.repeat(IMAGES[:1], 2000, 0)
    shown = flip(images, keys(2000), probability=0.3)
    flipped = [np.array_equal(image, IMAGES[0, :, :, ::-1]) for image in shown]
    kept = [np.array_equal(image, IMAGES[0]) for image in shown]
    assert sum(flipped) + sum(kept) == 2000
    assert abs(sum(flipped) - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5


def test_noise_is_nearly_normal_and_bounded() -> None:
    drawn = noise(np.zeros((100, 1, 20, 20)), keys(100), std=2.0) / 2.0
    assert abs(drawn.mean()) < 5 / drawn.size**0.5
    assert drawn.std() == pytest.approx(1, abs=0.02)
    assert np.abs(drawn).max() <= 12**0.5
    # Four uniform numbers have a kurtosis of 3 - 6 / 5 / 4.
    assert (drawn**4).mean() == pytest.approx(2.7, abs=0.1)
    assert 0.6 < (np.abs(drawn) < 1).mean() < 0.7


def test_noise_of_bytes_is_in_units_of_their_range() -> None:
    grey = np.full((50, 1, 16, 16), 128, np.uint8)
    shown = augment(grey, keys_of(50), [("noise", {"std": 0.05})])
    assert shown.std() == pytest.approx(0.05 * 255, rel=0.05)


def test_colours_of_no_strength_are_the_image() -> None:
    assert np.array_equal(colour(IMAGES, keys(6)), IMAGES)


def test_colours_are_what_their_names_say() -> None:
    bright = colour(IMAGES, keys(6), brightness=0.5) / np.maximum(IMAGES, 1)
    for image, ratio in zip(IMAGES, bright, strict=True):
        factors = ratio[image > 0]
        assert factors == pytest.approx(np.full_like(factors, factors[0]))
        assert 0.5 <= factors[0] <= 1.5
    grey = np.tensordot(np.array([0.299, 0.587, 0.114]), IMAGES, axes=(0, 1))
    saturated = colour(IMAGES, keys(6), saturation=0.9)
    assert np.tensordot(np.array([0.299, 0.587, 0.114]), saturated, axes=(0, 1)) == pytest.approx(
        grey
    )
    contrasted = colour(IMAGES[:, :1], keys(6), contrast=0.9)
    assert contrasted.mean((1, 2, 3)) == pytest.approx(IMAGES[:, :1].mean((1, 2, 3)), abs=1e-3)
    assert not np.allclose(contrasted.std((1, 2, 3)), IMAGES[:, :1].std((1, 2, 3)), rtol=0.05)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SampleError, match="saturation is of red, green and blue; the"):
        colour(IMAGES[:, :1], keys(6), saturation=0.1)
    with pytest.raises(SampleError, match=r"views.augment: is of images, .*; got \(4,\)"):
        augment(np.zeros((6, 4)), keys_of(6), [("flip", {})])


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_shares_have_the_moments_of_beta(alpha: float) -> None:
    drawn = draw_shares((np.arange(20_000) + 0.5) / 20_000, alpha)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert drawn.mean() == pytest.approx(0.5, abs=1e-6)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.01)


def test_partners_are_all_rows_of_a_part() -> None:
    places = draw_partners(keys(500), 7)
    assert set(places.tolist()) == set(range(7))
    sizes = np.arange(1, 501)
    assert (draw_partners(keys(500), sizes) < sizes).all()


def test_mixup_is_the_weighted_mean() -> None:
    partners = IMAGES[::-1]
    shown, shares = mix("mixup", IMAGES, partners, keys(6), 1.0)
    for image, partner, made, share in zip(IMAGES, partners, shown, shares, strict=True):
        assert share * 256 == round(float(share) * 256)
        wanted = np.rint(float(share) * image + (1 - float(share)) * partner)
        assert np.array_equal(made, wanted)
    floats, same = mix("mixup", IMAGES / 255, partners / 255, keys(6), 1.0)
    assert np.array_equal(same, shares)
    assert floats.dtype == np.float64


def test_cutmix_shows_a_box_and_its_share_is_what_is_left() -> None:
    own, other = np.zeros((300, 1, 8, 10), np.uint8), np.full((300, 1, 8, 10), 9, np.uint8)
    shown, shares = mix("cutmix", own, other, keys(300), 1.0)
    assert shares == pytest.approx((shown == 0).mean((1, 2, 3)))
    assert shares.min() < 0.2
    assert shares.max() > 0.8
    for image in shown[:, 0]:
        rows, columns = (image > 0).any(1), (image > 0).any(0)
        assert (image > 0).sum() == rows.sum() * columns.sum()


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return bool(np.array_equal(one, other))


def test_torchvision_is_seeded_by_the_key_and_leaves_generators_alone() -> None:
    torch = pytest.importorskip("torch")
    try:
        library_versions([{"kind": "torchvision"}])
    except SampleError:
        pytest.skip("torchvision is not installed, or not for this torch")
    step = ("torchvision", {"transform": "RandAugment", "arguments": {"num_ops": 2}})
    torch.manual_seed(1)
    before = torch.get_rng_state()
    whole = augment(IMAGES, keys_of(6), [step])
    assert torch.equal(torch.get_rng_state(), before)
    assert same(whole[2:4], augment(IMAGES[2:4], lambda p: keys(6, p)[2:4], [step]))
    assert not same(whole, augment(IMAGES, keys_of(6, seed=1), [step]))
    assert set(library_versions([{"kind": "torchvision"}])) == {"torchvision"}
    with pytest.raises(SampleError, match=r"RandAugmnt does not exist in .*; did you mean"):
        augment(IMAGES, keys_of(6), [("torchvision", {"transform": "RandAugmnt"})])
    crop4 = {"transform": "CenterCrop", "arguments": {"size": 4}}
    with pytest.raises(SampleError, match=r"gives \(3, 4, 4\) uint8 for images of"):
        augment(IMAGES, keys_of(6), [("torchvision", crop4)])


def test_without_torchvision_the_extra_is_named() -> None:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # or built for another torch
        with pytest.raises(SampleError, match="Install it: pip install 'teacher-logit-cache"):
            augment(IMAGES, keys_of(6), [("torchvision", {"transform": "RandAugment"})])
    else:
        assert library_versions([]) == {}


# Whoever changes one of these raises VERSION, for caches that were made are shown otherwise.
FIRST_VERSION = {
    "crop": "dae8d584df7b6228",
    "crop reflect": "3d836d1f499fca04",
    "flip": "eeb49ed6abc989d3",
    "shift": "642f8d5b9f11881d",
    "colour": "6ce34a40d7a48e16",
    "noise": "fb98e0df93b249ce",
}


@pytest.mark.parametrize(("step", "digest"), list(zip(STEPS, FIRST_VERSION.values(), strict=True)),
                         ids=FIRST_VERSION)  # fmt: skip
def test_views_are_what_they_were(step: tuple[str, dict[str, Any]], digest: str) -> None:
    shown = augment(IMAGES, keys_of(6), [step])
    assert hashlib.sha256(shown.tobytes()).hexdigest().startswith(digest)


@pytest.mark.parametrize(
    ("kind", "digest"), [("mixup", "21b7ca1877556658"), ("cutmix", "d3814e7b3b3452f2")]
)
def test_mixed_pairs_are_what_they_were(kind: str, digest: str) -> None:
    shown, _ = mix(kind, IMAGES, IMAGES[::-1], keys(6, b"mix"), 0.7)
    assert hashlib.sha256(shown.tobytes()).hexdigest().startswith(digest)
    assert draw_partners(keys(6, b"partner"), 100).tolist() == [34, 99, 10, 75, 88, 91]

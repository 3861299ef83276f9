"""What encode keeps, against the same written as loops over positions in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets import TargetSpec, encode, find_bad_positions, target_fields
from pipeline.targets.selection import find_largest, select_top_k


def draw_logits(positions: int, class_count: int, seed: int = 0, scale: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, class_count, generator=generator) * scale


def sorted_classes(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda c: (-row[c], c))


logits_with_ties = st.integers(1, 12).flatmap(
    lambda class_count: st.lists(
        st.lists(
            st.sampled_from([-2.0, -0.0, 0.0, 1.0, 1e-30]),
            min_size=class_count,
            max_size=class_count,
        ),
        min_size=1,
        max_size=5,
    )
)


WAYS = {
    "sort": {"SORTED_CLASSES": 64},
    "top-k": {"SORTED_CLASSES": 0},
    "groups": {"SORTED_CLASSES": 0, "GROUPED_CLASSES": 0, "GROUP": 2, "FEWEST_GROUPS": 1},
}


@pytest.mark.parametrize("way", WAYS)
@given(logits_with_ties, st.data())
def test_larger_logit_first_then_smaller_class(
    way: str, rows: list[list[float]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(rows[0])))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WAYS[way].items():
            patch.setattr(f"pipeline.targets.selection.{name}", value)
        chosen = select_top_k(torch.tensor(rows), k)
    assert chosen.tolist() == [sorted_classes(row)[:k] for row in rows]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_selection_of_many_classes_is_the_stable_sort(dtype: torch.dtype) -> None:
    logits = draw_logits(20, 3000).to(dtype)
    expected = logits.sort(dim=1, descending=True, stable=True).indices[:, :50]
    assert torch.equal(select_top_k(logits, 50), expected)


@pytest.mark.parametrize("class_count", [2047, 2048, 4001, 20_007])
@pytest.mark.parametrize("k", [1, 2, 65, 600])
def test_the_largest_of_groups_are_the_largest(class_count: int, k: int) -> None:
    logits = draw_logits(6, class_count, seed=k)
    logits[3] = logits[3].round()
    logits[4] = logits[4].sort().values
    logits[5] = 1.0
    values, classes = find_largest(logits, k)
    assert torch.equal(values, logits.topk(k, dim=1).values)
    assert torch.equal(logits.gather(1, classes), values)
    assert all(len(row.unique()) == k for row in classes)


@pytest.mark.parametrize(
    "spec",
    [
        TargetSpec("all", 7, 7),
        TargetSpec("all", 1, 1),
        TargetSpec("top_k", 7, 3),
        TargetSpec("top_k", 7, 1),
        TargetSpec("top_k", 7, 6),
        TargetSpec("top_k", 7, 7),
        TargetSpec("top_k", 1, 1),
    ],
    ids=lambda spec: f"{spec.kind}-{spec.k}-of-{spec.class_count}",
)
@pytest.mark.parametrize("positions", [0, 5])
def test_arrays_are_the_fields(spec: TargetSpec, positions: int) -> None:
    arrays = encode(spec, draw_logits(positions, spec.class_count))
    layout = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    assert layout == {
        field.name: (field.dtype, (positions, *field.shape)) for field in target_fields(spec)
    }


@pytest.mark.parametrize("class_count", [10, 1000, 50_257, 151_936, 262_144])
def test_the_last_class_survives_its_dtype(class_count: int) -> None:
    logits = torch.zeros(1, class_count)
    logits[0, -1] = 5.0
    arrays = encode(TargetSpec("top_k", class_count, 3), logits)
    assert arrays["classes"].tolist() == [[class_count - 1, 0, 1]]
    assert arrays["logits"].tolist() == [[0.0, -5.0, -5.0]]
    assert arrays["tail"][0, 0] == pytest.approx(math.log(class_count - 3) - 5, abs=1e-5)


def test_all_keeps_relative_logits_in_class_order() -> None:
    arrays = encode(TargetSpec("all", 3, 3), torch.tensor([[1.0, 3.0, 2.5]]))
    assert arrays["logits"].tolist() == [[-2.0, 0.0, -0.5]]


def test_top_k_keeps_descending_logits_of_their_classes() -> None:
    logits = draw_logits(50, 20)
    arrays = encode(TargetSpec("top_k", 20, 6), logits)
    assert (np.diff(arrays["logits"].astype(float)) <= 0).all()
    relative = (logits - logits.amax(1, keepdim=True)).numpy()
    expected = np.take_along_axis(relative, arrays["classes"].astype(int), 1)
    assert np.array_equal(arrays["logits"], expected.astype(np.float16))


@pytest.mark.parametrize("kind", ["all", "top_k"])
@pytest.mark.parametrize("k", [1, 4])
def test_statistics_are_of_the_full_distribution(kind: str, k: int) -> None:
    logits = draw_logits(40, 12)
    spec = TargetSpec("all", 12, 12) if kind == "all" else TargetSpec("top_k", 12, k)
    arrays = encode(spec, logits)
    for position, row in enumerate(logits.double().softmax(1).tolist()):
        first, second, *_ = sorted(row, reverse=True)
        entropy = -sum(p * math.log(p) for p in row)
        assert arrays["entropy"][position] == pytest.approx(entropy, 1e-4)
        assert arrays["confidence"][position] == pytest.approx(first, 1e-6)
        assert arrays["margin"][position] == pytest.approx(first - second, 1e-5, 1e-6)


def test_tail_holds_log_masses_and_slopes() -> None:
    spec = TargetSpec("top_k", 9, 3, (1.0, 0.5, 0.25))
    # Multiples of 1/8, so that float16 keeps them exactly and nothing is corrected.
    logits = (draw_logits(30, 9) * 8).round() / 8
    tail = encode(spec, logits)["tail"]
    for position, row in enumerate(logits.double().tolist()):
        left_out = [row[c] - max(row) for c in sorted_classes(row)[3:]]
        mass = sum(math.exp(x) for x in left_out)
        at_nodes = [math.log(sum(math.exp(b * x) for x in left_out)) for b in spec.nodes]
        slopes = [sum(left_out) / 6, sum(x * math.exp(x) for x in left_out) / mass]
        assert tail[position] == pytest.approx([*at_nodes, *slopes], rel=1e-5, abs=1e-5)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 60), st.integers(1, 29))
def test_stored_nodes_give_the_exact_tail_mass_with_rounded_logits(
    seed: int, scale: float, k: int
) -> None:
    spec = TargetSpec("top_k", 30, k)
    logits = draw_logits(6, 30, seed, scale)
    arrays = encode(spec, logits)
    kept = arrays["logits"].astype(np.float64)
    left_out = logits.double().scatter(
        1, torch.from_numpy(arrays["classes"].astype(int)), -math.inf
    )
    for i, node in enumerate(spec.nodes):
        true = (left_out * node).logsumexp(1) - (logits.double() * node).logsumexp(1)
        k_of_b = arrays["tail"][:, i].astype(np.float64)
        stored = k_of_b - np.logaddexp(np.log(np.exp(node * kept).sum(1)), k_of_b)
        assert np.exp(stored) == pytest.approx(true.exp().numpy(), abs=3e-6)


def test_tail_of_a_very_confident_teacher_does_not_underflow() -> None:
    logits = torch.tensor([[0.0, -1.0, -300.0, -301.0, -302.0]])
    tail = encode(TargetSpec("top_k", 5, 2, (1.0,)), logits)["tail"]
    assert tail[0, 0] == pytest.approx(-300 + math.log(1 + math.exp(-1) + math.exp(-2)), abs=1e-4)


def test_logits_beyond_float16_are_clipped_and_stay_finite() -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0, 2.9e38]])
    arrays = encode(TargetSpec("top_k", 4, 2), logits)
    assert arrays["logits"].tolist() == [[0.0, -65504.0]]
    assert np.isfinite(arrays["tail"]).all()
    assert encode(TargetSpec("all", 4, 4), logits)["logits"].min() == -65504.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_widened_before_any_maths(dtype: torch.dtype) -> None:
    logits = draw_logits(10, 500).to(dtype)
    spec = TargetSpec("top_k", 500, 8)
    half, full = encode(spec, logits), encode(spec, logits.float())
    assert all(np.array_equal(half[name], full[name]) for name in full)


def test_blocks_do_not_change_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, logits = TargetSpec("top_k", 50, 5), draw_logits(64, 50)
    whole = encode(spec, logits)
    monkeypatch.setattr("pipeline.targets.encoding.BLOCK_ELEMENTS", {"cpu": 50 * 7})
    blocks = encode(spec, logits)
    for name in whole:
        assert np.allclose(whole[name], blocks[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spec", [TargetSpec("all", 4, 4), TargetSpec("top_k", 4, 2)])
def test_logits_that_are_not_finite_are_counted_and_named(value: float, spec: TargetSpec) -> None:
    logits = draw_logits(10, 4)
    logits[3:9, 2] = value
    expected = (
        f"targets: the teacher's logits are not finite at 6 of 10 positions: 3 ({value}), "
        f"4 ({value}), 5 ({value}), 6 ({value}), 7 ({value}) and 1 more. Only finite logits can be "
        "cached. Check the inputs at these positions, or run the teacher in float32."
    )
    with pytest.raises(TargetError) as caught:
        encode(spec, logits)
    assert str(caught.value) == expected
    assert find_bad_positions(logits) == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("shape", [(4, 9), (4,), (2, 2, 10)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TargetError, match=r"logits have shape .*; expected \(positions, 10\)"):
        encode(TargetSpec("top_k", 10, 4), torch.zeros(shape))

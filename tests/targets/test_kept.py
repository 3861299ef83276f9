"""Arrays of a cache become tensors, and tensors of some positions."""

import numpy as np
import pytest
import torch

from pipeline.targets import Targets, TargetSpec, decode, encode


def make_targets(kind: str = "top_k") -> Targets:
    spec = TargetSpec("top_k", 9, 3) if kind == "top_k" else TargetSpec("all", 9, 9)
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    arrays = encode(spec, logits)
    for array in arrays.values():
        array.flags.writeable = False  # as a reader may hand them out
    return decode(spec, arrays)


def test_top_k_decodes_to_what_was_kept() -> None:
    targets = make_targets()
    assert (len(targets), targets.class_count, targets.left_out_count) == (6, 9, 6)
    assert targets.classes is not None
    assert targets.tail is not None
    assert targets.logits.dtype == targets.tail.dtype == torch.float32
    assert targets.classes.dtype == torch.int64
    assert targets.tail.shape == (6, len(targets.nodes) + 2)


SPECS = {
    "all": TargetSpec("all", 300, 300),
    "top_k": TargetSpec("top_k", 300, 4),
    "top_p": TargetSpec("top_p", 300, 4, p=0.5),
    "hybrid": TargetSpec("hybrid", 300, 4, draws=3),
    "sampled": TargetSpec("sampled", 300, 0, draws=3),
}


@pytest.mark.parametrize("kind", SPECS)
def test_fields_that_are_tensors_decode_alike(kind: str) -> None:
    spec = SPECS[kind]
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(1))
    numbers = np.random.default_rng(0).random((6, 3)) if spec.draws else None
    arrays = encode(spec, logits, numbers=numbers)
    here = decode(spec, arrays)
    there = decode(spec, {name: torch.from_numpy(array) for name, array in arrays.items()})
    for name in ("logits", "classes", "tail", "count", "drawn", "drawn_logits", "top"):
        one, other = getattr(here, name), getattr(there, name)
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other)), name


def test_all_decodes_without_classes_or_tail() -> None:
    targets = make_targets("all")
    assert targets.classes is None
    assert targets.tail is None
    assert targets.left_out_count == 0


@pytest.mark.parametrize("class_count", [300, 70_000], ids=["uint16", "uint32"])
def test_large_classes_are_read_back(class_count: int) -> None:
    spec = TargetSpec("top_k", class_count, 2, (1.0,))
    logits = torch.zeros(1, class_count)
    logits[0, class_count - 1] = 1.0
    targets = decode(spec, encode(spec, logits))
    assert targets.classes is not None
    assert targets.classes.tolist() == [[class_count - 1, 0]]


@pytest.mark.parametrize("kind", ["all", "top_k"])
@pytest.mark.parametrize(
    "positions",
    [slice(2, 5), torch.tensor([2, 3, 4]), torch.arange(6).remainder(5) >= 2],
    ids=["slice", "indices", "mask"],
)
def test_positions_are_selected_together(kind: str, positions: slice | torch.Tensor) -> None:
    targets = make_targets(kind)
    some = targets[positions]
    assert len(some) == 3
    assert torch.equal(some.logits, targets.logits[2:5])
    if targets.classes is not None and some.classes is not None:
        assert torch.equal(some.classes, targets.classes[2:5])
    if targets.tail is not None and some.tail is not None:
        assert torch.equal(some.tail, targets.tail[2:5])


def test_targets_move_between_devices_whole() -> None:
    moved = make_targets().to("meta")
    assert moved.classes is not None
    assert moved.tail is not None
    assert {t.device.type for t in (moved.logits, moved.classes, moved.tail)} == {"meta"}


@pytest.mark.parametrize("kind", ["all", "top_k"])
def test_top_classes_are_the_teachers_first_choice(kind: str) -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(make_targets(kind).top_classes(), logits.argmax(1))


def test_decoding_does_not_share_memory_with_the_arrays() -> None:
    spec = TargetSpec("top_k", 4, 2)
    arrays = encode(spec, torch.randn(3, 4))
    targets = decode(spec, arrays)
    arrays["tail"][:] = np.nan
    assert targets.tail is not None
    assert bool(targets.tail.isfinite().all())

"""What a batch is compared with goes to a device as narrow as it lies in a cache."""

from dataclasses import replace
from io import BytesIO

import pytest
import torch
from test_stream_slices import assert_together
from tiny import assert_same_targets

from pipeline.stream.batch import Batch, as_tensor
from pipeline.stream.stored import Picked, Stored, Whole
from pipeline.targets import MixedLabels, PseudoLabels, Targets, TargetSpec, encode

POSITIONS = 6
SPECS = {
    "all": TargetSpec("all", 9, 9),
    "top_k": TargetSpec("top_k", 300, 3),
    "many": TargetSpec("top_k", 70_000, 3),
    "top_p": TargetSpec("top_p", 300, 5, p=0.5),
}


def make_batch(kind: str = "top_k", asked: tuple[str, ...] = ()) -> Batch:
    spec, generator = SPECS[kind], torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(POSITIONS, spec.class_count, generator=generator)
    kept = {name: as_tensor(array) for name, array in encode(spec, logits).items()}
    weights = {"pseudo_label": torch.rand(POSITIONS, generator=generator)}
    stored = Stored(spec, kept, None, weights, asked)
    ids = [f"s{row}" for row in range(POSITIONS)]
    return Batch(ids, torch.zeros(POSITIONS, 1), torch.arange(POSITIONS), stored)


def test_what_is_known_of_targets_is_counted_before_they_are_widened() -> None:
    batch = make_batch(asked=("entropy", "pseudo_label"))
    assert isinstance(batch.known, Stored)
    assert len(batch.known) == POSITIONS
    assert batch.targets is not None
    assert batch.known.statistics.keys() == {"entropy", "pseudo_label"}
    for name, values in batch.known.statistics.items():
        assert torch.equal(values, batch.targets.statistics[name])
    assert batch.known.class_count == batch.targets.class_count


def test_in_host_memory_nothing_moves() -> None:
    batch = make_batch()
    assert batch.compared_on(torch.device("cpu")) is batch


def test_a_device_that_is_no_gpu_gets_targets_as_they_are_widened_here() -> None:
    batch = make_batch()
    moved = batch.compared_on(torch.device("meta"))
    assert moved.stored is None
    assert isinstance(moved.made, Targets)
    assert moved.made.logits.device.type == "meta"
    assert moved.labels.device.type == "meta"  # type: ignore[union-attr]
    assert moved.inputs.device.type == "cpu"


def test_a_batch_that_is_moved_leaves_nothing_behind() -> None:
    moved = make_batch().to("meta")
    assert isinstance(moved.made, Targets)
    assert isinstance(moved.labels, torch.Tensor)
    for each in (moved.inputs, moved.labels, moved.made.logits):
        assert each.device.type == "meta"


def test_a_batch_that_is_where_it_shall_be_is_not_copied() -> None:
    batch = make_batch()
    moved = batch.to("cpu")
    assert moved.stored is batch.stored
    assert moved.inputs is batch.inputs


def test_a_batch_is_split_with_all_that_it_has() -> None:
    batch = make_batch(asked=("entropy", "pseudo_label"))
    assert isinstance(batch.stored, Stored)
    assert isinstance(batch.targets, Targets)
    whole = Whole(replace(batch.stored, beside={}, asked=()))
    features = {"half": torch.rand(POSITIONS, 2).bfloat16(), "map": torch.rand(POSITIONS, 3)}
    mixed = MixedLabels(*torch.arange(3 * POSITIONS).reshape(3, -1))
    pseudo = PseudoLabels(torch.arange(POSITIONS), torch.rand(POSITIONS))
    full = replace(batch, labels=mixed, features=features, pseudo_labels=pseudo)
    picked = replace(batch, stored=Picked(whole, torch.arange(POSITIONS).flip(0)))
    for one in (full, picked):
        pieces = one.split([1, 0, 3, 2])
        assert list(map(len, (each.ids for each in pieces))) == [1, 0, 3, 2]
        assert_together(one, pieces)
    pieces = full.split([4, 2])
    for name, feature in features.items():
        assert torch.equal(torch.cat([each.features[name] for each in pieces]), feature)
    for name, values in batch.targets.statistics.items():
        targets = [each.targets for each in pieces]
        found = [each.statistics[name] for each in targets if isinstance(each, Targets)]
        assert torch.equal(torch.cat(found), values)


def test_a_batch_that_was_split_off_is_saved_alone() -> None:
    rows = 1000
    whole = Batch(list("x" * rows), torch.zeros(rows, 50), torch.zeros(rows, dtype=torch.long))
    first, _ = whole.split([10, rows - 10])
    assert first.inputs.data_ptr() == whole.inputs.data_ptr()
    file = BytesIO()
    torch.save([first.inputs, first.labels], file)
    assert len(file.getvalue()) < whole.inputs.nbytes // 10


@pytest.mark.gpu
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("pinned", [False, True], ids=["pageable", "pinned"])
def test_targets_are_widened_on_a_gpu_as_they_are_here(kind: str, pinned: bool) -> None:
    batch = make_batch(kind)
    there = (batch.pin_memory() if pinned else batch).compared_on(torch.device("cuda"))
    assert there.stored is not None
    assert isinstance(there.targets, Targets)
    assert isinstance(batch.targets, Targets)
    assert there.targets.logits.device.type == "cuda"
    assert_same_targets(there.targets, batch.targets)


@pytest.mark.gpu
def test_a_pinned_batch_says_the_same() -> None:
    batch = replace(make_batch(), features={"f": torch.rand(POSITIONS, 2)})
    pinned = batch.pin_memory()
    assert pinned.inputs.is_pinned()
    assert pinned.features["f"].is_pinned()
    assert torch.equal(pinned.features["f"], batch.features["f"])

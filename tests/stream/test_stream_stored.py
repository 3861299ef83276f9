"""Targets of few bytes are widened for a window at once, and say the same as a batch's own."""

import pickle
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from tiny import CLASSES, assert_same_targets, make_cache, make_samples
from torch import Tensor, nn

from pipeline.models import Network
from pipeline.store import Cache
from pipeline.stream import Batch, Picked, Stream
from pipeline.stream import stored as module
from pipeline.stream.stored import Stored, Whole
from pipeline.targets import Targets
from pipeline.training.match import Sums, WeightedLoss, count_positions, match, tell, weigh
from pipeline.training.roots import backpropagate

ROWS = 20
SOFT: dict[str, Any] = {"kind": "soft_targets", "weight": 0.7, "temperature": 2.0}
LOSSES: dict[str, list[dict[str, Any]]] = {
    "alone": [SOFT],
    "beside labels": [SOFT, {"kind": "hard_labels", "weight": 0.3}],
    "weighed": [{**SOFT, "weigh_by": "confidence"}],
    "at two temperatures": [SOFT, {**SOFT, "temperature": 4.0}],
}


@pytest.fixture(scope="module", params=[CLASSES, 300, 70_000])
def cache(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Cache:
    """20 rows in 5 parts, of so many classes that each takes one, two or four bytes."""
    folder = tmp_path_factory.mktemp("stored") / "cache"
    logits = torch.randn(ROWS, request.param, generator=torch.Generator().manual_seed(1))
    return make_cache(folder, make_samples(ROWS), rows_per_part=4, logits=logits)


def stream(cache: Cache, **options: Any) -> Stream:
    made = {"batch_size": 7, "window_parts": 3, "statistics": ("confidence",), **options}
    return Stream(make_samples(ROWS), cache, **made)


def apart(batch: Batch) -> Batch:
    """Give a batch the targets that are its own."""
    assert isinstance(batch.stored, Picked)
    return replace(batch, stored=batch.stored.apart())


def test_places_of_a_window_say_what_a_batch_of_its_own_does(cache: Cache) -> None:
    batches = list(stream(cache))
    picked = [batch for batch in batches if isinstance(batch.stored, Picked)]
    across = [batch for batch in batches if isinstance(batch.stored, Stored)]
    assert picked  # batches that lie in one window
    assert across  # and one that lies in two
    for batch in picked:
        assert isinstance(batch.stored, Picked)
        assert_same_targets(batch.targets, apart(batch).targets)
        own = batch.stored.apart()
        assert (len(own), own.class_count) == (len(batch.stored), batch.stored.class_count)
        for name, values in own.statistics.items():
            assert torch.equal(batch.stored.statistics[name], values)
    wholes = {id(batch.stored.whole) for batch in picked if isinstance(batch.stored, Picked)}
    assert len(wholes) == 2  # one a window


def test_a_batch_is_the_same_whatever_is_widened_at_once(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = list(stream(cache))
    monkeypatch.setattr(module, "WHOLE_BYTES", 0)
    for one, other in zip(stream(cache), at_once, strict=True):
        assert isinstance(one.stored, Stored)
        assert one.ids == other.ids
        assert_same_targets(one.targets, other.targets)


def test_another_process_gets_no_window(cache: Cache) -> None:
    batch = next(iter(stream(cache)))
    assert isinstance(batch.stored, Picked)
    there = ForkingPickler.loads(ForkingPickler.dumps(batch.stored))
    assert isinstance(there, Stored)
    assert len(there) == 7
    assert_same_targets(there.decode(), batch.targets)


def test_a_stream_that_was_learned_from_can_go_to_another_process(cache: Cache) -> None:
    used = stream(cache, window_parts=5)
    batches = list(used)
    for batch in batches:
        taught(batch, weigh(LOSSES["beside labels"]))
    there = pickle.loads(pickle.dumps(used))
    assert [batch.ids for batch in there] == [batch.ids for batch in used]


def test_what_is_moved_is_what_is_stored(cache: Cache) -> None:
    batch = next(iter(stream(cache)))
    moved = batch._each(lambda tensor: tensor.clone())
    assert isinstance(moved.stored, Stored)
    assert_same_targets(moved.targets, batch.targets)


def test_a_window_is_widened_once_and_only_if_somebody_asks(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    widened: list[int] = []
    original = Stored.decode

    def counting(stored: Stored) -> Targets:
        widened.append(len(stored))
        return original(stored)

    monkeypatch.setattr(Stored, "decode", counting)
    batches = list(stream(cache, window_parts=5))
    assert widened == []
    for batch in batches * 2:
        assert batch.targets is not None
    assert widened == [ROWS]


def taught(batch: Batch, losses: list[WeightedLoss]) -> tuple[Sums, list[Tensor]]:
    torch.manual_seed(0)
    assert batch.known is not None
    network = Network(nn.Linear(3, batch.known.class_count))
    counts = count_positions(losses, [batch])
    sums, values = match(network(batch.inputs), batch, losses, counts)
    backpropagate([root for roots in sums for root in roots])
    gradients = [each.grad for each in network.model.parameters()]
    return (sums, values), [each for each in gradients if each is not None]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_say_the_same_of_places_and_of_targets(name: str, cache: Cache) -> None:
    losses, batches = weigh(LOSSES[name]), list(stream(cache, window_parts=5))
    for batch in batches[:2]:  # of the second one, what was made for the first is used again
        (_, values), gradients = taught(batch, losses)
        (_, expected), wanted = taught(apart(batch), losses)
        assert tell(values)() == pytest.approx(tell(expected)(), rel=1e-5)
        for one, other in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_a_loss_asks_a_window_once_for_each_of_its_settings(cache: Cache) -> None:
    batches = list(stream(cache, window_parts=5))
    for batch in batches:
        taught(batch, weigh(LOSSES["at two temperatures"]))
    (whole,) = {id(each): each for each in map(whole_of, batches)}.values()
    assert len(whole.derived) == 2


def whole_of(batch: Batch) -> Whole:
    assert isinstance(batch.stored, Picked)
    return batch.stored.whole


def test_large_windows_are_left_as_they_are(cache: Cache) -> None:
    first = next(iter(stream(cache)))
    window = whole_of(first).stored
    size = sum(tensor.nbytes for tensor in window.fields.values())
    arrays = {name: tensor.numpy() for name, tensor in window.fields.items()}
    for limit, is_whole in ((size, True), (size - 1, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "WHOLE_BYTES", limit)
            found = module.find_whole(
                arrays, spec=window.spec, names=list(arrays), basis=None, asked=()
            )
            assert (found is not None) == is_whole

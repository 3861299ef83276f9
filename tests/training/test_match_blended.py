"""A batch of several datasets: each is compared with what is known of it, as if it were alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CLASSES, make_cache, make_samples
from torch import nn

from pipeline.losses import hard_labels, pseudo_labels, soft_targets
from pipeline.models import Network, Output, split_output
from pipeline.stream import Batch, Blended, Stream
from pipeline.targets import PseudoLabels
from pipeline.training.match import count_positions, match, tell, weigh
from pipeline.training.roots import backpropagate, gradient_norms

LOSSES = weigh(
    [
        {"kind": "hard_labels", "weight": 1.0},
        {"kind": "soft_targets", "weight": 0.5, "temperature": 2.0},
        {"kind": "pseudo_labels", "weight": 0.25},
    ]
)
HARD, SOFT, PSEUDO = range(3)


@pytest.fixture
def blended(tmp_path: Path) -> Blended:
    """Four labelled rows; six with targets and, most of them, pseudo-labels."""
    samples = make_samples(20)
    cache = make_cache(tmp_path / "cache", samples, rows_per_part=10)
    labelled = next(iter(Stream(samples, batch_size=4, seed=1)))
    taught = next(iter(Stream(samples, cache, batch_size=6, seed=2)))
    none = torch.full((6,), -1)
    weights = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.2, 1.0])
    labels = torch.tensor([0, 1, -1, 3, 4, -1])
    taught = replace(taught, labels=none, pseudo_labels=PseudoLabels(labels, weights))
    return Blended((labelled, taught))


def make_network() -> Network:
    torch.manual_seed(0)
    return Network(nn.Linear(3, CLASSES))


def values_of(logits: torch.Tensor, blended: Blended) -> list[torch.Tensor]:
    """Compute each loss of the dataset it belongs to."""
    (labelled, taught), own = blended.batches, torch.split(logits, [4, 6])
    assert taught.pseudo_labels is not None
    assert isinstance(labelled.labels, torch.Tensor)
    assert taught.targets is not None
    return [
        hard_labels(own[0], labelled.labels),
        soft_targets(own[1], taught.targets, temperature=2.0),
        pseudo_labels(own[1], taught.pseudo_labels),
    ]


def test_each_loss_is_that_of_the_dataset_it_belongs_to(blended: Blended) -> None:
    output = make_network()(blended.inputs)
    _, values = match(output, blended, LOSSES, count_positions(LOSSES, [blended]))
    expected = values_of(output.logits.detach(), blended)
    assert tell(values)() == pytest.approx([each.item() for each in expected])


@pytest.mark.parametrize("apart", [False, True])
def test_the_gradient_is_that_of_the_weighted_sum_of_all(blended: Blended, apart: bool) -> None:
    network = make_network()
    parameters = list(network.model.parameters())
    output = network(blended.inputs)
    values = torch.stack(values_of(output.logits, blended))
    total = sum(each.weight * value for each, value in zip(LOSSES, values, strict=True))
    assert isinstance(total, torch.Tensor)
    expected = torch.autograd.grad(total, parameters, retain_graph=True)
    sums, told = match(output, blended, LOSSES, count_positions(LOSSES, [blended]), apart=apart)
    norms = gradient_norms(sums, network.model)
    backpropagate([root for roots in sums for root in roots])
    assert tell(told)() == pytest.approx(values.tolist())
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert len(norms) == (3 if apart else 1)
    assert all(norm > 0 for norm in norms)


def test_counts_are_exact_over_batches_of_any_kind(blended: Blended) -> None:
    labelled, _ = blended.batches
    assert count_positions(LOSSES, [blended, labelled]) == pytest.approx([8, 6, 2.7])


def test_where_nothing_is_compared_a_loss_is_0_and_has_no_gradient(blended: Blended) -> None:
    network, only = make_network(), Blended(blended.batches[:1])
    counts = count_positions(LOSSES, [only])
    sums, values = match(network(only.inputs), only, LOSSES, counts, apart=True)
    told = tell(values)()
    assert [told[SOFT], told[PSEUDO]] == [0, 0]
    assert gradient_norms(sums, network.model)[1:] == [0, 0]


def test_an_output_is_cut_by_rows_and_by_their_positions() -> None:
    positions = torch.tensor([2, 1, 0, 3])
    features = {"rows": torch.arange(4), "positions": torch.arange(6)}
    output = Output(torch.arange(12.0).reshape(6, 2), positions, features=features)
    first, second = split_output(output, [1, 3])
    assert first.states.tolist() == output.states[:2].tolist()
    assert second.states.tolist() == output.states[2:].tolist()
    assert [each.positions.tolist() for each in (first, second)] == [[2], [1, 0, 3]]
    assert first.features["rows"].tolist() == [0]
    assert second.features["positions"].tolist() == [2, 3, 4, 5]


def test_a_batch_of_one_dataset_is_compared_as_ever(blended: Blended) -> None:
    network = make_network()
    batch: Batch = blended.batches[0]
    losses: Any = LOSSES[:1]
    alone = match(network(batch.inputs), batch, losses, count_positions(losses, [batch]))
    together = Blended((batch,))
    counts = count_positions(losses, [together])
    both = match(network(batch.inputs), together, losses, counts)
    assert tell(both[1])() == tell(alone[1])()

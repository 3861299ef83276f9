import math

import pytest
import torch

from pipeline.errors import TargetError
from pipeline.labelling.certainty import label_surprise, measure_certainty
from pipeline.targets import Targets, TargetSpec, decode, encode, uniforms

CLASSES = 40
SPECS = {
    "all": (TargetSpec("all", CLASSES, CLASSES), 1e-3),
    "top-4": (TargetSpec("top_k", CLASSES, 4), 5e-3),
    "top-1": (TargetSpec("top_k", CLASSES, 1), 1e-2),
    "top-p": (TargetSpec("top_p", CLASSES, 8, p=0.9), 5e-3),
    # All of it is tail, whose curve a peaked distribution bends most.
    "sampled": (TargetSpec("sampled", CLASSES, 0, draws=6), 1e-1),
    "hybrid": (TargetSpec("hybrid", CLASSES, 3, draws=6), 1e-2),
}
each_spec = pytest.mark.parametrize("kind", SPECS)


def make_targets(kind: str) -> tuple[torch.Tensor, Targets]:
    logits = 3 * torch.randn(60, CLASSES, generator=torch.Generator().manual_seed(0))
    spec = SPECS[kind][0]
    rows = [(f"s{row}", 0) for row in range(60)]
    numbers = uniforms(0, rows, [1] * 60, spec.draws) if spec.draws else None
    return logits, decode(spec, encode(spec, logits, None, numbers))


@each_spec
@pytest.mark.parametrize("temperature", [1.0, 1.7, 6.0])
def test_certainty_is_that_of_all_classes(kind: str, temperature: float) -> None:
    logits, targets = make_targets(kind)
    found = measure_certainty(targets, temperature)
    for row, values in enumerate(logits.double().tolist()):
        powers = [math.exp(x / temperature) for x in values]
        shares = sorted((power / sum(powers) for power in powers), reverse=True)
        assert int(found.classes[row]) == values.index(max(values))
        close = SPECS[kind][1] / 2
        assert math.exp(-float(found.doubt[row])) == pytest.approx(shares[0], abs=close)
        assert float(found.margin[row]) == pytest.approx(shares[0] - shares[1], abs=close)
        entropy = -sum(share * math.log(share) for share in shares)
        assert float(found.entropy[row]) == pytest.approx(entropy, abs=SPECS[kind][1])


def test_doubt_tells_apart_what_confidence_rounds_to_1() -> None:
    logits = torch.tensor([[30.0, 0.0], [25.0, 0.0]])
    spec = TargetSpec("all", 2, 2)
    found = measure_certainty(decode(spec, encode(spec, logits)), 1.0)
    assert (-found.doubt).exp().float().tolist() == [1.0, 1.0]
    assert found.doubt.tolist() == pytest.approx([math.exp(-30), math.exp(-25)], rel=1e-2)


@pytest.mark.parametrize("kind", [kind for kind in SPECS if kind != "sampled"])
def test_surprise_of_a_kept_label_is_that_of_all_classes(kind: str) -> None:
    logits, targets = make_targets(kind)
    labels = logits.argmax(1)
    found = label_surprise(targets, labels, 2.0)
    exact = -(logits.double() / 2).log_softmax(1).gather(1, labels[:, None])[:, 0]
    assert torch.allclose(found, exact, atol=5e-3)


def test_a_label_that_was_left_out_has_an_even_share_of_the_tail() -> None:
    logits, targets = make_targets("top-4")
    labels = logits.argmin(1)
    probs = (logits.double() / 2).softmax(1)
    tail = 1 - probs.topk(4, dim=1).values.sum(1)
    expected = -(tail / (CLASSES - 4)).log()
    assert torch.allclose(label_surprise(targets, labels, 2.0), expected, atol=5e-3)


def test_of_draws_alone_no_label_has_a_probability() -> None:
    targets = make_targets("all")[1]
    nothing = Targets(CLASSES, torch.empty(60, 0), statistics=targets.statistics)
    with pytest.raises(TargetError, match=r"draws alone .* Calibrate on a cache of top_k"):
        label_surprise(nothing, torch.zeros(60, dtype=torch.int64), 1.0)


def test_a_temperature_below_1_needs_all_classes() -> None:
    with pytest.raises(TargetError, match="1 or above, as classes were left out"):
        measure_certainty(make_targets("top-4")[1], 0.5)

"""The small encoding: what it leaves out follows from what it keeps, by FORMAT.md alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.labelling.certainty import label_surprise, measure_certainty
from pipeline.losses import soft_targets
from pipeline.targets import (
    STATISTICS,
    Basis,
    Targets,
    TargetSpec,
    decode,
    encode,
    fit_basis,
    kept_mass,
    low_rank_logits,
    low_rank_probs,
    tail_mass,
    target_fields,
    uniforms,
)

CLASSES, K, SIZE = 60, 4, 6
Arrays = dict[str, NDArray[np.generic]]


def draw_logits(positions: int, seed: int) -> Tensor:
    head = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, 12, generator=generator) * 1.2 @ head.T


@pytest.fixture(scope="module")
def basis() -> Basis:
    return fit_basis(lambda: iter([draw_logits(300, 0)]), 8 * SIZE, 0, SIZE)


def shaped(basis: Basis) -> TargetSpec:
    return TargetSpec("top_k", CLASSES, K, (1.0,), rank=basis.rank, bits=basis.bits, is_small=True)


SPECS = {
    "all": TargetSpec("all", CLASSES, CLASSES),
    "top_k": TargetSpec("top_k", CLASSES, K),
    "top_1": TargetSpec("top_k", CLASSES, 1),
    "top_p": TargetSpec("top_p", CLASSES, 8, p=0.6),
    "sampled": TargetSpec("sampled", CLASSES, 0, draws=5),
    "hybrid": TargetSpec("hybrid", CLASSES, K, draws=5),
}


def keep(spec: TargetSpec, logits: Tensor) -> tuple[Arrays, Targets]:
    numbers = uniforms(0, [("a", 0)], [len(logits)], spec.draws) if spec.draws else None
    arrays = encode(spec, logits, numbers=numbers)
    return arrays, decode(spec, arrays)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("positions", [0, 7])
def test_arrays_are_the_fields_and_smaller(name: str, positions: int) -> None:
    small = replace(SPECS[name], is_small=True)
    arrays, _ = keep(small, draw_logits(positions, 1))
    fields = target_fields(small)
    assert {name: (a.dtype.name, a.shape) for name, a in arrays.items() if name in STATISTICS} == {
        each.name: (each.dtype, (positions,)) for each in fields if each.name in STATISTICS
    }
    for each in fields:
        assert arrays[each.name].shape == (positions, *each.shape)
        assert arrays[each.name].dtype == each.dtype
    sizes = [sum(f.entry_bytes for f in target_fields(each)) for each in (small, SPECS[name])]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("name", SPECS)
def test_nothing_of_what_was_known_is_lost(name: str) -> None:
    logits = draw_logits(40, 1)
    _, targets = keep(replace(SPECS[name], is_small=True), logits)
    _, wanted = keep(SPECS[name], logits)
    assert torch.equal(targets.top_classes(), wanted.top_classes())
    for attribute in ("classes", "count", "drawn"):
        mine, theirs = getattr(targets, attribute), getattr(wanted, attribute)
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)
    for temperature in (1.0, 2.0, 4.0):
        torch.testing.assert_close(
            kept_mass(targets, temperature), kept_mass(wanted, temperature), atol=5e-3, rtol=0
        )
    for statistic in STATISTICS:
        torch.testing.assert_close(
            targets.statistics[statistic], wanted.statistics[statistic], atol=0.02, rtol=1e-3
        )
    student = draw_logits(40, 2)
    assert float(soft_targets(student, targets)) == pytest.approx(
        float(soft_targets(student, wanted)), rel=0.01
    )


def test_statistics_are_those_that_were_asked_for() -> None:
    spec = replace(SPECS["top_k"], is_small=True)
    arrays = encode(spec, draw_logits(3, 1))
    assert set(decode(spec, arrays, statistics=["margin"]).statistics) == {"margin"}
    assert not decode(spec, arrays, statistics=[]).statistics


def test_mass_is_exact_at_1_and_what_the_shape_says_elsewhere(basis: Basis) -> None:
    logits, spec = draw_logits(50, 1), shaped(basis)
    arrays = encode(spec, logits, basis)
    assert arrays["tail"].shape == (50, 1)
    targets = decode(spec, arrays, basis)
    assert targets.classes is not None
    for temperature, wrong in ((1.0, 0.001), (2.0, 0.06), (4.0, 0.06)):
        kept = (logits / temperature).softmax(1).gather(1, targets.classes).sum(1)
        tail = tail_mass(targets, temperature)
        assert float((1 - kept - tail).abs().max()) < wrong
        probs = low_rank_logits(targets, temperature).softmax(1)
        torch.testing.assert_close(
            1 - probs.gather(1, targets.classes).sum(1), tail, atol=1e-5, rtol=0
        )


def rebuild(arrays: Arrays, basis: Basis, temperature: float) -> NDArray[np.float64]:
    """The distribution of every position, from sections 7.3 to 7.5 of FORMAT.md alone."""
    out = np.empty((len(arrays["tail"]), CLASSES))
    bias, vectors = basis.bias.double().numpy(), basis.vectors.double().numpy()
    for i in range(len(out)):
        codes = arrays["logits"][i].astype(float)
        kept = np.where(codes == 255, -65504.0, -float(arrays["range"][i]) * codes / 254)
        mass = math.log(np.exp(kept).sum()) + 4 * math.sinh(
            float(arrays["tail"][i, 0]) * 10.5 / 32767
        )
        bits = np.unpackbits(arrays["codes"][i].astype(np.uint8), bitorder="little")
        steps, place = list[float](), 0
        for width, count in basis.bits:
            for _ in range(count):
                code = sum(int(bit) << n for n, bit in enumerate(bits[place : place + width]))
                steps.append(code - (2**width - 1) / 2)
                place += width
        logits = bias + vectors @ np.array(steps)
        classes = arrays["classes"][i].astype(int)
        left_out = np.setdiff1d(np.arange(CLASSES), classes)
        logits += mass - math.log(np.exp(logits[left_out]).sum())
        logits[classes] = kept
        powers = np.exp(logits / temperature)
        out[i] = powers / powers.sum()
    return out


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.0])
def test_a_reader_needs_the_format_alone(basis: Basis, temperature: float) -> None:
    spec = shaped(basis)
    arrays = encode(spec, draw_logits(20, 1), basis)
    decoded, _ = low_rank_probs(decode(spec, arrays, basis), temperature)
    np.testing.assert_allclose(decoded, rebuild(arrays, basis, temperature), atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("tail", ["low_rank", "bucket", "uniform"])
def test_gradients_are_the_derivatives(basis: Basis, temperature: float, tail: str) -> None:
    spec = shaped(basis)
    targets = decode(spec, encode(spec, draw_logits(3, 6), basis), basis)
    logits = draw_logits(3, 7).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: soft_targets(x, targets, temperature=temperature, tail=tail), logits, atol=1e-4
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_certainty_is_that_of_the_rebuilt_teacher(basis: Basis, temperature: float) -> None:
    spec = shaped(basis)
    targets = decode(spec, encode(spec, draw_logits(30, 1), basis), basis)
    whole = low_rank_logits(targets, temperature).double().log_softmax(1)
    found = measure_certainty(targets, temperature)
    torch.testing.assert_close(found.doubt, -whole.amax(1), atol=1e-4, rtol=0)
    entropy = -(whole.exp() * whole).sum(1)
    # At 1 it is the teacher's own, which was kept.
    wrong = 1e-4 if temperature != 1 else 0.3
    torch.testing.assert_close(found.entropy, entropy, atol=wrong, rtol=0)
    labels = torch.arange(30)
    wanted = -whole.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(label_surprise(targets, labels, temperature), wanted)


def test_without_the_basis_another_temperature_is_refused(basis: Basis) -> None:
    spec = shaped(basis)
    targets = decode(spec, encode(spec, draw_logits(3, 1), basis))
    assert float(tail_mass(targets, 1.0).sum()) > 0
    with pytest.raises(TargetError, match="decode them with the basis"):
        tail_mass(targets, 2.0)


def test_what_a_cache_says_of_it_comes_back(basis: Basis) -> None:
    spec = shaped(basis)
    document = spec.to_json()
    assert document["encoding"] == "small"
    assert document["bits"] == [list(pair) for pair in basis.bits]
    assert TargetSpec.from_json(document) == spec
    with pytest.raises(TargetError, match="encoded as 'tiny'; this software reads 'small'"):
        TargetSpec.from_json({**document, "encoding": "tiny"})

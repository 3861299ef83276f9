from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_cache

from pipeline.errors import TargetError
from pipeline.labelling import ask_rows, fit_temperature, judge
from pipeline.labelling.answers import Asked
from pipeline.samples.arrays import ArraySamples

ROWS, CLASSES = 3000, 5


def make_asked(
    folder: Path, scale: float, *, k: int = CLASSES, labels: np.ndarray | None = None
) -> tuple[Asked, torch.Tensor, np.ndarray]:
    """Cache logits that are `scale` times those that the labels were drawn from."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(ROWS, CLASSES, generator=generator)
    drawn = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0].numpy()
    labels = drawn if labels is None else labels
    samples = ArraySamples("data.x", None, np.arange(ROWS)[:, None], labels, None)
    cache = make_cache(folder, samples, rows_per_part=700, k=k, logits=scale * logits)
    return ask_rows(cache, 2), scale * logits, labels


@pytest.mark.parametrize(("scale", "k"), [(3.0, CLASSES), (0.5, CLASSES), (3.0, 4)])
def test_the_temperature_is_the_factor_that_logits_are_too_large_by(
    tmp_path: Path, scale: float, k: int
) -> None:
    asked, logits, labels = make_asked(tmp_path / "cache", scale, k=k)
    found = fit_temperature(asked)
    assert found.temperature == pytest.approx(scale, rel=0.1)
    assert found.labelled == ROWS
    assert found.nll_after < found.nll_before
    assert found.ece_after < found.ece_before
    if k == CLASSES:
        for temperature, nll in ((1.0, found.nll_before), (found.temperature, found.nll_after)):
            surprise = torch.nn.functional.cross_entropy(
                logits / temperature, torch.from_numpy(labels)
            )
            assert nll == pytest.approx(float(surprise), abs=1e-3)


def test_calibration_error_is_the_gap_of_fifteen_bins(tmp_path: Path) -> None:
    asked, logits, labels = make_asked(tmp_path / "cache", 3.0)
    probs, gap = logits.softmax(1), 0.0
    sure, chosen = probs.max(1)
    for low in np.arange(15) / 15:
        inside = (sure > low) & (sure <= low + 1 / 15)
        if inside.any():
            right = (chosen[inside].numpy() == labels[inside.numpy()]).mean()
            gap += float(inside.float().mean()) * abs(float(sure[inside].mean()) - float(right))
    found = fit_temperature(asked)
    assert found.bins == 15
    assert found.ece_before == pytest.approx(gap, abs=2e-3)


def test_only_a_tail_keeps_the_temperature_from_falling_below_1(tmp_path: Path) -> None:
    found = fit_temperature(make_asked(tmp_path / "cut", 0.5, k=3)[0])
    assert (found.temperature, found.is_cut) == (1.0, True)


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    labels = np.where(np.arange(ROWS) % 3 == 0, np.arange(ROWS) % CLASSES, -1)
    judged = judge(make_asked(tmp_path / "cache", 1.0, labels=labels)[0], 1.0)
    assert len(judged.right) == len(judged.answers) == ROWS // 3
    assert judged.truth.sum() == ROWS // 3


def test_a_cache_without_labels_cannot_be_calibrated_on(tmp_path: Path) -> None:
    asked, *_ = make_asked(tmp_path / "cache", 1.0, labels=np.full(ROWS, -1))
    with pytest.raises(TargetError, match=r"has no labels, so there is nothing to calibrate on"):
        fit_temperature(asked)

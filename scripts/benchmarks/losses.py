"""A student's loss over a large vocabulary, from states and output layer, against plain PyTorch.

Everything is timed from the student's last states to the gradients by states and output layer. Peak
memory is that of a fresh process, above what it held before the step.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from benchmarks.measure import Figure, Options, Pair, interleave, ratios, say
from pipeline.compute import keep_freed_memory
from pipeline.estimate.clock import wait_for
from pipeline.losses import fused_losses
from pipeline.losses.hard_labels import hard_labels_term
from pipeline.losses.soft_targets import soft_targets_term
from pipeline.models import load_network
from pipeline.targets import Targets, TargetSpec, decode, encode, fit_basis

COMMAND = "scripts/bench losses"
WIDTH = 576  # of SmolLM2
KEPT, RANK = 64, 16
# Positions and classes.
WHOLE, QUICK = (1024, 50_000), (32, 500)
CPU = torch.device("cpu")
SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": WIDTH,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
TURNS = 3
TINY = {"vocab_size": 500, "hidden_size": 36, "intermediate_size": 36, "num_hidden_layers": 1}


@dataclass(frozen=True)
class Case:
    """A student's last states and output layer, a teacher's logits, and the labels.

    Shapes: states (P, d), layer d to C, teacher (P, C), labels (P,).
    """

    states: Tensor
    layer: nn.Linear
    teacher: Tensor
    labels: Tensor


# Gives where backpropagation begins: tensors, and the derivatives by them, of a loss None.
Begun = tuple[list[Tensor], list[Tensor | None]]
Step = Callable[[Case], Begun]


def make_case(positions: int, classes: int, device: torch.device = CPU) -> Case:
    """Draw a case; logits are a linear map of fewer numbers, as those of a language model are."""
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=device)
    layer = nn.Linear(WIDTH, classes, bias=False, device=device)
    hidden = draw(positions, KEPT) * torch.linspace(2, 0.1, KEPT, device=device)
    teacher = hidden @ draw(KEPT, classes) + 2 * draw(classes)
    labels = torch.arange(positions, device=device) % classes
    return Case(draw(positions, WIDTH).requires_grad_(), layer, teacher, labels)


def hard(case: Case) -> Begun:
    """Plain cross-entropy of the labels."""
    return _begin(cross_entropy(case.layer(case.states), case.labels))


def _begin(loss: Tensor) -> Begun:
    return [loss], [None]


def scattered(case: Case, targets: Targets) -> Begun:
    """Plain KL with the kept classes scattered over a dense teacher, and cross-entropy."""
    assert targets.classes is not None
    logits = case.layer(case.states)
    kept = targets.logits.softmax(1).to(logits.dtype)
    teacher = torch.zeros_like(logits).scatter_(1, targets.classes, kept)
    soft = kl_div(logits.log_softmax(1), teacher, reduction="batchmean")
    return _begin(soft + cross_entropy(logits, case.labels))


def dense(case: Case) -> Begun:
    """Plain KL at T = 2 with all of the teacher's logits at hand."""
    both = case.layer(case.states), case.teacher
    student, teacher = ((logits / 2).log_softmax(1) for logits in both)
    return _begin(4 * kl_div(student, teacher, reduction="batchmean", log_target=True))


def fused(case: Case, targets: Targets, temperature: float) -> Begun:
    """Ours: soft targets and hard labels together."""
    soft = soft_targets_term(targets, temperature=temperature)
    terms = [(1.0, soft), (1.0, hard_labels_term(case.labels))]
    _, derivatives = fused_losses(case.states, case.layer, terms)
    return [each for each, _ in derivatives], [found for _, found in derivatives]


def make_steps(case: Case) -> dict[str, Step]:
    """Name every step that is measured."""
    bucket, shape = _cut(case, 0), _cut(case, RANK)
    return {
        "hard": hard,
        "scattered": partial(scattered, targets=bucket),
        "dense": dense,
        "fused at T = 1": partial(fused, targets=bucket, temperature=1.0),
        "fused at T = 2": partial(fused, targets=bucket, temperature=2.0),
        f"fused with a rank-{RANK} tail at T = 2": partial(fused, targets=shape, temperature=2.0),
    }


FUSED_1, FUSED_2, FUSED_RANK = (
    "fused at T = 1",
    "fused at T = 2",
    f"fused with a rank-{RANK} tail at T = 2",
)
# Ours, the baseline beside it, what that is called, and the bar.
PAIRS = (
    (FUSED_1, "hard", "plain cross-entropy", 1.2),
    (FUSED_2, "hard", "plain cross-entropy", 1.6),
    (FUSED_1, "scattered", "plain KL to a scattered teacher, and cross-entropy", 1 / 1.3),
    (FUSED_RANK, "dense", "plain KL to all of the teacher's logits", 1.0),
)
MEMORY_BAR, ENCODING_BAR = 0.5, 1.5


def run(options: Options) -> list[Figure]:
    """Measure time, encoding and memory."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as every stage does, and for the baselines as well
    names = (FUSED_1,) if options.quick else (FUSED_1, FUSED_2, FUSED_RANK)
    memory = [_measure_memory(name, options) for name in names]
    case = make_case(*(QUICK if options.quick else WHOLE))
    steps = make_steps(case)
    times = [measure_time(case, steps, *pair, options) for pair in PAIRS]
    return [*times, *memory, _measure_encoding(case, options)]


def _cut(case: Case, rank: int) -> Targets:
    spec = TargetSpec("top_k", case.teacher.shape[1], KEPT, rank=rank)
    basis = fit_basis(lambda: iter([case.teacher]), rank, 0) if rank else None
    return decode(spec, encode(spec, case.teacher, basis), basis)


def measure_time(
    case: Case,
    steps: dict[str, Step],
    ours: str,
    baseline: str,
    called: str,
    bar: float,
    options: Options,
) -> Figure:
    """Take steps of ours and of the baseline, in turns."""
    say(f"losses: {ours} / {baseline}")
    rounds = interleave(
        lambda: _seconds(case, steps[ours]), lambda: _seconds(case, steps[baseline]), options, TURNS
    )
    positions, classes = case.teacher.shape
    beside = min(each[1] for pairs in rounds for each in pairs)
    return Figure(
        f"soft and hard, {ours} / {called}",
        ratios(rounds),
        "x",
        bar,
        COMMAND,
        f"{positions} positions, {classes} classes, top-{KEPT}, output layer {WIDTH} wide; "
        f"baseline {1000 * beside:.0f} ms",
    )


def _seconds(case: Case, step: Step) -> float:
    started = time.perf_counter()
    go_back(case, step)
    wait_for(case.states.device)
    return time.perf_counter() - started


def go_back(case: Case, step: Step) -> None:
    """Take one step, to the gradients by states and output layer."""
    begun, derivatives = step(case)
    torch.autograd.grad(begun, [case.states, case.layer.weight], derivatives)


def time_encoding(teacher: Tensor, options: Options) -> list[list[Pair]]:
    """Encode a teacher's logits, in turns with what nobody gets around. Shapes: teacher (P, C)."""
    say("losses: encoding")
    spec = TargetSpec("top_k", teacher.shape[1], KEPT)

    def ours() -> float:
        started = time.perf_counter()
        encode(spec, teacher)
        wait_for(teacher.device)
        return time.perf_counter() - started

    def baseline() -> float:
        started = time.perf_counter()
        torch.logsumexp(teacher, 1)
        torch.topk(teacher, KEPT, 1)
        wait_for(teacher.device)
        return time.perf_counter() - started

    return interleave(ours, baseline, options, TURNS)


def _measure_encoding(case: Case, options: Options) -> Figure:
    rounds = time_encoding(case.teacher, options)
    positions, classes = case.teacher.shape
    a_position = min(each[0] for pairs in rounds for each in pairs) / positions
    shares = ", ".join(
        f"{100 * a_position / (a_position + pass_s):.1f} % ({name})"
        for name, pass_s in _passes(options).items()
    )
    return Figure(
        f"encoding top-{KEPT} with its tail / logsumexp and topk",
        ratios(rounds),
        "x",
        ENCODING_BAR,
        COMMAND,
        f"{1e6 * a_position:.0f} microseconds a position of {classes} classes; its share "
        f"of caching with a teacher: {shares}",
    )


def _passes(options: Options) -> dict[str, float]:
    """Time a forward pass of SmolLM2's shape, in seconds a position, and scale it by weights."""
    settings = SMOLLM2 | (TINY if options.quick else {})
    network = load_network("transformers", base=Path(), where="teacher", config=settings)
    weights = sum(each.numel() for each in network.model.parameters())
    rows = torch.arange(2 * 256, dtype=torch.int32).view(2, 1, 256)
    inputs = torch.cat([rows % settings["vocab_size"], torch.zeros_like(rows)], 1)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + options.rounds):
            started = time.perf_counter()
            logits = network(inputs).logits
            seconds.append((time.perf_counter() - started) / len(logits))
    best = min(seconds)
    return {
        f"of {weights / 1e6:.0f} million weights, measured": best,
        "of 1 billion, by weights": best * 1e9 / weights,
        "of 8 billion": best * 8e9 / weights,
    }


def _measure_memory(name: str, options: Options) -> Figure:
    say(f"losses: memory, {name}")
    # Small logits fit in the pages that come and go by chance: the short form is as large, once.
    rounds = range(1 if options.quick else options.rounds)
    pairs = [(_peak_kib(name, options), _peak_kib("hard", options)) for _ in rounds]
    return Figure(
        f"peak memory, soft and hard, {name} / plain cross-entropy",
        ratios([[pair] for pair in pairs]),
        "x",
        MEMORY_BAR,
        COMMAND,
        f"{pairs[0][0] / 1024:.0f} MiB and {pairs[0][1] / 1024:.0f} MiB above what was there",
    )


def _peak_kib(name: str, options: Options) -> float:
    command = [sys.executable, "-m", "benchmarks.losses", name, str(options.threads)]
    scripts = Path(__file__).resolve().parents[1]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scripts)
    return float(answer.stdout)


def _tell_peak(name: str, threads: str) -> None:
    """Take one step in this process and print its peak, in KiB, above what was there before."""
    torch.set_num_threads(int(threads))
    for case in (make_case(*QUICK), make_case(*WHOLE)):  # the first for warmth
        step = make_steps(case)[name]
        before = _clear_peak()
        go_back(case, step)
    print(max(1, _peak() - before))


def _clear_peak() -> int:
    """Begin to look for the peak again, and tell what is held now, in KiB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    _tell_peak(*sys.argv[1:])

"""Bytes a position against what a student gets to see: SmolLM2 on plays it was not fitted on.

Every selection and encoding, against what others keep: top-k in float16 and a uniform tail, counted
as 4 bytes a class and nothing for the tail's mass, which they are given exactly at every
temperature. The quick form makes up a teacher of the same kind.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from numcodecs import Blosc
from torch import Tensor

from benchmarks.measure import Figure, Options, say
from pipeline.compute import set_threads
from pipeline.targets import Basis, TargetSpec, decode, encode, low_rank_logits, target_fields
from pipeline.targets.low_rank.fit import Directions, choose_steps, find_directions
from pipeline.targets.soften import uniform_logits
from replication.language_tails import Answers, ask

COMMAND = "scripts/bench size"
FITTED, HELD_OUT = 4096, 1024
BUDGETS = (24, 36, 48, 64, 96, 128, 192, 256)
TEMPERATURES = (1.0, 2.0, 4.0)
# Of others' divergence, at each temperature.
BARS = {1.0: 0.5, 2.0: 0.25, 4.0: 0.25}
KEPT = (1, 2, 3, 4, 6, 8, 12, 16, 24)
# Of a position beside kept classes and codes: range, tail and entropy.
REST_BYTES, CLASS_BYTES, OTHERS_BYTES = 6, 3, 4
ZSTD = Blosc(cname="zstd", clevel=5, shuffle=Blosc.SHUFFLE)


@dataclass(frozen=True)
class Kept:
    """One way to keep a position: its bytes, and of zstd, and KL(teacher || what is read back)."""

    name: str
    size_bytes: int
    packed_bytes: float
    lost: dict[float, float]

    def line(self) -> str:
        """A row of the table."""
        numbers = " | ".join(f"{self.lost[each]:.3f}" for each in TEMPERATURES)
        return f"| {self.name} | {self.size_bytes} | {self.packed_bytes:.1f} | {numbers} |"


def run(options: Options) -> list[Figure]:
    """Measure every way at every budget; the best of ours is what is compared."""
    set_threads(options.threads)
    budgets = BUDGETS[:2] if options.quick else BUDGETS
    with torch.inference_mode():
        fitted, held_out = _made_up() if options.quick else _real()
        say("size: looking for directions")
        directions = find_directions(fitted.logits, min(6 * max(budgets), FITTED // 4), seed=0)
        figures, rows = list[Figure](), list(_fixed(held_out, directions))
        for budget in budgets:
            others = _uniform(held_out, budget // OTHERS_BYTES)
            ours = list(_splits(held_out, directions, budget))
            best = min(ours, key=_geometric)
            rows += [others, *ours]
            figures += [_figure(budget, each, best, others) for each in TEMPERATURES]
            say(f"size: {budget} bytes, best is {best.name}")
    say("\n".join([*_HEAD, *(row.line() for row in rows)]))
    return figures


_HEAD = (
    "| kept | bytes | of zstd | KL, T = 1 | T = 2 | T = 4 |",
    "|---|---|---|---|---|---|",
)


def _figure(budget: int, temperature: float, ours: Kept, others: Kept) -> Figure:
    mine, theirs = ours.lost[temperature], others.lost[temperature]
    return Figure(
        f"KL(teacher, targets) at T = {temperature:g} from {budget} bytes / {others.name}",
        [mine / theirs],
        "x",
        BARS[temperature],
        COMMAND,
        f"{mine:.3f} of {ours.name}, {ours.size_bytes} bytes; theirs {theirs:.3f}",
        {"bytes": budget, "temperature": temperature, "ours": mine, "others": theirs},
    )


def _geometric(kept: Kept) -> float:
    """What a split is chosen by: every temperature counts the same."""
    product = 1.0
    for each in TEMPERATURES:
        product *= kept.lost[each]
    return product


def _splits(answers: Answers, directions: Directions, budget: int) -> Iterable[Kept]:
    """Share a budget out between kept classes and codes, in every way that may be best."""
    for k in KEPT:
        size = budget - REST_BYTES - CLASS_BYTES * k - (2 if k == 1 else 0)
        if 4 <= size <= len(directions.variances) // 2:
            basis = choose_steps(directions, 8 * size, size)
            spec = _spec(answers, "top_k", k, basis, is_small=True)
            yield _measure(f"small: top-{k}, {size} bytes of shape", answers, spec, basis)


def _fixed(answers: Answers, directions: Directions) -> Iterable[Kept]:
    """What does not depend on a budget: all classes, and tails of 4 bits a direction."""
    classes = len(answers.layer)
    for is_small in (False, True):
        spec = TargetSpec("all", classes, classes, is_small=is_small)
        yield _measure("small: all" if is_small else "all, float16", answers, spec)
    for k, rank in ((4, 44), (8, 64)):
        basis = choose_steps(directions, rank)
        spec = _spec(answers, "top_k", k, basis)
        yield _measure(f"top-{k}, rank {rank} of 4 bits", answers, spec, basis)


def _spec(
    answers: Answers, kind: str, k: int, basis: Basis, *, is_small: bool = False
) -> TargetSpec:
    nodes = (1.0,) if is_small else TargetSpec.nodes
    return TargetSpec(
        kind,  # type: ignore[arg-type]
        len(answers.layer),
        k,
        nodes,
        basis.rank,
        basis.bits,
        is_small=is_small,
    )


def _uniform(answers: Answers, k: int) -> Kept:
    kept = _measure("", answers, TargetSpec("top_k", len(answers.layer), k))
    name = f"top-{k}, uniform tail, float16"
    return Kept(name, OTHERS_BYTES * k, kept.packed_bytes, kept.lost)


def _measure(name: str, answers: Answers, spec: TargetSpec, basis: Basis | None = None) -> Kept:
    """Keep all positions and read them back."""
    lost, packed = dict.fromkeys(TEMPERATURES, 0.0), 0
    for logits in answers.logits():
        arrays = encode(spec, logits, basis)
        packed += sum(len(ZSTD.encode(array)) for array in arrays.values())
        targets = decode(spec, arrays, basis)
        for temperature in TEMPERATURES:
            if spec.kind == "all":
                found = targets.logits / temperature
            else:
                found = (low_rank_logits if basis else uniform_logits)(targets, temperature)
            lost[temperature] += _divergence(logits / temperature, found)
    count = len(answers.states)
    size = sum(each.entry_bytes for each in target_fields(spec))
    return Kept(name, size, packed / count, {t: total / count for t, total in lost.items()})


def _divergence(teacher: Tensor, found: Tensor) -> float:
    p = teacher.log_softmax(1)
    return float((p.exp() * (p - found.log_softmax(1))).sum())


def _real() -> tuple[Answers, Answers]:
    fitted, held_out = ask("train", FITTED // 2), ask("validation", HELD_OUT // 2)
    return _first(fitted, FITTED), _first(held_out, HELD_OUT)


def _first(answers: Answers, count: int) -> Answers:
    return Answers(answers.states[:count], answers.layer)


def _made_up() -> tuple[Answers, Answers]:
    generator = torch.Generator().manual_seed(0)
    layer = torch.randn(2048, 96, generator=generator)
    spread = torch.linspace(0.6, 0.02, 96)
    states = torch.randn(768, 96, generator=generator) * spread
    return Answers(states[:512], layer), Answers(states[512:], layer)

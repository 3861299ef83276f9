"""From a teacher's logits to the arrays that are kept of them.

Works position by position, in blocks that fit a processor's cache, on the device of the logits.
Knows neither which sample a position belongs to nor where the arrays go.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets.compact import pack_tail
from pipeline.targets.draws import draw_classes, pack_draws
from pipeline.targets.low_rank.basis import Basis, encode_codes
from pipeline.targets.rounding import LOWEST_LOGIT, pack_logits, unpack_logits
from pipeline.targets.selection import count_top_p, select_top_k
from pipeline.targets.spec import RANGE_OF, TargetSpec, target_fields
from pipeline.targets.tail import measure_tail, power_sums

Arrays = dict[str, NDArray[np.generic]]

# 4 MiB of float32 stay near a core, powers and all: of 50,000 classes 1.3 to 1.4 times what
# scripts/bench compares with; 2^18 take 1.4 to 1.8 and 2^22 2.3. A GPU wants few launches instead.
BLOCK_ELEMENTS = {"cpu": 2**20}
BLOCK_ELEMENTS_ELSEWHERE = 2**26


@dataclass(frozen=True)
class _Cut:
    """What is kept of a block, and how many classes are not.

    Shapes: classes and logits (P, K), left_out () or (P, 1), count (P, 1).
    """

    classes: Tensor
    logits: Tensor
    left_out: Tensor
    count: Tensor | None = None


def encode(
    spec: TargetSpec,
    logits: Tensor,
    basis: Basis | None = None,
    numbers: NDArray[np.float64] | None = None,
) -> Arrays:
    """Keep of every position what the spec says; computed in float32 or better.

    A low-rank tail is measured along `basis`; draws are made by `numbers`, of `uniforms`.

    Shapes: logits (P, C) of any floating dtype, numbers (P, D); returns the arrays of
        `target_fields`, (P, ...).
    Raises: TargetError if the classes are not the spec's, or if a logit is not finite.
    """
    _check(spec, logits)
    elements = BLOCK_ELEMENTS.get(logits.device.type, BLOCK_ELEMENTS_ELSEWHERE)
    size = max(1, elements // spec.class_count)
    with torch.no_grad():
        blocks = []
        for start in range(0, max(1, len(logits)), size):
            cut = slice(start, start + size)
            drawn = None if numbers is None else torch.from_numpy(numbers[cut])
            blocks.append(_encode_block(spec, logits[cut], drawn))
        tensors = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        arrays = {
            field.name: tensors[field.name].cpu().numpy().astype(field.dtype)
            for field in target_fields(spec)
            if field.name in tensors
        }
        if spec.rank:
            assert basis is not None
            arrays["codes"] = encode_codes(basis, logits, spec.steps)
    return arrays


def find_bad_positions(logits: Tensor) -> list[int]:
    """List the positions that hold a logit which is not finite.

    Shapes: logits (P, C).
    """
    bad: list[int] = (~logits.isfinite().all(1)).nonzero().flatten().tolist()
    return bad


def _check(spec: TargetSpec, logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] != spec.class_count:
        raise TargetError(
            f"targets: the teacher's logits have shape {tuple(logits.shape)}; expected "
            f"(positions, {spec.class_count}). Check the teacher's output or the class count."
        )
    # A sum betrays any logit that is not finite, at a twentieth of isfinite's cost.
    if bool(logits.sum(1, dtype=torch.float32).isfinite().all()):
        return
    if not (bad := find_bad_positions(logits)):
        return  # finite all the same, and only their sum is not
    first = [(position, logits[position]) for position in bad[:5]]
    shown = ", ".join(f"{at} ({row[~row.isfinite()][0].item()})" for at, row in first)
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise TargetError(
        f"targets: the teacher's logits are not finite at {len(bad)} of {len(logits)} positions: "
        f"{shown}{more}. Only finite logits can be cached. Check the inputs at these positions, or "
        "run the teacher in float32."
    )


def _encode_block(spec: TargetSpec, block: Tensor, numbers: Tensor | None) -> dict[str, Tensor]:
    """Give the fields of a block, not yet in their own dtype."""
    relative = _relative(block)
    if spec.kind == "all":
        return {**_round(spec, "logits", relative)[0], **_statistics_of_all(relative)}
    cut = _cut(spec, block, relative)
    fields, rounded = _round(spec, "logits", cut.logits)
    fields["classes"] = cut.classes
    total, moment = _sum_powers(cut.logits)  # (P,)
    best = cut.logits[:, :0]
    if spec.has_tail:
        tail, best = measure_tail(relative, cut.classes, spec.nodes, cut.left_out)
        mass = tail[:, 0].exp()
        total, moment = total + mass, moment + mass * tail[:, -1]
        fields["tail"] = _tail(spec, tail, cut.logits, rounded)
        if spec.has_mass_alone:
            fields["tail"] = fields["tail"][:, :1]
    if cut.count is not None:
        fields["count"] = cut.count[:, 0]
    if numbers is not None:
        drawn = draw_classes(relative, cut.classes, 1 / spec.proposal_temperature, numbers)
        fields |= _draws(spec, drawn, relative.gather(1, drawn))
    if spec.kind == "sampled":
        fields["top"] = select_top_k(block, 1)[:, 0]
    runner_up = _runner_up(relative, cut.logits, best)
    return fields | _statistics(total, moment / total, runner_up.double())


def _round(spec: TargetSpec, name: str, logits: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Round logits as they are kept; give their fields, and what will be read back of them."""
    if not spec.is_small or not logits.shape[1]:
        return {name: logits.half()}, logits.half()
    codes, ranges = pack_logits(logits)
    return {name: codes, RANGE_OF[name]: ranges}, unpack_logits(codes, ranges)


def _draws(spec: TargetSpec, drawn: Tensor, logits: Tensor) -> dict[str, Tensor]:
    fields = {"drawn": drawn, **_round(spec, "drawn_logits", logits)[0]}
    if spec.is_small:
        once = pack_draws(drawn, fields["drawn_logits"])
        fields |= dict(zip(("drawn", "drawn_logits", "drawn_new"), once, strict=True))
    return fields


def _relative(block: Tensor) -> Tensor:
    """Subtract each position's largest logit, in float32: at most 0, at least LOWEST_LOGIT."""
    logits = block if block.dtype == torch.float64 else block.float()
    highest = logits.amax(1, keepdim=True)
    return (logits - highest).clamp_(min=LOWEST_LOGIT).float()


def _cut(spec: TargetSpec, block: Tensor, relative: Tensor) -> _Cut:
    if not spec.k:
        nothing = relative[:, :0]
        return _Cut(nothing.long(), nothing.double(), torch.tensor(float(spec.class_count)))
    classes = select_top_k(block, spec.k)
    kept = relative.gather(1, classes).double()  # (P, K)
    if spec.kind != "top_p":
        return _Cut(classes, kept, torch.tensor(float(spec.class_count - spec.k)))
    count = count_top_p(relative, classes, spec.p, spec.k_min)
    spare = torch.arange(spec.k, device=count.device) >= count
    # A spare place repeats the first class, with no mass at any temperature.
    classes = torch.where(spare, classes[:, :1], classes)
    return _Cut(classes, kept.masked_fill_(spare, LOWEST_LOGIT), spec.class_count - count, count)


def _tail(spec: TargetSpec, tail: Tensor, kept: Tensor, rounded: Tensor) -> Tensor:
    """Take from the tail what rounding took from the kept classes, so that its mass is right."""
    nodes = spec.nodes
    if spec.k:
        shift = power_sums(rounded.double(), nodes)[0].log() - power_sums(kept, nodes)[0].log()
        tail[:, : len(nodes)] += shift
    return pack_tail(tail, rounded, nodes) if spec.is_compact else tail


def _sum_powers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sum e^x and x e^x. Shapes: logits (P, K); returns (P,) twice."""
    powers = logits.exp()
    return powers.sum(1), (powers * logits).sum(1)


def _runner_up(relative: Tensor, kept: Tensor, best: Tensor) -> Tensor:
    """Find the second largest logit. Shapes: best (P, 1), left out, or (P, 0); returns alike."""
    if not kept.shape[1]:
        return relative.topk(min(2, relative.shape[1]), dim=1).values[:, 1:]
    others = torch.cat([kept[:, 1:2], best], 1)
    return others.amax(1, keepdim=True) if others.shape[1] else others


def _statistics_of_all(relative: Tensor) -> dict[str, Tensor]:
    total, moment = _sum_powers(relative)
    runner_up = relative.topk(min(2, relative.shape[1]), dim=1).values[:, 1:]
    return _statistics(total.double(), (moment / total).double(), runner_up.double())


def _statistics(total: Tensor, expected: Tensor, runner_up: Tensor) -> dict[str, Tensor]:
    """Describe the full distribution. Shapes: total and expected (P,), runner_up (P, 1) or (P, 0).

    `total` is the sum of exp over relative logits, `expected` their mean under the distribution.
    """
    second = runner_up.exp().sum(1)  # nothing where there is one class only
    return {
        "entropy": (total.log() - expected).clamp_(min=0.0),
        "confidence": 1 / total,
        "margin": (1 - second) / total,
    }

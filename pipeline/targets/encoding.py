"""From a teacher's logits to the arrays that are kept of them.

Works position by position, in blocks that fit a processor's cache, on the device of the logits.
Knows neither which sample a position belongs to nor where the arrays go.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets.compact import pack_tail
from pipeline.targets.draws import draw_classes, pack_draws
from pipeline.targets.low_rank.basis import Basis, encode_codes
from pipeline.targets.rounding import LOWEST_LOGIT, pack_logits, unpack_logits
from pipeline.targets.selection import count_top_p, find_largest, select_top_k
from pipeline.targets.spec import RANGE_OF, TargetSpec, target_fields
from pipeline.targets.tail import TailSums, measure_tail, power_sums, sum_tail

Arrays = dict[str, NDArray[np.generic]]
# What was found out of some positions, by name, (P, ...) each.
Seen = dict[str, Tensor]
_SECOND = "runner_up"

# 2 MiB of float32 stay near a core, powers and all: of 50,000 classes 1.34 times what scripts/bench
# compares with; 2^18 take 1.57 and 2^20 1.42. A GPU wants few launches instead.
BLOCK_ELEMENTS = {"cpu": 2**19}
BLOCK_ELEMENTS_ELSEWHERE = 2**26
# Threads share the positions of a block: of 9 one of two threads has more than half.
SHARED_BY = 4


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
    size = _block_size(logits)
    with torch.no_grad():
        looks = []
        for start in range(0, max(1, len(logits)), size):
            cut = slice(start, start + size)
            drawn = None if numbers is None else torch.from_numpy(numbers[cut])
            looks.append(_look(spec, logits[cut], drawn))
        # What is small is computed for all at once: to ask for an operation takes longer.
        tensors = _describe(spec, _joined(looks))
        arrays = {
            field.name: tensors[field.name].cpu().numpy().astype(field.dtype)
            for field in target_fields(spec)
            if field.name in tensors
        }
        if spec.rank:
            assert basis is not None
            arrays["codes"] = encode_codes(basis, logits, spec.steps)
    return arrays


def _block_size(logits: Tensor) -> int:
    elements = BLOCK_ELEMENTS.get(logits.device.type, BLOCK_ELEMENTS_ELSEWHERE)
    size = max(1, elements // logits.shape[1])
    return size // SHARED_BY * SHARED_BY or size


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


def _look(spec: TargetSpec, block: Tensor, numbers: Tensor | None) -> Seen:
    """Find out what all classes of some positions are needed for."""
    relative = _relative(block)
    if spec.kind == "all":
        total, moment = _sum_powers(relative)
        rounded = _round(spec, "logits", relative)[0]
        return {**rounded, "total": total, "moment": moment, _SECOND: _second(relative)}
    seen = _cut(spec, block, relative)
    if spec.has_tail:
        seen |= sum_tail(relative, seen["classes"], spec.nodes)._asdict()
    if numbers is not None:
        node = 1 / spec.proposal_temperature
        seen["drawn"] = draw_classes(relative, seen["classes"], node, numbers)
        seen["drawn_logits"] = relative.gather(1, seen["drawn"])
    if spec.kind == "sampled":
        seen["top"] = select_top_k(block, 1)[:, 0]
    if not spec.k:
        seen[_SECOND] = _second(relative)
    return seen


def _joined(looks: Sequence[Seen]) -> Seen:
    if len(looks) == 1:
        return looks[0]
    return {name: torch.cat([look[name] for look in looks]) for name in looks[0]}


def _describe(spec: TargetSpec, seen: Seen) -> dict[str, Tensor]:
    """Make the fields, not yet in their own dtype, of what was seen at all positions."""
    if spec.kind == "all":
        total, moment, second = (seen.pop(name) for name in ("total", "moment", _SECOND))
        expected = (moment / total).double()
        return seen | _statistics(total.double(), expected, second.double())
    kept = seen["kept"].double()  # (P, K)
    fields, rounded = _round(spec, "logits", kept)
    fields |= {name: seen[name] for name in ("classes", "top") if name in seen}
    total, moment = _sum_powers(kept)  # (P,)
    best = kept[:, :0]
    if spec.has_tail:
        sums = TailSums(*(seen[name] for name in TailSums._fields))
        tail, best = measure_tail(sums, spec.nodes, _left_out(spec, seen)), sums.best.double()
        mass = tail[:, 0].exp()
        total, moment = total + mass, moment + mass * tail[:, -1]
        fields["tail"] = _tail(spec, tail, kept, rounded)
        if spec.has_mass_alone:
            fields["tail"] = fields["tail"][:, :1]
    if "count" in seen:
        fields["count"] = seen["count"][:, 0]
    if "drawn" in seen:
        fields |= _draws(spec, seen["drawn"], seen["drawn_logits"])
    second = seen[_SECOND].double() if _SECOND in seen else _second_of(kept, best)
    return fields | _statistics(total, moment / total, second)


def _left_out(spec: TargetSpec, seen: Seen) -> Tensor:
    """Count the classes that were left out. Shapes: returns () or (P, 1)."""
    if "count" in seen:
        return spec.class_count - seen["count"]
    return torch.tensor(float(spec.class_count - spec.k))


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


def _cut(spec: TargetSpec, block: Tensor, relative: Tensor) -> Seen:
    """Choose what is kept. Shapes: classes and kept (P, K), count (P, 1)."""
    if not spec.k:
        return {"classes": relative[:, :0].long(), "kept": relative[:, :0]}
    classes = select_top_k(block, spec.k)
    kept = relative.gather(1, classes)
    if spec.kind != "top_p":
        return {"classes": classes, "kept": kept}
    count = count_top_p(relative, classes, spec.p, spec.k_min)
    spare = torch.arange(spec.k, device=count.device) >= count
    # A spare place repeats the first class, with no mass at any temperature.
    classes = torch.where(spare, classes[:, :1], classes)
    return {"classes": classes, "kept": kept.masked_fill_(spare, LOWEST_LOGIT), "count": count}


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


def _second(relative: Tensor) -> Tensor:
    """Find the second largest logit. Shapes: relative (P, C); returns (P, 1), or (P, 0) of one."""
    return find_largest(relative, min(2, relative.shape[1]))[0][:, 1:]


def _second_of(kept: Tensor, best: Tensor) -> Tensor:
    """Find it among the kept, largest first, and the best that was left out.

    Shapes: kept (P, K), best (P, 1) or (P, 0); returns alike.
    """
    others = torch.cat([kept[:, 1:2], best], 1)
    return others.amax(1, keepdim=True) if others.shape[1] else others


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

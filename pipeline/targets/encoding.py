"""From a teacher's logits to the arrays that are kept of them.

Works position by position, in blocks that fit a processor's cache, on the device of the logits.
Knows neither which sample a position belongs to nor where the arrays go.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import TargetError
from pipeline.targets.low_rank import Basis, encode_codes
from pipeline.targets.selection import select_top_k
from pipeline.targets.spec import TargetSpec, class_dtype
from pipeline.targets.tail import measure_tail, power_sums

# The lowest float16. A class this far below the best one has no mass at any useful temperature.
LOWEST_LOGIT = -65504.0
# 1 MiB of float32 stays in a core's cache, powers and all; a GPU wants fewer launches instead.
BLOCK_ELEMENTS = {"cpu": 2**18}
BLOCK_ELEMENTS_ELSEWHERE = 2**26


def encode(
    spec: TargetSpec, logits: Tensor, basis: Basis | None = None
) -> dict[str, NDArray[np.generic]]:
    """Keep of every position what the spec says; computed in float32 or better.

    A low-rank tail is measured along `basis`.

    Shapes: logits (P, C) of any floating dtype; returns the arrays of `target_fields`, (P, ...).
    Raises: TargetError if the classes are not the spec's, or if a logit is not finite.
    """
    _check(spec, logits)
    elements = BLOCK_ELEMENTS.get(logits.device.type, BLOCK_ELEMENTS_ELSEWHERE)
    size = max(1, elements // spec.class_count)
    encode_block = _encode_all if spec.kind == "all" else _encode_top_k
    with torch.no_grad():
        blocks = [
            encode_block(spec, logits[start : start + size])
            for start in range(0, max(1, len(logits)), size)
        ]
        arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        if spec.rank:
            assert basis is not None
            arrays["codes"] = encode_codes(basis, logits)
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
    # Extremes of a position betray any logit that is not finite, at a tenth of isfinite's cost.
    extremes = torch.stack([logits.amin(1), logits.amax(1)])
    if bool(extremes.isfinite().all()):
        return
    bad = find_bad_positions(logits)
    first = [(position, logits[position]) for position in bad[:5]]
    shown = ", ".join(f"{at} ({row[~row.isfinite()][0].item()})" for at, row in first)
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise TargetError(
        f"targets: the teacher's logits are not finite at {len(bad)} of {len(logits)} positions: "
        f"{shown}{more}. Only finite logits can be cached. Check the inputs at these positions, or "
        "run the teacher in float32."
    )


def _relative(block: Tensor) -> Tensor:
    """Subtract each position's largest logit, in float32: at most 0, at least LOWEST_LOGIT."""
    logits = block if block.dtype == torch.float64 else block.float()
    highest = logits.amax(1, keepdim=True)
    return (logits - highest).clamp_(min=LOWEST_LOGIT).float()


def _encode_all(spec: TargetSpec, block: Tensor) -> dict[str, NDArray[np.generic]]:
    relative = _relative(block)
    powers = relative.exp()
    total = powers.sum(1)
    expected = (powers * relative).sum(1) / total
    runner_up = relative.topk(min(2, spec.class_count), dim=1).values[:, 1:]
    return {
        "logits": _to_numpy(relative, "float16"),
        **_statistics(total.double(), expected.double(), runner_up.double()),
    }


def _encode_top_k(spec: TargetSpec, block: Tensor) -> dict[str, NDArray[np.generic]]:
    relative = _relative(block)
    classes = select_top_k(block, spec.k)
    kept = relative.gather(1, classes).double()
    rounded = kept.to(torch.float16)
    powers = kept.exp()
    total, moment, runner_up = powers.sum(1), (powers * kept).sum(1), kept[:, 1:2]
    arrays = {
        "classes": _to_numpy(classes, class_dtype(spec.class_count)),
        "logits": _to_numpy(rounded, "float16"),
    }
    if spec.has_tail:
        tail, best = measure_tail(relative, classes, spec.nodes)
        mass = tail[:, 0].exp()
        total, moment = total + mass, moment + mass * tail[:, -1]
        runner_up = best if spec.k == 1 else runner_up
        shift = _log_sums(rounded.double(), spec.nodes) - _log_sums(kept, spec.nodes)  # (P, nodes)
        tail[:, : len(spec.nodes)] += shift
        arrays["tail"] = _to_numpy(tail, "float32")
    return arrays | _statistics(total, moment / total, runner_up)


def _log_sums(kept: Tensor, nodes: tuple[float, ...]) -> Tensor:
    """Compute log S(b) at each node. Shapes: kept (P, K), 0 at most; returns (P, nodes)."""
    return power_sums(kept, nodes)[0].log()


def _statistics(
    total: Tensor, expected: Tensor, runner_up: Tensor
) -> dict[str, NDArray[np.generic]]:
    """Describe the full distribution. Shapes: total and expected (P,), runner_up (P, 1) or (P, 0).

    `total` is the sum of exp over relative logits, `expected` their mean under the distribution.
    """
    second = runner_up.exp().sum(1)  # nothing where there is one class only
    return {
        "entropy": _to_numpy((total.log() - expected).clamp_(min=0.0), "float32"),
        "confidence": _to_numpy(1 / total, "float32"),
        "margin": _to_numpy((1 - second) / total, "float32"),
    }


def _to_numpy(values: Tensor, dtype: str) -> NDArray[np.generic]:
    return values.cpu().numpy().astype(dtype)

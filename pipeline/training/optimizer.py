"""Optimisers by kind, and learning-rate schedules as arithmetic.

A schedule is a pure function of the step, so there is no scheduler whose state could be lost.
Nothing here knows the loop, the model or the losses.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

Group = dict[str, Any]

# Told are the learning rate, the momentum, and whether one kernel may do a tensor's whole step.
OPTIMIZERS: dict[str, Callable[[list[Group], float, float, bool], Optimizer]] = {
    "adamw": lambda groups, learning_rate, _, fused: AdamW(groups, lr=learning_rate, fused=fused),
    "adam": lambda groups, learning_rate, _, fused: Adam(groups, lr=learning_rate, fused=fused),
    "sgd": lambda groups, learning_rate, momentum, _: SGD(  # may be given sparse gradients
        groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0
    ),
}
FUSED_ON = {"cpu", "cuda"}


def make_optimizer(
    kind: str,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.9,
) -> Optimizer:
    """Build an optimiser that decays matrices only: biases and norms are scales, not directions.

    Frozen parameters are left out; `momentum` (Nesterov's) is for `sgd` alone.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[Group] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return OPTIMIZERS[kind](filled, learning_rate, momentum, all(map(_may_be_fused, trained)))


def _may_be_fused(parameter: nn.Parameter) -> bool:
    """Refuse what lies in memory with gaps: torch 2.13's kernel changes other numbers than its."""
    is_known = parameter.device.type in FUSED_ON and parameter.is_floating_point()
    return is_known and parameter.is_contiguous()


def constant(step: int, steps: int, warmup_steps: int) -> float:
    """Stay at 1 after warm-up."""
    return _warmup(step, warmup_steps)


def linear(step: int, steps: int, warmup_steps: int) -> float:
    """Fall in a straight line after warm-up; 0 would be reached at step `steps`."""
    return _warmup(step, warmup_steps) * (1.0 - _share_done(step, steps, warmup_steps))


def cosine(step: int, steps: int, warmup_steps: int) -> float:
    """Fall along half a cosine after warm-up; 0 would be reached at step `steps`.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
    """
    fall = 0.5 * (1.0 + math.cos(math.pi * _share_done(step, steps, warmup_steps)))
    return _warmup(step, warmup_steps) * fall


# What a step, 0-based, of so many takes of the learning rate.
SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}


def _warmup(step: int, warmup_steps: int) -> float:
    # Equal stairs that reach 1 at the last warm-up step; the first is not wasted on a factor of 0.
    return 1.0 if step >= warmup_steps else (step + 1) / warmup_steps


def _share_done(step: int, steps: int, warmup_steps: int) -> float:
    after = max(1, steps - warmup_steps)
    return min(1.0, max(0, step - warmup_steps) / after)

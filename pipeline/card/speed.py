"""How fast models answer: one row at a time, and many, side by side on one device.

Models take turns, so that what else the machine does is shared fairly; each is warm before it is
timed.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from pipeline.compute import guard_memory
from pipeline.models import Network

WARM_UP = 3
# A large teacher is timed for fewer rounds than were asked for, but for so many at least.
FEWEST_ROUNDS, MOST_S = 3, 30.0
# What is timed at once lasts at least so long: a small student is asked several times.
LEAST_S = 0.005
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Speed:
    """Seconds of each timed pass over one row and over a batch of `rows`, of `positions` each."""

    one_s: tuple[float, ...]
    many_s: tuple[float, ...]
    rows: int
    positions: int

    def to_json(self) -> dict[str, object]:
        """Units: latency in milliseconds; throughput in rows and positions a second."""
        return {
            "latency_ms": _spread([1000 * each for each in self.one_s]),
            "rows_a_second": _spread([self.rows / each for each in self.many_s]),
            "positions_a_second": _spread([self.positions / each for each in self.many_s]),
            "rounds": len(self.one_s),
        }


def measure_speeds(
    networks: Mapping[str, Network], inputs: Tensor, *, rounds: int, advance: Advance
) -> dict[str, Speed]:
    """Time every network on the first of some rows, and on all of them, in turns.

    Shapes: inputs (B, ...), on the networks' device.
    """
    one = {name: list[float]() for name in networks}
    many = {name: list[float]() for name in networks}
    positions, calls = {}, {}
    for name, network in networks.items():
        positions[name] = _warm_up(network, inputs)
        calls[name] = [_call(network, rows, inputs.device) for rows in (inputs[:1], inputs)]
    for number in range(rounds):
        for name, (ask_one, ask_many) in calls.items():
            if number >= FEWEST_ROUNDS and sum(one[name]) + sum(many[name]) > MOST_S:
                continue
            one[name].append(ask_one())
            many[name].append(ask_many())
        advance(1)
    rows = len(inputs)
    return {
        name: Speed(tuple(one[name]), tuple(many[name]), rows, positions[name]) for name in networks
    }


@torch.inference_mode()
def _answer(network: Network, inputs: Tensor) -> int:
    """Make all logits, a block at a time; gives the number of positions."""
    with guard_memory(len(inputs), "evaluate"):
        return sum(len(logits) for logits in network(inputs).blocks())


def _warm_up(network: Network, inputs: Tensor) -> int:
    for _ in range(WARM_UP):
        _answer(network, inputs[:1])
    return max(_answer(network, inputs) for _ in range(WARM_UP))


def _call(network: Network, inputs: Tensor, device: torch.device) -> Callable[[], float]:
    """Make what times a pass: one, or the mean of as many as it takes to be well above the clock's
    and the interpreter's own noise.
    """
    call = partial(_answer, network, inputs)
    repeats = math.ceil(LEAST_S / max(_timed(call, device, 1), 1e-9))
    return partial(_timed, call, device, max(1, repeats))


def _timed(call: Callable[[], int], device: torch.device, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type != "cpu":  # it works on behind our back
        torch.accelerator.synchronize(device)
    return (time.perf_counter() - started) / repeats


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}

"""What ranks are told to do by tests of ranks; each is a process, and prints what it found."""

import json
import os
import signal
from typing import Any

import torch

from pipeline.compute import Ranks, join_ranks
from pipeline.errors import PipelineError, ToldElsewhere


def tell(*found: Any) -> None:
    print(json.dumps(found))


def all_methods() -> None:
    with join_ranks() as ranks:
        tensor = torch.full((2,), ranks.rank + 1.0)
        ranks.add_tensor(tensor)
        sums = ranks.add_up([0.1 * ranks.rank, 1.0])
        handed = ranks.hand_out({"of": ranks.rank, "tensor": torch.ones(1)})
        tell(tensor.tolist(), sums, handed["of"], ranks.gather(f"rank {ranks.rank}"))


def fail(failing: str) -> None:
    """Let some ranks fail; all print what they then raise."""
    try:
        with join_ranks() as ranks:
            if f"{ranks.rank}" in failing:
                raise PipelineError(f"rank {ranks.rank} found a fault")
            work_until_lost(ranks)
    except PipelineError as error:
        tell(type(error).__name__, "" if isinstance(error, ToldElsewhere) else str(error))


def lose(last_words: str) -> None:
    """Let the last rank be killed, or stop; all others print what they then raise."""
    try:
        with join_ranks() as ranks:
            ranks.meet()
            if ranks.rank == ranks.size - 1:
                os.kill(os.getpid(), getattr(signal, last_words))
            work_until_lost(ranks)
    except PipelineError as error:
        tell(type(error).__name__, str(error))


def be_told_to_end() -> None:
    try:
        with join_ranks() as ranks:
            if ranks.is_first:
                os.kill(os.getpid(), signal.SIGTERM)
            work_until_lost(ranks)
    except PipelineError as error:
        tell(type(error).__name__, str(error))


def work_until_lost(ranks: Ranks) -> None:
    while True:
        ranks.add_up([1.0])

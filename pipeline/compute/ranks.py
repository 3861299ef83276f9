"""The ranks of one run: processes that torchrun started, and what they tell each other.

It begins and ends their group, adds up, hands out and gathers; it does not know what. Without
torchrun there is one rank, and nothing is sent.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from pipeline.compute.devices import pick_device
from pipeline.errors import PipelineError, RankLost, ToldElsewhere

Value = TypeVar("Value")

WRITTEN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# How long a rank waits for others. They take the same steps, so that all there is to wait for is
# data that one of them reads more slowly, and the first one writing a checkpoint.
TIMEOUT, TIMEOUT_S = "PIPELINE_RANK_TIMEOUT_S", 600.0
ADVICE = "The same command goes on from the last checkpoint."
# What every rank that fails adds to, so that the first of them alone says why.
ENDED = "ended"
# The rank that keeps that number waits so long for others to have read it.
FAREWELL_S = 5.0
CPU = torch.device("cpu")
FOR_RANKS = ("auto", "cuda", "cpu")


@dataclass(frozen=True)
class Ranks:
    """One rank of `size`; `local` counts on its machine. All call the same methods, in one order.

    Every method raises RankLost if another rank has died, or does not answer in time.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    timeout_s: float = 0.0

    @property
    def is_first(self) -> bool:
        """Whether it is this one that writes and prints."""
        return self.rank == 0

    def add_up(self, values: Sequence[float]) -> list[float]:
        """Add up numbers over all ranks, in float64; all get the very same sums."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        self.add_tensor(total)
        sums: list[float] = total.tolist()
        return sums

    def add_tensor(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks. Shapes: any, the same for all."""
        if self.size > 1:
            with self._answered():
                dist.all_reduce(tensor)

    def hand_out(self, value: Value) -> Value:
        """Give all what the first rank has."""
        if self.size == 1:
            return value
        held = [value]
        with self._answered():
            dist.broadcast_object_list(held, src=0, device=CPU)
        return held[0]

    def gather(self, value: Value) -> list[Value]:
        """Give all what each rank has, in their order."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        with self._answered():
            dist.all_gather_object(held, value)
        return held

    def meet(self) -> None:
        """Go on once all have come here."""
        self.add_up([0.0])

    @contextmanager
    def _answered(self) -> Iterator[None]:
        asked_s = time.monotonic()
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankLost(self._say_lost(time.monotonic() - asked_s)) from error

    def _say_lost(self, waited_s: float) -> str:
        where = f"rank {self.rank} of {self.size}"
        if waited_s < self.timeout_s:
            return (
                f"{where}: another rank was lost: it was killed, or its machine is gone. {ADVICE}"
            )
        return (
            f"{where}: another rank was lost: it has not answered for {self.timeout_s:g} s "
            f"({TIMEOUT}), so it hangs, or is that far behind. {ADVICE}"
        )


def read_ranks(environment: Mapping[str, str]) -> Ranks:
    """Read what torchrun says of this process; one rank where it says nothing.

    Raises: PipelineError if it says only half of it, or the time to wait is none.
    """
    if int(environment.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    if missing := [name for name in WRITTEN if name not in environment]:
        raise PipelineError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} is not set. "
            "Start ranks with torchrun, which sets all of them, or unset WORLD_SIZE."
        )
    rank, size, local = (int(environment[name]) for name in WRITTEN[:3])
    return Ranks(rank, size, local, _read_timeout(environment.get(TIMEOUT)))


def _read_timeout(text: str | None) -> float:
    if text is None:
        return TIMEOUT_S
    if not text.isdecimal() or not int(text):
        raise PipelineError(f"{TIMEOUT}: must be a number of seconds above 0; got '{text}'.")
    return float(text)


def pick_rank_device(name: str, ranks: Ranks) -> torch.device:
    """Turn a recipe's device into that of this rank: of several GPUs the one of its number.

    Raises: PipelineError if there is none for it.
    """
    if ranks.size == 1:
        return pick_device(name)
    if name not in FOR_RANKS:
        raise PipelineError(
            f"training.device: '{name}' is one device, but there are {ranks.size} ranks; allowed "
            f"are {', '.join(FOR_RANKS)}. With 'cuda' or 'auto' each takes the GPU of its own "
            "number."
        )
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    count = torch.cuda.device_count()
    if ranks.local >= count:
        raise PipelineError(
            f"training.device: '{name}' is a GPU for each rank, but this machine has {count} and "
            f"a rank {ranks.local}. Start as many ranks as there are GPUs (--nproc-per-node)."
        )
    device = torch.device("cuda", ranks.local)
    torch.cuda.set_device(device)
    return device


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Be one of the ranks for as long as the block runs; at its end they wait for each other.

    Where one fails all do: the first raises what it met, all others ToldElsewhere.

    Raises: PipelineError if the ranks do not find each other; RankLost if one is lost.
    """
    ranks = read_ranks(os.environ)
    if ranks.size == 1:
        yield ranks
        return
    with _finding(ranks):
        store = next(rendezvous("env://", timeout=timedelta(seconds=ranks.timeout_s)))[0]
    try:
        with _ending_when_told():
            _connect(ranks, store)
            yield ranks
            ranks.meet()
    except BaseException as error:
        is_first = _count_ended(store, 1) <= 1
        if dist.is_initialized():
            dist.destroy_process_group()  # others learn of it by this
        is_lost = is_first and isinstance(error, RankLost)
        _say_farewell(store, ranks, ranks.size - is_lost)
        if not is_first:
            raise ToldElsewhere("another rank has said why") from error
        if isinstance(error, _Terminated):
            raise RankLost(
                f"rank {ranks.rank} of {ranks.size}: told to end (SIGTERM), as torchrun does when "
                f"another rank was lost. {ADVICE}"
            ) from error
        raise
    dist.destroy_process_group()


def _connect(ranks: Ranks, store: Any) -> None:
    """Begin the group. Numbers go through gloo also where gradients go through nccl."""
    with _finding(ranks):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=timedelta(seconds=ranks.timeout_s),
        )
    # One that failed before others have connected to it would look like one that never came.
    ranks.meet()


@contextmanager
def _finding(ranks: Ranks) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PipelineError(
            f"rank {ranks.rank} of {ranks.size}: the ranks did not find each other in "
            f"{ranks.timeout_s:g} s ({TIMEOUT}). Start all of them, with one MASTER_ADDR and a "
            "MASTER_PORT that is free there."
        ) from error


def _count_ended(store: Any, more: int) -> int:
    """Say how many ranks have failed, with so many more; 0 if who keeps the number is lost.

    Asked in a thread, for an answer of a process that was stopped is waited for without end.
    """
    found = list[int]()

    def ask() -> None:
        with suppress(RuntimeError):
            found.append(store.add(ENDED, more))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(FAREWELL_S)
    return found[0] if found else 0


def _say_farewell(store: Any, ranks: Ranks, expected: int) -> None:
    """Keep the number of those that failed until all others have read it, if it is kept here."""
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    deadline_s = time.monotonic() + FAREWELL_S
    while ranks.is_first and not is_agents and _count_ended(store, 0) < expected:
        if time.monotonic() > deadline_s:
            return
        time.sleep(0.02)


class _Terminated(BaseException):
    """No Exception, so that nothing on the way takes it for a failure of its own."""


@contextmanager
def _ending_when_told() -> Iterator[None]:
    """Let SIGTERM end the block as an interrupt would; more of them change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    signal.signal(signal.SIGTERM, before)

"""Processes that train together: what they share, and how they end when one of them does."""

import json
import signal
from typing import Any

import pytest
import torch
from nursery import Child, Nursery

from pipeline.compute import Ranks, pick_rank_device
from pipeline.compute.ranks import read_ranks
from pipeline.errors import PipelineError

TOLD = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}


def start(nursery: Nursery, size: int, call: str, *arguments: str, **told: str) -> list[Child]:
    return nursery.start_ranks(size, *arguments, call=f"rank_calls:{call}", environment=told)


def found(children: list[Child]) -> list[Any]:
    answers = [child.wait() for child in children]
    assert [answer.stderr for answer in answers] == [""] * len(answers)
    return [json.loads(answer.stdout) if answer.stdout else None for answer in answers]


@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_have_the_same_sums_and_what_the_first_hands_out(
    nursery: Nursery, size: int
) -> None:
    total = sum(range(1, size + 1))
    tensors, sums, handed, gathered = zip(*found(start(nursery, size, "all_methods")), strict=True)
    assert tensors == ([total, total],) * size
    assert len(set(map(tuple, sums))) == 1
    assert sums[0] == pytest.approx([0.1 * (total - size), size])
    assert handed == (0,) * size
    assert gathered == ([f"rank {rank}" for rank in range(size)],) * size


def test_alone_nothing_is_sent() -> None:
    ranks, tensor = Ranks(), torch.ones(2)
    ranks.add_tensor(tensor)
    ranks.meet()
    assert tensor.tolist() == [1.0, 1.0]
    assert ranks.add_up([0.5]) == [0.5]
    assert ranks.gather("a") == ["a"]
    assert ranks.hand_out("a") == "a"


@pytest.mark.parametrize("failing", ["0", "1", "02", "012"])
def test_the_first_that_fails_says_why_and_the_others_only_end(
    nursery: Nursery, failing: str
) -> None:
    answers = found(start(nursery, 3, "fail", failing))
    said = [answer for answer in answers if answer[0] == "PipelineError"]
    assert len(said) == 1
    assert said[0][1] in [f"rank {rank} found a fault" for rank in failing]
    assert [answer for answer in answers if answer not in said] == [["ToldElsewhere", ""]] * 2


def test_a_rank_that_is_killed_is_told_of(nursery: Nursery) -> None:
    assert found(start(nursery, 2, "lose", "SIGKILL")) == [
        [
            "RankLost",
            "rank 0 of 2: another rank was lost: it was killed, or its machine is gone. The same "
            "command goes on from the last checkpoint.",
        ],
        None,
    ]


def test_a_rank_that_hangs_is_told_of_in_time(nursery: Nursery) -> None:
    first, last = start(nursery, 2, "lose", "SIGSTOP", PIPELINE_RANK_TIMEOUT_S="1")
    assert found([first]) == [
        [
            "RankLost",
            "rank 0 of 2: another rank was lost: it has not answered for 1 s "
            "(PIPELINE_RANK_TIMEOUT_S), so it hangs, or is that far behind. The same command goes "
            "on from the last checkpoint.",
        ]
    ]
    last.kill(signal.SIGKILL)
    assert last.wait().status == -signal.SIGKILL


def test_a_launcher_that_ends_a_rank_is_told_of_once(nursery: Nursery) -> None:
    one, other = found(start(nursery, 2, "be_told_to_end"))
    assert one == [
        "RankLost",
        "rank 0 of 2: told to end (SIGTERM), as torchrun does when another rank was lost. The same "
        "command goes on from the last checkpoint.",
    ]
    assert other[0] == "ToldElsewhere"


def test_ranks_that_do_not_find_each_other_are_told_of(nursery: Nursery) -> None:
    alone = nursery.start(
        "1",
        call="rank_calls:fail",
        environment={**TOLD, "RANK": "0", "MASTER_PORT": "0", "PIPELINE_RANK_TIMEOUT_S": "1"},
    )
    assert found([alone]) == [
        [
            "PipelineError",
            "rank 0 of 2: the ranks did not find each other in 1 s (PIPELINE_RANK_TIMEOUT_S). "
            "Start all of them, with one MASTER_ADDR and a MASTER_PORT that is free there.",
        ]
    ]


def test_what_torchrun_says_is_read() -> None:
    assert read_ranks({}) == Ranks()
    assert read_ranks({**TOLD, "WORLD_SIZE": "1", "RANK": "0"}) == Ranks()
    assert read_ranks(TOLD) == Ranks(rank=1, size=2, local=0, timeout_s=600.0)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"WORLD_SIZE": "4", "RANK": "0"},
            "WORLD_SIZE is 4, but LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set. Start ranks "
            "with torchrun, which sets all of them, or unset WORLD_SIZE.",
        ),
        (
            {**TOLD, "PIPELINE_RANK_TIMEOUT_S": "0"},
            "PIPELINE_RANK_TIMEOUT_S: must be a number of seconds above 0; got '0'.",
        ),
    ],
    ids=["half", "no time"],
)
def test_what_cannot_be_read_is_refused(told: dict[str, str], message: str) -> None:
    with pytest.raises(PipelineError) as refused:
        read_ranks(told)
    assert str(refused.value) == message


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Ranks(rank=3, size=4, local=1)
    assert pick_rank_device("cpu", two) == torch.device("cpu")
    with pytest.raises(PipelineError, match="'cuda:0' is one device, but there are 4 ranks"):
        pick_rank_device("cuda:0", two)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert pick_rank_device("auto", two) == torch.device("cuda:1")
    with pytest.raises(PipelineError, match=r"this machine has 2 and a rank 2\."):
        pick_rank_device("cuda", Ranks(rank=2, size=3, local=2))

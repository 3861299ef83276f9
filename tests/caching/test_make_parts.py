from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import CLASSES, make_samples, make_spec
from torch import Tensor, nn

from pipeline.caching import Work, make_parts
from pipeline.caching.shape import Shape
from pipeline.errors import CacheError, SampleError, TargetError
from pipeline.models import Network
from pipeline.samples import ContentLog, content_digests, scan_samples
from pipeline.samples.arrays import ArraySamples
from pipeline.store import (
    Cache,
    Plan,
    claim_part,
    finish,
    missing_parts,
    open_cache,
    write_plan,
)
from pipeline.targets import decode, encode, kept_mass, target_fields

ROWS, ROWS_PER_PART, BATCH = 23, 8, 3


class Teacher(nn.Module):
    """A linear teacher that remembers what it was asked, and is sick on some samples."""

    def __init__(self, sick: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, CLASSES)
        self.sick = torch.tensor(sick)
        self.asked: list[list[int]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        numbers = inputs[:, 0]
        self.asked.append(numbers.int().tolist())
        logits: Tensor = self.layer(inputs)
        logits[torch.isin(numbers, self.sick)] = float("nan")
        return logits


class Broken(nn.Module):
    """Fails in a way of its own at the second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            raise ZeroDivisionError("in the teacher's own code")
        return torch.zeros(len(inputs), CLASSES)


def half_labelled() -> ArraySamples:
    samples = make_samples(ROWS)
    labels = np.where(np.arange(ROWS) % 2 == 0, np.arange(ROWS) % CLASSES, -1)
    return ArraySamples("data.train", None, samples.inputs, labels, samples.id_rows)


def begin(folder: Path, teacher: nn.Module, *, k: int = 2) -> Work:
    """Plan a cache of three parts, the last one short."""
    spec, samples = make_spec(k), half_labelled()
    about: dict[str, Any] = {"targets": spec.to_json()}
    fields = target_fields(spec)
    plan = Plan(ROWS, ROWS_PER_PART, "zarr", "none", fields, settings={}, about=about)
    write_plan(folder, plan)
    network = Network(teacher).eval()
    contents = ContentLog()
    scan = scan_samples(samples, log=contents)
    return Work(
        samples=samples,
        scan=scan,
        contents=contents,
        network=network,
        device=torch.device("cpu"),
        batch_size=BATCH,
        read_rows=BATCH,
        plan=plan,
        spec=spec,
        shape=Shape(spec),
        folder=folder,
        builds_behind=True,
    )


def make(work: Work, order: list[int] | None = None, wait: Callable[[str], None] = print) -> int:
    """Make the parts, and count the rows that were told of."""
    told: list[int] = []
    make_parts(work, [0, 1, 2] if order is None else order, told.append, wait)
    return sum(told)


def complete(work: Work) -> Cache:
    finish(work.folder, work.plan)
    return open_cache(work.folder)


def ask_in_batches(work: Work, part: int) -> list[Tensor]:
    """Ask the teacher alone about the rows of a part, batch by batch."""
    answers, rows = [], list(work.plan.part_range(part))
    with torch.inference_mode():
        while rows:
            batch, rows = rows[:BATCH], rows[BATCH:]
            answers.append(work.network(torch.from_numpy(work.samples.read(batch).inputs)).logits)
    return answers


def locks(folder: Path) -> list[Path]:
    return list(folder.glob(".scratch/*"))


@pytest.mark.parametrize("k", [2, CLASSES], ids=["top_k", "all"])
def test_a_part_is_what_the_teacher_alone_says_of_its_rows(k: int, tmp_path: Path) -> None:
    work = begin(tmp_path / "cache", Teacher(), k=k)
    assert make(work) == ROWS
    cache = complete(work)
    for part in range(3):
        encoded = [encode(work.spec, logits) for logits in ask_in_batches(work, part)]
        for name, array in cache.read_part(part).items():
            expected = np.concatenate([each[name] for each in encoded])
            assert array.dtype == expected.dtype
            assert np.array_equal(array, expected)


def test_a_part_names_its_samples(tmp_path: Path) -> None:
    work = begin(tmp_path / "cache", Teacher())
    make(work)
    table = complete(work).read_samples(2)
    read = work.samples.read(range(16, 23))
    assert table.ids == [f"s{row}" for row in range(16, 23)]
    assert table.labels.tolist() == [1, -1, 3, -1, 0, -1, 2]
    assert np.array_equal(table.digests, content_digests(read.inputs))
    assert table.views.tolist() == [0] * 7
    assert table.positions.tolist() == [1] * 7


def test_batches_never_cross_parts(tmp_path: Path) -> None:
    teacher = Teacher()
    make(begin(tmp_path / "cache", teacher), order=[2, 0, 1])
    assert teacher.asked == [
        *([16, 17, 18], [19, 20, 21], [22]),
        *([0, 1, 2], [3, 4, 5], [6, 7]),
        *([8, 9, 10], [11, 12, 13], [14, 15]),
    ]


def test_the_manifest_adds_up_what_the_teacher_said(tmp_path: Path) -> None:
    work = begin(tmp_path / "cache", Teacher())
    make(work)
    sums = complete(work).manifest["statistics"]

    logits = torch.cat([each for part in range(3) for each in ask_in_batches(work, part)]).double()
    probabilities = logits.softmax(1)
    labels = work.samples.read(range(ROWS)).labels
    targets = decode(work.spec, encode(work.spec, logits))
    entropy = -(probabilities * probabilities.log()).sum(1)
    right = [int(row.argmax()) == label for row, label in zip(logits, labels, strict=True)]
    assert sums["entropy_sum"] == pytest.approx(float(entropy.sum()), rel=1e-5)
    assert sums["confidence_sum"] == pytest.approx(float(probabilities.amax(1).sum()), rel=1e-5)
    assert sums["kept_mass_sum"] == pytest.approx(float(kept_mass(targets, 1.0).sum()), rel=1e-5)
    assert sums["kept_mass_sum"] < ROWS
    assert sums["labelled"] == 12
    assert sums["teacher_right"] == sum(right)


def test_parts_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    teacher = Teacher()
    work = begin(tmp_path / "cache", teacher)
    assert make(work, order=[1]) == 8
    teacher.asked.clear()
    assert make(work) == 15
    assert sorted(row for batch in teacher.asked for row in batch) == [*range(8), *range(16, 23)]
    assert make(work) == 0


def test_a_sick_teacher_is_named_with_its_samples_and_what_was_finished_stays(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "cache"
    sick = begin(folder, Teacher(sick=(12, 13)))
    with pytest.raises(TargetError) as refused:
        make(sick)
    assert str(refused.value) == (
        "teacher: its logits are NaN or infinite for 2 of 3 samples of a batch (s12, s13); "
        "every logit must be finite.\n"
        "  Try teacher.precision = 'float32', or look at these samples. Finished parts are kept."
    )
    assert missing_parts(folder, sick.plan) == [1, 2]
    assert locks(folder) == []

    mended = begin(folder, Teacher())
    assert make(mended) == 15
    other = begin(tmp_path / "other", Teacher())
    make(other)
    assert complete(mended).digest == complete(other).digest


def test_a_failure_of_the_teachers_own_code_is_raised_as_it_is(tmp_path: Path) -> None:
    work = begin(tmp_path / "cache", Broken())
    with pytest.raises(ZeroDivisionError, match="in the teacher's own code"):
        make(work)
    assert locks(tmp_path / "cache") == []


def test_a_disk_that_refuses_reaches_the_caller(tmp_path: Path) -> None:
    work = begin(tmp_path / "cache", Teacher())
    (tmp_path / "cache/targets").touch()
    with pytest.raises(CacheError, match="cache: "):
        make(work)
    assert missing_parts(work.folder, work.plan) == [0, 1, 2]
    assert locks(tmp_path / "cache") == []


def test_a_part_in_other_hands_is_made_here_once_they_let_go(tmp_path: Path) -> None:
    teacher = Teacher()
    work = begin(tmp_path / "cache", teacher)
    words: list[str] = []
    with ExitStack() as others:
        others.enter_context(claim_part(work.folder, 0))

        def wait(text: str) -> None:
            words.append(text)
            others.close()

        assert make(work, wait=wait) == ROWS
    assert words == [f"{work.folder}: another process is making the last parts; waiting for it"]
    assert teacher.asked[0] == [8, 9, 10]
    assert missing_parts(work.folder, work.plan) == []


def test_the_bytes_depend_on_neither_order_nor_writer_nor_reader(
    tmp_path: Path,
) -> None:
    digests = set()
    for number, order in enumerate(([0, 1, 2], [2, 1, 0])):
        work = begin(tmp_path / str(number), Teacher())
        changed = replace(work, builds_behind=number == 0, read_rows=(1 + number) * BATCH)
        make(changed, order=order)
        digests.add(complete(work).digest)
    assert len(digests) == 1


def test_inputs_that_cannot_be_written_to_are_fine(tmp_path: Path) -> None:
    work = begin(tmp_path / "cache", Teacher())
    inputs: NDArray[np.float32] = np.array(work.samples.read(range(ROWS)).inputs)
    inputs.flags.writeable = False
    assert isinstance(work.samples, ArraySamples)
    frozen = replace(work.samples, inputs=inputs)
    assert make(replace(work, samples=frozen)) == ROWS


def test_data_that_changes_while_the_teacher_works_is_named_and_finished_parts_stay(
    tmp_path: Path,
) -> None:
    work = begin(tmp_path / "cache", Teacher())
    assert isinstance(work.samples, ArraySamples)
    inputs: NDArray[np.float32] = np.array(work.samples.inputs)
    inputs[[9, 11]] += 1
    changed = replace(work.samples, inputs=inputs)
    with pytest.raises(SampleError) as caught:
        make(replace(work, samples=changed, read_rows=ROWS))
    assert str(caught.value).startswith(
        "data.train: 2 of 8 samples changed after they were scanned: s9, s11; nothing may write"
    )
    assert missing_parts(work.folder, work.plan) == [1, 2]

import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.errors import SampleError
from pipeline.samples import Samples, content_digests, scan_samples, without
from pipeline.samples.arrays import ArraySamples
from pipeline.samples.kinds import PythonSamples
from pipeline.samples.scan import find_duplicates, map_in_order

INPUTS = np.arange(12, dtype=np.float32).reshape(6, 2)
IDS = np.array(["a", "bb", "ç", "d", "e", "f"])


def arrays(
    inputs: np.ndarray = INPUTS,
    ids: np.ndarray = IDS,
    labels: tuple[int, ...] = (0, 1, -1, 1, 2, -1),
    names: tuple[str, ...] | None = ("x", "y", "z"),
) -> Samples:
    return ArraySamples("data.train", names, inputs, np.array(labels), ids)


class Items:
    """A list of inputs in which an exception stands for a sample that fails."""

    def __init__(self, *inputs: Any) -> None:
        self.inputs = inputs
        self.ids = [f"s{number}" for number in range(len(inputs))]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if isinstance(self.inputs[index], Exception):
            raise self.inputs[index]
        return {"id": self.ids[index], "input": self.inputs[index], "label": index % 2}


def mixed() -> Samples:
    good = np.ones((2, 3), dtype=np.float32)
    bad = np.array([[1, 2, 3], [4, np.nan, 6]], dtype=np.float32)
    items = [OSError("gone"), good, good[:1], bad, good, OSError("gone too"), good * np.inf]
    return PythonSamples("data.train", None, Items(*items))


def test_scan_describes_the_dataset() -> None:
    expected = hashlib.sha256()
    samples = arrays()
    labels = samples.read(range(6)).labels.tolist()
    for name, label, digest in zip(IDS, labels, content_digests(INPUTS), strict=True):
        encoded = str(name).encode()
        expected.update(len(encoded).to_bytes(8, "little") + encoded)
        expected.update(label.to_bytes(8, "little", signed=True) + digest.tobytes())
    scan = scan_samples(samples)
    assert scan.digest == expected.hexdigest()
    assert (scan.count, scan.shape, scan.dtype) == (6, (2,), "float32")
    assert (scan.label_counts, scan.unlabelled, scan.skipped) == ({0: 1, 1: 2, 2: 1}, 2, ())


@pytest.mark.parametrize("threads", [1, 4])
def test_digest_depends_on_neither_blocks_nor_threads(threads: int) -> None:
    inputs = np.arange(5000 * 3).reshape(5000, 3)
    names = np.array([str(number) for number in range(5000)])
    labels = tuple([0] * 5000)
    blocks = scan_samples(arrays(inputs, names, labels), threads=threads)
    items = [{"id": str(n), "input": row, "label": 0} for n, row in enumerate(inputs)]
    assert blocks == scan_samples(PythonSamples("data.train", None, items), threads=1)


@pytest.mark.parametrize(
    "other",
    [arrays(inputs=INPUTS[[1, 0, 2, 3, 4, 5]]), arrays(ids=IDS[[1, 0, 2, 3, 4, 5]])],
    ids=["inputs", "ids"],
)
def test_digest_changes_with_order(other: Samples) -> None:
    assert scan_samples(other).digest != scan_samples(arrays()).digest


def test_digest_changes_with_labels() -> None:
    assert scan_samples(arrays(labels=(0,) * 6)).digest != scan_samples(arrays()).digest


def test_advance_counts_every_sample_once() -> None:
    seen: list[int] = []
    scan_samples(mixed(), on_error="skip", advance=seen.append)
    assert sum(seen) == 7


def test_skip_records_what_it_left_out() -> None:
    scan = scan_samples(mixed(), on_error="skip")
    reasons = {each.index: (each.id, each.reason) for each in scan.skipped}
    assert reasons[0][0] == "s0"
    assert reasons[0][1].startswith("item 0 failed: OSError: gone")
    assert reasons[2] == ("s2", "1 x 3 float32")
    assert reasons[3] == ("s3", "holds NaN or infinity")
    assert list(reasons) == [0, 2, 3, 5, 6]
    assert (scan.count, scan.shape, scan.label_counts) == (2, (2, 3), {0: 1, 1: 1})


def test_digest_with_skipped_samples_is_that_of_the_others() -> None:
    scan = scan_samples(mixed(), on_error="skip")
    others = without(mixed(), [each.index for each in scan.skipped])
    assert scan_samples(others).digest == scan.digest


def test_every_kind_of_fault_is_counted_and_named_at_once() -> None:
    with pytest.raises(SampleError) as caught:
        scan_samples(mixed())
    lines = str(caught.value).split("\n  ")
    assert lines[0] == "data.train: 5 faults in 7 samples"
    assert lines[1].startswith("unreadable: 2: s0 (item 0 failed: OSError: gone (test_samples_scan")
    assert lines[2] == (
        "wrong shape: 1, where the first sample has 2 x 3 float32: s2 (1 x 3 float32)"
    )
    assert lines[3] == "not finite: 2: s3 (holds NaN or infinity), s6 (holds NaN or infinity)"
    assert lines[4] == 'Mend or remove them, or set on_error = "skip" to leave them out.'


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_duplicates_and_wrong_labels_are_never_skipped(on_error: Any) -> None:
    ids = np.array(["a", "b", "a", "c", "b", "a"])
    with pytest.raises(SampleError) as caught:
        scan_samples(arrays(ids=ids, labels=(3, 0, 0, -2, 1, -1)), on_error=on_error)
    assert str(caught.value) == (
        "data.train: 4 faults in 6 samples\n"
        "  labels out of range: 2, which is 0 to 2, with -1 for unlabelled: a (3), c (-2)\n"
        "  duplicate ids: 2: a (3 times), b (2 times)\n"
        "  Mend or remove them."
    )


def test_without_class_names_any_label_from_0_is_allowed() -> None:
    labels = (900, 0, 1, 2, 3, -1)
    assert scan_samples(arrays(labels=labels, names=None)).label_counts[900] == 1
    with pytest.raises(SampleError, match="which begins at 0, with -1 for unlabelled: a \\(-7\\)"):
        scan_samples(arrays(labels=(-7, 0, 0, 0, 0, 0), names=None))


def test_only_five_of_many_faults_are_named() -> None:
    items = Items(*[ValueError("no")] * 9, np.ones(1))
    with pytest.raises(SampleError, match=r"unreadable: 9: s0 .* s4 \(.*\) and 4 more\n"):
        scan_samples(PythonSamples("data.train", None, items))


def test_empty_dataset_is_refused() -> None:
    with pytest.raises(SampleError) as caught:
        scan_samples(PythonSamples("data.train", None, []))
    assert str(caught.value) == "data.train: there are no samples; it must have at least one"


def test_dataset_without_a_usable_sample_is_refused() -> None:
    items = Items(ValueError("no"), np.array([np.nan]))
    with pytest.raises(
        SampleError, match=r"^data.train: all 2 samples would be skipped; the first is s0"
    ):
        scan_samples(PythonSamples("data.train", None, items), on_error="skip")


def test_skipped_duplicate_is_no_duplicate() -> None:
    items = Items(np.ones(1), ValueError("no"))
    items.ids = ["same", "same"]
    assert scan_samples(PythonSamples("x", None, items), on_error="skip").count == 1


def test_equal_hashes_of_different_ids_are_not_accused() -> None:
    nobody = np.array([], dtype=np.int64)
    assert find_duplicates(arrays(), np.zeros(6, dtype=np.uint64), nobody) == {}


def test_map_in_order_keeps_order_and_stays_close_to_its_consumer() -> None:
    asked: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(50):
            asked.append(number)
            yield number

    def wait(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number

    for place, number in enumerate(map_in_order(wait, numbers(), 3)):
        assert number == place
        assert len(asked) <= place + 2 * 3 + 1


def test_failure_in_a_thread_reaches_the_caller_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda number: 1 // (3 - number), range(100), 2))
    assert threading.active_count() == before

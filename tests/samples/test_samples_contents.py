import os
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import make_samples

from pipeline.errors import SampleError
from pipeline.samples import ContentLog, SampleBatch, content_digests, scan_samples, without
from pipeline.samples.arrays import ArraySamples
from pipeline.samples.contents import content_checksums


def test_a_scan_logs_what_may_be_used_in_its_order() -> None:
    samples = make_samples(5000)
    inputs = np.array(samples.inputs)
    inputs[[7, 4999]] = np.nan
    broken = ArraySamples("data.train", None, inputs, None, samples.id_rows)
    log = ContentLog()
    scan = scan_samples(broken, on_error="skip", log=log)
    kept = without(broken, [skip.index for skip in scan.skipped])
    for start, stop in ((0, 10), (4000, len(kept))):
        batch = kept.read(range(start, stop))
        assert np.array_equal(
            log.confirm("data.train", start, batch), content_digests(batch.inputs)
        )


def test_a_changed_sample_is_named() -> None:
    samples = make_samples(20)
    log = ContentLog()
    scan_samples(samples, log=log)
    batch = samples.read(range(5, 15))
    inputs = batch.inputs.copy()
    inputs[3, 0] += 1
    with pytest.raises(SampleError, match=r"^data.train: 1 of 10 samples changed .*: s8; "):
        log.confirm("data.train", 5, SampleBatch(batch.ids, inputs, batch.labels))


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "<f8", "float16"])
def test_checksums_are_those_of_zlib_whatever_the_byte_order(dtype: str) -> None:
    inputs = np.arange(24).reshape(2, 3, 4).astype(dtype)
    little = inputs.astype(inputs.dtype.newbyteorder("<"))
    assert content_checksums(inputs).tolist() == [zlib.crc32(each.tobytes()) for each in little]


def test_the_log_takes_no_place_that_others_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    log = ContentLog()
    log.add(np.zeros((3, 16), np.uint8), np.zeros(3, np.uint32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here that is always full")
def test_a_full_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    full = partial(Path("/dev/full").open, "wb")
    monkeypatch.setattr("pipeline.samples.contents.TemporaryFile", full)
    log = ContentLog()
    with pytest.raises(SampleError, match=r"cannot hold 20 bytes a sample .*: No space left on"):
        log.add(np.zeros((1, 16), np.uint8), np.zeros(1, np.uint32))

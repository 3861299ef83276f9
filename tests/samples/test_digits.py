import runpy
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.samples import open_samples, scan_samples

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("split", "count"), [("train", 1000), ("validation", 297), ("test", 500)])
def test_digits_open_as_the_recipes_open_them(split: str, count: int) -> None:
    samples = open_samples(
        "parquet",
        base=ROOT / "data",
        name="data.train",
        path="digits.parquet",
        input="image",
        id="id",
        label="label",
        shape=[1, 8, 8],
        filter={"split": split},
        class_names=[str(digit) for digit in range(10)],
    )
    scan = scan_samples(samples)
    assert (scan.count, scan.shape, scan.dtype, scan.unlabelled) == (count, (1, 8, 8), "uint8", 0)
    shares = [each / count for each in scan.label_counts.values()]
    assert len(shares) == 10
    assert max(shares) - min(shares) < 0.007
    assert samples.read(range(count)).inputs.max() == 255


def test_digits_have_ids_of_their_own() -> None:
    table = pq.read_table(ROOT / "data/digits.parquet")
    assert table["id"].to_pylist() == [f"digits-{number:04}" for number in range(1797)]
    assert Counter(table["split"].to_pylist()) == {"train": 1000, "validation": 297, "test": 500}
    assert (ROOT / "data/digits.parquet").stat().st_size < 100_000


def test_script_writes_the_same_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="only scripts/prepare/digits.py needs scikit-learn")
    main = runpy.run_path(str(ROOT / "scripts/prepare/digits.py"))["main"]
    main(tmp_path / "digits.parquet")
    assert pq.read_table(tmp_path / "digits.parquet").equals(
        pq.read_table(ROOT / "data/digits.parquet")
    )

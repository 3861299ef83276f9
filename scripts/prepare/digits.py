"""Writes `data/digits.parquet` from scikit-learn's copy of the digits, from the repository's root.

The same versions of scikit-learn and pyarrow write the same bytes. Only this script needs
scikit-learn.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.datasets import load_digits

TEST, VALIDATION = 500, 297
SEED = 0


def choose_splits(labels: NDArray[np.int64]) -> NDArray[np.str_]:
    """Deal the samples of each class, shuffled once, evenly over the three splits.

    Shapes: labels (N,); returns (N,).
    """
    shuffled = np.random.Generator(np.random.PCG64(SEED)).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    split = np.full(len(labels), "train", dtype="<U10")
    is_test = evenly(len(labels), TEST)
    rest = by_class[~is_test]
    split[by_class[is_test]] = "test"
    split[rest[evenly(len(rest), VALIDATION)]] = "validation"
    return split


def evenly(count: int, chosen: int) -> NDArray[np.bool_]:
    """Mark `chosen` of `count` places, as evenly spread as whole numbers allow.

    Shapes: returns (count,).
    """
    marks = np.arange(count + 1) * chosen // count
    return marks[1:] > marks[:-1]


def main(path: Path) -> None:
    """Write the file; pixels 0 to 16 become 0 to 255, rounded."""
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * 255 / 16).astype(np.uint8)  # (N, 64)
    table = pa.table(
        {
            "id": [f"digits-{number:04}" for number in range(len(labels))],
            "image": pa.array([row.tobytes() for row in pixels], type=pa.binary(64)),
            "label": pa.array(labels, type=pa.int8()),
            "split": choose_splits(labels).tolist(),
        }
    )
    pq.write_table(table, path, row_group_size=512, compression="zstd", compression_level=9)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/digits.parquet"))

"""Cross-entropy of few classes, in numpy; every position has a label, and is a class."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def compare_labels(
    log_probs: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[float, NDArray[np.float32]]:
    """Sum what labels surprise a student by, with the derivative by its logits.

    Shapes: log_probs (p, C), labels (p,); returns (p, C).
    Units:  nats.
    """
    certain = _one_hot(log_probs.shape[1]).take(labels, 0)
    gradient = np.exp(log_probs)
    gradient -= certain
    certain *= log_probs  # which are all finite
    return -float(np.add.reduce(certain, axis=None)), gradient


@lru_cache(maxsize=16)
def _one_hot(class_count: int) -> NDArray[np.float32]:
    return np.eye(class_count, dtype=np.float32)

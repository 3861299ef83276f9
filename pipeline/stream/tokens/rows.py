"""Rows of tokens as fields of a cache, from which each row is built again exactly.

Ids lie in the smallest type that holds the vocabulary; where documents begin is a bit a token.
Knows no files and no tokenizer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.samples.text.tokens import PADDING
from pipeline.store.fields import Field

Arrays = dict[str, NDArray[Any]]
# What masks are drawn by, over classes: how often each token occurs in the whole corpus.
TOKEN_COUNTS = Field("token_counts", "int64", (), "classes")


def token_fields(vocabulary: int, length: int) -> tuple[Field, ...]:
    """List the arrays that hold rows of tokens.

    Shapes: of one row: tokens (L,); sizes (); starts (L / 8, rounded up,).
    Source: FORMAT.md, section 7.6.
    """
    return (
        Field("tokens", _smallest(vocabulary).name, (length,), "rows"),
        Field("sizes", "int32", (), "rows"),
        Field("starts", "uint8", (-(-length // 8),), "rows"),
    )


def encode_rows(inputs: NDArray[np.int32], vocabulary: int) -> Arrays:
    """Take rows of tokens apart into the arrays of a cache.

    Shapes: inputs (B, 2, L); returns (B, ...) each.
    Source: FORMAT.md, section 7.6.
    """
    documents = inputs[:, 1]
    before = np.pad(documents[:, :-1], ((0, 0), (1, 0)), constant_values=PADDING)
    is_token = documents != PADDING
    arrays: Arrays = {
        "tokens": inputs[:, 0].astype(_smallest(vocabulary)),
        "sizes": is_token.sum(1, dtype=np.int32),
        "starts": np.packbits(is_token & (documents != before), axis=1, bitorder="little"),
    }
    assert np.array_equal(decode_rows(arrays), inputs), (
        f"rows of tokens cannot be built again: an id is not below {vocabulary}, or tokens and "
        "documents do not follow one another"
    )
    return arrays


def decode_rows(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
    """Build rows of tokens again. Shapes: arrays (B, ...) each; returns (B, 2, L).

    Source: FORMAT.md, section 7.6.
    """
    tokens, sizes = arrays["tokens"], arrays["sizes"]
    count, length = tokens.shape
    begins = np.unpackbits(arrays["starts"], axis=1, count=length, bitorder="little")
    rows = np.empty((count, 2, length), np.int32)
    rows[:, 0] = tokens
    np.cumsum(begins, axis=1, dtype=np.int32, out=rows[:, 1])
    rows[:, 1] -= 1
    rows[:, 1][np.arange(length) >= sizes[:, None]] = PADDING
    return rows


def count_predicted(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Count the tokens that follow another one of their document: L - 1 of a document of L.

    Shapes: arrays (B, ...) each; returns (B,).
    """
    documents = np.bitwise_count(arrays["starts"]).sum(1, dtype=np.int64)
    predicted: NDArray[np.int64] = arrays["sizes"] - documents
    return predicted


def encode_token_counts(counts: NDArray[np.int64], class_count: int) -> NDArray[np.int64]:
    """Say of every class how often its token occurs, -1 where none does that may be masked.

    Shapes: counts (vocabulary,); returns (C,).
    Source: FORMAT.md, section 7.7.
    """
    return np.pad(counts, (0, class_count - len(counts)), constant_values=-1)


def decode_token_counts(arrays: Mapping[str, NDArray[Any]], vocabulary: int) -> NDArray[np.int64]:
    """Read the counts of tokens back. Shapes: arrays (C,) each; returns (vocabulary,)."""
    return arrays[TOKEN_COUNTS.name][:vocabulary].astype(np.int64)


def check_counts(
    arrays: Mapping[str, NDArray[Any]], counts: NDArray[np.int64], ids: Sequence[str]
) -> None:
    """Hold a writer to what a document of L tokens has: L - 1 targets, in a cache for good.

    Shapes: arrays (B, ...) each; counts (B,), how many targets each row is about to have.
    """
    predicted = count_predicted(arrays)
    for row in np.flatnonzero(counts != predicted).tolist():
        raise AssertionError(
            f"{ids[row]} has {counts[row]} targets, but its tokens ask for {predicted[row]}: one "
            "less than each of its documents has tokens"
        )


def _smallest(vocabulary: int) -> np.dtype[Any]:
    """The smallest unsigned integer that holds every id."""
    return np.min_scalar_type(max(vocabulary - 1, 0))

"""Rows of tokens: how text looks as an array, and which of its tokens are asked for.

A row is int32 (2, L): token ids, and the number of the document that each belongs to, counted from
0 in its row; -1 is padding. A masked view of it is (3, L): the ids to show, document numbers, and
the token that was there where it is asked for, -1 elsewhere. Knows neither files nor tokenizers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.samples.batch import SampleBatch, Samples

Task = Literal["label", "next_token", "masked_token"]
PADDING = -1
# Of a text that is shown to a person.
LONGEST_TEXT = 300


@dataclass(frozen=True)
class Maskable:
    """What masks are made of: the token that hides another one, and how often each one occurs.

    Shapes: counts (vocabulary,), over the whole corpus, -1 for those that are never masked.
    """

    token: int
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """What is asked of a dataset of text, and whose token ids it holds.

    `maskable` is there for the task "masked_token" alone.
    """

    task: Task
    vocabulary: int
    tokenizer_digest: str
    maskable: Maskable | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Positions:
    """The positions of some samples: what there is to predict.

    Shapes: counts (B,), how many each sample has; labels (P,), -1 where there is none.
    """

    counts: NDArray[np.int64]
    labels: NDArray[np.int64]


def tokens_of(samples: Samples) -> Tokens | None:
    """Say what kind of text a dataset holds; None where it holds none."""
    # As fast as can be, for every batch asks; a protocol would look for its members each time.
    found: Tokens | None = getattr(samples, "tokens", None)
    return found


def asks_tokens(samples: Samples) -> bool:
    """Whether it is tokens that a dataset asks for, as many a sample as there are; otherwise each
    sample has one position.
    """
    tokens = tokens_of(samples)
    return tokens is not None and tokens.task != "label"


def positions_of(samples: Samples, batch: SampleBatch) -> Positions:
    """List what a batch of a dataset asks for: a label each, or every token but a document's first.

    A document of L tokens has L - 1 positions: what comes first is predicted from nothing. Masked
    views say themselves what they ask for.
    """
    tokens = tokens_of(samples)
    if tokens is None or tokens.task == "label":
        return Positions(np.ones(len(batch.labels), np.int64), batch.labels)
    if tokens.task == "masked_token":
        originals = batch.inputs[:, 2]
        hidden = originals >= 0
        return Positions(hidden.sum(1, dtype=np.int64), originals[hidden].astype(np.int64))
    asked = is_predicted(batch.inputs)
    labels = batch.inputs[:, 0, 1:][asked].astype(np.int64)
    return Positions(asked.sum(1, dtype=np.int64), labels)


def row_lengths(samples: Samples, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the tokens of some rows of text. Shapes: indices (n,); returns (n,)."""
    blocks = [indices[start : start + 256] for start in range(0, len(indices), 256)]
    counts = [(samples.read(block).inputs[:, 1] != PADDING).sum(1) for block in blocks]
    return np.concatenate([np.empty(0, np.int64), *counts])


def is_predicted(inputs: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell the tokens that follow another one of their own document.

    Shapes: inputs (B, 2, L); returns (B, L - 1), for the tokens from the second on.
    """
    before, documents = inputs[:, 1, :-1], inputs[:, 1, 1:]
    asked: NDArray[np.bool_] = (documents == before) & (documents != PADDING)
    return asked


def token_row(pieces: Sequence[NDArray[np.int32]], length: int) -> NDArray[np.int32]:
    """Lay pieces of documents side by side. Shapes: pieces of (n,); returns (2, length)."""
    joined = np.concatenate([np.empty(0, np.int32), *pieces])
    return cut_row(joined, [len(piece) for piece in pieces], length)


def cut_row(content: NDArray[np.int32], sizes: Sequence[int], length: int) -> NDArray[np.int32]:
    """Make a row of tokens that lie side by side already, of pieces of such sizes.

    Shapes: content (sum of sizes,); returns (2, length).
    """
    row, filled = np.zeros((2, length), np.int32), len(content)
    row[0, :filled] = content
    row[1, filled:] = PADDING
    if len(sizes) > 1:  # the first one is number 0
        row[1, :filled] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return row


def read_text(row: NDArray[Any], decode: Callable[[Sequence[int]], str]) -> str:
    """Spell out a row of tokens, as far as a person will read. Shapes: row (2, L)."""
    text = decode(row[0][row[1] != PADDING].tolist())
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ..."

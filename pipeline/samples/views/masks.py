"""Tokens that are hidden and asked for, rare ones more often than frequent ones.

A pure function of rows of tokens, keys and settings.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.keyed import draw_uniform
from pipeline.samples.text.tokens import PADDING, Maskable

# 0.1 * 30 is a little above 3 in binary fractions, and 3 tokens are what was meant.
SLACK = 1e-9


@dataclass(frozen=True)
class Masks:
    """How many tokens are asked for, which, and what is shown in their place.

    Of the tokens asked for the share `mask` is hidden, the share `random` is replaced by any token,
    and the others are shown. A token that occurs n times weighs n to the power -rare.
    """

    maskable: Maskable
    fraction: float = 0.15
    rare: float = 0.7
    mask: float = 0.8
    random: float = 0.1

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Weigh every token. Shapes: returns (vocabulary,), 0 for those never asked for."""
        counts = self.maskable.counts
        weights = np.maximum(counts, 1).astype(float) ** -self.rare
        return np.where(counts >= 0, weights, 0.0)

    @cached_property
    def ordinary(self) -> NDArray[np.int64]:
        """List the tokens that may stand for another one. Shapes: returns (some,)."""
        return np.flatnonzero(self.maskable.counts >= 0)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides a mask; `counts` is a digest of how often each token occurs."""
        names = ("fraction", "rare", "mask", "random")
        counts = hashlib.sha256(self.maskable.counts.astype("<i8").tobytes()).hexdigest()
        chosen = {name: float(getattr(self, name)) for name in names}
        return {**chosen, "token": self.maskable.token, "counts": counts}


def mask_tokens(rows: NDArray[np.int32], keys: Sequence[bytes], masks: Masks) -> NDArray[np.int32]:
    """Hide some tokens of every row; each row depends on its own key alone.

    Of a row's tokens the fraction, rounded up, is drawn without replacement by weight.

    Shapes: rows (B, 2, L), ids and document numbers; returns (B, 3, L): the ids to show, document
        numbers, and the token that was there where one is asked for, -1 elsewhere.
    Source: Sanh et al. 2019, arXiv:1910.01108, and its published code; the draw is by exponential
        clocks, Efraimidis and Spirakis 2006.
    """
    ids, documents = rows[:, 0], rows[:, 1]
    which, how, other = np.moveaxis(
        draw_uniform(keys, 3 * ids.shape[1]).reshape(len(rows), 3, -1), 1, 0
    )  # (B, L) each
    asked = _choose(ids, documents, which, masks)
    shown = np.where(asked & (how < masks.mask), masks.maskable.token, ids)
    is_other = asked & (how >= masks.mask) & (how < masks.mask + masks.random)
    drawn = masks.ordinary[(other * len(masks.ordinary)).astype(np.int64)]
    shown = np.where(is_other, drawn, shown)
    return np.stack([shown, documents, np.where(asked, ids, -1)], axis=1).astype(np.int32)


def unmask(inputs: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give the rows that masked ones were made from; other rows are left as they are.

    Shapes: inputs (B, 2, L) or (B, 3, L); returns (B, 2, L).
    """
    if inputs.shape[1] == 2:
        return inputs
    shown, documents, originals = np.moveaxis(inputs, 1, 0)
    return np.stack([np.where(originals >= 0, originals, shown), documents], axis=1)


def _choose(
    ids: NDArray[np.int32], documents: NDArray[np.int32], which: NDArray[np.float64], masks: Masks
) -> NDArray[np.bool_]:
    """Draw the tokens that are asked for. Shapes: all (B, L)."""
    present = documents != PADDING
    weights = np.where(present, masks.weights[ids], 0.0)
    count = np.ceil(masks.fraction * present.sum(1) - SLACK)  # (B,)
    count = np.minimum(count, (weights > 0).sum(1))
    # Each token's clock rings at its own rate; the first ones to ring are the draw.
    with np.errstate(divide="ignore"):
        order = (-np.log(which) / weights).argsort(axis=1, kind="stable")
    asked = np.zeros(ids.shape, bool)
    np.put_along_axis(asked, order, np.arange(ids.shape[1]) < count[:, None], axis=1)
    return asked

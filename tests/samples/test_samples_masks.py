"""Masks are what DistilBERT's are, and follow from seed, id and view alone."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.keyed import draw_uniform, view_key
from pipeline.samples.text.tokens import PADDING, Maskable, token_row
from pipeline.samples.views.masks import Masks, mask_tokens

# Ten tokens, two of them special; the last one hides others.
COUNTS = [-1, 1000, 200, 50, 10, 5, 2, 1, 0, -1]
MASK = 9


def make_masks(counts: list[int] = COUNTS, **settings: float) -> Masks:
    return Masks(Maskable(MASK, np.array(counts, np.int64)), **settings)


def keys(count: int, seed: int = 0) -> list[bytes]:
    return [view_key(seed, f"s{number}", 0) for number in range(count)]


def rows_of(*texts: list[int], length: int) -> NDArray[np.int32]:
    return np.stack([token_row([np.array(text, np.int32)], length) for text in texts])


def reference(row: NDArray[np.int32], key: bytes, masks: Masks) -> list[list[int]]:
    """Mask one row token by token, in plain Python."""
    length = row.shape[1]
    draws = draw_uniform([key], 3 * length)[0].tolist()
    which, how, other = draws[:length], draws[length : 2 * length], draws[2 * length :]
    counts = masks.maskable.counts.tolist()
    clocks, present = [], 0
    for place, (token, document) in enumerate(row.T.tolist()):
        if document != PADDING:
            present += 1
            if counts[token] >= 0:
                rate = max(counts[token], 1) ** -masks.rare
                clocks.append((-math.log(which[place]) / rate, place))
    wanted = math.ceil(masks.fraction * present - 1e-9)
    asked = {place for _, place in sorted(clocks)[:wanted]}
    ordinary = [token for token, count in enumerate(counts) if count >= 0]
    shown, originals = row[0].tolist(), [-1] * length
    for place in asked:
        originals[place] = shown[place]
        if how[place] < masks.mask:
            shown[place] = masks.maskable.token
        elif how[place] < masks.mask + masks.random:
            shown[place] = ordinary[int(other[place] * len(ordinary))]
    return [shown, row[1].tolist(), originals]


@given(
    texts=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=12), min_size=1, max_size=5),
    fraction=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**63 - 1),
)
def test_rows_are_masked_as_if_token_by_token(
    texts: list[list[int]], fraction: float, seed: int
) -> None:
    rows, masks = rows_of(*texts, length=14), make_masks(fraction=fraction, mask=0.5, random=0.3)
    drawn = keys(len(rows), seed)
    wanted = [reference(row, key, masks) for row, key in zip(rows, drawn, strict=True)]
    assert mask_tokens(rows, drawn, masks).tolist() == wanted


@given(order=st.permutations(range(6)), seed=st.integers(0, 5))
def test_masks_do_not_depend_on_what_else_is_in_the_batch(order: list[int], seed: int) -> None:
    rows, drawn = rows_of(*[[1, 2, 3, 4, 5, 6, 7]] * 6, length=9), keys(6, seed)
    together = mask_tokens(rows, drawn, make_masks(fraction=0.4))
    alone = [
        mask_tokens(rows[each : each + 1], [drawn[each]], make_masks(fraction=0.4))[0]
        for each in order
    ]
    assert np.array_equal(together[order], np.stack(alone))


def test_rare_tokens_are_drawn_more_often_by_count_to_the_power_minus_0_7() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7]
    rows = np.repeat(rows_of(tokens, length=7), 40_000, axis=0)
    masked = mask_tokens(rows, keys(len(rows)), make_masks(fraction=1 / 7))
    assert ((masked[:, 2] >= 0).sum(1) == 1).all()
    seen = np.array([(masked[:, 2] == token).sum() for token in tokens])
    weights = np.array([float(COUNTS[token]) ** -0.7 for token in tokens])
    expected = weights / weights.sum() * len(rows)
    chi_square = ((seen - expected) ** 2 / expected).sum()
    assert chi_square < 22.5  # 6 degrees of freedom, p = 0.001
    for one, other in ((6, 0), (6, 3), (3, 1), (2, 0)):
        odds = (COUNTS[tokens[one]] / COUNTS[tokens[other]]) ** -0.7
        deviation = (1 / seen[one] + 1 / seen[other]) ** 0.5
        assert math.log(seen[one] / seen[other]) == pytest.approx(math.log(odds), abs=4 * deviation)


def test_the_second_draw_is_from_what_the_first_one_left() -> None:
    rows = np.repeat(rows_of([1, 4, 7], length=3), 40_000, axis=0)
    masked = mask_tokens(rows, keys(len(rows)), make_masks(fraction=2 / 3))
    weights = {token: float(COUNTS[token]) ** -0.7 for token in (1, 4, 7)}
    for left, (one, other) in {1: (4, 7), 4: (1, 7), 7: (1, 4)}.items():
        total = sum(weights.values())
        chance = sum(
            weights[first] / total * weights[second] / (total - weights[first])
            for first, second in ((one, other), (other, one))
        )
        seen = (masked[:, 2] != left).all(1).mean()
        assert seen == pytest.approx(chance, abs=4.5 * (chance * (1 - chance) / 40_000) ** 0.5)


def test_of_what_is_asked_80_percent_are_hidden_10_replaced_and_10_shown() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]
    rows = np.repeat(rows_of(tokens, length=10), 20_000, axis=0)
    masked = mask_tokens(rows, keys(len(rows)), make_masks(fraction=0.5))
    shown, asked = masked[:, 0], masked[:, 2] >= 0
    hidden, same = shown == MASK, shown == rows[:, 0]
    assert np.array_equal(shown[~asked], rows[:, 0][~asked])
    assert np.array_equal(masked[:, 2][asked], rows[:, 0][asked])
    # Of the 10 % replaced, one in eight is replaced by itself, for eight tokens may stand there.
    shares = [hidden[asked].mean(), same[asked].mean(), (~hidden & ~same)[asked].mean()]
    assert shares == pytest.approx([0.8, 0.1 + 0.1 / 8, 0.1 * 7 / 8], abs=4.5e-3)
    drawn = np.bincount(shown[asked & ~hidden & ~same], minlength=10)
    assert drawn[[0, MASK]].tolist() == [0, 0]
    assert drawn[8] == pytest.approx(asked.sum() * 0.1 / 8, rel=0.1)


@pytest.mark.parametrize(
    ("size", "fraction", "count"),
    [(1, 0.15, 1), (20, 0.15, 3), (21, 0.15, 4), (30, 0.1, 3), (10, 1.0, 10), (7, 0.01, 1)],
)
def test_the_fraction_of_a_row_is_rounded_up(size: int, fraction: float, count: int) -> None:
    masked = mask_tokens(rows_of([3] * size, length=32), keys(1), make_masks(fraction=fraction))
    assert (masked[0, 2] >= 0).sum() == count


def test_special_tokens_and_padding_are_never_masked() -> None:
    rows = np.repeat(rows_of([0, 5, 0, 6, 0], length=8), 500, axis=0)
    masked = mask_tokens(rows, keys(len(rows)), make_masks(fraction=1.0))
    assert ((masked[:, 2] >= 0) == [False, True, False, True] + [False] * 4).all()
    assert np.array_equal(masked[:, 0, [0, 2, 4, 5, 6, 7]], rows[:, 0, [0, 2, 4, 5, 6, 7]])
    assert np.array_equal(masked[:, 1], rows[:, 1])


def test_a_row_of_special_tokens_asks_nothing() -> None:
    masked = mask_tokens(rows_of([0, 0], length=3), keys(1), make_masks(fraction=1.0))
    assert (masked[0, 2] == -1).all()


def test_seed_id_and_view_all_decide() -> None:
    named: list[tuple[int, str, int]] = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    rows = np.repeat(rows_of([1, 2, 3, 4, 5, 6, 7] * 8, length=56), 4, axis=0)
    masked = mask_tokens(rows, [view_key(*each) for each in named], make_masks(fraction=0.5))
    assert len({each.tobytes() for each in masked}) == 4


def test_draws_are_what_they_were_in_the_first_version() -> None:
    key = view_key(7, "verses.txt:3#0", 2)
    assert key.hex() == "d6113a1a94f6aeeec28875de8680bbce"
    assert draw_uniform([key], 3)[0].tolist() == [
        0.24611151658732544,
        0.3907085702608747,
        0.13345000687026787,
    ]


def philox(block: int, key: tuple[int, int]) -> list[int]:
    """Compute one block of Philox 4x64-10, as its authors wrote it down."""
    words, (low, high), limit = [block, 0, 0, 0], key, 2**64 - 1
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [(second >> 64) ^ words[1] ^ low, second & limit,
                 (first >> 64) ^ words[3] ^ high, first & limit]  # fmt: skip
        low, high = (low + 0x9E3779B97F4A7C15) & limit, (high + 0xBB67AE8584CAA73B) & limit
    return words


def test_draws_are_those_of_philox_whatever_was_drawn_before() -> None:
    key = view_key(1, "a", 0)
    halves = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    words = [word for block in (1, 2, 3) for word in philox(block, halves)][:9]
    assert draw_uniform([b"x" * 16, key], 9)[1].tolist() == [
        ((word >> 12) + 0.5) / 2**52 for word in words
    ]


def test_settings_name_everything_that_decides_a_mask() -> None:
    changes: list[dict[str, Any]] = [{}, {"fraction": 0.2}, {"rare": 0.0}, {"mask": 0.5}]
    changes += [{"random": 0.2}, {"counts": [-1, 999, *COUNTS[2:]]}]
    assert len({str(make_masks(**each).settings) for each in changes}) == len(changes)


def test_a_corpus_is_counted_whole_and_without_what_is_special(tmp_path: Path) -> None:
    from pipeline.samples import open_samples, subset, tokens_of, views_of

    (tmp_path / "text.txt").write_text("abba\nac\n")
    opened = open_samples("text", base=tmp_path, name="data.train", path="text.txt",
                          tokenizer="bytes", length=3, end="end", task="masked_token")  # fmt: skip
    part = subset(opened, count=1, seed=0)
    tokens = tokens_of(part)
    assert tokens
    assert tokens.maskable
    assert tokens.vocabulary == 258
    assert tokens.maskable.token == 257
    assert tokens.maskable.counts[[97, 98, 99, 256, 257]].tolist() == [3, 2, 1, -1, -1]
    assert tokens.maskable.counts.sum() == 6 - 2
    assert views_of(part).settings == views_of(opened).settings

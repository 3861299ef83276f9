"""How many parts are shuffled together, as the plan has it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import make_cache, make_samples

from pipeline.store import Cache, Field, Plan
from pipeline.stream.windows import size
from pipeline.stream.windows.size import COPIED_PARTS, choose_window_parts


def cache_of(tmp_path: Path, **changes: Any) -> Cache:
    """A cache of rows of 300 positions of 40 bytes, 12 kB and the tokens, in parts of 64."""
    logits = Field("logits", "float16", (20,), "positions")
    fields = (logits, Field("tokens", "uint16", (300,), "rows"))
    plan = Plan(10_000, 64, "zarr", "none", fields, {}, {"tokens": {"task": "next_token"}})
    cache = make_cache(tmp_path / "cache", make_samples(10), rows_per_part=4)
    return replace(cache, plan=replace(plan, **changes))


def test_long_rows_that_lie_raw_are_shuffled_by_the_gigabyte(tmp_path: Path) -> None:
    parts = choose_window_parts(cache_of(tmp_path), is_alone=True)
    assert parts == size.MAPPED_BYTES // (300 * 40 + 600) // 64
    assert parts > COPIED_PARTS


def test_never_more_rows_than_their_places_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(size, "MAPPED_ROWS", 1000)
    assert choose_window_parts(cache_of(tmp_path), is_alone=True) == 1000 // 64


@pytest.mark.parametrize(
    "changes",
    [
        {"compression": "lz4"},
        {"backend": "parquet"},
        {"rows_per_part": 8192},
        {"about": {}},  # one position a row: too short to be left where they lie
    ],
    ids=str,
)
def test_what_is_copied_comes_eight_parts_at_a_time(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert choose_window_parts(cache_of(tmp_path, **changes), is_alone=True) == COPIED_PARTS


def test_so_does_what_others_read_and_what_is_still_made(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    assert choose_window_parts(cache, is_alone=False) == COPIED_PARTS
    assert choose_window_parts(replace(cache, manifest={}), is_alone=True) == COPIED_PARTS
    assert choose_window_parts(None, is_alone=True) == COPIED_PARTS

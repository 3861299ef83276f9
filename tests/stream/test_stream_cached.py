"""Rows of tokens are built again exactly, read in any order, and proved by their digests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SampleError
from pipeline.samples import Tokens, check_samples, content_digests, open_samples, positions_of
from pipeline.samples.text.rows import TextSamples
from pipeline.samples.text.tokens import token_row
from pipeline.store import (
    Plan,
    SampleTable,
    claim_part,
    commit_part,
    finish,
    open_cache,
    write_plan,
)
from pipeline.stream import open_cached
from pipeline.stream.tokens.rows import (
    check_counts,
    count_predicted,
    decode_rows,
    encode_rows,
    token_fields,
)
from pipeline.targets import TargetSpec, encode, target_fields

LINES = "to be\nor not to be\nthat is the question\nwhether 'tis nobler\nin\nthe mind\n"
SPEC = TargetSpec("all", 257, 257)


def open_text(base: Path) -> TextSamples:
    (base / "text.txt").write_text(LINES)
    samples = open_samples(
        "text", base=base, name="data.text", path="text.txt", tokenizer="bytes", length=9, pack=True
    )
    assert isinstance(samples, TextSamples)
    return samples


def make_cache(
    base: Path, samples: TextSamples, *, views: int = 1, edit: int = 0, task: str = "next_token"
) -> Path:
    """Write the cache of some text without any teacher; `edit` is added to the very first token."""
    rows = np.repeat(np.arange(len(samples)), views)
    plan = Plan(
        rows=len(rows),
        rows_per_part=3,
        backend="zarr",
        compression="none",
        fields=(*target_fields(SPEC), *token_fields(257, 9)),
        settings={},
        about={
            "targets": SPEC.to_json(),
            "class_names": None,
            "tokens": {"task": task, "vocabulary": 257, "tokenizer": "digest"},
        },
    )
    write_plan(base / "cache", plan)
    for part in range(plan.part_count):
        read = samples.read(rows[plan.part_range(part)])
        counts = positions_of(samples, read).counts
        table = SampleTable(
            read.ids,
            content_digests(read.inputs),
            np.array([row % views for row in plan.part_range(part)], np.int32),
            np.arange(len(counts)),
            counts.astype(np.int32),
        )
        arrays = encode_rows(read.inputs, 257)
        arrays["tokens"][0, 0] += edit if part == 0 else 0
        with claim_part(base / "cache", part):
            answers = encode(SPEC, torch.zeros(int(counts.sum()), 257))
            commit_part(base / "cache", plan, part, table, answers | arrays, {})
    finish(base / "cache", plan)
    return base / "cache"


@given(
    rows=st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=4),
    length=st.integers(45, 60),
    vocabulary=st.sampled_from([2, 256, 257, 49_152, 65_536, 65_537, 262_144]),
    seed=st.integers(0, 99),
)
def test_rows_are_built_again_exactly(
    rows: list[list[int]], length: int, vocabulary: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    inputs = np.stack(
        [
            token_row([draw.integers(0, vocabulary, size, np.int32) for size in sizes], length)
            for sizes in rows
        ]
    )
    arrays = encode_rows(inputs, vocabulary)
    np.testing.assert_array_equal(decode_rows(arrays), inputs)
    assert count_predicted(arrays).tolist() == [sum(n - 1 for n in sizes) for sizes in rows]
    for field in token_fields(vocabulary, length):
        assert (arrays[field.name].dtype, arrays[field.name].shape[1:]) == (
            field.numpy_dtype,
            field.shape,
        )


@pytest.mark.parametrize(
    ("vocabulary", "dtype"),
    [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"), (151_936, "uint32")],
)
def test_ids_are_kept_in_the_smallest_type(vocabulary: int, dtype: str) -> None:
    assert token_fields(vocabulary, 12)[0].dtype == dtype


@pytest.mark.parametrize(
    "row",
    [[[300, 0], [0, -1]], [[1, 1], [-1, 0]], [[1, 1], [0, 2]], [[-1, 0], [0, 0]]],
    ids=["id too large", "padding first", "a document left out", "negative id"],
)
def test_a_row_that_could_not_be_built_again_is_not_written(row: list[list[int]]) -> None:
    with pytest.raises(AssertionError, match="rows of tokens cannot be built again"):
        encode_rows(np.array([row], np.int32), 256)


def test_a_document_with_as_many_targets_as_tokens_is_not_written() -> None:
    inputs = np.stack([token_row([np.arange(3, dtype=np.int32)] * count, 9) for count in (1, 3)])
    arrays = encode_rows(inputs, 256)
    check_counts(arrays, np.array([2, 6]), ["a", "b"])
    message = (
        "b has 9 targets, but its tokens ask for 6: one less than each of its documents has tokens"
    )
    with pytest.raises(AssertionError, match=message):
        check_counts(arrays, np.array([2, 9]), ["a", "b"])


def test_a_cache_gives_the_samples_it_was_made_from(tmp_path: Path) -> None:
    text = open_text(tmp_path)
    cached = open_cached(base=tmp_path, name="data.cached", path=str(make_cache(tmp_path, text)))
    assert len(cached) == len(text)
    assert cached.ids(0, 99) == text.ids(0, 99)
    assert cached.ids(2, 2) == []
    assert cached.tokens == Tokens("next_token", 257, "digest")
    for order in (range(len(text)), [3, 0, 0, 4], [5, 4]):
        there, here = text.read(order), cached.read(order)
        assert here.ids == there.ids
        np.testing.assert_array_equal(here.inputs, there.inputs)
        assert here.inputs.dtype == there.inputs.dtype
    assert cached.labels([4, 0]).tolist() == cached.read([4, 0]).labels.tolist() == [1, 0]


def test_a_sample_with_views_is_one_sample(tmp_path: Path) -> None:
    text = open_text(tmp_path)
    cache = make_cache(tmp_path, text, views=4)
    cached = open_cached(base=tmp_path, name="data.cached", path=str(cache))
    assert cached.ids(0, 99) == text.ids(0, 99)
    table = open_cache(cache).read_samples(1)
    check_samples(cached, iter([(table.ids, table.digests)]), where="cache")


def test_another_token_is_found_by_the_digest(tmp_path: Path) -> None:
    cache = open_cache(make_cache(tmp_path, open_text(tmp_path), edit=1))
    cached = open_cached(base=tmp_path, name="data.cached", path="cache")
    tables = [cache.read_samples(part) for part in range(cache.plan.part_count)]
    with pytest.raises(SampleError, match=r"changed: 1: text.txt:1#0"):
        check_samples(cached, ((each.ids, each.digests) for each in tables), where="cache")


def test_a_task_of_newer_software_is_refused(tmp_path: Path) -> None:
    make_cache(tmp_path, open_text(tmp_path), task="riddles")
    with pytest.raises(SampleError, match="asks for 'riddles'; this software knows label, next_to"):
        open_cached(base=tmp_path, name="data.cached", path="cache")

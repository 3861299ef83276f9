"""Several caches for one stream: each row with what every teacher said of it."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import make_samples
from torch.utils.data import DataLoader

from pipeline.errors import CorruptPart, SampleError, TargetError
from pipeline.samples.arrays import ArraySamples
from pipeline.samples.batch import content_digests
from pipeline.store import (
    Cache,
    Field,
    Plan,
    SampleTable,
    claim_part,
    commit_part,
    finish,
    open_cache,
    write_plan,
)
from pipeline.stream import Batch, Stream
from pipeline.stream.order import Order
from pipeline.stream.several.beside import _cut
from pipeline.targets import Mixture, Targets, TargetSpec, decode, encode, target_fields

ROWS, CLASSES = 23, 5


def write(  # noqa: PLR0913
    folder: Path,
    *,
    seed: int,
    rows_per_part: int,
    k: int = 2,
    backend: str = "zarr",
    counts: Sequence[int] = (1,) * ROWS,
    features: Sequence[str] = (),
    classes: int = CLASSES,
    change: tuple[str, int, object] | None = None,
    about: dict[str, object] | None = None,
) -> Cache:
    """Write what a teacher of this seed says of some rows; `change` is one entry of the table."""
    spec = TargetSpec("all" if k == classes else "top_k", classes, k)
    fields = [Field(f"feature_{name}", "float16", (2,), "positions") for name in features]
    plan = Plan(
        rows=len(counts),
        rows_per_part=rows_per_part,
        backend=backend,
        compression="none",
        fields=(*target_fields(spec), *fields),
        settings={},
        about={"targets": spec.to_json(), **(about or {})},
    )
    write_plan(folder, plan)
    ends = np.concatenate([[0], np.cumsum(counts)])
    for part in range(plan.part_count):
        rows = plan.part_range(part)
        table = make_table(rows, counts)
        if change and change[1] in rows:
            getattr(table, change[0])[change[1] - rows.start] = change[2]
        positions = slice(int(ends[rows.start]), int(ends[rows.stop]))
        arrays = encode(spec, said(seed, int(ends[-1]), classes)[positions])
        for name in features:
            arrays[f"feature_{name}"] = feature(name, seed, int(ends[-1]))[positions]
        with claim_part(folder, part):
            commit_part(folder, plan, part, table, arrays, {"labelled": len(rows)})
    finish(folder, plan)
    return open_cache(folder)


def make_table(rows: range, counts: Sequence[int]) -> SampleTable:
    read = make_samples(len(counts)).read(rows)
    return SampleTable(
        ids=read.ids,
        digests=content_digests(read.inputs).copy(),
        views=np.zeros(len(rows), np.int32),
        labels=read.labels,
        positions=np.array(counts, np.int32)[rows.start : rows.stop],
    )


def said(seed: int, positions: int = ROWS, classes: int = CLASSES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, classes, generator=generator)


def feature(name: str, seed: int, positions: int) -> NDArray[np.float16]:
    numbers = np.arange(positions) + 100 * seed + len(name)
    return np.stack([numbers, -numbers], 1).astype(np.float16)


def taught(seed: int, rows: list[int], k: int) -> Targets:
    spec = TargetSpec("all" if k == CLASSES else "top_k", CLASSES, k)
    return decode(spec, encode(spec, said(seed)[torch.tensor(rows)]))


def numbers(batch: Batch) -> list[int]:
    return [int(sample_id.removeprefix("s")) for sample_id in batch.ids]


def mixture_of(batch: Batch) -> Mixture:
    assert isinstance(batch.targets, Mixture)
    return batch.targets


@pytest.fixture(scope="module")
def samples() -> ArraySamples:
    return make_samples(ROWS)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[Cache]:
    """Three teachers of 23 rows, cut into parts of 4, 5 and 23 rows."""
    folder = tmp_path_factory.mktemp("beside")
    return [
        write(folder / "a", seed=1, rows_per_part=4),
        write(folder / "b", seed=2, rows_per_part=5, k=CLASSES, backend="parquet"),
        write(folder / "c", seed=3, rows_per_part=ROWS, k=3),
    ]


@pytest.mark.parametrize("batch_size", [1, 5, 100])
@pytest.mark.parametrize("window_parts", [1, 2, 8])
def test_every_row_comes_with_what_all_teachers_said_of_it(
    batch_size: int, window_parts: int, samples: ArraySamples, caches: list[Cache]
) -> None:
    first, *others = caches
    plain = Stream(samples, first, batch_size=batch_size, window_parts=window_parts)
    stream = Stream(
        samples,
        first,
        also=others,
        weights=(2, 1, 1),
        batch_size=batch_size,
        window_parts=window_parts,
    )
    for _ in range(2):
        order = [batch.ids for batch in plain]
        seen = []
        for batch in stream:
            seen.append(batch.ids)
            mixture = mixture_of(batch)
            assert mixture.weights == (0.5, 0.25, 0.25)
            for seed, targets, k in zip((1, 2, 3), mixture.members, (2, CLASSES, 3), strict=True):
                assert torch.equal(targets.logits, taught(seed, numbers(batch), k).logits)
        assert seen == order


@pytest.mark.parametrize("sizes", [(4, 4), (4, 5), (9, 4), (23, 1)], ids=str)
def test_rows_of_several_positions_keep_theirs(
    sizes: tuple[int, int], samples: ArraySamples, tmp_path: Path
) -> None:
    counts = [1 + row % 3 for row in range(ROWS)]
    starts = np.cumsum(counts) - counts
    first, other = (
        write(tmp_path / str(seed), seed=seed, rows_per_part=size, counts=counts, k=CLASSES)
        for seed, size in zip((1, 2), sizes, strict=True)
    )
    for batch in Stream(samples, first, also=[other], batch_size=5, window_parts=2):
        at = [starts[row] + each for row in numbers(batch) for each in range(counts[row])]
        for seed, targets in zip((1, 2), mixture_of(batch).members, strict=True):
            expected = encode(
                TargetSpec("all", CLASSES, CLASSES), said(seed, sum(counts))[torch.tensor(at)]
            )
            assert np.array_equal(targets.logits.half().numpy(), expected["logits"])


def test_one_cache_gives_plain_targets(samples: ArraySamples, caches: list[Cache]) -> None:
    plain = next(iter(Stream(samples, caches[0], batch_size=5)))
    weighed = next(iter(Stream(samples, caches[0], weights=(3.0,), batch_size=5)))
    assert isinstance(plain.targets, Targets)
    assert isinstance(weighed.targets, Targets)
    assert torch.equal(plain.targets.logits, weighed.targets.logits)


def test_a_stream_of_several_caches_goes_on_where_it_was(
    samples: ArraySamples, caches: list[Cache]
) -> None:
    def make() -> Stream:
        return Stream(samples, caches[0], also=caches[1:], batch_size=3, window_parts=2)

    whole = list(make())
    begun, resumed = make(), make()
    for _ in zip(range(4), begun, strict=False):
        pass
    resumed.load_state_dict(begun.state_dict())
    rest = list(resumed)
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[4:]]
    for one, other in zip(rest, whole[4:], strict=True):
        for mine, theirs in zip(mixture_of(one).members, mixture_of(other).members, strict=True):
            assert torch.equal(mine.logits, theirs.logits)


def test_it_travels_to_workers(samples: ArraySamples, caches: list[Cache]) -> None:
    stream = pickle.loads(
        pickle.dumps(Stream(samples, caches[0], also=[caches[2]], batch_size=4, seed=3))
    )
    loader = DataLoader(stream, batch_size=None, num_workers=0)
    seen = [row for batch in loader for row in numbers(batch)]
    assert sorted(seen) == list(range(ROWS))


def test_a_feature_comes_from_the_first_cache_that_keeps_it(
    samples: ArraySamples, tmp_path: Path
) -> None:
    first = write(tmp_path / "a", seed=1, rows_per_part=4, features=["hidden"])
    other = write(tmp_path / "b", seed=2, rows_per_part=6, features=["hidden", "pooled", "unread"])
    stream = Stream(
        samples, first, also=[other], batch_size=5, features=["pooled", "hidden"], window_parts=2
    )
    for batch in stream:
        rows = numbers(batch)
        assert set(batch.features) == {"hidden", "pooled"}
        for name, seed in (("hidden", 1), ("pooled", 2)):
            expected = torch.from_numpy(feature(name, seed, ROWS)[rows]).float()
            assert torch.equal(batch.features[name], expected)


def test_a_feature_that_no_cache_keeps_is_refused(samples: ArraySamples, tmp_path: Path) -> None:
    first = write(tmp_path / "a", seed=1, rows_per_part=4, features=["hidden", "pooled"])
    other = write(tmp_path / "b", seed=2, rows_per_part=4)
    with pytest.raises(TargetError) as caught:
        Stream(samples, first, also=[other], batch_size=5, features=["last"])
    assert str(caught.value) == (
        f"{first.path} and {other.path}: keeps no feature 'last'; it has hidden, pooled. Name one "
        "of those, or cache again with it in [[features]]."
    )


ADVICE = (
    "Several caches teach one student only if all are of the same rows: make them by recipes with "
    "the same [data], [views] and cache.data."
)
OTHER_ROWS = [
    (("ids", 7, "s70"), "another sample: 1: s7"),
    (("digests", 8, 0), "another content: 1: s8"),
    (("views", 22, 1), "another view: 1: s22"),
    (("positions", 0, 2), "another number of positions: 1: s0"),
]


@pytest.mark.parametrize(("change", "line"), OTHER_ROWS, ids=[line for _, line in OTHER_ROWS])
def test_a_cache_of_other_rows_is_refused(
    change: tuple[str, int, object], line: str, samples: ArraySamples, tmp_path: Path
) -> None:
    first = write(tmp_path / "a", seed=1, rows_per_part=4)
    counts = [2 if change == ("positions", 0, 2) and row == 0 else 1 for row in range(ROWS)]
    other = write(tmp_path / "b", seed=2, rows_per_part=6, counts=counts, change=change)
    with pytest.raises(SampleError) as caught:
        Stream(samples, first, also=[other], batch_size=5)
    assert str(caught.value) == (
        f"{other.path}: its rows are not those of {first.path}, which says what comes when\n"
        f"  {line}\n  {ADVICE}"
    )


def test_five_of_many_rows_are_named(samples: ArraySamples, tmp_path: Path) -> None:
    first = write(tmp_path / "a", seed=1, rows_per_part=4)
    other = write(tmp_path / "b", seed=2, rows_per_part=4, counts=[2] * ROWS)
    with pytest.raises(SampleError, match=r"positions: 23: s0, s1, s2, s3, s4 and 18 more\n"):
        Stream(samples, first, also=[other], batch_size=5)


def test_another_number_of_rows_or_other_views_are_refused_before_any_is_read(
    samples: ArraySamples, caches: list[Cache], tmp_path: Path
) -> None:
    first = caches[0]
    shorter = write(tmp_path / "a", seed=1, rows_per_part=4, counts=[1] * 20)
    with pytest.raises(SampleError) as caught:
        Stream(samples, first, also=[shorter], batch_size=5, check=False)
    assert str(caught.value) == (f"{shorter.path}: holds 20 rows, {first.path} 23\n  {ADVICE}")
    viewed = write(tmp_path / "b", seed=1, rows_per_part=4, about={"views": {"count": 2}})
    with pytest.raises(SampleError) as caught:
        Stream(samples, first, also=[viewed], batch_size=5, check=False)
    assert str(caught.value) == (
        f"{viewed.path}: was made of other rows than {first.path} (there)\n"
        f"  views: there nothing, here {{'count': 2}}\n  {ADVICE}"
    )


def test_a_teacher_of_other_classes_is_refused(
    samples: ArraySamples, caches: list[Cache], tmp_path: Path
) -> None:
    first, other = caches[0], write(tmp_path / "a", seed=1, rows_per_part=4, classes=7, k=3)
    with pytest.raises(TargetError) as caught:
        Stream(samples, first, also=[other], batch_size=5)
    assert str(caught.value) == (
        f"{other.path}: holds targets over 7 classes, {first.path} over 5; a distribution of the "
        "one says nothing of the other's. Give caches of teachers with the same classes."
    )


def test_weights_are_one_a_cache(samples: ArraySamples, caches: list[Cache]) -> None:
    with pytest.raises(TargetError, match=r"must be 3 numbers above 0, one a teacher; got 1, 2"):
        Stream(samples, caches[0], also=caches[1:], weights=(1, 2), batch_size=5)


def test_damage_in_a_further_cache_is_found_when_it_is_read(
    samples: ArraySamples, caches: list[Cache], tmp_path: Path
) -> None:
    other = write(tmp_path / "a", seed=1, rows_per_part=6)
    stream = Stream(samples, caches[0], also=[other], batch_size=5, window_parts=1, seed=None)
    targets = [path for path in (tmp_path / "a").rglob("*") if "logits" in path.as_posix()]
    victim = max((path for path in targets if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    with pytest.raises(CorruptPart, match=r"part \d"):
        list(stream)


def test_only_windows_are_in_memory(
    samples: ArraySamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path / "a", seed=1, rows_per_part=2)
    other = write(tmp_path / "b", seed=2, rows_per_part=4)
    stream = Stream(samples, first, also=[other], batch_size=3, window_parts=3, seed=4)
    read: list[int] = []
    original = Cache.read_part

    def counting(cache: Cache, part: int, *arguments: object, **options: bool) -> object:
        if cache.path == other.path:
            read.append(part)
        return original(cache, part, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Cache, "read_part", counting)
    windows = Order(ROWS, 2, 3, 4).windows(0)
    expected = [part for window in windows for part in sorted({int(p) // 2 for p in window})]
    list(stream)
    assert read == expected
    assert stream._loader.held is not None
    held = stream._loader.held.window
    assert len(held.over_positions["1/logits"]) == len(held.indices) <= 6


def test_a_piece_of_a_part_does_not_hold_on_to_the_rest_of_it() -> None:
    part = np.arange(12.0).reshape(6, 2).copy()
    assert _cut(part, slice(0, 6)).base is not None
    piece = _cut(part, slice(2, 4))
    assert piece.base is None
    assert piece.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    part.flags.writeable = False  # as a map of a file
    assert _cut(part, slice(2, 4)).base is part


def test_samples_may_lie_in_another_order_than_the_rows(caches: list[Cache]) -> None:
    order = np.random.default_rng(3).permutation(ROWS)
    shuffled = replace(make_samples(ROWS, order))
    for batch in Stream(shuffled, caches[0], also=[caches[1]], batch_size=6, window_parts=2):
        expected = taught(2, numbers(batch), CLASSES).logits
        assert torch.equal(mixture_of(batch).members[1].logits, expected)

"""Nothing slips through: any damage is found by name, and what is damaged is not read."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import contract
import numpy as np
import pytest

from pipeline.errors import CacheError, CorruptPart
from pipeline.store import Cache, Fault, find_faults, open_cache
from pipeline.store.documents import canonical, sealed

FLIPS_A_KIND = 75  # 300 in all


@pytest.fixture(scope="module", params=contract.KINDS[::4], ids="-".join)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cache, not to be touched."""
    folder = tmp_path_factory.mktemp("sound") / "cache"
    return contract.write_cache(folder, contract.tiny_plan(*request.param))


@pytest.fixture
def cache(sound: Path, tmp_path: Path) -> Path:
    """A whole cache, to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "cache"))


def file_of(folder: Path, part: int) -> str:
    """Return the path of a file with arrays of a part."""
    is_zarr = (folder / "targets" / "00000.zarr").is_dir()
    return f"targets/0000{part}.zarr/logits/c.0.0" if is_zarr else f"targets/0000{part}.parquet"


def read_all(cache: Cache) -> None:
    for part in range(cache.plan.part_count):
        cache.read_samples(part)
        cache.read_part(part)


def test_whole_cache_has_no_faults(sound: Path) -> None:
    assert find_faults(sound) == []


@pytest.mark.parametrize(("backend", "compression"), contract.KINDS[:2] + contract.KINDS[-2:])
def test_every_flipped_byte_is_found_and_refused(
    backend: str, compression: str, tmp_path: Path
) -> None:
    folder = contract.write_cache(tmp_path / "cache", contract.tiny_plan(backend, compression))
    rng = np.random.default_rng(7)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for _ in range(FLIPS_A_KIND):
        path = paths[rng.integers(len(paths))]
        sound = path.read_bytes()
        place = int(rng.integers(len(sound)))
        flipped = sound[place] ^ int(rng.integers(1, 256))
        path.write_bytes(sound[:place] + bytes([flipped]) + sound[place + 1 :])
        name = path.relative_to(folder).as_posix()
        assert name in {fault.file for fault in find_faults(folder)}, f"{name}, byte {place}"
        with pytest.raises(CacheError):
            read_all(open_cache(folder))
        path.write_bytes(sound)
    assert find_faults(folder) == []


def test_truncated_file_is_named_with_its_length(cache: Path) -> None:
    path = cache / file_of(cache, 1)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    what = f"has {size - 1} of {size} bytes"
    assert find_faults(cache) == [Fault(1, file_of(cache, 1), what)]
    with pytest.raises(CorruptPart) as caught:
        open_cache(cache).read_part(1, check=False)
    assert str(caught.value) == f"{cache}: part 1: {file_of(cache, 1)}: {what}"


def test_missing_file_is_named(cache: Path) -> None:
    (cache / file_of(cache, 1)).unlink()
    assert find_faults(cache) == [Fault(1, file_of(cache, 1), "is missing")]
    with pytest.raises(CorruptPart, match=f"part 1: {file_of(cache, 1)}: is missing"):
        open_cache(cache).read_part(1)


def test_flipped_byte_is_named(cache: Path) -> None:
    path = cache / file_of(cache, 0)
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    faults = find_faults(cache, ThreadPoolExecutor(2).map)
    assert faults == [Fault(0, file_of(cache, 0), "its checksum differs: a byte was changed")]
    assert str(faults[0]) == f"part 0: {file_of(cache, 0)}: {faults[0].what}"


@pytest.mark.parametrize("folder", ["parts", "samples", "targets"])
def test_swapped_files_are_found(cache: Path, folder: str) -> None:
    first, second, *_ = sorted((cache / folder).iterdir())
    second = second.with_name(first.name.replace("00000", "00001"))
    first.rename(cache / "aside")
    second.rename(first)
    (cache / "aside").rename(second)
    assert {fault.part for fault in find_faults(cache)} >= {0, 1}
    with pytest.raises(CorruptPart, match="part 0: "):
        read_all(open_cache(cache))


@pytest.mark.parametrize(
    "name", ["notes.txt", "parts/00003.json", "samples/00001.csv", "targets/00003.zarr"]
)
def test_extra_files_are_found(cache: Path, name: str) -> None:
    (cache / name).write_text("")
    assert find_faults(cache) == [Fault(None, name, "does not belong to this cache")]


def test_extra_file_in_a_part_is_found(cache: Path) -> None:
    name = "targets/00001.zarr/logits/c/9"
    (cache / name).parent.mkdir(parents=True, exist_ok=True)
    (cache / name).write_text("")
    assert find_faults(cache) == [Fault(1, name, "does not belong to this cache")]


def test_every_fault_is_listed(cache: Path) -> None:
    (cache / "manifest.json").unlink()
    (cache / "samples" / "00000.parquet").unlink()
    (cache / "parts" / "00002.json").unlink()
    assert [str(fault) for fault in find_faults(cache)] == [
        "manifest.json: is missing: the cache is not complete",
        "part 0: samples/00000.parquet: is missing",
        "part 2: parts/00002.json: is missing",
    ]


def test_plan_of_another_cache_is_found(cache: Path, tmp_path: Path) -> None:
    other = contract.write_cache(tmp_path / "other", contract.tiny_plan(settings={"seed": 2}))
    shutil.copy(other / "plan.json", cache / "plan.json")
    faults = find_faults(cache)
    assert [fault.part for fault in faults] == [None, 0, 1, 2]
    assert faults[0].what.startswith("'fingerprint' is '")
    with pytest.raises(CorruptPart, match=r"manifest.json: 'fingerprint' is .*; the plan's is"):
        open_cache(cache)


def test_changed_plan_is_found(cache: Path) -> None:
    path = cache / "plan.json"
    path.write_text(path.read_text().replace('"rows": 7', '"rows": 6'))
    what = "a byte was changed: 'fingerprint' does not match the other keys"
    assert find_faults(cache) == [
        Fault(None, "plan.json", f"{what}; without it the parts cannot be checked")
    ]
    with pytest.raises(CorruptPart) as caught:
        open_cache(cache)
    assert str(caught.value) == f"{path}: {what}"


def test_record_of_a_faulty_writer_is_found(cache: Path) -> None:
    plan = open_cache(cache).plan
    reseal(cache, 1, positions=1000)
    faults = find_faults(cache)
    assert [fault.part for fault in faults] == [None, None, 1]
    assert [fault.what for fault in faults[:2]] == [
        "'records' does not follow from the records",
        "'positions' does not follow from the records",
    ]
    assert faults[2].what.endswith("positions; its record has 1000")
    with pytest.raises(CorruptPart, match=r"parts/00001.json: is not the record that the manif"):
        open_cache(cache).read_part(1)
    reseal(cache, 1, row_stop=plan.rows)
    assert find_faults(cache)[-1].what == "'row_stop' is 7; it must be 6"


def reseal(folder: Path, part: int, **changes: int) -> None:
    """Change a record and give it a new seal."""
    path = folder / "parts" / f"0000{part}.json"
    record = json.loads(path.read_text()) | changes
    del record["digest"]
    path.write_bytes(canonical(sealed(record, key="digest")))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (b"{}", "a byte was changed: it is not canonical JSON any more"),
        (b"[]\n", "a byte was changed: it is not canonical JSON any more"),
        (b"", "is not JSON any more (Expecting value: line 1 column 1 (char 0))"),
        (b'{"a": NaN}', "is not JSON any more (Out of range float values are not JSON compliant"),
        (b"\xff", "is not JSON any more ('utf-8' codec can't decode byte 0xff in position 0"),
        (b"[" * 9999, "is not JSON any more (maximum recursion depth exceeded"),
    ],
    ids=["indent", "list", "empty", "nan", "bytes", "deep"],
)
def test_documents_that_are_not_sealed_are_refused(cache: Path, found: bytes, text: str) -> None:
    (cache / "manifest.json").write_bytes(found)
    (fault,) = find_faults(cache)
    assert fault.file == "manifest.json"
    assert fault.what.startswith(text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"version": 2},
            "its format version is 2; this software reads version 1. Use the software",
        ),
        ({"format": "x"}, "its format is 'x', not 'teacher-logit-cache'"),
        ({"rows": "7"}, "is not what version 1 says ('>=' not supported between instances of"),
        ({"extra": 1}, "its keys are about, backend, compression, extra, fields"),
    ],
    ids=["version", "format", "type", "key"],
)
def test_other_formats_are_refused(cache: Path, changes: dict[str, object], text: str) -> None:
    path = cache / "plan.json"
    plan = json.loads(path.read_text()) | changes
    del plan["fingerprint"]
    path.write_bytes(canonical(sealed(plan, key="fingerprint")))
    with pytest.raises(CacheError) as caught:
        open_cache(cache)
    assert str(caught.value).startswith(f"{path}: {text}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "nowhere",
            "there is no such folder. Name the folder of a cache, or make it with "
            "`pipeline cache-teacher RECIPE`.",
        ),
        ("file", "is a file, not a folder. Name the folder of a cache."),
        ("empty", "is not a cache: it has no plan.json. Name another folder."),
    ],
)
def test_what_is_not_a_cache_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for ask in (open_cache, find_faults):
        with pytest.raises(CacheError) as caught:
            ask(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {text}"

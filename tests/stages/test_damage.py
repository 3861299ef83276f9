"""No byte of a cache can change, vanish or move without a sound."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from laboratory import Lab, run_cli

from pipeline.experiment import join_data
from pipeline.recipe import load_recipe
from pipeline.store import open_cache
from stages import verify

FLIPS = {"zarr": 200, "parquet": 100}
LOOK_CLOSER = "`pipeline verify CACHE` lists all that is damaged, and how to mend it."


@pytest.fixture(scope="module", params=FLIPS)
def whole_source(
    request: pytest.FixtureRequest, lab_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Make a whole cache of either backend."""
    folder = tmp_path_factory.mktemp(request.param) / "laboratory"
    lab = Lab(Path(shutil.copytree(lab_source, folder)))
    lab.edit('path = "cache"', f'path = "cache"\nbackend = "{request.param}"')
    assert lab.cache_teacher("--quiet").status == 0
    return folder


@pytest.fixture
def whole_lab(whole_source: Path, tmp_path: Path) -> Lab:
    """Give a laboratory with a whole cache, to be damaged."""
    return Lab(Path(shutil.copytree(whole_source, tmp_path / "laboratory")))


def files_of(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def data_files(cache: Path) -> list[Path]:
    return [path for path in files_of(cache) if path.parent not in (cache, cache / "parts")]


def flip(path: Path, random_: random.Random) -> int:
    """Change one bit of one byte in place; the same flip again undoes it."""
    content = bytearray(path.read_bytes())
    place = random_.randrange(len(content))
    content[place] ^= 1 << random_.randrange(8)
    path.write_bytes(content)
    return place


def read_all(lab: Lab) -> None:
    """Stream an epoch, as a training loop of the user's own would."""
    joined = join_data(load_recipe(lab.recipe), "train", "cache", quiet=True, batch_size=60)
    assert sum(len(batch.ids) for batch in joined.stream) == 60


def test_every_flipped_byte_is_found_in_its_own_file(whole_lab: Lab) -> None:
    cache, random_ = whole_lab.cache, random.Random(0)
    files = files_of(cache)
    flips = FLIPS[open_cache(cache).plan.backend]
    chosen = files + random_.choices(files, k=flips - len(files))
    unfound = []
    for path in chosen:
        content = path.read_bytes()
        place = flip(path, random_)
        named = {fault["file"] for fault in verify.run(str(cache), quiet=True)["faults"]}
        if str(path.relative_to(cache)) not in named:
            unfound.append((path, place))
        path.write_bytes(content)
    assert unfound == []
    assert verify.run(str(cache), quiet=True)["whole"]


def test_a_stream_refuses_every_flipped_byte_of_data(whole_lab: Lab) -> None:
    cache, random_ = whole_lab.cache, random.Random(1)
    read_all(whole_lab)
    unread = {field.name for field in open_cache(cache).plan.fields} - {"classes", "logits", "tail"}
    # A student reads only what targets are made from; statistics lie in files of their own in zarr.
    files = [path for path in data_files(cache) if not unread.intersection(path.parts)]
    refused = re.escape(f"{cache}: part ")
    for path in random_.sample(files, k=24 if len(files) > 24 else len(files)):
        content = path.read_bytes()
        flip(path, random_)
        with pytest.raises(Exception, match=refused) as error:
            read_all(whole_lab)
        assert (type(error.value).__name__, str(path.relative_to(cache)) in str(error.value)) == (
            "CorruptPart",
            True,
        )
        path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(path: Path) -> None:
    """Swap the file with that of the next part."""
    number = int(re.findall(r"\d{5}", str(path))[0])
    other = Path(str(path).replace(f"{number:05d}", f"{number + 1:05d}"))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


KINDS: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "lengthened": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": Path.unlink,
    "swapped": swap,
    "a folder": replace_by_folder,
}
PLACES = {
    "samples": "samples/00002.parquet",
    "targets": "targets/00002*",
    "record": "parts/00002.json",
}


def place_of(cache: Path, name: str) -> Path:
    """Find a file of part 2; for targets, the one that holds the logits."""
    found = next(cache.glob(PLACES[name]))
    return found if found.is_file() else next(found.glob("logits/c.0.0"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_missing_and_swapped_files_are_found_and_refused(
    whole_lab: Lab, kind: str, place: str
) -> None:
    path = place_of(whole_lab.cache, place)
    KINDS[kind](path)
    name = str(path.relative_to(whole_lab.cache))
    found = run_cli("verify", str(whole_lab.cache), "--json", "--quiet")
    assert found.status == 1
    assert (2, name) in {
        (each["part"], each["file"]) for each in json.loads(found.stdout)["faults"]
    }
    trained = whole_lab.train_student("--quiet")
    assert (trained.status, trained.stdout) == (1, "")
    assert trained.stderr.startswith(f"error: {whole_lab.cache}: part ")
    assert trained.stderr.endswith(f"\n  {LOOK_CLOSER}\n")


def test_a_file_that_does_not_belong_is_found(cached_lab: Lab) -> None:
    (cached_lab.cache / "notes.txt").write_text("mine")
    (cached_lab.cache / "targets" / "00099.zarr").mkdir()
    answer = run_cli("verify", str(cached_lab.cache), "--quiet")
    assert answer.status == 1
    assert answer.stdout == (
        f"{cached_lab.cache}: 2 faults\n"
        "  notes.txt: does not belong to this cache\n"
        "  targets/00099.zarr: does not belong to this cache\n"
        "  Move away what does not belong: notes.txt, targets/00099.zarr.\n"
    )


@pytest.mark.parametrize("content", [None, "", "{}", "[]"], ids=["gone", "empty", "bare", "list"])
def test_a_cache_without_its_manifest_is_refused_and_made_whole_by_cache_teacher(
    cached_lab: Lab, content: str | None
) -> None:
    path = cached_lab.cache / "manifest.json"
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_text(content)
    found = run_cli("verify", str(cached_lab.cache), "--quiet")
    assert found.status == 1
    assert "  manifest.json: " in found.stdout
    assert found.stdout.endswith(
        "Then run cache-teacher, or generate, again: it makes what is missing, and nothing else.\n"
    )
    trained = cached_lab.train_student("--quiet")
    assert trained.status == (2 if content is None else 1)
    assert str(cached_lab.cache) in trained.stderr
    assert cached_lab.cache_teacher("--quiet").status == 0
    assert path.read_bytes() == whole


def test_a_damaged_plan_is_refused(cached_lab: Lab) -> None:
    path = cached_lab.cache / "plan.json"
    flip(path, random.Random(4))
    found = run_cli("verify", str(cached_lab.cache), "--quiet")
    assert found.status == 1
    assert found.stdout.endswith("  Restore plan.json, or delete the cache and make it again.\n")
    for command in ("train-student", "cache-teacher"):
        answer = run_cli(command, str(cached_lab.recipe), "--quiet")
        assert (answer.status, "plan.json" in answer.stderr) == (1, True)


def test_the_advice_of_verify_mends_the_cache(whole_lab: Lab) -> None:
    cache = whole_lab.cache
    whole = {path: path.read_bytes() for path in files_of(cache)}
    flip(place_of(cache, "samples"), random.Random(2))
    flip(cache / "parts" / "00005.json", random.Random(3))
    found = run_cli("verify", str(cache), "--quiet")
    records = "parts/00002.json, parts/00005.json"
    assert found.stdout.endswith(
        f"  Restore the files of these parts, or delete their records ({records}).\n"
        "  Then run cache-teacher, or generate, again: it makes what is missing, and nothing "
        "else.\n"
    )
    for record in records.split(", "):
        (cache / record).unlink()
    assert whole_lab.cache_teacher("--quiet").status == 0
    assert {path: path.read_bytes() for path in files_of(cache)} == whole


def test_cache_teacher_does_not_bless_a_file_cut_since_it_was_committed(cached_lab: Lab) -> None:
    truncate(place_of(cached_lab.cache, "targets"))
    answer = cached_lab.cache_teacher("--quiet")
    assert answer.status == 1
    assert "part 2: targets/00002.zarr/logits/c.0.0: 31 of 32 bytes. Delete" in answer.stderr


def test_many_faults_are_counted_and_the_first_twenty_named(cached_lab: Lab) -> None:
    for path in data_files(cached_lab.cache):
        path.write_bytes(b"")
    answer = run_cli("verify", str(cached_lab.cache), "--quiet")
    lines = answer.stdout.splitlines()
    count = len(data_files(cached_lab.cache))
    assert lines[0] == f"{cached_lab.cache}: {count} faults"
    assert lines[21] == f"  and {count - 20} more"


def test_a_healthy_cache_is_whole(whole_lab: Lab) -> None:
    answer = run_cli("verify", str(whole_lab.cache))
    assert answer.status == 0
    assert answer.stdout == f"{whole_lab.cache}: whole; every byte is what was committed\n"
    assert "verify: 8/8 parts" in answer.stderr


def test_an_audit_asks_the_teacher_again(cached_lab: Lab) -> None:
    answer = run_cli("verify", str(cached_lab.recipe), "--audit", "7", "--json", "--quiet")
    assert answer.status == 0
    assert json.loads(answer.stdout)["audit"] == {
        "rows": 7,
        "largest_difference": 0.0,
        "other_classes": 0,
        "kept": 14,
    }


def test_an_audit_of_more_rows_than_there_are_asks_about_all(cached_lab: Lab) -> None:
    answer = run_cli("verify", str(cached_lab.recipe), "--audit", "1000", "--quiet")
    assert "audit: the teacher answered again for 60 rows" in answer.stdout


def test_an_audit_names_a_teacher_whose_weights_changed(cached_lab: Lab) -> None:
    models = cached_lab.folder / "tiny_models.py"
    models.write_text(models.read_text().replace("+= 4.0", "+= 4.001"))
    answer = run_cli("verify", str(cached_lab.recipe), "--audit", "5", "--quiet")
    assert answer.status == 2
    assert "this cache was made from another setup" in answer.stderr
    assert "\n  teacher.weights: there '" in answer.stderr


def test_an_audit_of_a_bare_folder_says_what_to_give(cached_lab: Lab) -> None:
    answer = run_cli("verify", str(cached_lab.cache), "--audit", "5", "--quiet")
    assert answer.status == 2
    assert answer.stderr == (
        f"error: {cached_lab.cache}: an audit runs the teacher, which only the recipe names. "
        "Give the recipe in place of the cache: pipeline verify RECIPE.toml --audit 5\n"
    )

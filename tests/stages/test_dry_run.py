"""What a cache will cost, told before it is made, and held against what it did cost."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from laboratory import Answer, Lab, options, run_cli
from test_generate import TABLE
from test_text import LOW_RANK, MODELS, RECIPE

PLAY = Path(__file__).parents[2] / "data/shakespeare/validation/comedy_of_errors.txt"

SHIFTS = "views={ count = 3, seed = 7, augment = [{ kind = 'shift', pixels = 1.5 }] }"


def files_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder in which everything temporary lies."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def text_lab(tmp_path: Path) -> Lab:
    folder = tmp_path / "text"
    folder.mkdir()
    lines = [line for line in PLAY.read_text(encoding="utf-8").splitlines() if len(line) > 2]
    (folder / "train.txt").write_text("\n".join(lines[:60]))
    (folder / "validation.txt").write_text("\n".join(lines[60:63]))
    (folder / "text_models.py").write_text(MODELS)
    (folder / "recipe.toml").write_text(RECIPE.replace("[student.model]\n", TABLE))
    return Lab(folder)


def estimate(lab: Lab, *values: str, command: str = "cache-teacher") -> dict[str, Any]:
    """Tell the summary of a dry run, which leaves everything as it was."""
    before = files_below(lab.folder)
    words = ("--dry-run", "--json", "--quiet", *options(*values))
    answer = run_cli(command, str(lab.recipe), *words)
    assert answer.status == 0, answer.stderr
    assert answer.stderr == ""
    assert files_below(lab.folder) == before
    summary: dict[str, Any] = json.loads(answer.stdout)
    return summary


def really(lab: Lab, *values: str, command: str = "cache-teacher") -> dict[str, Any]:
    answer = run_cli(command, str(lab.recipe), "--json", "--quiet", *options(*values))
    assert answer.status == 0, answer.stderr
    summary: dict[str, Any] = json.loads(answer.stdout)
    return summary


def told(lab: Lab, *values: str) -> Answer:
    return lab.cache_teacher("--dry-run", "--quiet", *options(*values))


# From 12 rows to 60: the table of samples, always compressed, takes less of a row as parts grow.
@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        ([], 0.01),
        (["cache.backend=parquet"], 0.02),
        (["cache.compression=lz4"], 0.05),
        (["cache.rows_per_part=50", "targets.selection={ kind = 'all' }"], 0.05),
        ([SHIFTS], 0.02),
    ],
    ids=["zarr", "parquet", "lz4", "two parts", "views"],
)
def test_the_bytes_foretold_are_those_of_the_cache(
    lab: Lab, values: list[str], tolerance: float
) -> None:
    foretold = estimate(lab, *values)
    made = really(lab, *values)
    assert foretold["costs"]["size_bytes"] == pytest.approx(made["size_bytes"], rel=tolerance)
    assert foretold["costs"]["positions"] == made["rows"]
    assert foretold["fingerprint"] == made["fingerprint"]


@pytest.mark.parametrize("pack", ["true", "false"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_bytes_of_text_are_foretold_from_its_positions(
    text_lab: Lab, pack: str, compression: str
) -> None:
    # Rows that are compressed together are three batches: parts of fewer would be larger.
    values = [f"data.train.pack={pack}", f"cache.compression={compression}"]
    values.append("cache.rows_per_part=12")
    foretold = estimate(text_lab, *values)
    made = really(text_lab, *values)
    assert foretold["costs"]["size_bytes"] == pytest.approx(made["size_bytes"], rel=0.15)
    manifest = json.loads((text_lab.cache / "manifest.json").read_text())
    assert foretold["costs"]["positions"] == pytest.approx(manifest["positions"], rel=0.15)
    assert foretold["measured"]["positions_vary"]
    assert foretold["measured"]["student"]["epochs"] > 0


def test_text_that_will_be_written_is_foretold_too(text_lab: Lab) -> None:
    foretold = estimate(text_lab, command="generate")
    assert foretold["measured"]["no_student"].startswith("the teacher writes the text")
    said = run_cli("generate", str(text_lab.recipe), "--dry-run", "--quiet").stdout
    assert "  pays" not in said
    assert "  live" not in said
    made = really(text_lab, command="generate")
    assert foretold["rows"] == made["rows"]
    assert foretold["costs"]["size_bytes"] == pytest.approx(made["size_bytes"], rel=0.15)


def test_nothing_is_left_of_a_dry_run_anywhere(lab: Lab, scratch: Path) -> None:
    estimate(lab)
    assert list(scratch.iterdir()) == []
    assert not lab.cache.exists()
    assert not lab.run.exists()


def test_a_half_made_cache_and_a_run_are_left_as_they_are(cached_lab: Lab) -> None:
    (cached_lab.cache / "manifest.json").unlink()
    (cached_lab.cache / "parts/00003.json").unlink()
    assert cached_lab.train_student("--quiet", "--dry-run").status != 0
    kept = {path: path.read_bytes() for path in cached_lab.cache.rglob("*") if path.is_file()}
    assert estimate(cached_lab)["parts_there"] == 7
    assert "\n  there         7 of 8 parts are made already\n" in told(cached_lab).stdout
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_a_stranger_can_read_what_it_says(lab: Lab) -> None:
    answer = told(lab)
    number = r"[\d.,]+"
    time = rf"{number} (?:ms|s|min|h)(?: \d\d (?:s|min))?"
    pays = (
        rf"from pass {number} over the data on \(epochs x students\); "
        "one epoch of one student never pays"
    )
    never = "never in time: reading targets takes as long as asking this teacher"
    expected = rf"""{re.escape(str(lab.cache))}: 60 rows in 8 parts, 2 of 5 classes kept
  positions     60, 1 a row
  size          {number} kB in files, {number} bytes a position, compression 'none'
                3.00 kB as arrays of full rows, 50.0 bytes a position
  teacher       {number} rows/s forward \(3 batches of 4 rows: {number} to {number} rows/s\)
                cpu [A-Z0-9]+, 1 thread, float32
  workers      ( +\d){{4}}
  cache made in( +{time}){{4}}
                of which {time} is each worker's start, once Python runs
  live          {time} of forward passes in every epoch
  students     ( +\d+){{4}}  of 2 epochs each, steps alone
  teacher live ( +{time}){{4}}
  from a cache ( +{time}){{4}}  with making it
  pays          ({pays}|{never})
  dry run: nothing was written
"""
    assert re.fullmatch(expected, answer.stdout), answer.stdout


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            ["losses=[{ kind = 'hard_labels', weight = 1.0 }]"],
            "no loss of the student reads the cache",
        ),
        (
            ["cache.data=validation"],
            "the student learns from data.train, the cache is of data.validation",
        ),
        (
            ["training.teachers=[{ cache = 'a' }, { cache = 'b' }]"],
            "the student learns from several caches",
        ),
        (
            ["student.model.factory=tiny_models:nobody"],
            "the student could not be tried: student.model.factory: ",
        ),
    ],
    ids=["hard labels", "other data", "several", "no such student"],
)
def test_why_a_student_was_not_timed_is_said(lab: Lab, values: list[str], reason: str) -> None:
    answer = told(lab, *values)
    assert answer.status == 0, answer.stderr
    assert f"\n  students      not timed: {reason}" in answer.stdout
    assert "teacher live" not in answer.stdout


def test_a_recipe_without_a_student_is_told_in_passes_of_the_teacher(lab: Lab) -> None:
    lab.recipe.write_text(lab.recipe.read_text().split("[student]")[0])
    assert "the recipe has no [student], [[losses]] and [training]" in told(lab).stdout


def test_views_multiply_the_cache_and_not_an_epoch(lab: Lab) -> None:
    clean, shifted = estimate(lab), estimate(lab, SHIFTS)
    seen = [each["measured"]["teacher"] for each in (clean, shifted)]
    assert [each["rows"] for each in seen] == [60, 180]
    assert [each["samples"] for each in seen] == [60, 60]
    after = shifted["costs"]["paid_after"]
    assert after is None or after > 3
    assert shifted["measured"]["student"] is not None


def test_a_teacher_that_says_nan_is_found_before_the_long_work(lab: Lab) -> None:
    models = lab.folder / "tiny_models.py"
    text = models.read_text() + "\n\nclass Nan(nn.Module):\n    def forward(self, images):\n"
    models.write_text(text + "        return images.float().flatten(1)[:, :5] * float('nan')\n")
    answer = told(lab, "teacher.model.factory=tiny_models:Nan")
    assert answer.status == 2
    assert "teacher: its logits are NaN or infinite for 4 of 4 samples" in answer.stderr
    assert not lab.cache.exists()


def test_what_parts_share_is_counted_once(text_lab: Lab) -> None:
    foretold = estimate(text_lab, LOW_RANK)
    made = really(text_lab, LOW_RANK)
    shared = [path for path in (text_lab.cache / "shared").rglob("*") if path.is_file()]
    assert foretold["costs"]["shared_bytes"] == sum(path.stat().st_size for path in shared) > 0
    assert foretold["costs"]["size_bytes"] == pytest.approx(made["size_bytes"], rel=0.15)
    assert foretold["measured"]["student"] is not None
    assert " that parts share\n" in told(text_lab, LOW_RANK).stdout

"""`pipeline pseudo-label` on a laboratory: two caches in, a table, a summary and a page out."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from laboratory import UNLABELLED, Answer, Lab, draw_samples, options, run_cli, write_samples
from nursery import Nursery, wait_until

from pipeline.holding import hold_folder
from pipeline.labelling import PURPOSE
from pipeline.store import open_cache

TABLES = f"""\
{UNLABELLED}
[pseudo_labels]
path = "labels"
cache = "unlabelled"
labelled_cache = "held-out"
rule = {{ kind = "threshold", at_least = 0.8 }}
show = "unlabelled"

[validation]
"""
ROWS = 90


@pytest.fixture(scope="module")
def source(lab_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache unlabelled data in parts of 8, and labelled data that the teacher has not seen."""
    folder = tmp_path_factory.mktemp("labelled") / "laboratory"
    lab = Lab(Path(shutil.copytree(lab_source, folder)))
    write_samples(folder / "unlabelled.parquet", draw_samples(ROWS, seed=2, prefix="u"))
    write_samples(folder / "validation.parquet", draw_samples(120, seed=1, prefix="v"))
    lab.edit("[validation]\n", TABLES)
    for name, data in (("unlabelled", "unlabelled"), ("held-out", "validation")):
        rows = 8 if name == "unlabelled" else 120
        caching = (f"cache.path={name}", f"cache.data={data}", f"cache.rows_per_part={rows}")
        answer = lab.cache_teacher("--quiet", *options(*caching))
        assert answer.status == 0, answer.stderr
    return folder


@pytest.fixture
def lab(source: Path, tmp_path: Path) -> Lab:
    return Lab(Path(shutil.copytree(source, tmp_path / "lab")))


def label(lab: Lab, *values: str) -> Answer:
    return run_cli("pseudo-label", str(lab.recipe), *options(*values))


def read_table(lab: Lab) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pq.read_table(
        lab.folder / "labels/pseudo_labels.parquet"
    ).to_pydict()
    return found


def read_summary(lab: Lab) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((lab.folder / "labels/summary.json").read_text())
    return found


def test_every_row_of_the_cache_is_told_what_became_of_it(lab: Lab) -> None:
    answer = label(lab)
    assert answer.status == 0, answer.stderr
    table, summary = read_table(lab), read_summary(lab)
    assert table["id"] == [f"u{row:03d}" for row in range(ROWS)]
    cache = open_cache(lab.folder / "unlabelled")
    digests = [cache.read_samples(part).digests for part in range(cache.plan.part_count)]
    assert table["digest"] == [bytes(each) for each in np.concatenate(digests)]
    reaches = [sure >= np.float32(0.8) for sure in table["confidence"]]
    assert table["chosen"] == reaches
    assert table["copies"] == [int(each) for each in reaches]
    assert table["why_not"] == [None if each else "below_limit" for each in reaches]
    assert summary["chosen"] == sum(reaches)
    right = [row % 5 == label for row, label in enumerate(table["label"])]
    assert np.mean(right) > 0.9  # the laboratory's classes can be told apart


def test_the_summary_says_what_to_expect_and_the_terminal_says_it_too(lab: Lab) -> None:
    answer = label(lab)
    summary = read_summary(lab)
    expected = summary["expected_precision"]
    assert expected["low"] <= expected["right"] / expected["count"] <= expected["high"]
    calibration = summary["calibration"]
    assert calibration["labelled"] == 120
    assert calibration["nll_after"] <= calibration["nll_before"]
    assert summary["temperature"] == calibration["temperature"]
    assert sum(each["chosen"] for each in summary["classes"]) == summary["chosen"]
    for part in (
        f"{summary['chosen']} of 90 rows have a pseudo-label",
        f"temperature {summary['temperature']:.3f}: on 120 labelled rows",
        "expected precision",
        "look at ",
    ):
        assert part in answer.stdout


def test_the_page_shows_the_samples_and_nothing_from_elsewhere(lab: Lab) -> None:
    assert label(lab).status == 0
    page = (lab.folder / "labels/page.html").read_text()
    assert page.count("data:image/png;base64,") >= 48
    assert "<h2>The least sure of those that were chosen</h2>" in page
    assert "http" not in page


def test_neither_teacher_nor_data_is_needed(lab: Lab) -> None:
    lab.edit('show = "unlabelled"\n', "")
    for name in ("unlabelled.parquet", "validation.parquet", "train.parquet", "tiny_models.py"):
        (lab.folder / name).unlink()
    answer = label(lab)
    assert answer.status == 0, answer.stderr
    assert "img" not in (lab.folder / "labels/page.html").read_text().split("</style>")[1]


def test_a_second_run_finds_the_first_and_another_setup_is_refused(lab: Lab) -> None:
    label(lab)
    before = (lab.folder / "labels/pseudo_labels.parquet").read_bytes()
    again = label(lab)
    assert again.status == 0
    assert "is there already; delete the folder to make it again" in again.stderr
    other = label(lab, "pseudo_labels.rule.at_least=0.7")
    assert other.status == 2
    assert "these pseudo-labels were made from another setup" in other.stderr
    assert "rule.at_least: there 0.8, here 0.7" in other.stderr
    assert (lab.folder / "labels/pseudo_labels.parquet").read_bytes() == before


def test_the_table_is_the_same_whatever_the_threads(lab: Lab) -> None:
    label(lab, "pseudo_labels.balanced=true", "pseudo_labels.threads=1")
    first = (lab.folder / "labels/pseudo_labels.parquet").read_bytes()
    label(
        lab,
        *("pseudo_labels.balanced=true", "pseudo_labels.path=other"),
        "pseudo_labels.threads=3",
    )
    assert (lab.folder / "other/pseudo_labels.parquet").read_bytes() == first


def test_without_a_labelled_cache_nothing_is_promised(lab: Lab) -> None:
    lab.edit('labelled_cache = "held-out"\n', "")
    answer = label(lab)
    assert answer.status == 0, answer.stderr
    assert read_summary(lab)["expected_precision"] is None
    assert read_summary(lab)["temperature"] == 1.0
    assert "without a labelled cache nothing else says how many are right" in answer.stdout


def test_a_promise_is_kept_and_told(lab: Lab) -> None:
    answer = label(lab, 'pseudo_labels.rule={ kind = "precision", at_least = 0.9 }')
    assert answer.status == 0, answer.stderr
    (promise,) = read_summary(lab)["promises"]
    assert promise["right"] / promise["count"] >= 0.9
    assert "promised: 0.9 or more of them right over all classes, at 0.95 confid" in answer.stdout


def test_all_weighs_each_row_by_its_confidence(lab: Lab) -> None:
    label(lab, 'pseudo_labels.rule={ kind = "all" }')
    table = read_table(lab)
    assert table["weight"] == table["confidence"]
    assert set(table["copies"]) == {1}


def test_skewed_classes_are_warned_of_and_balanced_ones_are_not(lab: Lab) -> None:
    # Of the first rows class 0 is dim, so that the teacher is least sure there.
    samples = draw_samples(ROWS, seed=2, prefix="u")
    samples["image"][::5] //= 3
    write_samples(lab.folder / "unlabelled.parquet", samples)
    shutil.rmtree(lab.folder / "unlabelled")
    lab.cache_teacher("--quiet", *options("cache.path=unlabelled", "cache.data=unlabelled"))
    skewed = label(lab)
    assert "warning: classes are skewed" in skewed.stdout
    assert "set pseudo_labels.balanced = true, and train beside labelled data" in skewed.stdout
    assert read_summary(lab)["skew"]["is_harmful"]
    balanced = label(lab, "pseudo_labels.balanced=true", "pseudo_labels.path=other")
    assert "classes are skewed" not in balanced.stdout


def test_a_dry_run_writes_nothing(lab: Lab) -> None:
    answer = run_cli("pseudo-label", str(lab.recipe), "--dry-run")
    assert answer.stdout == f"{lab.folder}/labels: dry run: 90 rows; nothing was written\n"
    assert not (lab.folder / "labels").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ['pseudo_labels.rule={ kind = "precision", at_least = 0.99 }'],
            "no pseudo-labels can be promised to be right with 0.99 at 0.95 confidence: that takes "
            "368 labelled rows of which none is wrong",
        ),
        (
            ['pseudo_labels.rule={ kind = "precision", at_least = 0.9, every_class = true }'],
            "that takes 51 labelled rows of which none is wrong in a class, or more; the most "
            "frequent class of 120 labelled rows has",
        ),
        (
            ['pseudo_labels.rule={ kind = "threshold", at_least = 0.9999999 }'],
            "'threshold' would keep nothing: the surest row has a confidence of 0.",
        ),
        (
            ['pseudo_labels.rule={ kind = "margin", at_least = 0.9999999 }'],
            "'margin' would keep nothing: the largest margin is 0.",
        ),
        (["pseudo_labels.cache=nowhere"], "nowhere: there is no such folder"),
        (
            ["pseudo_labels.show=unlabeled"],
            "pseudo_labels.show: there is no [data.unlabeled]; there are train, validation, unlab",
        ),
        (
            ['pseudo_labels.rule={ kind = "threshold", at_least = 1.5 }'],
            "pseudo_labels.rule.at_least: must be less than 1; got 1.5",
        ),
    ],
    ids=["precision", "every class", "threshold", "margin", "no cache", "show", "share"],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_left(
    lab: Lab, values: list[str], message: str
) -> None:
    answer = label(lab, *values)
    assert answer.status == 2
    assert message in answer.stderr
    assert not (lab.folder / "labels").exists()


def test_a_promise_without_a_labelled_cache_is_refused(lab: Lab) -> None:
    lab.edit('labelled_cache = "held-out"\n', "")
    answer = label(lab, 'pseudo_labels.rule={ kind = "precision", at_least = 0.9 }')
    assert answer.status == 2
    assert "'precision' is measured on labelled samples, and pseudo_labels has no" in answer.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["teacher.model.arguments={ seed = 7 }"], "teacher: there '"),
        (
            ['data.validation.class_names=["a", "b", "c", "d", "e"]'],
            "",
        ),
    ],
    ids=["teacher", "names that only one knows"],
)
def test_a_labelled_cache_of_another_teacher_is_refused(
    lab: Lab, values: list[str], message: str
) -> None:
    shutil.rmtree(lab.folder / "held-out")
    caching = ("cache.path=held-out", "cache.data=validation", *values)
    assert lab.cache_teacher("--quiet", *options(*caching)).status == 0
    answer = label(lab)
    assert answer.status == (2 if message else 0), answer.stderr
    assert message in answer.stderr


def test_another_list_of_classes_is_refused(lab: Lab) -> None:
    for name, data, names in (
        ("unlabelled", "unlabelled", '["a", "b", "c", "d", "e"]'),
        ("held-out", "validation", '["b", "a", "c", "d", "e"]'),
    ):
        shutil.rmtree(lab.folder / name)
        caching = (f"cache.path={name}", f"cache.data={data}", f"data.{data}.class_names={names}")
        assert lab.cache_teacher("--quiet", *options(*caching)).status == 0
    answer = label(lab)
    assert answer.status == 2
    assert "is of another teacher or of other classes than" in answer.stderr
    assert "class_names: there ['a', 'b', 'c', 'd', 'e'], here ['b', 'a'" in answer.stderr


def test_a_folder_with_other_things_is_left_alone(lab: Lab) -> None:
    (lab.folder / "labels").mkdir()
    (lab.folder / "labels/thesis.tex").write_text("mine")
    answer = label(lab)
    assert answer.status == 2
    assert "labels: holds thesis.tex and is no folder of pseudo-labels. Name a new" in answer.stderr


def test_a_damaged_part_is_named_and_nothing_is_left(lab: Lab) -> None:
    (chunk, *_) = sorted((lab.folder / "unlabelled/targets").rglob("c.*"))
    content = bytearray(chunk.read_bytes())
    content[0] ^= 1
    chunk.write_bytes(content)
    answer = label(lab)
    assert answer.status == 1
    assert "part 0" in answer.stderr
    assert not (lab.folder / "labels").exists()


def test_a_cache_of_views_is_refused(lab: Lab) -> None:
    views = 'views={ count = 2, augment = [{ kind = "flip" }] }'
    caching = ("cache.path=viewed", "cache.data=train", views)
    assert lab.cache_teacher("--quiet", *options(*caching)).status == 0
    answer = label(lab, "pseudo_labels.cache=viewed")
    assert answer.status == 2
    assert "holds 2 views of each sample; a pseudo-label is of a sample, as it is" in answer.stderr


def test_two_at_once_do_not_mix(lab: Lab) -> None:
    with hold_folder(lab.folder / "labels", PURPOSE):
        answer = label(lab)
        assert answer.status == 2
        assert "another process is making these pseudo-labels. Wait for it" in answer.stderr
    assert not (lab.folder / "labels").exists()
    assert label(lab).status == 0


def test_killed_it_leaves_nothing_that_passes_for_a_table(lab: Lab, nursery: Nursery) -> None:
    assert label(lab, "pseudo_labels.path=whole").status == 0
    for delay_s in (0.0, 0.02, 0.1):
        child = nursery.start("pseudo-label", str(lab.recipe))
        wait_until((lab.folder / "labels").exists)
        time.sleep(delay_s)
        child.kill(signal.SIGKILL)
        child.wait()
    answer = label(lab)
    assert answer.status == 0, answer.stderr
    ours, whole = (
        (lab.folder / name / "pseudo_labels.parquet").read_bytes() for name in ("labels", "whole")
    )
    assert ours == whole
    assert sorted(path.name for path in (lab.folder / "labels").iterdir()) == [
        *(".lock", "page.html", "pseudo_labels.parquet", "summary.json"),
    ]


def test_samples_that_the_teacher_was_trained_on_are_no_measure_of_it(lab: Lab) -> None:
    learned = ('losses=[{ kind = "hard_labels", weight = 1.0 }]', "training.data=validation")
    assert lab.train_student("--quiet", *options(*learned)).status == 0
    taught = 'teacher.model={ kind = "run", path = "run" }'
    for name, data in (("unlabelled", "unlabelled"), ("held-out", "validation")):
        shutil.rmtree(lab.folder / name)
        caching = (taught, f"cache.path={name}", f"cache.data={data}")
        assert lab.cache_teacher("--quiet", *options(*caching)).status == 0
    low = 'pseudo_labels.rule={ kind = "threshold", at_least = 0.21 }'
    answer = label(lab, taught, low)
    assert answer.status == 0, answer.stderr
    told = "these are the very samples that the teacher was trained on, on which it is right too"
    assert told in answer.stdout
    (lab.run / "result.json").write_text("[")
    answer = label(lab, taught, low, "pseudo_labels.path=again")
    assert answer.status == 2
    assert "teacher.model: " in answer.stderr
    assert "run/result.json is not JSON" in answer.stderr


def test_samples_of_one_of_several_sources_of_the_teacher_are_noticed_too(lab: Lab) -> None:
    learned = (
        'losses=[{ kind = "hard_labels", weight = 1.0 }]',
        'training.sources=[{ data = "train", rows = 4 }, { data = "validation", rows = 4 }]',
    )
    lab.edit("batch_size = 8\n", "")
    assert lab.train_student("--quiet", *options(*learned)).status == 0
    taught = 'teacher.model={ kind = "run", path = "run" }'
    for name, data in (("unlabelled", "unlabelled"), ("held-out", "validation")):
        shutil.rmtree(lab.folder / name)
        caching = (taught, f"cache.path={name}", f"cache.data={data}")
        assert lab.cache_teacher("--quiet", *options(*caching)).status == 0
    answer = label(lab, taught, 'pseudo_labels.rule={ kind = "all" }')
    assert answer.status == 0, answer.stderr
    assert "these are the very samples that the teacher was trained on" in answer.stdout


def test_the_table_is_the_same_from_workers(lab: Lab) -> None:
    label(lab)
    with lab.recipe.open("a") as file:
        file.write('\n[compute]\nkind = "local"\nworkers = 2\n')
    answer = label(lab, "pseudo_labels.path=there")
    assert answer.status == 0, answer.stderr
    first, second = (
        (lab.folder / folder / "pseudo_labels.parquet").read_bytes()
        for folder in ("labels", "there")
    )
    assert first == second


def test_a_part_that_is_damaged_is_named_by_a_worker(lab: Lab) -> None:
    (chunk, *_) = sorted((lab.folder / "unlabelled/targets").rglob("c.*"))
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    with lab.recipe.open("a") as file:
        file.write('\n[compute]\nkind = "local"\nworkers = 1\n')
    answer = label(lab)
    assert answer.status == 1
    assert "part 0" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (lab.folder / "labels").exists()

"""Targets never meet samples they were not made from."""

from typing import Any

import numpy as np
import pytest
from laboratory import ROWS, Answer, Lab, draw_samples, write_samples

from pipeline.experiment import join_data
from pipeline.recipe import load_recipe
from pipeline.targets import MixedLabels


def train_data(rows: int = ROWS) -> dict[str, Any]:
    """The laboratory's own samples, and unknown ones after them."""
    known = draw_samples(ROWS, seed=0, prefix="s")
    more = draw_samples(rows - ROWS, seed=2, prefix="new")
    return {name: [*known[name], *more[name]] for name in known}


def take(table: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    return {name: [column[row] for row in rows] for name, column in table.items()}


def train_on(lab: Lab, table: dict[str, Any], *options: str) -> Answer:
    write_samples(lab.folder / "train.parquet", table)
    return lab.train_student(*options)


def refusal(lab: Lab, *lines: str) -> str:
    head = f"error: {lab.cache}: the samples of data.train are not those it was made from"
    see = "see pipeline/guide/faq.md#can-i-add-samples-to-a-cache-or-train-on-a-part-of-it"
    return "\n  ".join([head, *lines, "Cache it again or restore the data.", f"{see}\n"])


def test_a_changed_sample_is_refused_by_name(cached_lab: Lab) -> None:
    table = train_data()
    table["image"][17] = table["image"][17] ^ np.uint8(1)
    answer = train_on(cached_lab, table, "--quiet")
    assert (answer.status, answer.stdout) == (2, "")
    assert answer.stderr == refusal(cached_lab, "changed: 1: s017")


def test_a_removed_sample_is_refused_by_name(cached_lab: Lab) -> None:
    rows = [row for row in range(ROWS) if row != 59]
    answer = train_on(cached_lab, take(train_data(), rows), "--quiet")
    assert (answer.status, answer.stdout) == (2, "")
    assert answer.stderr == refusal(cached_lab, "missing: 1: s059")


def test_swapped_ids_are_refused_as_changed_samples(cached_lab: Lab) -> None:
    table = train_data()
    table["id"][3], table["id"][40] = table["id"][40], table["id"][3]
    answer = train_on(cached_lab, table, "--quiet")
    assert (answer.status, answer.stderr) == (2, refusal(cached_lab, "changed: 2: s003, s040"))


def test_many_are_counted_and_the_first_five_named(cached_lab: Lab) -> None:
    answer = train_on(cached_lab, take(train_data(), list(range(30))), "--quiet")
    line = "missing: 30: s030, s031, s032, s033, s034 and 25 more"
    assert (answer.status, answer.stderr) == (2, refusal(cached_lab, line))


def test_another_dataset_under_the_same_ids_is_refused(cached_lab: Lab) -> None:
    answer = train_on(cached_lab, draw_samples(ROWS, seed=9, prefix="s"), "--quiet")
    assert answer.status == 2
    assert "changed: 60: s000, s001, s002, s003, s004 and 55 more" in answer.stderr


@pytest.mark.parametrize("change", ["changed", "removed", "relabelled"])
def test_cache_teacher_does_not_continue_over_other_data(cached_lab: Lab, change: str) -> None:
    table = train_data()
    if change == "changed":
        table["image"][17] = table["image"][17] ^ np.uint8(1)
    elif change == "removed":
        table = take(table, list(range(ROWS - 1)))
    else:
        table["label"][17] = (table["label"][17] + 1) % 5
    write_samples(cached_lab.folder / "train.parquet", table)
    answer = cached_lab.cache_teacher("--quiet")
    assert answer.status == 2
    head, first, *_, advice, see = answer.stderr.splitlines()
    assert head == (
        f"error: {cached_lab.cache}: this cache was made from another setup, "
        "so it cannot be continued"
    )
    assert first.startswith("  data.digest: there '")
    assert advice == "  Cache into another folder, or delete this one."
    assert see == "  see pipeline/guide/recipe.md"


def test_reordered_data_trains_to_the_same_metrics(cached_lab: Lab) -> None:
    assert cached_lab.train_student("--set", "run.path=straight").status == 0
    rows = np.random.default_rng(0).permutation(ROWS).tolist()
    answer = train_on(cached_lab, take(train_data(), rows), "--set", "run.path=reordered")
    assert (answer.status, "not in" in answer.stderr) == (0, False)
    assert cached_lab.metrics("reordered") == cached_lab.metrics("straight")


def test_more_samples_than_the_cache_holds_are_left_out_with_a_notice(cached_lab: Lab) -> None:
    assert cached_lab.train_student("--set", "run.path=straight").status == 0
    answer = train_on(cached_lab, train_data(ROWS + 7), "--set", "run.path=more")
    assert answer.status == 0
    assert (
        f"data.train: 7 samples are not in {cached_lab.cache}, so they are not used\n"
        in answer.stderr
    )
    assert cached_lab.metrics("more") == cached_lab.metrics("straight")


def test_labels_are_those_of_the_data_not_of_the_day_it_was_cached(cached_lab: Lab) -> None:
    table = train_data()
    table["label"] = [4 - label for label in table["label"]]
    write_samples(cached_lab.folder / "train.parquet", table)
    joined = join_data(load_recipe(cached_lab.recipe), "train", "cache", quiet=True, batch_size=8)
    wanted = dict(zip(table["id"], table["label"], strict=True))
    for batch in joined.stream:
        assert not isinstance(batch.labels, MixedLabels)
        assert batch.labels.tolist() == [wanted[each] for each in batch.ids]


def test_a_run_is_not_continued_over_other_labels(cached_lab: Lab) -> None:
    assert cached_lab.train_student("--quiet").status == 0
    table = train_data()
    table["label"][0] = 3
    answer = train_on(cached_lab, table, "--quiet")
    assert answer.status == 2
    assert "this run was begun with another setup, so it cannot be continued" in answer.stderr
    assert "\n  labels: there '" in answer.stderr


NO_LABELS = (
    "error: recipe.toml: 1 problem\n  losses: hard_labels needs labels, but data.train has none; "
    "name the label column, or take the loss out\n"
)


@pytest.mark.parametrize("cached_when", ["labelled", "unlabelled"])
def test_hard_labels_on_unlabelled_data_are_refused(cached_lab: Lab, cached_when: str) -> None:
    table = train_data()
    table["label"] = [None] * ROWS
    options = ["--quiet"]
    if cached_when == "unlabelled":
        write_samples(cached_lab.folder / "train.parquet", table)
        options += ["--set", "cache.path=unlabelled"]
        assert cached_lab.cache_teacher(*options).status == 0
    answer = train_on(cached_lab, table, *options)
    assert (answer.status, answer.stderr) == (2, NO_LABELS)


def test_labels_may_come_after_the_teacher(lab: Lab) -> None:
    table = train_data()
    table["label"] = [None] * ROWS
    write_samples(lab.folder / "train.parquet", table)
    assert lab.cache_teacher("--quiet").status == 0
    assert train_on(lab, train_data(), "--quiet").status == 0


def test_unlabelled_data_trains_on_soft_targets_alone(lab: Lab) -> None:
    lab.edit('[[losses]]\nkind = "hard_labels"\nweight = 0.1\n', "")
    table = train_data()
    table["label"] = [None] * ROWS
    write_samples(lab.folder / "train.parquet", table)
    assert lab.cache_teacher("--quiet").status == 0
    assert train_on(lab, table, "--quiet").status == 0


def test_a_validation_set_without_labels_cannot_choose_by_accuracy(cached_lab: Lab) -> None:
    table = draw_samples(20, seed=1, prefix="v")
    table["label"] = [None] * 20
    write_samples(cached_lab.folder / "validation.parquet", table)
    answer = cached_lab.train_student("--quiet")
    assert answer.status == 2
    assert answer.stderr == (
        "error: recipe.toml: 1 problem\n"
        "  validation.best_by: 'accuracy' needs labels, but data.validation has none; name the "
        "label column, or compare with a teacher: best_by = 'teacher_kl' and validation.cache, "
        "a cache of that data\n"
    )

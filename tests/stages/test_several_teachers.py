"""A student of two caches: another selection, backend and part size each, one distribution."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from laboratory import Lab, options, run_cli

from pipeline.experiment import open_data, open_model
from pipeline.recipe import load_recipe
from pipeline.store import open_cache
from pipeline.stream import Stream

TEACHERS = """\
[[training.teachers]]
cache = "cache"
weight = 3

[[training.teachers]]
cache = "other"

[validation]
"""
OTHER = [
    *("teacher.model.arguments={ seed = 7 }", "cache.path=other", "cache.backend=parquet"),
    *("cache.rows_per_part=5", 'targets.selection={ kind = "all" }'),
]


@pytest.fixture(scope="module")
def taught_source(cached_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Add the cache of another teacher, and a recipe that names both."""
    folder = tmp_path_factory.mktemp("taught") / "laboratory"
    lab = Lab(Path(shutil.copytree(cached_source, folder)))
    answer = lab.cache_teacher("--quiet", *options(*OTHER))
    assert answer.status == 0, answer.stderr
    lab.edit("[validation]\n", TEACHERS)
    return folder


@pytest.fixture
def lab(taught_source: Path, tmp_path: Path) -> Lab:
    return Lab(Path(shutil.copytree(taught_source, tmp_path / "lab")))


def slow_softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp((x - max(row)) / temperature) for x in row]
    return [power / sum(powers) for power in powers]


def slow_loss(lab: Lab, weights: tuple[float, float]) -> float:
    """Compute the soft loss of the first step from the networks themselves, in plain floats."""
    recipe = load_recipe(lab.recipe, ["student.model.arguments={ dropout = 0.0 }"])
    assert recipe.teacher
    assert recipe.student
    teachers = [
        open_model(
            recipe.model_copy(),
            recipe.teacher.model.model_copy(update={"arguments": {"seed": seed}}),
            where="teacher.model",
        ).eval()
        for seed in (0, 7)
    ]
    torch.manual_seed(0)
    student = open_model(recipe, recipe.student.model, where="student.model").eval()
    stream = Stream(open_data(recipe, "train"), open_cache(lab.cache), batch_size=8, seed=0)
    inputs, total = next(iter(stream)).inputs, 0.0
    with torch.no_grad():
        said = [teacher(inputs).logits.tolist() for teacher in teachers]
        own = student(inputs).logits.tolist()
    for row in range(8):
        cut, whole = (slow_softmax(each[row], 4.0) for each in said)
        kept = sorted(range(5), key=lambda c: -cut[c])[:2]
        rest = sum(cut[c] for c in range(5) if c not in kept)
        cut = [cut[c] if c in kept else rest / 3 for c in range(5)]
        average = [weights[0] * a + weights[1] * b for a, b in zip(cut, whole, strict=True)]
        q = slow_softmax(own[row], 4.0)
        total += sum(p * math.log(p / q) for p, q in zip(average, q, strict=True))
    return total / 8 * 16


@pytest.mark.parametrize(
    ("values", "weights"),
    [((), (0.75, 0.25)), (("training.teachers.1.weight=9",), (0.25, 0.75))],
    ids=["three-to-one", "one-to-three"],
)
def test_the_first_step_is_that_of_the_average(
    values: tuple[str, ...], weights: tuple[float, float], lab: Lab
) -> None:
    values = ("student.model.arguments={ dropout = 0.0 }", "training.epochs=1", *values)
    answer = lab.train_student("--json", *options(*values))
    assert answer.status == 0, answer.stderr
    first = lab.metrics()[0]
    assert first["soft_targets"] == pytest.approx(slow_loss(lab, weights), rel=2e-3)
    digests = [open_cache(lab.folder / name).digest for name in ("cache", "other")]
    assert json.loads(answer.stdout)["teachers"] == [
        {"cache": digest, "weight": weight} for digest, weight in zip(digests, weights, strict=True)
    ]
    assert json.loads(answer.stdout)["cache"] == digests[0]


def test_a_dry_run_opens_every_cache(lab: Lab) -> None:
    answer = lab.train_student("--dry-run")
    assert answer.status == 0, answer.stderr
    assert "would take 16 steps" in answer.stdout
    assert not lab.run.exists()
    answer = lab.train_student("--dry-run", *options("training.teachers.1.cache=nowhere"))
    assert answer.status == 2
    assert "nowhere" in answer.stderr


def test_neither_cache_nor_teacher_table_is_needed(lab: Lab) -> None:
    text = lab.recipe.read_text()
    for begin, end in (("[teacher]", "[targets]"), ("[targets]", "[cache]"), ("[cache]", "[stu")):
        text = text.partition(begin)[0] + end + text.partition(end)[2]
    lab.recipe.write_text(text)
    assert "[cache]" not in text
    assert lab.train_student("--quiet").status == 0


def test_one_teacher_is_what_the_cache_table_says(lab: Lab) -> None:
    text = lab.recipe.read_text()
    one = '[[training.teachers]]\ncache = "cache"\nweight = 3\n\n'
    plain = text.replace(TEACHERS, "[validation]\n")
    for run, recipe in (
        ("plain", plain),
        ("one", plain.replace("[validation]\n", one + "[validation]\n")),
    ):
        lab.recipe.write_text(recipe)
        assert lab.train_student("--quiet", *options(f"run.path={run}")).status == 0
    assert lab.metrics("plain") == lab.metrics("one")
    identities = [
        json.loads((lab.folder / run / "recipe.json").read_text())["identity"]
        for run in ("plain", "one")
    ]
    assert identities[0] == identities[1]


def test_a_stopped_run_goes_on_bit_for_bit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ("training.epochs=4", "training.checkpoint_every=3")
    assert lab.train_student("--quiet", *options(*values, "run.path=whole")).status == 0
    take = torch.optim.AdamW.step
    taken = 0

    def stop(*arguments: Any, **named: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 12:
            raise KeyboardInterrupt
        return take(*arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", stop)
    assert lab.train_student("--quiet", *options(*values)).status == 130
    monkeypatch.undo()
    answer = lab.train_student("--quiet", *options(*values))
    assert answer.status == 0, answer.stderr
    for name in ("metrics.jsonl", "best.safetensors"):
        assert (lab.run / name).read_bytes() == (lab.folder / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("training.teachers.1.weight=3", "teachers.0.weight: there 0.75, here 0.5"),
        ("training.teachers.1.cache=third", "teachers.1.cache: there '"),
    ],
)
def test_a_run_is_not_continued_with_other_teachers(value: str, line: str, lab: Lab) -> None:
    assert lab.train_student("--quiet").status == 0
    third = [each.replace("=other", "=third").replace("= 7", "= 8") for each in OTHER]
    assert lab.cache_teacher("--quiet", *options(*third)).status == 0
    answer = lab.train_student(*options(value))
    assert answer.status == 2
    assert "this run was begun with another setup, so it cannot be continued" in answer.stderr
    assert line in answer.stderr


def test_equal_shares_written_otherwise_are_the_same_run(lab: Lab) -> None:
    assert lab.train_student("--quiet").status == 0
    scaled = options("training.teachers.0.weight=1.5", "training.teachers.1.weight=0.5")
    answer = lab.train_student(*scaled)
    assert answer.status == 0, answer.stderr
    assert "this run has ended" in answer.stderr


def test_a_cache_of_other_samples_is_refused_by_name(lab: Lab) -> None:
    for seed in (1, 2):
        values = (f"cache.path=half{seed}", f"data.train.subset={{ count = 20, seed = {seed} }}")
        assert lab.cache_teacher("--quiet", *options(*values)).status == 0
    answer = lab.train_student(*options("training.teachers.1.cache=half1"))
    assert answer.status == 2
    assert f"{lab.folder / 'half1'}: holds 20 rows, {lab.cache} 60\n" in answer.stderr
    halves = ("training.teachers.0.cache=half2", "training.teachers.1.cache=half1")
    answer = lab.train_student(*options(*halves))
    assert answer.status == 2
    assert (
        f"{lab.folder / 'half1'}: its rows are not those of {lab.folder / 'half2'}" in answer.stderr
    )
    assert "  another sample: " in answer.stderr


def test_a_teacher_of_other_classes_is_refused_by_name(lab: Lab) -> None:
    values = ("cache.path=wide", "teacher.model.arguments={ classes = 7 }")
    assert lab.cache_teacher("--quiet", *options(*values)).status == 0
    answer = lab.train_student(*options("training.teachers.1.cache=wide"))
    assert answer.status == 2
    assert (
        f"{lab.folder / 'wide'}: holds targets over 7 classes, {lab.cache} over 5" in answer.stderr
    )
    assert not lab.run.exists() or not list(lab.run.glob("*.json"))


def test_a_temperature_must_suit_every_cache(lab: Lab) -> None:
    reverse = '[[training.teachers]]\ncache = "other"\n\n[[training.teachers]]\ncache = "cache"\n'
    text = lab.recipe.read_text()
    lab.recipe.write_text(text.replace(TEACHERS, reverse + "\n[validation]\n"))
    answer = lab.train_student(*options("losses.0.temperature=0.5"))
    assert answer.status == 2
    assert "losses.0.temperature: targets: temperature 0.5 cannot be served" in answer.stderr


def test_what_the_teachers_have_no_common_tail_for_is_refused_before_a_run_begins(lab: Lab) -> None:
    drawn = [each.replace("=other", "=drawn") for each in OTHER[:-1]]
    drawn.append('targets.selection={ kind = "sampled", draws = 4 }')
    assert lab.cache_teacher("--quiet", *options(*drawn)).status == 0
    values = options("training.teachers.1.cache=drawn")
    answer = lab.train_student(*values)
    assert answer.status == 2
    assert (
        "losses.0: soft_targets: tail 'bucket' cannot be had of teacher 2 of 2: it needs classes "
        "that were kept; this cache holds draws alone. Use tail = 'sampled'." in answer.stderr
    )
    answer = lab.train_student(*values, *options("losses.0.tail=low_rank"))
    assert (
        "losses.0: soft_targets: tail 'low_rank' cannot be had of teacher 1 of 2" in answer.stderr
    )
    assert not (lab.run / "recipe.json").exists()


def test_a_feature_may_be_the_second_teacher_s(lab: Lab) -> None:
    named = "features=[{ name = 'hidden', module = '1' }]"
    values = [each.replace("=other", "=featured") for each in OTHER]
    assert lab.cache_teacher("--quiet", *options(*values, named)).status == 0
    losses = (
        'losses=[{ kind = "soft_targets", weight = 1.0 }, '
        '{ kind = "cosine", weight = 1.0, feature = "FEATURE", module = "2" }]'
    )
    both = ("training.teachers.1.cache=featured", losses.replace("FEATURE", "hidden"))
    answer = lab.train_student("--quiet", *options(*both))
    assert answer.status == 0, answer.stderr
    assert 0 < lab.metrics()[0]["cosine"] < 2
    both = ("training.teachers.1.cache=featured", losses.replace("FEATURE", "last"))
    answer = lab.train_student(*options(*both))
    assert answer.status == 2
    assert (
        "losses.1.feature: cache and featured keeps no feature 'last'; it has hidden. Name one in "
        "[[features]] and cache again" in answer.stderr
    )


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("training.teachers.0.weight=0", "0.weight: must be greater than 0; got 0"),
        ("training.teachers.1.cache=cache",
         "training.teachers: a cache occurs twice; give it once, with the sum of the weights"),
        ("training.teachers.0.cach=other", "training.teachers.0.cach: unknown key"),
        ("training.teachers=3", "training.teachers: must be a list; got 3"),
    ],
)  # fmt: skip
def test_what_is_written_of_teachers_is_checked(value: str, line: str, lab: Lab) -> None:
    answer = run_cli("train-student", str(lab.recipe), "--set", value)
    assert answer.status == 2
    assert line in answer.stderr

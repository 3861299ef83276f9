"""Losses of features through the command line: several at once, in phases, with projections."""

import json
from pathlib import Path
from typing import Any

import pytest
from laboratory import RECIPE as TINY
from laboratory import Lab, draw_samples, write_samples
from safetensors.torch import load_file

from pipeline.training.checkpoint import save_checkpoint
from stages import train_student

MODELS = """\
import torch
from torch import nn


def make(width=6, size=2):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(size),
        nn.Flatten(), nn.Linear(size * size * width, 8), nn.ReLU(), nn.Linear(8, 5),
    )
"""
FEATURES = (
    "features=[{ name = 'map', module = '1' }, { name = 'vector', module = '5', dtype = 'int8' }]"
)
OF_MAP = (
    "feature = 'map', module = '2'"  # 3 maps of 2 x 2 of the student, 6 of 4 x 4 of the teacher
)
OF_VECTOR = "feature = 'vector', module = '3'"
LOSSES = [
    f"{{ kind = 'hint', weight = 1.0, {OF_MAP} }}",
    f"{{ kind = 'attention_transfer', weight = 10.0, {OF_MAP} }}",
    f"{{ kind = 'relational_distance', weight = 1.0, {OF_VECTOR} }}",
    f"{{ kind = 'relational_angle', weight = 2.0, {OF_VECTOR} }}",
    f"{{ kind = 'similarity', weight = 1.0, {OF_VECTOR} }}",
    f"{{ kind = 'cosine', weight = 1.0, projection = true, {OF_VECTOR} }}",
]
SOFT = "{ kind = 'soft_targets', weight = 0.9, temperature = 4.0 }"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "own.py").write_text(MODELS)
    samples = draw_samples(40, seed=0, prefix="s")
    write_samples(tmp_path / "train.parquet", samples)
    write_samples(tmp_path / "validation.parquet", samples)
    recipe = TINY.replace("tiny_models:teacher", "own:make").replace(
        '"tiny_models:student"', '"own:make", arguments = { width = 3 }'
    )
    (tmp_path / "recipe.toml").write_text(recipe)
    lab = Lab(tmp_path)
    assert lab.cache_teacher("--quiet", "--set", FEATURES).status == 0
    return lab


def words(losses: list[str], *others: str) -> list[str]:
    settings = [f"losses=[{', '.join(losses)}]", FEATURES, *others]
    return [word for each in settings for word in ("--set", each)]


def test_any_number_of_losses_is_learned_from_and_told_of(lab: Lab) -> None:
    options = words([SOFT, *LOSSES], "training.epochs=20", "training.gradients_every=10")
    answer = lab.train_student(*options)
    assert answer.status == 0, answer.stderr
    lines = [line for line in lab.metrics() if "loss" in line]
    names = [each.split("'")[1] for each in LOSSES]
    for name in names:
        told = [line[name] for line in lines]
        assert sum(told[-5:]) < sum(told[:5]), name
    shares = [line["gradient_share"] for line in lines if "gradient_share" in line]
    assert len(shares) == 11  # the first step, and every tenth of 100
    assert set(shares[0]) == {"soft_targets", *names}
    assert sum(shares[-1].values()) == pytest.approx(1)
    assert "  of the gradient, on average: soft_targets " in answer.stdout
    projections = load_file(lab.run / "projections.safetensors")
    assert {each.split(".")[0] for each in projections} == {"hint", "cosine"}
    # Nothing of them is in the student.
    assert set(load_file(lab.run / "best.safetensors")) == {
        *("0.weight", "0.bias", "4.weight", "4.bias", "6.weight", "6.bias"),
    }


def test_a_loss_that_can_hardly_be_seen_is_named(lab: Lab) -> None:
    faint = LOSSES[0].replace("weight = 1.0", "weight = 1e-6")
    answer = lab.train_student(*words([SOFT, faint]))
    assert "  hint can hardly be seen beside the others: give it a larger weight" in answer.stdout


def test_hints_first_and_then_all_else(lab: Lab) -> None:
    first = LOSSES[0].replace("weight = 1.0", "weight = 1.0, first_steps = 6")
    answer = lab.train_student(*words([SOFT, first], "training.epochs=4"))
    assert answer.status == 0, answer.stderr
    lines = [line for line in lab.metrics() if "loss" in line]
    assert [line["step"] for line in lines if "hint" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "soft_targets" in line] == [*range(7, 21)]


@pytest.mark.parametrize("stop", [3, 6, 11])
def test_a_run_with_projections_goes_on_where_it_stopped(
    lab: Lab, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LOSSES[0].replace("weight = 1.0", "weight = 1.0, first_steps = 6")
    options = words([SOFT, first, LOSSES[5]], "training.epochs=3", "training.checkpoint_every=1")
    assert lab.train_student("--quiet", *options, "--set", "run.path=whole").status == 0

    def save_and_stop(folder: Path, step: int, **kept: Any) -> None:
        save_checkpoint(folder, step, **kept)
        if step == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train_student, "save_checkpoint", save_and_stop)
        assert lab.train_student("--quiet", *options).status == 130
    assert lab.train_student("--quiet", *options).status == 0
    for name in ("best.safetensors", "projections.safetensors"):
        assert (lab.run / name).read_bytes() == (lab.folder / "whole" / name).read_bytes()
    assert lab.metrics() == lab.metrics("whole")


@pytest.mark.parametrize(
    ("losses", "others", "message"),
    [
        (
            [SOFT, LOSSES[0].replace("weight", "projection = false, weight")],
            [],
            "  losses.1.module: '2' gives (3, 2, 2), and the feature 'map' of the teacher is "
            "(6, 4, 4): hint: the student's features have shape (2, 3, 2, 2), the teacher's "
            "(2, 6, 4, 4)",
        ),
        (
            [SOFT, LOSSES[1].replace("'map', module = '2'", "'vector', module = '3'")],
            [],
            "  losses.1.module: '3' gives (12,), and the feature 'vector' of the teacher is (8,): "
            "attention_transfer: ",
        ),
        (
            [SOFT, LOSSES[0].replace("weight", "first_steps = 10, weight")],
            [],
            "  losses.1.first_steps: must be below the 10 steps of this run; got 10\n",
        ),
        (
            [SOFT, LOSSES[0].replace("'map'", "'mop'")],
            [],
            "  losses.1.feature: cache keeps no feature 'mop'; it has map, vector. Name one in "
            "[[features]] and cache again\n",
        ),
        (
            [SOFT, LOSSES[0].replace("'2'", "'22'")],
            [],
            "student.model: Sequential has no module '22' to read a feature from; the nearest is "
            "'2'. `pipeline inspect --model RECIPE` lists all of them.\n",
        ),
    ],
    ids=["no projection", "no map", "too many first steps", "no such feature", "no such module"],
)
def test_what_cannot_be_compared_is_refused_before_a_run_begins(
    lab: Lab, losses: list[str], others: list[str], message: str
) -> None:
    answer = lab.train_student("--quiet", *words(losses, *others))
    assert answer.status == 2
    assert message in answer.stderr
    assert not (lab.run / "recipe.json").exists()


def test_a_projection_does_not_change_what_a_student_begins_as(lab: Lab) -> None:
    for name, losses in (("plain", [SOFT]), ("hinted", [SOFT, LOSSES[0]])):
        options = words(losses, "training.steps=1", f"run.path={name}")
        text = lab.recipe.read_text().replace("epochs = 2\n", "")
        lab.recipe.write_text(text)
        assert lab.train_student("--quiet", *options).status == 0
    begun = [
        json.loads((lab.folder / name / "recipe.json").read_text())["identity"]["initial_weights"]
        for name in ("plain", "hinted")
    ]
    assert begun[0] == begun[1]
    assert (lab.folder / "hinted/projections.safetensors").is_file()

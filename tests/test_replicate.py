"""The logic of scripts/replicate on tiny things; the claims themselves, on real data, are slow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from pipeline.experiment import open_data, open_model
from pipeline.recipe import Recipe
from pipeline.store import open_cache
from pipeline.stream import Stream
from pipeline.targets import DEFAULT_NODES, Targets
from pipeline.training.run_folder import METRICS
from replication import any_temperature, cached_equals_live, layers, soft_targets
from replication.fashion import Teacher
from replication.interval import MOST, T_QUANTILES, t_interval
from replication.live import LiveStream, train_live
from replication.recipes import SOFT, shipped
from replication.report import Bar, Report
from replication.soft_targets import Pair
from stages import cache_teacher, train_student

SCRIPT = Path(__file__).parent.parent / "scripts" / "replicate"
STEPS = cached_equals_live.COMPARED_STEPS


def replicate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a person would."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a quickly trained teacher of the digits and a cache of all its classes."""
    out = tmp_path_factory.mktemp("digits")
    teacher = out / "teacher"
    train_student.run(
        shipped("digits-teacher", {"run.path": teacher, "training.epochs": 3}), quiet=True
    )
    values = {"teacher.model.path": teacher, "cache.path": out / "cache"}
    cache_teacher.run(shipped("digits", values), quiet=True)
    torch.set_deterministic_debug_mode("default")
    return out


def student(out: Path, run: Path) -> Recipe:
    """The recipe of a student that takes as many steps as are compared."""
    return shipped(
        "digits",
        {
            "teacher.model.path": out / "teacher",
            "cache.path": out / "cache",
            "losses": SOFT,
            "training.steps": STEPS,
            "training.log_every": 1,
            "run.path": run,
        },
    )


@pytest.mark.parametrize("freedom", range(1, MOST), ids=str)
def test_quantiles_leave_a_fortieth_above(freedom: int) -> None:
    # x = tan(a) turns the half line into a quarter circle, where the density is (cos a)^(f - 1).
    angles = np.linspace(0.0, np.pi / 2, 200_001)[:-1]
    scaled = np.sqrt(freedom) * np.tan(angles)
    density = np.cos(angles) ** (freedom - 1)
    above = density[scaled > T_QUANTILES[freedom - 1]].sum() / density.sum() / 2
    assert above == pytest.approx(0.025, abs=4e-5)


def test_interval_is_the_textbook_one() -> None:
    interval = t_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert interval.mean == 4.5
    assert interval.high - 4.5 == pytest.approx(2.365 * 6**0.5 / 8**0.5)
    assert 4.5 - interval.low == pytest.approx(interval.high - 4.5)


def test_equal_differences_leave_no_doubt() -> None:
    interval = t_interval([3.0, 3.0])
    assert (interval.low, interval.high) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("measured", "comparison", "is_met"),
    [
        (2.0, ">", False),
        (2.001, ">", True),
        (2.0, ">=", True),
        (2.0, "<=", True),
        (2.001, "<=", False),
        (float("nan"), "<=", False),
        (float("nan"), ">", False),
    ],
)
def test_bar_compares_as_it_says(
    measured: float, comparison: Literal[">", ">=", "<="], is_met: bool
) -> None:
    bar = Bar("gain", measured, comparison, 2.0)
    assert bar.is_met is is_met
    assert Report([], [bar]).is_met is is_met
    assert bar.line().startswith("met " if is_met else "MISSED")


def test_soft_targets_need_gain_in_every_likely_case() -> None:
    sure = [Pair(seed, 0.80, 0.83 + 0.001 * seed, 2000) for seed in range(8)]
    lucky = [*sure[:-1], Pair(7, 0.80, 0.99, 2000)]
    hurried = [*sure[:-1], Pair(7, 0.80, 0.837, 1999)]
    assert soft_targets.report(sure).is_met
    assert not soft_targets.report(lucky).is_met
    assert not soft_targets.report(hurried).is_met
    assert "mean gain +3.35 points" in soft_targets.report(sure).text()


def test_layers_must_be_ahead_for_every_measure_in_every_likely_case() -> None:
    def pairs(*gains: float, teacher_kl: float = 0.2) -> list[layers.Pair]:
        ahead = layers.Student(2.0, 0.3)
        others = [layers.Student(2.0 + gain, 0.3 + teacher_kl * gain) for gain in gains]
        return [layers.Pair(seed, ahead, other) for seed, other in enumerate(others)]

    sure = layers.report(pairs(0.10, 0.11, 0.12), 1.7)
    assert sure.is_met
    assert "mean gain in nll 0.1100, 95 % interval 0.0852 to 0.1348" in sure.text()
    assert "mean gain in KL to the teacher 0.0220, 95 % interval 0.0170 to 0.0270" in sure.text()
    assert not layers.report(pairs(0.01, 0.11, 0.30), 1.7).is_met  # ahead, but by luck perhaps
    assert not layers.report(pairs(0.10, 0.11, 0.12, teacher_kl=-0.2), 1.7).is_met


def test_pairs_of_students_differ_in_what_they_begin_as_alone(tmp_path: Path) -> None:
    begun = layers.recipe_of(tmp_path, 1, begins_as_layers=True).model_dump()
    alone = layers.recipe_of(tmp_path, 1, begins_as_layers=False).model_dump()
    assert begun["student"].pop("initialise")["layers"] == "every_other"
    assert alone["student"].pop("initialise") is None
    begun.pop("run")
    alone.pop("run")
    assert begun == alone


def test_live_equals_cached(digits: Path, tmp_path: Path) -> None:
    recipe = student(digits, tmp_path / "cached")
    cached = train_student.run(recipe, quiet=True)
    live = train_live(recipe, quiet=True)
    lines = cached_equals_live.read_losses(tmp_path / "cached", STEPS)
    assert len(lines) == len(live.lines) == STEPS
    assert {"loss", "soft_targets", "hard_labels"} <= lines[0].keys()
    assert 0 < cached_equals_live.largest_difference(lines, live.lines) <= 1e-3
    assert cached["best_step"] == STEPS  # so that both tested their last weights
    assert live.test["accuracy"] == pytest.approx(cached["test"]["accuracy"], abs=0.003)


def test_live_stream_has_the_order_and_targets_of_the_cache(digits: Path, tmp_path: Path) -> None:
    recipe = student(digits, tmp_path / "run")
    assert recipe.teacher
    samples = open_data(recipe, "train")
    teacher = open_model(recipe, recipe.teacher.model, where="teacher.model")
    cache = open_cache(digits / "cache")
    cached = Stream(samples, cache, batch_size=32, seed=5).forever()
    live = LiveStream(samples, teacher, batch_size=32, seed=5).forever()
    for _ in range(8):  # two epochs of four batches, the last of them short
        ours, theirs = next(cached), next(live)
        assert ours.ids == theirs.ids
        assert isinstance(ours.targets, Targets)
        assert isinstance(theirs.targets, Targets)
        assert theirs.targets.classes is None
        assert theirs.targets.logits.amax(1).eq(0).all()
        torch.testing.assert_close(ours.targets.logits, theirs.targets.logits, atol=1e-2, rtol=0)


def test_losses_differ_as_much_as_the_worst_of_them() -> None:
    live = [{"step": 1, "loss": 2.0, "hard_labels": 1.0, "epoch": 0, "learning_rate": 1.0}]
    cached = [{**live[0], "hard_labels": 1.25, "learning_rate": 9.0}]
    assert cached_equals_live.largest_difference(cached, live) == 0.25


def test_validation_lines_are_no_losses(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 2.0}, {"step": 1, "validation": {}}, {"step": 2, "loss": 1.0}]
    (tmp_path / METRICS).write_text("\n".join(map(json.dumps, lines)))
    assert cached_equals_live.read_losses(tmp_path, 1) == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize(
    ("live", "top_k", "is_met"),
    [([0.90, 0.90], [0.90, 0.91], True), ([0.90, 0.896], [0.90, 0.90], False),
     ([0.90, 0.90], [0.91, 0.91], False)],
    ids=["close", "one-live-seed-off", "top-4-off-on-average"],
)  # fmt: skip
def test_trios_are_judged_by_seed_and_on_average(
    live: list[float], top_k: list[float], is_met: bool
) -> None:
    trios = [cached_equals_live.Trio(seed, 1e-5, live[seed], 0.90, top_k[seed]) for seed in (0, 1)]
    teacher = Teacher(Path("teacher"), 0.93)
    assert cached_equals_live.report(teacher, trios, 2).is_met is is_met


def test_a_poor_teacher_proves_nothing() -> None:
    trio = cached_equals_live.Trio(0, 0.0, 0.9, 0.9, 0.9)
    report = cached_equals_live.report(Teacher(Path("teacher"), 0.92), [trio], 2)
    assert not report.is_met
    assert "MISSED  the teacher's test accuracy: 0.92 (> 0.92)" in report.text()


def test_tail_of_made_up_logits_clears_the_bars() -> None:
    logits = 4 * torch.randn(300, 10, generator=torch.Generator().manual_seed(0))
    report = any_temperature.report(
        Teacher(Path("teacher"), 0.93),
        any_temperature.measure(logits, any_temperature.TEMPERATURES),
        any_temperature.measure(logits, any_temperature.STORED),
    )
    assert report.is_met, report.text()
    assert report.text().count("stored\n") == len(DEFAULT_NODES)


def test_no_temperature_between_is_a_stored_one() -> None:
    assert len(any_temperature.TEMPERATURES) == 20
    assert min(any_temperature.TEMPERATURES) > 1
    assert max(any_temperature.TEMPERATURES) == 20
    apart = {
        abs(between / stored - 1)
        for between in any_temperature.TEMPERATURES
        for stored in any_temperature.STORED
    }
    assert min(apart) > 0.01


def test_help_lists_the_claims() -> None:
    answer = replicate("--help")
    assert answer.returncode == 0
    for claim in ("soft-targets", "cached-equals-live", "any-temperature", "layers"):
        assert claim in answer.stdout


def test_one_seed_makes_no_interval() -> None:
    answer = replicate("soft-targets", "--seeds", "1")
    assert answer.returncode == 2
    assert "argument --seeds: must be between 2 and 31; got 1" in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("claim", ["soft-targets", "cached-equals-live", "any-temperature"])
def test_claim_holds(claim: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.getbasetemp() / "replicate"  # one teacher for two claims
    answer = replicate(claim, "--out", str(out))
    assert answer.returncode == 0, answer.stdout + answer.stderr

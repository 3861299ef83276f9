"""The comparison, end to end: every number of the card once more, by plain torch."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from laboratory import Answer, Lab, run_cli
from test_text import MODELS, RECIPE, VERSES
from torch import Tensor

from pipeline.experiment import open_data, open_model
from pipeline.models import load_network
from pipeline.recipe import load_recipe
from pipeline.samples import positions_of
from pipeline.training.run_folder import hold_run

ROUNDS = ["--set", "evaluate.rounds=2"]


def evaluate(lab: Lab, *options: str) -> Answer:
    return run_cli("evaluate", str(lab.recipe), *ROUNDS, *options)


def saved(lab: Lab) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((lab.run / "evaluation.json").read_text())
    return document


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in document["models"]}


def slow_calibration(probs: Tensor, labels: Tensor) -> float:
    """Sort answers into 15 bins one by one, and average the gaps."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        bins[min(14, int(confidence * 15))].append((confidence, row.index(confidence) == label))
    gaps = (abs(sum(c for c, _ in each) - sum(right for _, right in each)) for each in bins)
    return sum(gaps) / len(labels)


@pytest.fixture
def trained(cached_lab: Lab) -> Lab:
    """Give a laboratory with a student, and one on hard labels; neither learned much."""
    for name, losses in (("run", []), ("hard", ['losses=[{kind="hard_labels", weight=1.0}]'])):
        options = [word for value in (f"run.path={name}", *losses) for word in ("--set", value)]
        assert cached_lab.train_student("--quiet", *options).status == 0
    return cached_lab


def answers(lab: Lab) -> tuple[dict[str, Tensor], Tensor]:
    """Ask teacher and students about the validation data; gives log-probs, and labels."""
    recipe = load_recipe(lab.recipe)
    assert recipe.teacher
    table = pq.read_table(lab.folder / "validation.parquet").to_pydict()
    images = np.array(table["image"], np.float32).reshape(-1, 1, 4, 4) / 255
    networks = {
        "teacher": open_model(recipe, recipe.teacher.model, where="teacher.model"),
        "student": load_network("run", base=lab.folder, where="student", path="run"),
        "hard": load_network("run", base=lab.folder, where="hard", path="hard"),
    }
    with torch.no_grad():
        said = {
            name: network.eval().model(torch.from_numpy(images)).log_softmax(1)
            for name, network in networks.items()
        }
    return said, torch.tensor(table["label"])


def test_the_cards_numbers_are_those_of_plain_torch(trained: Lab) -> None:
    told = evaluate(trained, "--json", "--run", f"hard={trained.folder / 'hard'}", "--quiet")
    assert told.status == 0, told.stderr
    document = saved(trained)
    assert json.loads(told.stdout) == document
    said, labels = answers(trained)
    assert list(by_name(document)) == ["teacher", "student", "hard"]
    teacher = said["teacher"]
    theirs = float((teacher.argmax(1) == labels).float().mean())
    for name, row in by_name(document).items():
        log_probs = said[name]
        accuracy = float((log_probs.argmax(1) == labels).float().mean())
        expected = {
            "accuracy": accuracy,
            "nll": -float(log_probs.gather(1, labels[:, None]).mean()),
            "calibration_error": slow_calibration(log_probs.exp(), labels),
            "parameters": 85,
            "weights_bytes": 4 * 85,
        }
        if name != "teacher":
            expected |= {
                "quality_kept": accuracy / theirs,
                "teacher_agreement": float(
                    (log_probs.argmax(1) == teacher.argmax(1)).float().mean()
                ),
                "teacher_kl": float((teacher.exp() * (teacher - log_probs)).sum(1).mean()),
            }
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, rel=1e-5, abs=1e-7), (name, key)
        assert row["acceptance"] is None  # nobody drafts labels
    for each in document["classes"]:
        own = labels == int(each["class"])
        assert each["count"] == int(own.sum())
        for name, share in each["right"].items():
            right = (said[name].argmax(1) == labels)[own].float().mean()
            assert share == pytest.approx(float(right), rel=1e-6)


def test_disagreements_are_those_that_are_farthest_apart(trained: Lab) -> None:
    assert evaluate(trained, "--quiet").status == 0
    said, labels = answers(trained)
    teacher, student = said["teacher"], said["student"]
    kl = (teacher.exp() * (teacher - student)).sum(1)
    differs = (teacher.argmax(1) != student.argmax(1)).nonzero().flatten().tolist()
    expected = sorted(differs, key=lambda row: -float(kl[row]))
    found = saved(trained)["disagreements"]
    assert [each["id"] for each in found] == [f"v{row:03d}" for row in expected]
    assert expected, "a student that learned so little must differ somewhere"
    for row, each in zip(expected, found, strict=True):
        assert each["kl"] == pytest.approx(float(kl[row]), rel=1e-4)
        assert each["label"] == str(int(labels[row]))
        name, probability = each["answers"]["teacher"][0]
        assert name == str(int(teacher[row].argmax()))
        assert probability == pytest.approx(float(teacher[row].exp().max()), rel=1e-5)
        assert each["answers"]["student"][0][0] == str(int(student[row].argmax()))


def test_table_and_card_say_the_same(trained: Lab) -> None:
    told = evaluate(trained, "--run", f"on labels={trained.folder / 'hard'}")
    document = saved(trained)
    rows = csv.DictReader(io.StringIO((trained.run / "evaluation.csv").read_text()))
    for row, model in zip(rows, document["models"], strict=True):
        assert row["name"] == model["name"]
        assert float(row["accuracy"]) == model["accuracy"]
        assert float(row["latency_ms_median"]) == model["latency_ms"]["median"]
    card = (trained.run / "model_card.md").read_text()
    assert card.startswith("# tiny\n")
    student = by_name(document)["student"]
    for shown in (f"{student['accuracy']:.1%}", f"{student['teacher_kl']:.4f}", "1 thread, torch"):
        assert shown in told.stdout
        assert shown in card
    assert "| on labels |" in card
    assert "0.9 x soft_targets, temperature 4.0" in card
    assert "evaluation.json, evaluation.csv, model_card.md" in told.stderr


def test_latency_and_throughput_state_what_they_stand_on(trained: Lab) -> None:
    assert evaluate(trained, "--quiet", "--set", "evaluate.batch_size=7").status == 0
    document = saved(trained)
    made = document["conditions"]
    assert (made["threads"], made["rounds"], made["batch_size"]) == (1, [2], 7)
    assert made["device"].startswith("cpu")
    assert made["torch"] == torch.__version__
    for row in document["models"]:
        for key in ("latency_ms", "rows_a_second", "positions_a_second"):
            assert 0 < row[key]["least"] <= row[key]["median"] <= row[key]["most"]
        assert row["rows_a_second"] == row["positions_a_second"]
        assert row["rounds"] == 2


def test_a_cache_speaks_for_a_teacher_that_is_not_at_hand(trained: Lab) -> None:
    cached = ["--set", "cache.data=validation", "--set", "cache.path=held-out"]
    assert trained.cache_teacher("--quiet", *cached).status == 0
    assert evaluate(trained, "--quiet").status == 0
    live = by_name(saved(trained))
    use = ["--set", "evaluate.cache=held-out"]
    assert evaluate(trained, "--quiet", *use).status == 0
    from_cache = by_name(saved(trained))
    for key in ("accuracy", "quality_kept", "teacher_agreement"):
        assert from_cache["student"][key] == live["student"][key]
    # Of two of five classes and the mass of the rest: never more than of all.
    assert 0 < from_cache["student"]["teacher_kl"] <= live["student"]["teacher_kl"] + 1e-3
    gone = [*use, "--set", "teacher.model.checkpoint=gone.safetensors"]
    told = evaluate(trained, "--quiet", *gone)
    assert told.status == 0, told.stderr
    assert "the teacher is not compared, for it cannot be opened here" in told.stdout
    alone = by_name(saved(trained))
    assert alone["teacher"]["accuracy"] == live["teacher"]["accuracy"]
    assert alone["teacher"]["parameters"] is None
    assert alone["student"]["quality_kept"] == live["student"]["quality_kept"]
    without = evaluate(trained, "--set", "teacher.model.checkpoint=gone.safetensors")
    assert without.status == 2
    assert "teacher.model.checkpoint" in without.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "run.path=nowhere"], "run 'student'.path: there is no folder"),
        (["--run", "hard"], "must be NAME=PATH; got 'hard'"),
        (["--run", "teacher=hard"], "evaluate.runs: the name 'teacher' is taken"),
        (["--run", "other=nowhere"], "run 'other'.path: there is no folder nowhere"),
        (["--set", "evaluate.data=tests"], "evaluate.data: there is no dataset 'tests'"),
        (["--set", "evaluate.cache=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_said(trained: Lab, options: list[str], said: str) -> None:
    told = evaluate(trained, *options)
    assert told.status == 2
    assert said in told.stderr
    assert not (trained.run / "evaluation.json").exists()


def test_an_unfinished_run_is_not_compared(cached_lab: Lab) -> None:
    cached_lab.run.mkdir()
    (cached_lab.run / "recipe.json").write_text("{}")
    told = evaluate(cached_lab)
    assert told.status == 2
    assert "is not a finished run" in told.stderr


def test_models_of_other_classes_are_not_compared(trained: Lab) -> None:
    other = ["--set", "student.model.arguments={classes=6}", "--set", "run.path=other"]
    hard = ["--set", 'losses=[{kind="hard_labels", weight=1.0}]']
    assert trained.train_student("--quiet", *other, *hard).status == 0
    told = evaluate(trained, "--run", f"other={trained.folder / 'other'}")
    assert told.status == 2
    assert "'other' answers with 6 classes, but there are 5" in told.stderr


@pytest.fixture
def text_lab(tmp_path: Path) -> Lab:
    """Give a laboratory of text with a student."""
    (tmp_path / "train.txt").write_text("\n".join(VERSES) * 3)
    (tmp_path / "validation.txt").write_text("\n".join(VERSES[:3]) + "\ncaf\u00e9 cr\u00e8me")
    (tmp_path / "text_models.py").write_text(MODELS)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    lab = Lab(tmp_path)
    for answer in (lab.cache_teacher("--quiet"), lab.train_student("--quiet")):
        assert answer.status == 0, answer.stderr
    return lab


def test_text_is_compared_token_by_token(text_lab: Lab) -> None:
    assert evaluate(text_lab, "--quiet").status == 0
    document = saved(text_lab)
    recipe = load_recipe(text_lab.recipe)
    samples = open_data(recipe, "validation")
    batch = samples.read(range(len(samples)))
    labels = torch.from_numpy(positions_of(samples, batch).labels)
    assert recipe.teacher
    networks = {
        "teacher": open_model(recipe, recipe.teacher.model, where="teacher.model"),
        "student": load_network("run", base=text_lab.folder, where="student", path="run"),
    }
    with torch.no_grad():
        said = {
            name: network.eval()(torch.from_numpy(batch.inputs)).logits.log_softmax(1)
            for name, network in networks.items()
        }
    rows = by_name(document)
    assert document["data"]["positions"] == len(labels)
    for name, log_probs in said.items():
        nll = -float(log_probs.gather(1, labels[:, None]).double().mean())
        assert rows[name]["perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
        # A byte a token, so that the bits of a byte are those of a token.
        assert rows[name]["bits_a_byte"] == pytest.approx(nll / math.log(2), rel=1e-5)
    overlap = torch.minimum(said["teacher"].exp(), said["student"].exp()).sum(1).mean()
    assert rows["student"]["acceptance"] == pytest.approx(float(overlap), rel=1e-5)
    assert rows["student"]["acceptance_at_most"] == rows["student"]["acceptance"]
    assert "times its perplexity" in document["headline"]
    assert "classes" not in document


def test_the_bytes_of_text_are_those_of_the_rows_that_are_judged(text_lab: Lab) -> None:
    """A cache of the held-out text from before it grew: its rows alone are judged."""
    cached = ["--set", "cache.data=validation", "--set", "cache.path=held-out"]
    assert text_lab.cache_teacher("--quiet", *cached).status == 0
    with (text_lab.folder / "validation.txt").open("a") as file:
        file.write("\n" + "\n".join(VERSES))
    assert evaluate(text_lab, "--quiet", "--set", "evaluate.cache=held-out").status == 0
    for row in by_name(saved(text_lab)).values():
        assert row["bits_a_byte"] == pytest.approx(row["nll"] / math.log(2), rel=1e-6)


def test_a_cache_bounds_how_many_drafts_are_accepted(text_lab: Lab) -> None:
    cached = ["--set", "cache.data=validation", "--set", "cache.path=held-out"]
    assert text_lab.cache_teacher("--quiet", *cached).status == 0
    assert evaluate(text_lab, "--quiet").status == 0
    exact = by_name(saved(text_lab))["student"]["acceptance"]
    assert evaluate(text_lab, "--quiet", "--set", "evaluate.cache=held-out").status == 0
    student = by_name(saved(text_lab))["student"]
    assert student["acceptance"] - 1e-3 <= exact <= student["acceptance_at_most"] + 1e-3
    assert student["acceptance"] < student["acceptance_at_most"]


def test_a_card_is_not_saved_while_its_run_is_trained(trained: Lab) -> None:
    with hold_run(trained.run):
        told = evaluate(trained, "--quiet")
    assert told.status == 2
    assert "another process is" in told.stderr
    assert not (trained.run / "evaluation.json").exists()
    assert evaluate(trained, "--quiet").status == 0
    assert not list(trained.run.glob(".evaluation*"))

import csv
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.card import Compared, Speed, as_csv, as_markdown, as_text, compare
from pipeline.card.compare import count_weights
from pipeline.card.quality import Quality

QUALITY = Quality(
    metrics={"accuracy": 0.9, "nll": 0.3, "calibration_error": 0.02},
    labelled=40,
    positions=40,
    acceptance=None,
    teacher_accuracy=0.9,
    count=(30, 10, 0),
    right=(27, 9, 0),
    disagreements=(),
)
SPEED = Speed(one_s=(0.003, 0.002, 0.010), many_s=(0.1, 0.2, 0.1), rows=8, positions=64)
TEACHER = Compared("teacher", QUALITY, SPEED, parameters=1000, weights_bytes=4000)
STUDENT = Compared(
    "student",
    replace(QUALITY, metrics={"accuracy": 0.81, "nll": 0.5, "teacher_kl": 0.1}, right=(21, 3, 0)),
    replace(SPEED, one_s=(0.002,)),
    parameters=600,
    weights_bytes=2400,
)
REST: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "test", "rows": 40, "positions": 40, "answers": "were asked for now"},
    "conditions": {
        "device": "cpu",
        "threads": 1,
        "torch": "2",
        "rounds": [3, 20],
        "warm_up": 3,
        "batch_size": 8,
    },
    "notes": ["the sun shone"],
    "made": {"recipe": "tiny.toml"},
    "use": "As it is.",
}


def document(*models: Compared, text_bytes: int | None = None) -> dict[str, Any]:
    return {**compare(models, ["cat", "dog"], text_bytes), **REST}


def test_the_headline_is_that_of_papers() -> None:
    said = compare([TEACHER, STUDENT], [], None)["headline"]
    assert said == "40.0% smaller, 50% faster, keeps 90.0% of its teacher's accuracy"


@pytest.mark.parametrize(
    ("one_s", "parameters", "said"),
    [
        (0.0005, 1500, "50.0% larger, 6.0 times as fast"),
        (0.006, 1000, "0.0% smaller, 100% slower"),
    ],
)
def test_the_headline_of_what_did_not_get_better(one_s: float, parameters: int, said: str) -> None:
    student = replace(STUDENT, speed=replace(SPEED, one_s=(one_s,)), parameters=parameters)
    assert compare([TEACHER, student], [], None)["headline"].startswith(said)


def test_text_is_told_in_perplexity_and_bits_a_byte() -> None:
    quality = replace(QUALITY, metrics={"accuracy": 0.4, "nll": 1.5, "perplexity": math.exp(1.5)})
    teacher = replace(
        TEACHER,
        quality=replace(quality, metrics={**quality.metrics, "accuracy": 0.9, "perplexity": 3.0}),
    )
    found = compare([teacher, replace(STUDENT, quality=quality)], [], 100)
    assert found["headline"].endswith(
        "keeps 44.4% of its teacher's next-token accuracy, at 1.49 times its perplexity"
    )
    assert found["models"][1]["bits_a_byte"] == pytest.approx(40 * 1.5 / math.log(2) / 100)


def test_a_teacher_is_what_was_measured_of_it_not_what_a_cache_says() -> None:
    cached = replace(QUALITY, teacher_accuracy=0.5)
    models = [replace(TEACHER, quality=cached), replace(STUDENT, quality=cached)]
    _, student = compare(models, [], None)["models"]
    assert student["quality_kept"] == 1.0


def test_without_a_teacher_at_hand_its_cache_speaks_for_it() -> None:
    found = compare([STUDENT], [], None)
    teacher, student = found["models"]
    assert (teacher["name"], teacher["accuracy"], teacher["parameters"]) == ("teacher", 0.9, None)
    assert student["quality_kept"] == pytest.approx(0.9)
    assert found["headline"] == "keeps 90.0% of its teacher's accuracy"


def test_without_any_word_of_a_teacher_there_is_no_headline() -> None:
    alone = replace(STUDENT, quality=replace(QUALITY, teacher_accuracy=None))
    found = compare([alone], [], None)
    assert "headline" not in found
    assert [each["name"] for each in found["models"]] == ["student"]
    assert as_text({**found, **REST}).startswith("model ")


def test_classes_have_names_and_shares_of_right_answers() -> None:
    found = compare([TEACHER, STUDENT], ["cat"], None)["classes"]
    assert found == [
        {"class": "cat", "count": 30, "right": {"teacher": 0.9, "student": 0.7}},
        {"class": "1", "count": 10, "right": {"teacher": 0.9, "student": 0.3}},
    ]


def test_a_table_has_no_column_that_is_empty() -> None:
    text = as_text(document(TEACHER, STUDENT))
    header = next(line for line in text.splitlines() if line.startswith("model"))
    assert header.split("  ")[0] == "model"
    assert "perplexity" not in header
    assert "accepted" not in header
    assert "3.00 (2.00-10.00)" in text
    assert "medians of 3 or 20 rounds" in text
    assert text.endswith("Note: the sun shone.")


def test_the_table_of_values_is_unrounded() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(document(TEACHER, STUDENT)))))
    assert [row["name"] for row in rows] == ["teacher", "student"]
    assert float(rows[1]["quality_kept"]) == 0.81 / 0.9
    assert float(rows[0]["latency_ms_median"]) == 3.0
    assert float(rows[0]["positions_a_second_most"]) == pytest.approx(640)
    assert rows[0]["teacher_kl"] == ""


def test_names_are_no_markup_in_a_card() -> None:
    named = replace(STUDENT, name="<script>|a_b")
    card = as_markdown(document(TEACHER, named))
    assert "<script>" not in card
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_shared_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert count_weights(model) == (16, 64)
    model.register_buffer("counted", torch.zeros(3))
    model.register_buffer("not_saved", torch.zeros(3), persistent=False)
    assert count_weights(model) == (16, 76)

"""The numbers of a run's folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.report.runs import MOST_POINTS, read_curve, read_run


def begin(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps({"identity": {"cache": "ab"}, "recipe": {}}))
    text = "".join(f"{json.dumps(line)}\n" for line in lines) + tail
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_losses_validation_and_shares_are_told_apart(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "epoch": 0, "loss": 3.0, "hint": 2.0, "learning_rate": 0.1},
        {"step": 2, "epoch": 0, "loss": 2.0, "hint": 1.0, "gradient_share": {"hint": 0.25}},
        {"step": 2, "validation": {"accuracy": 0.5, "nll": 1.5}},
    ]
    run = read_run(begin(tmp_path / "run", lines))
    assert run.losses == {"loss": [(1, 3.0), (2, 2.0)], "hint": [(1, 2.0), (2, 1.0)]}
    assert run.validation == {"accuracy": [(2, 0.5)], "nll": [(2, 1.5)]}
    assert run.shares == {"hint": [(2, 0.25)]}
    assert (run.steps, run.result, run.evaluation) == (2, None, None)
    assert run.identity == {"cache": "ab"}


def test_a_long_run_has_a_bounded_number_of_points_whose_means_are_its_own(tmp_path: Path) -> None:
    count = 3 * MOST_POINTS + 7
    lines = [{"step": step, "loss": float(step % 13)} for step in range(1, count + 1)]
    points = read_run(begin(tmp_path / "run", lines)).losses["loss"]
    assert len(points) <= MOST_POINTS
    wanted = -(-count // MOST_POINTS)
    for place, (step, value) in enumerate(points):
        those = lines[place * wanted : (place + 1) * wanted]
        assert step == pytest.approx(sum(each["step"] for each in those) / len(those))
        assert value == pytest.approx(sum(each["loss"] for each in those) / len(those))


def test_a_line_cut_by_a_kill_ends_what_is_read(tmp_path: Path) -> None:
    run = read_run(begin(tmp_path / "run", [{"step": 1, "loss": 3.0}], tail='{"step": 2, "lo'))
    assert run.losses == {"loss": [(1, 3.0)]}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", [{"step": 1, "loss": 3.0}], tail="{]\n")
    with pytest.raises(PipelineError) as raised:
        read_run(folder)
    assert f"{folder / 'metrics.jsonl'}: line 2 is damaged (" in str(raised.value)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("[]", "it is no object"),
        ('{"models": {"a": 1}}', "models is no list"),
        ('{"models": [{}]}', "a model has no name"),
        ("{", "is not JSON"),
    ],
)
def test_an_evaluation_that_is_none_is_refused(tmp_path: Path, document: str, said: str) -> None:
    folder = begin(tmp_path / "run", [])
    (folder / "evaluation.json").write_text(document)
    with pytest.raises(PipelineError, match=said):
        read_run(folder)


def test_the_curve_of_sizes_is_read(tmp_path: Path) -> None:
    point = {"bytes": 24, "temperature": 1.0, "ours": 0.5, "others": 1.8}
    path = tmp_path / "size.json"
    path.write_text(json.dumps({"figures": [{"details": point}, {"details": {}}]}))
    assert read_curve(path) == [point]
    path.write_text(json.dumps({"figures": [{"details": {}}]}))
    with pytest.raises(PipelineError, match="has no figure of bytes a position"):
        read_curve(path)
    path.write_text("{}")
    with pytest.raises(PipelineError, match="is not what `scripts/bench size --json FILE` writes"):
        read_curve(path)

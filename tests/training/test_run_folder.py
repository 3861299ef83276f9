import json
from pathlib import Path

import pytest

from pipeline.errors import FingerprintMismatch, PipelineError
from pipeline.training.checkpoint import save_checkpoint
from pipeline.training.run_folder import (
    append_metrics,
    begin_run,
    hold_run,
    keep_metrics_until,
    read_result,
    replace_json,
)


def write_lines(folder: Path, steps: list[int], cut: str = "") -> None:
    for step in steps:
        append_metrics(folder, {"step": step, "loss": 0.5})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(cut)


def steps_of(folder: Path) -> list[int]:
    return [
        json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_steps_that_will_be_taken_again_are_dropped(tmp_path: Path) -> None:
    write_lines(tmp_path, [1, 2, 2, 3, 4])
    keep_metrics_until(tmp_path, 2)
    assert steps_of(tmp_path) == [1, 2, 2]
    keep_metrics_until(tmp_path, -1)
    assert steps_of(tmp_path) == []


def test_a_line_cut_by_a_kill_is_dropped_with_all_after_it(tmp_path: Path) -> None:
    write_lines(tmp_path, [1, 2], cut='{"step": 3, "lo')
    keep_metrics_until(tmp_path, 5)
    assert steps_of(tmp_path) == [1, 2]
    append_metrics(tmp_path, {"step": 3})
    assert steps_of(tmp_path) == [1, 2, 3]


def test_a_run_without_metrics_has_nothing_to_drop(tmp_path: Path) -> None:
    keep_metrics_until(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with hold_run(folder), pytest.raises(PipelineError) as refused, hold_run(folder):
        pass
    assert str(refused.value) == (
        f"{folder}: another process is training this run. Wait for it, or name another folder "
        "with --set run.path=..."
    )
    with hold_run(folder):
        assert read_result(folder) is None


def test_a_folder_of_other_things_is_no_run(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", ".hidden"):
        (tmp_path / name).touch()
    with pytest.raises(PipelineError) as refused, hold_run(tmp_path):
        pass
    assert str(refused.value) == (
        f"{tmp_path}: holds a.txt, b.txt and is not a run. Name a new folder or an empty one with "
        "--set run.path=..."
    )


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with (
        pytest.raises(PipelineError, match="run: is a file, not a folder"),
        hold_run(tmp_path / "run"),
    ):
        pass


def test_a_full_disk_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as refused, hold_run(tmp_path / "run"):
        raise OSError(28, "No space left on device")
    assert str(refused.value).startswith(f"{tmp_path / 'run'}: disk full (")
    assert str(refused.value).endswith(
        " MB left). Free some space and run the same command again; it goes on from the last "
        "checkpoint."
    )


def test_a_run_goes_on_with_the_setup_it_was_begun_with_only(tmp_path: Path) -> None:
    identity = {"training": {"seed": 0, "steps": 3}, "losses": [{"weight": 1.0}]}
    begin_run(tmp_path, identity, {"name": "x"})
    save_checkpoint(tmp_path, 1, weights={}, optimizer_state={}, progress={})
    begin_run(tmp_path, identity, {"name": "renamed"})

    other = {"training": {"seed": 1}, "losses": [{"weight": 1.0}], "cache": "abc"}
    with pytest.raises(FingerprintMismatch) as refused:
        begin_run(tmp_path, other, {"name": "x"})
    assert str(refused.value) == (
        f"{tmp_path}: this run was begun with another setup, so it cannot be continued\n"
        "  cache: there nothing, here 'abc'\n"
        "  training.seed: there 0, here 1\n"
        "  training.steps: there 3, here nothing\n"
        "  Name another folder with --set run.path=..., or delete this one."
    )


def test_a_run_without_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    begin_run(tmp_path, {"seed": 0}, {"name": "x"})
    begin_run(tmp_path, {"seed": 1}, {"name": "y"})
    assert json.loads((tmp_path / "recipe.json").read_text()) == {
        "identity": {"seed": 1},
        "recipe": {"name": "y"},
    }


def test_a_result_appears_whole_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    replace_json(path, {"steps": 3})
    assert read_result(tmp_path) == {"steps": 3}
    assert list(tmp_path.iterdir()) == [path]
    path.write_text("{")
    with pytest.raises(PipelineError) as refused:
        read_result(tmp_path)
    assert str(refused.value).startswith(f"{path}: is damaged (")
    assert str(refused.value).endswith("Restore it, or delete the run's folder and train again.")

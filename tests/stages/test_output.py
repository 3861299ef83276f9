"""Results on standard output, all else on standard error; JSON for machines."""

import json

import pytest
from laboratory import Lab, run_cli

COMMANDS = {
    "cache-teacher": "recipe",
    "train-student": "recipe",
    "verify": "cache",
    "inspect": "cache",
}
KEYS = {
    "cache-teacher": {"cache", "rows", "parts", "digest", "fingerprint", "size_bytes"},
    "train-student": {"run", "steps", "best_step", "validation", "parameters", "cache"},
    "verify": {"cache", "whole", "faults"},
    "inspect": {"cache", "rows", "positions", "targets", "settings", "digest", "decoded"},
}
SILENT = {"inspect"}


@pytest.mark.parametrize("command", COMMANDS)
def test_text_is_told_beside_the_progress_and_alone_if_quiet(cached_lab: Lab, command: str) -> None:
    target = str(getattr(cached_lab, COMMANDS[command]))
    loud, quiet = run_cli(command, target), run_cli(command, target, "--quiet")
    assert (loud.status, quiet.status, quiet.stderr) == (0, 0, "")
    assert loud.stdout.splitlines()[0].startswith(str(cached_lab.folder))
    assert quiet.stdout.splitlines()[0].startswith(str(cached_lab.folder))
    assert bool(loud.stderr) == (command not in SILENT)
    # A log file has lines, not a bar drawn over and over.
    assert not {"\r", "\x1b"}.intersection(loud.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_the_whole_of_standard_output(cached_lab: Lab, command: str) -> None:
    target = str(getattr(cached_lab, COMMANDS[command]))
    answer = run_cli(command, target, "--json")
    assert answer.status == 0
    assert set(json.loads(answer.stdout)) >= KEYS[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_is_one_message_on_standard_error(cached_lab: Lab, command: str) -> None:
    answer = run_cli(command, str(cached_lab.folder / "nowhere"), "--json")
    assert (answer.status, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"error: {cached_lab.folder}/nowhere: ")
    assert "Traceback" not in answer.stderr


def test_faults_are_a_result_and_exit_with_1(cached_lab: Lab) -> None:
    (cached_lab.cache / "manifest.json").unlink()
    answer = run_cli("verify", str(cached_lab.cache), "--json", "--quiet")
    assert (answer.status, answer.stderr) == (1, "")
    assert json.loads(answer.stdout)["faults"] == [
        {"part": None, "file": "manifest.json", "what": "is missing: the cache is not complete"}
    ]


def test_inspect_shows_provenance_sizes_masses_and_rows(cached_lab: Lab) -> None:
    answer = run_cli("inspect", str(cached_lab.cache), "--rows", "2")
    assert answer.status == 0
    for text in (
        "data       data.train (parquet), digest ",
        "teacher    python, weights ",
        "batches of 4, 1 thread, cpu",
        "rows       60 in 8 parts",
        "kept       2 of 5 classes (top_k)",
        "accuracy   of the teacher: 1.0000 on 60 labels",
        "\n  s000 (label 0)\n    0 ",
        "\n  s001 (label 1)\n    1 ",
    ):
        assert text in answer.stdout
    assert "s002" not in answer.stdout
    assert len(answer.stdout.splitlines()) < 24


def test_inspect_refuses_a_damaged_first_part(cached_lab: Lab) -> None:
    path = cached_lab.cache / "targets" / "00000.zarr" / "logits" / "c.0.0"
    path.write_bytes(bytes(path.stat().st_size))
    answer = run_cli("inspect", str(cached_lab.cache))
    assert (answer.status, answer.stdout) == (1, "")
    assert "part 0: targets/00000.zarr/logits/c.0.0: its checksum differs" in answer.stderr

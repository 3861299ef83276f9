"""That `scripts/bench` measures and prints what measured.md pastes; never how fast anything is."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import (
    accepted,
    cache_teacher,
    command,
    measure,
    plot,
    size,
    startup,
    train_student,
)
from benchmarks.measure import Figure, Options, interleave, ratios, report
from pipeline.errors import SampleError

SCRIPT = Path(__file__).parent.parent / "scripts" / "bench"
QUICK = Options(rounds=1, quick=True, threads=1)


@pytest.fixture
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bench(*words: str) -> str:
    line = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def rows_of(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_turns_alternate_after_a_round_for_warmth() -> None:
    asked: list[str] = []

    def ours() -> float:
        asked.append("A")
        return 3.0

    def baseline() -> float:
        asked.append("B")
        return 2.0

    rounds = interleave(ours, baseline, Options(rounds=2), turns=2)
    assert "".join(asked) == "ABAB" * 3
    assert rounds == [[(3.0, 2.0)] * 2] * 2
    assert ratios(rounds) == [1.5, 1.5]


def test_a_hiccup_of_one_turn_does_not_count() -> None:
    assert ratios([[(3.0, 2.0), (30.0, 2.0), (3.2, 2.0)]]) == [1.6]


def test_the_table_shows_median_range_bar_and_command() -> None:
    figure = Figure("reading", [1.03, 1.01, 1.2], "x", 1.05, "scripts/bench reading", "tiny")
    shown = report([figure.as_json()], {"CPU": "one, 2 cores", "torch": "9"})
    assert shown == (
        "| what | figure: median (min-max) | bar | command |\n"
        "|---|---|---|---|\n"
        "| reading | 1.030 (1.010-1.200) x | <= 1.05 x | `scripts/bench reading` |\n"
        "\n"
        "CPU one, 2 cores, torch 9.\n"
        "\n"
        "- reading: tiny"
    )


def test_a_missed_bar_is_marked_and_where_there_is_none_nothing_is() -> None:
    figures = [
        Figure("at it", [1.05], "x", 1.05, "scripts/bench reading"),
        Figure("above it", [1.0, 1.06, 1.2], "x", 1.05, "scripts/bench reading"),
        Figure("free", [9.0], "x", None, "scripts/bench reading"),
    ]
    table = report([each.as_json() for each in figures], {})
    bars = [cells[2] for cells in rows_of(table)[2:]]
    assert bars == ["<= 1.05 x", "<= 1.05 x, **missed**", "-"]


@pytest.mark.parametrize(
    ("value", "words", "status"),
    [(1.0, [], 0), (2.0, [], 1), (2.0, ["--quick"], 0)],
    ids=["met", "missed", "missed, and tiny"],
)
def test_the_exit_status_says_whether_a_bar_is_missed(
    value: float, words: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Figure("reading", [value], "x", 1.5, "scripts/bench startup")]
    monkeypatch.setattr(startup, "run", lambda options: found)
    with pytest.raises(SystemExit) as left:
        command.main(["startup", *words])
    assert left.value.code == status


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (SampleError("data.train: is empty"), 2, "bench: data.train: is empty\n"),
        (KeyboardInterrupt(), 130, "bench: interrupted\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(options: Options) -> list[Figure]:
        raise error

    monkeypatch.setattr(startup, "run", fail)
    with pytest.raises(SystemExit) as left:
        command.main(["startup"])
    assert left.value.code == status
    assert capsys.readouterr().err == said


def test_the_environment_names_machine_threads_and_software() -> None:
    about = measure.environment(2)
    assert list(about) == ["CPU", "torch threads", "load", "Python", *measure.SOFTWARE]
    assert about["CPU"].endswith("cores")


@pytest.mark.usefixtures("own_threads")
def test_every_kind_of_cache_is_measured_against_the_bare_teacher() -> None:
    figures = cache_teacher.run(QUICK)
    assert len(figures) == len(cache_teacher.VARIANTS)
    assert {(each.bar, each.unit, len(each.values)) for each in figures} == {(1.05, "x", 1)}
    assert all("cache-teacher / bare forward" in each.what for each in figures)


@pytest.mark.usefixtures("own_threads")
def test_every_student_is_measured_against_its_hard_labels() -> None:
    figures = train_student.run(QUICK)
    variants = [*train_student.VARIANTS, *train_student.TEXT_VARIANTS]
    assert len(figures) == 2 * len(variants)
    steps, waiting = figures[::2], figures[1::2]
    assert [each.bar for each in steps] == [1.05] * (len(variants) - 1) + [None]
    assert {(each.unit, len(each.values)) for each in steps} == {("x", 1)}
    assert all(each.what.endswith(name) for each, name in zip(steps, variants, strict=True))
    assert all("ms" in each.note for each in steps)
    assert {(each.bar, len(each.values)) for each in waiting} == {(0.01, 1)}
    assert all(0 < each.median < 1 for each in waiting)


def test_a_plot_is_drawn_of_ratios_and_of_bytes(tmp_path: Path) -> None:
    plot.need_plots()
    details = {"bytes": 24, "temperature": 1.0, "ours": 0.3, "others": 1.4}
    figures = [
        Figure("reading", [1.03, 1.2], "x", 1.05, "scripts/bench reading"),
        Figure("free", [9.0], "x", None, "scripts/bench reading"),
        Figure("KL", [0.2], "x", 0.5, "scripts/bench size", "", details),
    ]
    for kept in (figures, figures[:1], figures[1:]):
        path = tmp_path / "plot.png"
        plot.draw(path, [each.as_json() for each in kept])
        assert path.read_bytes().startswith(b"\x89PNG")


def test_bytes_are_measured_against_a_uniform_tail_at_every_temperature() -> None:
    figures = size.run(QUICK)
    assert [(each.bar, each.details["temperature"]) for each in figures[:3]] == [
        (0.5, 1.0),
        (0.25, 2.0),
        (0.25, 4.0),
    ]
    for each in figures:
        assert each.median == each.details["ours"] / each.details["others"]
        assert f"from {each.details['bytes']:g} bytes" in each.what
    # More bytes are never worse.
    assert all(more.median < less.median for less, more in zip(figures, figures[3:], strict=False))


# What CI runs in its short form is not run again here.
@pytest.mark.parametrize(
    "subject",
    [
        pytest.param("memory", marks=pytest.mark.slow),
        pytest.param("losses", marks=pytest.mark.slow),
        pytest.param("gpu", marks=pytest.mark.slow),
        "write",
        "manifest",
        "startup",
    ],
)
def test_a_subject_prints_its_table_and_keeps_its_values(subject: str, tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    words = [subject, "--quick", "--rounds", "1", "--threads", "1", "--json", str(kept)]
    header, rule, *rows = rows_of(bench(*words))
    assert header == ["what", "figure: median (min-max)", "bar", "command"]
    assert set(rule) == {"---"}
    document = json.loads(kept.read_text())
    assert "torch" in document["environment"]
    assert [each["what"] for each in document["figures"]] == [row[0] for row in rows]
    assert all(row[3] == f"`scripts/bench {subject}`" for row in rows)
    assert all(each["low"] <= each["median"] <= each["high"] for each in document["figures"])


def ratio(what: str, value: float, unit: str = "x") -> dict[str, object]:
    return Figure(what, [value], unit, 9.9, "scripts/bench").as_json()


def test_what_is_worse_than_was_accepted_by_half_is_told(tmp_path: Path) -> None:
    place = tmp_path / "accepted.json"
    before = [ratio("reading", 1.0), ratio("writing", 2.0), ratio("seconds", 3.0, "s")]
    accepted.accept(before, place)
    assert json.loads(place.read_text()) == {"reading": 1.0, "writing": 2.0}
    table, worse = accepted.compare(
        [ratio("reading", 1.49), ratio("writing", 3.1), ratio("seconds", 99.0, "s")], place
    )
    assert worse == ["writing: 3.100, accepted was 2.000"]
    assert table.splitlines()[2:] == [
        "| reading | 1.490 | 1.000 | 1.49 |",
        "| writing | 3.100 | 2.000 | 1.55 |",
    ]


def test_what_is_new_or_gone_is_told_until_it_is_accepted(tmp_path: Path) -> None:
    place = tmp_path / "accepted.json"
    accepted.accept([ratio("old", 1.0)], place)
    worse = accepted.compare([ratio("new", 1.0)], place)[1]
    assert worse == ["new: 1.000, accepted was -", "old: -, accepted was 1.000"]
    accepted.accept([ratio("new", 1.0)], place)
    assert not accepted.compare([ratio("new", 1.0)], place)[1]


def test_of_two_measurements_the_better_counts() -> None:
    first, second = [ratio("a", 2.0), ratio("b", 1.0)], [ratio("a", 1.0), ratio("b", 2.0)]
    assert accepted.ratios_of(accepted.better(first, second)) == {"a": 1.0, "b": 1.0}

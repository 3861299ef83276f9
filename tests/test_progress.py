import io
import re
import sys

import pytest

from pipeline.progress import duration, progress, say, says_what_is_kept


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def steps(
    clock: Clock, *, count: int, size: int, seconds: float, note: str = "", done: int = 0
) -> None:
    """Do `count` pieces of work of this size and duration each."""
    with progress("cache-teacher", total=60000, clock=clock, done=done) as advance:
        for _ in range(count):
            clock.now_s += seconds
            advance(size, note)


def test_log_says_what_is_done_how_fast_and_how_long_it_takes(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(clock, count=2, size=20000, seconds=10.0)
    assert capsys.readouterr().err.splitlines() == [
        "cache-teacher: 0/60000 rows",
        "cache-teacher: 20000/60000 rows, 2,000 rows/s, 20 s left",
        "cache-teacher: 40000/60000 rows, 2,000 rows/s, 10 s left",
    ]


def test_last_line_says_how_long_it_took(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    steps(clock, count=60, size=1000, seconds=0.01, note="loss 0.31")
    assert capsys.readouterr().err.splitlines() == [
        "cache-teacher: 0/60000 rows",
        "cache-teacher: 60000/60000 rows, 100,000 rows/s, in 0.6 s, loss 0.31",
    ]


def test_long_work_gets_a_line_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(clock, count=105, size=1, seconds=1.0)
    assert len(capsys.readouterr().err.splitlines()) == 1 + 10 + 1


def test_quick_work_gets_a_line_every_tenth(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(clock, count=600, size=100, seconds=0.05)
    assert len(capsys.readouterr().err.splitlines()) == 1 + 9 + 1


def test_rates_leave_out_what_was_done_before(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(clock, count=1, size=1000, seconds=10.0, done=50000)
    assert capsys.readouterr().err.splitlines()[:2] == [
        "cache-teacher: 50000/60000 rows",
        "cache-teacher: 51000/60000 rows, 100 rows/s, 1 min 30 s left",
    ]


def test_nothing_left_to_do_says_so_without_a_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(clock, count=0, size=0, seconds=0.0, done=60000)
    assert capsys.readouterr().err.splitlines() == ["cache-teacher: 60000/60000 rows"]


def test_what_is_said_at_the_start_is_where_the_work_goes(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("cache-teacher", total=10, note="into caches/x", clock=clock) as advance:
        clock.now_s += 2
        advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "cache-teacher: 0/10 rows, into caches/x",
        "cache-teacher: 10/10 rows, 5 rows/s, in 2.0 s",
    ]


def test_an_interruption_is_told_what_is_kept() -> None:
    with pytest.raises(KeyboardInterrupt) as ended, says_what_is_kept(lambda: "half is safe"):
        raise KeyboardInterrupt
    assert ended.value.__notes__ == ["half is safe"]


def test_interrupted_work_says_how_far_it_came(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with progress("train-student", total=100, unit="steps", clock=clock) as advance:
            clock.now_s += 0.5
            advance(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err.splitlines()[-1] == (
        "train-student: 2/100 steps, 4 steps/s, 24 s left"
    )


def test_quiet_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("cache-teacher", total=10, quiet=True, clock=clock) as advance:
        clock.now_s += 60
        advance(10, "done")
    say("a notice", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_notices_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("continuing from part 3")
    assert capsys.readouterr() == ("", "continuing from part 3\n")


def test_terminal_gets_one_live_line(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # rich believes these before it looks at the stream.
    for name, value in {"TERM": "xterm", "COLUMNS": "160", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("train-student", total=100, unit="steps", done=20, clock=clock) as advance:
        clock.now_s += 20
        advance(40, "loss 0.31 [best]")
        print("a result")
        say("a notice")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "60/100 2 steps/s, 20 s left, loss 0.31 [best]" in shown
    assert "a notice\n" in shown
    assert capsys.readouterr().out == "a result\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (7.24, "7.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text

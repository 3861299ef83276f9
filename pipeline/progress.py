"""How far a stage has come, said on standard error.

A terminal gets a live bar, anything else (a log file, a batch job) gets a few plain lines. It
counts; it does not know what is counted.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

# A log that is followed live wants a line now and then, one that is read later wants few of them.
SECONDS_BETWEEN_LINES = 10.0
SHARE_BETWEEN_LINES = 0.1
# A stage of a few seconds is not worth a line for each tenth of it.
LEAST_SECONDS_BETWEEN_LINES = 1.0


class Advance(Protocol):
    """What a stage calls after each piece of work: how many more, and a word about them."""

    def __call__(self, more: int, /, note: str = "") -> None: ...


@dataclass
class Count:
    """What is done and since when; `done_before` was there already and takes no part in rates."""

    total: int
    unit: str
    done_before: int
    started_s: float
    done: int
    note: str = ""

    def rate_text(self, now_s: float) -> str:
        """Say rate and time left, each only if it can be known."""
        elapsed_s = now_s - self.started_s
        fresh = self.done - self.done_before
        if fresh <= 0 or elapsed_s <= 0:
            return ""
        rate = fresh / elapsed_s
        left = f"{duration((self.total - self.done) / rate)} left"
        spent = f"in {duration(elapsed_s)}"
        return f"{_number(rate)} {self.unit}/s, {left if self.done < self.total else spent}"

    def line(self, stage: str, now_s: float) -> str:
        """Say everything in one plain line."""
        counts = f"{stage}: {self.done}/{self.total} {self.unit}"
        return ", ".join(filter(None, [counts, self.rate_text(now_s), self.note]))


@contextmanager
def progress(
    stage: str,
    *,
    total: int,
    unit: str = "rows",
    done: int = 0,
    note: str = "",
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Advance]:
    """Show how far a stage has come; `done` is what an earlier run had finished.

    `note` is said at the start, such as where the work goes.
    """
    count = Count(total, unit, done_before=done, started_s=clock(), done=done, note=note)
    if quiet:
        yield _silent
    elif sys.stderr.isatty():
        with _live(stage, count, clock) as advance:
            yield advance
    else:
        with _plain(stage, count, clock) as advance:
            yield advance


@contextmanager
def says_what_is_kept(told: Callable[[], str]) -> Iterator[None]:
    """Add to an interruption what is safe of the work that it ends, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as end:
        end.add_note(told())
        raise


def say(text: str, quiet: bool = False) -> None:
    """Tell the person something that is no result."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Write a time as a person would: two units at most."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _silent(more: int, /, note: str = "") -> None:
    """Say nothing."""


@contextmanager
def _plain(stage: str, count: Count, clock: Callable[[], float]) -> Iterator[Advance]:
    said_s, said_done = count.started_s, count.done

    def advance(more: int, /, note: str = "") -> None:
        nonlocal said_s, said_done
        count.done, count.note = count.done + more, note
        waited_s = clock() - said_s
        is_far = count.done - said_done >= SHARE_BETWEEN_LINES * count.total
        is_due = waited_s >= SECONDS_BETWEEN_LINES or (
            is_far and waited_s >= LEAST_SECONDS_BETWEEN_LINES
        )
        # The last line is for the end, when nothing can follow it.
        if is_due and count.done < count.total:
            say(count.line(stage, clock()))
            said_s, said_done = clock(), count.done

    say(count.line(stage, count.started_s))
    try:
        yield advance
    finally:
        if count.done != said_done:
            say(count.line(stage, clock()))


@contextmanager
def _live(stage: str, count: Count, clock: Callable[[], float]) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    # Results may be printed to standard output meanwhile, and must arrive there.
    bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
    with bar:
        task = bar.add_task(
            stage,
            total=count.total,
            completed=count.done,
            text=", ".join(filter(None, [count.unit, count.note])),
        )

        def advance(more: int, /, note: str = "") -> None:
            count.done, count.note = count.done + more, note
            texts = [count.rate_text(clock()) or count.unit, note]
            bar.update(task, completed=count.done, text=", ".join(filter(None, texts)))

        yield advance


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"

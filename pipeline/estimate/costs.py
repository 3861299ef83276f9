"""From a few measured numbers to what a cache costs: arithmetic alone, without a clock or a file.

A *pass* is one look at every sample: an epoch of one student is one, five epochs of two are ten.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TeacherSeen:
    """What was measured of the teacher; `_s` are seconds of one row where nothing else is said.

    `samples` is what an epoch has, `rows` what the cache has: a row for each view of a sample.
    """

    samples: int
    rows: int
    rows_per_part: int
    positions_a_row: float
    # Of the whole process: before its first row, and what the first batch and the first part take
    # beyond others.
    startup_s: float
    warmth_s: float
    read_s: float
    # The forward pass alone, and keeping what the plan says of its answer.
    ask_s: float
    keep_s: float
    # Compressing and checksums; then, of each part, what does not grow with its rows.
    build_s: float
    part_s: float
    # Of a part: its files onto the disk, behind the next part.
    store_s: float
    # Whether reading and building go on beside the teacher, as where it has a device of its own.
    overlaps: bool
    row_bytes: float
    part_bytes: float
    # What all parts share.
    shared_bytes: int

    @property
    def parts(self) -> int:
        return -(-self.rows // self.rows_per_part)


@dataclass(frozen=True)
class StudentSeen:
    """What was measured of the student, in seconds of one row.

    `step_s` is forward, backward and optimiser, its inputs read, whoever the targets come from;
    `fetch_s` is reading the targets from the cache.
    """

    step_s: float
    fetch_s: float
    epochs: float


# Where there is no student to be timed, a pass is the teacher's alone.
NO_STUDENT = StudentSeen(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class WithWorkers:
    """How long so many equal workers make a cache."""

    workers: int
    elapsed_s: float


@dataclass(frozen=True)
class WithStudents:
    """How long so many students take on one machine, one after the other, the teacher included."""

    students: int
    live_s: float
    cached_s: float


@dataclass(frozen=True)
class Costs:
    """What a cache takes. `by_students` is empty where no student was measured."""

    positions: float
    size_bytes: float
    shared_bytes: int
    bytes_a_position: float
    by_workers: tuple[WithWorkers, ...]
    # One forward pass over the samples, as a student with a live teacher needs in every epoch.
    live_pass_s: float
    # Passes over the data from which on the cache has paid; None if it never does.
    paid_after: int | None
    by_students: tuple[WithStudents, ...]


def work_out(
    teacher: TeacherSeen, student: StudentSeen | None, students: Sequence[int] = (1, 2, 5, 10)
) -> Costs:
    """Work out everything that a dry run says."""
    seen = student or NO_STUDENT
    positions = teacher.rows * teacher.positions_a_row
    size_bytes = teacher.rows * teacher.row_bytes + teacher.parts * teacher.part_bytes
    return Costs(
        positions=positions,
        size_bytes=size_bytes,
        shared_bytes=teacher.shared_bytes,
        bytes_a_position=size_bytes / max(1.0, positions),
        by_workers=tuple(
            WithWorkers(count, cache_s(teacher, count)) for count in worker_counts(teacher)
        ),
        live_pass_s=teacher.samples * teacher.ask_s,
        paid_after=paid_after(teacher, seen),
        by_students=tuple(
            WithStudents(
                count,
                live_s(teacher, seen, count * seen.epochs),
                cached_s(teacher, seen, count * seen.epochs),
            )
            for count in (students if student else ())
        ),
    )


def worker_counts(teacher: TeacherSeen) -> list[int]:
    """Double the workers for as long as each can have a part."""
    return [2**power for power in range(teacher.parts.bit_length())]


def row_s(teacher: TeacherSeen) -> float:
    """Give the seconds that a worker spends on a row of a part."""
    asked = teacher.ask_s + teacher.keep_s
    if teacher.overlaps:
        return max(teacher.read_s, asked, teacher.build_s)
    return teacher.read_s + asked + teacher.build_s


def cache_s(teacher: TeacherSeen, workers: int) -> float:
    """Give the seconds from start to end with so many equal workers; parts are not divided.

    It is the time of the worker that has the most to do. The disk works behind, so it is waited for
    where it is slower, and for the last part.
    """
    parts = -(-teacher.parts // workers)
    rows = min(teacher.rows, parts * teacher.rows_per_part)
    working = rows * row_s(teacher) + parts * teacher.part_s
    start_s = teacher.startup_s + teacher.warmth_s
    return start_s + max(working, (parts - 1) * teacher.store_s) + teacher.store_s


def live_s(teacher: TeacherSeen, student: StudentSeen, passes: float) -> float:
    """Give the seconds of so many passes with the teacher asked in every step."""
    return passes * teacher.samples * (teacher.ask_s + student.step_s)


def cached_s(teacher: TeacherSeen, student: StudentSeen, passes: float) -> float:
    """Give the seconds of the cache, made by one worker, and of so many passes that read it."""
    return cache_s(teacher, 1) + passes * teacher.samples * (student.fetch_s + student.step_s)


def paid_after(teacher: TeacherSeen, student: StudentSeen) -> int | None:
    """Count the passes from which on the cache is cheaper; None if reading costs what asking does.

    Never 1: making a cache is a pass of the teacher, too, and what is kept must be written.
    """
    saved_s = teacher.samples * (teacher.ask_s - student.fetch_s)
    if saved_s <= 0:
        return None
    return max(2, math.floor(cache_s(teacher, 1) / saved_s) + 1)

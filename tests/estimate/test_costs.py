"""The arithmetic of a dry run, against loops that add up pass after pass and part after part."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.estimate.costs import (
    NO_STUDENT,
    StudentSeen,
    TeacherSeen,
    cache_s,
    cached_s,
    live_s,
    paid_after,
    row_s,
    work_out,
    worker_counts,
)

TEACHER = TeacherSeen(
    samples=100,
    rows=200,
    rows_per_part=30,
    positions_a_row=2.0,
    startup_s=3.0,
    warmth_s=1.0,
    read_s=0.001,
    ask_s=0.05,
    keep_s=0.01,
    build_s=0.002,
    part_s=0.1,
    store_s=0.02,
    overlaps=False,
    row_bytes=40.0,
    part_bytes=1000.0,
    shared_bytes=500,
)
STUDENT = StudentSeen(step_s=0.004, fetch_s=0.001, epochs=5.0)

seconds = st.floats(0, 10, allow_subnormal=False)
fractions = st.floats(1e-6, 1, allow_subnormal=False)


@st.composite
def teachers(draw: st.DrawFn) -> TeacherSeen:
    samples, views = draw(st.integers(1, 500)), draw(st.integers(1, 4))
    return TeacherSeen(
        samples=samples,
        rows=samples * views,
        rows_per_part=draw(st.integers(1, 600)),
        positions_a_row=draw(st.floats(0.1, 100)),
        ask_s=draw(fractions),
        overlaps=draw(st.booleans()),
        row_bytes=draw(st.floats(1, 1e6)),
        part_bytes=draw(st.floats(0, 1e6)),
        shared_bytes=draw(st.integers(0, 10**9)),
        **{
            name: draw(seconds)
            for name in (
                *("startup_s", "warmth_s", "read_s", "keep_s"),
                *("build_s", "part_s", "store_s"),
            )
        },
    )


students = st.builds(StudentSeen, step_s=seconds, fetch_s=fractions, epochs=st.floats(1, 100))


@given(teachers())
def test_more_workers_never_take_longer_and_none_is_left_without_a_part(
    teacher: TeacherSeen,
) -> None:
    counts = worker_counts(teacher)
    times = [cache_s(teacher, count) for count in counts]
    assert times == sorted(times, reverse=True)
    assert counts[0] == 1
    assert counts[-1] <= teacher.parts < 2 * counts[-1]


@given(teachers(), st.integers(1, 40))
def test_a_worker_takes_the_time_of_its_parts_one_after_the_other(
    teacher: TeacherSeen, workers: int
) -> None:
    rows = [
        min(teacher.rows_per_part, teacher.rows - start)
        for start in range(0, teacher.rows, teacher.rows_per_part)
    ]
    longest = 0.0
    for worker in range(workers):
        mine = rows[worker::workers]
        working = sum(count * row_s(teacher) + teacher.part_s for count in mine)
        stored = max(0, len(mine) - 1) * teacher.store_s
        longest = max(longest, max(working, stored) + teacher.store_s)
    found = cache_s(teacher, workers) - teacher.startup_s - teacher.warmth_s
    # The short part may fall to the worker that has the most, which is then not foreseen.
    last = teacher.rows_per_part * row_s(teacher)
    assert longest - 1e-9 <= found * (1 + 1e-9)
    assert found <= (longest + last) * (1 + 1e-9)


@given(teachers(), students)
def test_a_cache_has_paid_from_the_first_pass_on_at_which_it_is_cheaper(
    teacher: TeacherSeen, student: StudentSeen
) -> None:
    found = paid_after(teacher, student)
    if found is None:
        assert student.fetch_s >= teacher.ask_s
        return
    assume(found < 2000)
    passes = 0
    while True:
        passes += 1
        live, cached = live_s(teacher, student, passes), cached_s(teacher, student, passes)
        # Where the two are equal but for rounding, either answer is right.
        assume(abs(live - cached) > 1e-9 * live)
        if cached < live:
            break
    assert found == passes


@given(teachers(), students)
def test_one_pass_never_pays(teacher: TeacherSeen, student: StudentSeen) -> None:
    assert cached_s(teacher, student, 1) >= live_s(teacher, student, 1) * (1 - 1e-12)
    assert cached_s(teacher, NO_STUDENT, 1) >= live_s(teacher, NO_STUDENT, 1) * (1 - 1e-12)


@given(teachers())
def test_a_cache_of_several_views_pays_after_more_passes_than_views(teacher: TeacherSeen) -> None:
    after = paid_after(teacher, NO_STUDENT)
    assert after is not None
    assert after > teacher.rows // teacher.samples * (1 - 1e-12)


def test_what_a_dry_run_says_follows_by_hand() -> None:
    costs = work_out(TEACHER, STUDENT, (1, 2))
    assert row_s(TEACHER) == pytest.approx(0.063)
    assert row_s(replace(TEACHER, overlaps=True)) == pytest.approx(0.06)
    assert TEACHER.parts == 7
    one = 3 + 1 + 200 * 0.063 + 7 * 0.1 + 0.02
    four = 3 + 1 + 60 * 0.063 + 2 * 0.1 + 0.02
    assert [each.workers for each in costs.by_workers] == [1, 2, 4]
    assert costs.by_workers[0].elapsed_s == pytest.approx(one)
    assert costs.by_workers[2].elapsed_s == pytest.approx(four)
    assert (costs.positions, costs.size_bytes) == (400, 200 * 40 + 7 * 1000)
    assert costs.bytes_a_position == pytest.approx(15_000 / 400)
    assert costs.live_pass_s == pytest.approx(5)
    assert costs.by_students[1].live_s == pytest.approx(2 * 5 * 100 * 0.054)
    assert costs.by_students[1].cached_s == pytest.approx(one + 2 * 5 * 100 * 0.005)
    assert costs.paid_after == 4  # 17.32 s to make it, 4.9 s saved in each pass


def test_without_a_student_it_is_told_in_passes_of_the_teacher() -> None:
    costs = work_out(TEACHER, None)
    assert costs.by_students == ()
    assert costs.paid_after == 4


def test_a_cache_that_is_slower_to_read_than_its_teacher_never_pays() -> None:
    assert paid_after(TEACHER, replace(STUDENT, fetch_s=0.05)) is None

"""A dry run of a stage that makes a cache: everything up to three timed batches, then the sums."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.caching import Work
from pipeline.caching.whole import planned
from pipeline.compute import device_kind
from pipeline.estimate.costs import StudentSeen, work_out
from pipeline.estimate.student import try_student
from pipeline.estimate.teacher import Trial, try_teacher
from pipeline.progress import say
from pipeline.recipe import Recipe
from pipeline.store import Where, check_folder, check_plan, missing_parts

# Live or cached is a question of a cache that students read over and over.
WRITES = "the teacher writes the text, so there is no other way to have it"
NOT_LIVE = {"live_pass_s": None, "paid_after": None}


def estimate_cache(
    recipe: Recipe, folder: Where, plan: Callable[[], Work], *, quiet: bool
) -> dict[str, Any]:
    """Plan a cache, time three batches of its teacher and three steps of its student, and add up.

    Raises: PipelineError for everything a user can mend; nothing has been written.
    """
    started = time.perf_counter()
    check_folder(folder)
    work = plan()
    check_plan(work.folder, work.plan)
    startup_s = time.perf_counter() - started
    say("dry run: timing three batches of the teacher, then the student", quiet)
    with TemporaryDirectory(prefix="pipeline-dry-run-") as scratch:
        trial = try_teacher(work, startup_s, Path(scratch))
        student = _try_student(recipe, work, trial, Path(scratch))
    seen = student if isinstance(student, StudentSeen) else None
    missing = missing_parts(work.folder, work.plan)
    return {
        **planned(work),
        "parts_there": work.plan.part_count - len(missing),
        "array_bytes": planned(work)["bytes_a_row"] * work.plan.rows,
        "compression": work.plan.compression,
        "machine": _machine(work),
        "measured": {
            "batches": [{"rows": rows, "forward_s": ask_s} for rows, ask_s in trial.batches],
            "positions_vary": trial.varies,
            "teacher": asdict(trial.seen),
            "student": asdict(seen) if seen else None,
            "no_student": None if seen else student,
        },
        "costs": asdict(work_out(trial.seen, seen)) | (NOT_LIVE if work.writing else {}),
    }


def _try_student(recipe: Recipe, work: Work, trial: Trial, scratch: Path) -> StudentSeen | str:
    if work.writing:
        return WRITES
    return try_student(
        recipe,
        scratch,
        rows=trial.rows,
        samples=trial.seen.samples,
        fetch_s=trial.fetch_s,
    )


def _machine(work: Work) -> dict[str, Any]:
    teacher = work.plan.settings["teacher"]
    return {
        "device": device_kind(work.device),
        "threads": teacher["threads"],
        "precision": teacher["precision"],
        "batch_size": work.batch_size,
    }

"""SIGTERM: a stage ends in time, says that it can go on, and loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time

from laboratory import Lab, options
from nursery import Child, Nursery, wait_until

from pipeline.termination import AGAIN, TERMINATED

# What a scheduler grants at the least.
IN_TIME_S = 5.0
BUSY = """
import signal, sys, time
from pipeline.termination import ends_when_told

with ends_when_told(lambda text: print(text, file=sys.stderr, flush=True), grace_s={grace_s}):
    {work}
"""
READY = "print('ready', flush=True)"
SECOND = "import os\n        os.kill(os.getpid(), signal.SIGTERM); print('done', flush=True)"


def end(child: Child) -> tuple[int, str, float]:
    began_s = time.monotonic()
    child.kill(signal.SIGTERM)
    answer = child.wait()
    return answer.status, answer.stderr, time.monotonic() - began_s


def busy(work: str, grace_s: float = 0.3) -> tuple[int, str, str]:
    """Tell a process to end that does something; gives its status and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(work=work, grace_s=grace_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout, stderr


def digest(lab: Lab, cache: str = "cache") -> str:
    return str(json.loads((lab.folder / cache / "manifest.json").read_bytes())["digest"])


def test_a_teacher_that_is_told_to_end_does_and_goes_on_to_the_same_bytes(
    lab: Lab, nursery: Nursery
) -> None:
    assert lab.cache_teacher("--quiet", *options("cache.path=undisturbed")).status == 0
    (lab.folder / "slow").write_text("0.02")
    child = nursery.start("cache-teacher", str(lab.recipe), "--quiet")
    wait_until(lambda: len(list(lab.cache.glob("parts/*.json"))) >= 2)
    status, stderr, took_s = end(child)
    assert (status, stderr) == (AGAIN, f"{TERMINATED}\n")
    assert took_s < IN_TIME_S
    assert not (lab.cache / "manifest.json").exists()
    assert list(lab.cache.glob(".scratch/*.lock")) == []  # claims were let go
    assert lab.cache_teacher("--quiet").status == 0
    assert digest(lab) == digest(lab, "undisturbed")


def test_a_student_that_is_told_to_end_does_and_goes_on_to_the_same_metrics(
    cached_lab: Lab, nursery: Nursery
) -> None:
    cached_lab.edit("epochs = 2", "epochs = 20\ncheckpoint_every = 5")
    assert cached_lab.train_student("--quiet", *options("run.path=undisturbed")).status == 0
    child = nursery.start("train-student", str(cached_lab.recipe), "--quiet")
    wait_until(lambda: bool(list(cached_lab.run.glob("last*"))))
    status, stderr, took_s = end(child)
    assert (status, stderr) == (AGAIN, f"{TERMINATED}\n")
    assert took_s < IN_TIME_S
    assert cached_lab.train_student("--quiet").status == 0
    losses = [
        [line["loss"] for line in cached_lab.metrics(run) if "loss" in line]
        for run in ("run", "undisturbed")
    ]
    assert losses[0] == losses[1]


def test_who_does_not_listen_is_ended_all_the_same() -> None:
    # One call of seconds in C++: the interpreter's own handler has to wait for it.
    deaf = f"{READY}; import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**25)"
    assert busy(deaf) == (AGAIN, "", f"{TERMINATED}\n")


def test_who_swallows_it_is_ended_all_the_same() -> None:
    swallow = f"try: {READY}; time.sleep(60)\n    except SystemExit: time.sleep(60)"
    assert busy(swallow) == (AGAIN, "", f"{TERMINATED}\n")


def test_who_cleans_up_is_not_told_twice() -> None:
    tidy = f"try: {READY}; time.sleep(60)\n    finally:\n        {SECOND}"
    assert busy(tidy, grace_s=20) == (AGAIN, "done\n", f"{TERMINATED}\n")


def test_a_forked_child_may_be_ended_alone() -> None:
    work = (
        f"{READY}; import os\n    child = os.fork()\n    if child == 0: time.sleep(60)\n"
        "    os.kill(child, signal.SIGTERM)\n    ended = os.waitpid(child, 0)[1]\n"
        "    time.sleep(0.6); print(ended, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(work=work, grace_s=0.3)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert process.stdout.readline() == f"{int(signal.SIGTERM)}\n"
    process.kill()
    process.communicate()


def test_afterwards_all_is_as_before(lab: Lab) -> None:
    before = signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))
    assert lab.cache_teacher("--dry-run").status == 0
    wait_until(
        lambda: (signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))) == before
    )

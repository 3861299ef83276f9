"""On a real Slurm of two nodes of one machine, whatever happens, the cache ends in the same bytes.

How often each batch was asked for tells that nothing was done twice without a reason.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from counting import BATCHES, alone, digest, notes, take_notes
from laboratory import Lab

from pipeline.termination import TERMINATED

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ARRAY = ROOT / "scripts/cluster/slurm-array.sbatch"
TORCHRUN = ROOT / "scripts/cluster/slurm-torchrun.sbatch"
# The templates ask for what one orders on a cluster; here are two nodes of one CPU.
SMALL = ("--gres=none", "--cpus-per-task=1", "--output=%x-%a.log")
# Slurm gives a node up after 10 s of silence, and looks a few times more.
PATIENCE_S = 120.0
# A part has two batches, which are asked for again if it was in hand when its maker was killed.
LOST = 2

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="Slurm is not installed"),
]


@dataclass(frozen=True)
class Slurm:
    """A Slurm that is up; commands run in a laboratory's folder, as those of a user would."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Name the Slurm, and let go of what pytest set."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}

    def ask(self, *words: str, cwd: Path | None = None) -> str:
        """Run a command and give what it says."""
        ended = subprocess.run(
            words, env=self.environment, cwd=cwd, capture_output=True, text=True, check=True
        )
        return ended.stdout.strip()

    def submit(self, lab: Lab, *words: str) -> str:
        """Submit a job from a laboratory; gives its number."""
        return self.ask("sbatch", "--parsable", *words, cwd=lab.folder)

    def states(self, job: str) -> Counter[str]:
        """Count the states of a job's tasks that are not over."""
        return Counter(self.ask("squeue", "-h", "-r", "-o", "%T", "-j", job).split())

    def wait(self, job: str) -> None:
        """Wait until a job is over; what was queued again need not wait its two minutes."""

        def is_over() -> bool:
            states = self.states(job)
            if states["PENDING"]:
                subprocess.run(
                    ["scontrol", "update", f"jobid={job}", "starttime=now"],
                    env=self.environment,
                    capture_output=True,
                    check=False,  # those of its tasks that run already refuse
                )
            return not states

        wait_until(is_over)


def wait_until(holds: Callable[[], bool]) -> None:
    """Look again and again until something holds; Slurm's own commands must not be hurried."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"nothing happened for {PATIENCE_S} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([HERE / "up.sh", folder, "2", "1"], check=True)
    yield Slurm(folder)
    subprocess.run([HERE / "down.sh", folder], check=True)


@pytest.fixture
def counted(lab: Lab) -> Lab:
    """Give a laboratory that takes notes, with a .venv as the templates expect it."""
    take_notes(lab)
    activate = lab.folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(
        f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={ROOT}\n", encoding="utf-8"
    )
    return lab


def made(lab: Lab) -> int:
    return len(list(lab.cache.glob("parts/*.json")))


def logs(lab: Lab) -> str:
    return "\n".join(path.read_text() for path in sorted(lab.folder.glob("*.log")))


def test_an_array_job_makes_every_part_once(slurm: Slurm, counted: Lab) -> None:
    expected = alone(counted)
    job = slurm.submit(counted, "--array=1-3", *SMALL, str(ARRAY), "recipe.toml")
    slurm.wait(job)
    assert digest(counted) == expected, logs(counted)
    assert len(notes(counted, "asked")) == BATCHES


@pytest.mark.parametrize("workers", ["workers = 2", "workers_max = 2"])
def test_dask_starts_workers_as_jobs_and_takes_them_away(
    slurm: Slurm, counted: Lab, workers: str
) -> None:
    expected = alone(counted)
    with counted.recipe.open("a") as file:
        file.write(
            f'[compute]\nkind = "slurm"\n{workers}\nmemory = "1GB"\nqueue = "main"\n'
            'walltime = "00:10:00"\ninterface = "lo"\n'
            f'setup = ["source {counted.folder}/.venv/bin/activate"]\n'
        )
    command = [sys.executable, "-m", "pipeline", "cache-teacher", "recipe.toml"]
    (counted.folder / "slow").write_text("0.3")
    ended = subprocess.run(
        command,
        env={**slurm.environment, "PYTHONPATH": str(ROOT)},
        cwd=counted.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert digest(counted) == expected
    assert "60/60 rows" in ended.stderr
    asked = notes(counted, "asked")
    assert len(asked) == BATCHES
    # As many as there is work for may be fewer, by the time that there is little left.
    assert len({pid for _, pid in asked}) == 2 or "max" in workers
    wait_until(lambda: not slurm.ask("squeue", "-h"))


def test_a_student_is_trained_by_torchrun(slurm: Slurm, counted: Lab) -> None:
    assert counted.cache_teacher("--quiet").status == 0
    job = slurm.submit(counted, "--nodes=1", *SMALL, str(TORCHRUN), "recipe.toml")
    slurm.wait(job)
    assert counted.metrics()[-1]["step"] == 16, logs(counted)


def test_a_job_that_is_preempted_is_queued_again_and_goes_on(slurm: Slurm, counted: Lab) -> None:
    expected = alone(counted)
    (counted.folder / "slow").write_text("0.5")
    job = slurm.submit(counted, "--array=1-2", "-p", "low", *SMALL, str(ARRAY), "recipe.toml")
    wait_until(lambda: made(counted) >= 2)
    urgent = slurm.submit(
        counted, "-p", "high", "-N2", "--exclusive", "--output=urgent.log", "--wrap", "sleep 1"
    )
    wait_until(lambda: slurm.states(job)["PENDING"] == 2)
    slurm.wait(urgent)
    before = made(counted)
    assert before < 8
    (counted.folder / "slow").write_text("0.01")
    slurm.wait(job)
    assert digest(counted) == expected, logs(counted)
    assert logs(counted).count(TERMINATED) == 2
    assert BATCHES <= len(notes(counted, "asked")) <= BATCHES + 2 * LOST


def test_a_node_that_dies_costs_its_part_and_comes_back(slurm: Slurm, counted: Lab) -> None:
    expected = alone(counted)
    (counted.folder / "slow").write_text("0.7")
    job = slurm.submit(counted, "--array=1-2", *SMALL, str(ARRAY), "recipe.toml")
    wait_until(lambda: made(counted) >= 2)
    doomed = int((slurm.folder / "run" / "slurmd.n2.pid").read_text())
    steps = steps_of(slurm, "n2")
    assert len(steps) == 2  # the job's shell, and what srun runs in it
    for pid in [doomed, *steps]:
        for each in [*descendants(pid), pid]:
            kill(each)
    (counted.folder / "slow").write_text("0.01")
    slurm.wait(job)
    assert digest(counted) == expected, logs(counted)
    assert BATCHES <= len(notes(counted, "asked")) <= BATCHES + LOST
    slurm.ask("slurmd", "-N", "n2")
    wait_until(lambda: slurm.ask("sinfo", "-h", "-n", "n2", "-p", "main", "-o", "%T") == "idle")


def steps_of(slurm: Slurm, node: str) -> list[int]:
    """Find the processes that watch over a node's jobs: they write to its log."""
    log = str(slurm.folder / "log" / f"slurmd.{node}.log")
    return [pid for pid in processes() if log in open_files(pid) and "slurmstepd" in title(pid)]


def open_files(pid: int) -> set[str]:
    try:
        return {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return set()


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    try:
        children = [
            int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []
    return [each for child in map(int, children) for each in [*descendants(child), child]]


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

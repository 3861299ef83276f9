"""Round after round: several processes make one cache, and none of them is left in peace."""

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from disturbing.work import run, write_laboratory
from loopback import BUCKET, Faults, environment, object_store, proxy
from pipeline.errors import PipelineError
from pipeline.store import find_faults, is_planned, open_cache
from pipeline.store.places import as_place
from pipeline.store.records import MANIFEST_FILE

WORKERS = 3
# Of the requests to the object store: one in a hundred is lost or refused.
LOST = 0.01
PAUSE_S = (0.05, 0.6)
STOPPED_S = (0.1, 2.5)
ROUND_S = 180.0
# How often each happens.
FATES = {"kill": 5, "stop": 3, "terminate": 2, "interrupt": 1, "start": 4}


@dataclass
class Crowd:
    """The processes of a round, some of them stopped; `counts` is what happened to all so far."""

    context: ForkServerContext
    words: list[str]
    variables: dict[str, str]
    log: str
    random: random.Random
    counts: Counter[str]
    living: list[ForkServerProcess] = field(default_factory=list)
    stopped: dict[int, float] = field(default_factory=dict)

    def start(self) -> None:
        """Start one more."""
        process = self.context.Process(target=run, args=(self.words, self.variables, self.log))
        process.start()
        self.living.append(process)
        self.counts["start"] += 1

    def disturb(self) -> None:
        """Do something to someone, wake who was stopped long enough, and let the dead go."""
        now = time.monotonic()
        for pid in [pid for pid, until in self.stopped.items() if until < now]:
            self.signal(pid, signal.SIGCONT)
            del self.stopped[pid]
        self.living = [each for each in self.living if each.is_alive()]
        fate = self.random.choices(list(FATES), list(FATES.values()))[0]
        if fate == "start" or not self.living:
            if len(self.living) < WORKERS:
                self.start()
            return
        pid = self.random.choice(self.living).pid
        assert pid is not None
        if fate == "stop":
            self.stopped[pid] = now + self.random.uniform(*STOPPED_S)
        self.counts[fate] += 1
        self.signal(pid, SIGNALS[fate])

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to one that may be gone."""
        if any(each.pid == pid and each.is_alive() for each in self.living):
            os.kill(pid, number)

    def end(self) -> None:
        """Kill all, for the round is over."""
        for each in self.living:
            each.kill()
            each.join()


SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "terminate": signal.SIGTERM,
    "interrupt": signal.SIGINT,
}


def main() -> None:
    """Run rounds until the time is over or enough were run, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ends, counts, done = time.monotonic() + 60 * options.minutes, Counter[str](), Counter[str]()
    with laboratory() as (folder, variables):
        expected = undisturbed(folder, variables)
        for number in range(options.rounds):
            if time.monotonic() > ends:
                break
            kind = ("folder", "object store")[number % 2]
            drawn = random.Random(f"{options.seed} {number}")
            one_round(folder, variables, kind, number, drawn, counts, expected)
            done[kind] += 1
    named = " and ".join(
        f"{count} in {'an' if 'object' in kind else 'a'} {kind}" for kind, count in done.items()
    )
    happened = ", ".join(f"{fate} {count}" for fate, count in sorted(counts.items()))
    print(f"{sum(done.values())} rounds, {named}: all complete, whole and identical ({happened})")


@contextmanager
def laboratory() -> Iterator[tuple[Path, dict[str, str]]]:
    """Give a folder with a recipe, and where the object store is, behind a bad way to it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        write_laboratory(folder)
        port = stack.enter_context(object_store())
        between = stack.enter_context(proxy(port, Faults(LOST)))
        os.environ.update(environment(port))
        yield folder, environment(between)


def context() -> ForkServerContext:
    """Give what forks processes that need not import everything again."""
    made = get_context("forkserver")
    made.set_forkserver_preload(["pipeline.cli", "stages.cache_teacher", "disturbing.work"])
    return made


def undisturbed(folder: Path, variables: dict[str, str]) -> str:
    """Make the cache once in peace; gives its digest."""
    words = ["cache-teacher", str(folder / "recipe.toml"), "--quiet"]
    process = context().Process(target=run, args=(words, variables, str(folder / "log")))
    process.start()
    process.join()
    return open_cache(folder / "undisturbed").digest


def one_round(
    folder: Path,
    variables: dict[str, str],
    kind: str,
    number: int,
    drawn: random.Random,
    counts: Counter[str],
    expected: str,
) -> None:
    """Make the cache among disturbances, and look that it is what it must be.

    Raises: SystemExit naming what differs; the folder of the round is kept in the message's log.
    """
    where = f"s3://{BUCKET}/round{number}" if kind == "object store" else str(folder / str(number))
    log = str(folder / f"log{number}")
    words = [
        "cache-teacher",
        str(folder / "recipe.toml"),
        "--quiet",
        "--set",
        f"cache.path={where}",
    ]
    if drawn.random() < 0.3:
        words += ["--part-range", "1/1"]
    crowd = Crowd(context(), words, variables, log, drawn, counts)
    ends = time.monotonic() + ROUND_S
    try:
        while not is_complete(where):
            crowd.disturb()
            time.sleep(drawn.uniform(*PAUSE_S))
            if time.monotonic() > ends:
                give_up(f"round {number}: not complete after {ROUND_S:.0f} s", log)
    finally:
        crowd.end()
    # Who finishes may have been killed before it swept.
    last = Crowd(context(), words, variables, log, drawn, Counter())
    last.start()
    last.living[0].join()
    found = open_cache(where).digest
    faults = [str(fault) for fault in find_faults(where)]
    left = as_place(where).files(".scratch")
    if found != expected or faults or left:
        give_up(
            f"round {number}: digest {found[:16]}, must be {expected[:16]}; {faults}; {left}", log
        )
    print(f"round {number}: {kind}: identical", flush=True)


def is_complete(where: str) -> bool:
    """Whether a manifest is there."""
    try:
        return is_planned(where) and as_place(where).size(MANIFEST_FILE) is not None
    except PipelineError:
        return False


def give_up(text: str, log: str) -> None:
    """End with what went wrong, and what was said."""
    said = Path(log).read_text(errors="replace")[-3000:] if Path(log).exists() else ""
    raise SystemExit(f"{text}\n{said}")

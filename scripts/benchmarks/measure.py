"""Ratios, their spread, and the table they are shown in.

It knows callables that return a number, not what they measure, and needs neither torch nor NumPy:
a process that measures the memory of others must itself be small.
"""

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

Measure = Callable[[], float]
# Ours and the baseline beside it.
Pair = tuple[float, float]

SOFTWARE = ("torch", "numpy", "zarr", "pyarrow", "accelerate")


@dataclass(frozen=True)
class Options:
    """What one may choose for every subcommand."""

    rounds: int = 5
    quick: bool = False
    threads: int = 2


@dataclass(frozen=True)
class Figure:
    """One measured thing: its values, one a round, the bar that their median must stay below, if
    there is one, what to add, and what a plot needs beside it.
    """

    what: str
    values: list[float]
    unit: str
    bar: float | None
    command: str
    note: str = ""
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def is_missed(self) -> bool:
        return self.bar is not None and self.median > self.bar

    def as_json(self) -> dict[str, Any]:
        """Give everything a machine may want to compare."""
        low, high = min(self.values), max(self.values)
        told = {"median": self.median, "low": low, "high": high, "missed": self.is_missed}
        return {**asdict(self), **told}


def interleave(
    ours: Measure, baseline: Measure, options: Options, turns: int = 1
) -> list[list[Pair]]:
    """Measure a round for warmth, then so many rounds of turns A B A B.

    Short turns share the machine's moods, so that neither has the better hour.
    """
    if not options.quick:
        _round(ours, baseline, turns)
    return [_round(ours, baseline, turns) for _ in range(options.rounds)]


def _round(ours: Measure, baseline: Measure, turns: int) -> list[Pair]:
    return [(ours(), baseline()) for _ in range(turns)]


def ratios(rounds: Sequence[Sequence[Pair]]) -> list[float]:
    """Divide ours by the baseline beside it; of a round the median, so that no hiccup counts."""
    return [median(ours / baseline for ours, baseline in pairs) for pairs in rounds]


def ratios_of_rounds(rounds: Sequence[Sequence[Pair]]) -> list[float]:
    """Divide ours by the baseline, a round by a round: what comes once in many turns counts too."""
    return [sum(own for own, _ in pairs) / sum(other for _, other in pairs) for pairs in rounds]


def environment(threads: int) -> dict[str, str]:
    """Describe the machine and the software, and how busy the machine is."""
    return {
        "CPU": f"{_cpu_name()}, {len(os.sched_getaffinity(0))} cores",
        "torch threads": str(threads),
        "load": " ".join(f"{each:.1f}" for each in os.getloadavg()),
        "Python": platform.python_version(),
        **{name: version(name) for name in SOFTWARE},
    }


def report(figures: Sequence[Mapping[str, Any]], about: Mapping[str, str]) -> str:
    """Lay figures out as a Markdown table, with the environment and the notes below it."""
    lines = ["| what | figure: median (min-max) | bar | command |", "|---|---|---|---|"]
    for each in figures:
        values = f"{each['median']:.3f} ({each['low']:.3f}-{each['high']:.3f}) {each['unit']}"
        bar = "-" if each["bar"] is None else f"<= {each['bar']:g} {each['unit']}"
        bar += ", **missed**" if each["missed"] else ""
        lines.append(f"| {each['what']} | {values} | {bar} | `{each['command']}` |")
    lines += ["", ", ".join(f"{name} {value}" for name, value in about.items()) + "."]
    notes = dict.fromkeys(f"- {each['what']}: {each['note']}" for each in figures if each["note"])
    return "\n".join([*lines, "", *notes]).rstrip()


def say(text: str) -> None:
    """Tell how far it is, beside the table."""
    print(text, file=sys.stderr, flush=True)


def _cpu_name() -> str:
    return next(_cpu_names(), platform.machine())


def _cpu_names() -> Iterator[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            yield value.strip()

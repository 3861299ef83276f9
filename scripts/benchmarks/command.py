"""The command line of `scripts/bench`: one subject in this process, or all, each in one of its own.

Exit status: 0 every bar is met, 1 one is missed, 2 something the user can mend, 130 interrupted. A
tiny run says nothing of bars.

A subject's module is imported when it is measured: the memory of others must be measured from a
small process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import accepted, plot
from benchmarks.measure import Options, environment, report, say
from pipeline.errors import PipelineError

SCRIPT = Path(__file__).resolve().parents[1] / "bench"
SUBJECTS = (
    *("cache-teacher", "train-student", "memory", "losses", "features", "pseudo-label"),
    *("stream", "write", "size", "manifest", "objects", "scheduling", "scaling", "startup"),
)

MISSED, MENDABLE, INTERRUPTED = 1, 2, 130

Figures = list[dict[str, Any]]


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the table, keep the values if asked to, and leave with the exit status."""
    arguments = _parser().parse_args(words)
    try:
        sys.exit(_run(arguments))
    except PipelineError as error:
        say(f"bench: {error}")
        sys.exit(MENDABLE)
    except KeyboardInterrupt:
        say("bench: interrupted")
        sys.exit(INTERRUPTED)


def _run(arguments: argparse.Namespace) -> int:
    options = Options(arguments.rounds, arguments.quick, arguments.threads)
    about = environment(options.threads)
    if arguments.plot:
        plot.need_plots()
    if arguments.subject == "short":
        return _short(options, is_accepted=arguments.accept)
    figures = (
        _measure_all(options, SUBJECTS)
        if arguments.subject == "all"
        else _measure(arguments.subject, options)
    )
    if arguments.json:
        document = {"environment": about, "figures": figures}
        Path(arguments.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if arguments.plot:
        plot.draw(Path(arguments.plot), figures)
    print(report(figures, about))
    is_missed = any(each["missed"] for each in figures) and not options.quick
    return MISSED if is_missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure what the README promises, as ratios to a baseline."
    )
    parser.add_argument("subject", choices=[*SUBJECTS, "gpu", "peers", "all", "short"])
    parser.add_argument("--rounds", type=int, default=5, help="pairs of each figure (5)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (2)")
    parser.add_argument("--quick", action="store_true", help="tiny: does it run, not how fast")
    parser.add_argument("--accept", action="store_true", help="of short: these ratios are right")
    parser.add_argument("--json", metavar="FILE", help="keep every value")
    parser.add_argument("--plot", metavar="FILE", help="draw them (.png, .svg or .pdf)")
    return parser


def _measure(subject: str, options: Options) -> Figures:
    module = import_module(f"benchmarks.{subject.replace('-', '_')}")
    return [figure.as_json() for figure in module.run(options)]


def _short(options: Options, *, is_accepted: bool) -> int:
    """Compare the short form of what takes seconds with what was accepted last; gives a status."""
    figures = _measure_all(replace(options, quick=True), accepted.SUBJECTS)
    if is_accepted:
        accepted.accept(figures)
    table, worse = accepted.compare(figures)
    if worse:  # a hiccup is over by the second time
        say("worse by more than half, so once more")
        again = _measure_all(replace(options, quick=True), accepted.SUBJECTS)
        table, worse = accepted.compare(accepted.better(figures, again))
    print(table)
    for line in worse:
        say(f"worse by more than half: {line}")
    if worse:
        say("mend it, or say with `scripts/bench short --accept` that it is right, and why")
    return 1 if worse else 0


def _measure_all(options: Options, subjects: Sequence[str]) -> Figures:
    words = ["--rounds", str(options.rounds), "--threads", str(options.threads)]
    words += ["--quick"] if options.quick else []
    figures: Figures = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects:
            kept = Path(folder, f"{subject}.json")
            command = [sys.executable, str(SCRIPT), subject, *words, "--json", str(kept)]
            status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
            if status not in (0, MISSED):  # which has said why
                sys.exit(status)
            figures += json.loads(kept.read_text(encoding="utf-8"))["figures"]
    return figures

"""The command line of scripts/replicate.

Exit status: 0 every bar is met, 1 one is missed, 2 something the user can mend, 130 interrupted.
Tables go to standard output, everything else to standard error.
"""

import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.progress import say
from replication.interval import FEWEST, MOST
from replication.report import Report

MISSED, MENDABLE, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Measure one claim, print its table, and leave with the exit status."""
    options = _parser().parse_args()
    try:
        out = options.out or Path(tempfile.mkdtemp(prefix="replicate-"))
        say(f"replicate: runs and caches go to {out}; --out {out} finds them again")
        report: Report = options.measure(out, options)
    except PipelineError as error:
        say(f"error: {error}")
        sys.exit(MENDABLE)
    except KeyboardInterrupt:
        say("interrupted; the same --out goes on where this one stopped")
        sys.exit(INTERRUPTED)
    print(report.text())
    sys.exit(0 if report.is_met else MISSED)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="replicate", description="Reproduce a claim on real data.")
    claims = parser.add_subparsers(required=True, metavar="CLAIM")
    for name, (measure, text) in CLAIMS.items():
        claim = claims.add_parser(name, help=text, description=text)
        claim.set_defaults(measure=measure)
        claim.add_argument("--out", type=Path, help="keep runs and caches here, and reuse them")
        for option, (kind, default, about) in OPTIONS.get(name, {}).items():
            claim.add_argument(option, type=kind, default=default, help=f"{about} ({default})")
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            raise ArgumentTypeError(f"must be between {least} and {most}; got {text}")
        return int(text)

    return parse


# Each imports torch, so only when it is asked for.
def _soft_targets(out: Path, options: Namespace) -> Report:
    from replication import soft_targets

    return soft_targets.run(out, seeds=options.seeds)


def _cached_equals_live(out: Path, options: Namespace) -> Report:
    from replication import cached_equals_live

    return cached_equals_live.run(out, seeds=options.seeds, epochs=options.epochs)


def _any_temperature(out: Path, options: Namespace) -> Report:
    from replication import any_temperature

    return any_temperature.run(out)


def _selections(out: Path, options: Namespace) -> Report:
    from replication import selections

    return selections.run(out, seeds=options.seeds)


def _layers(out: Path, options: Namespace) -> Report:
    from replication import layers

    return layers.run(out, seeds=options.seeds)


def _chain(out: Path, options: Namespace) -> Report:
    from replication import chain

    return chain.run(out, seeds=options.seeds)


def _features(out: Path, options: Namespace) -> Report:
    from replication import features

    return features.run(out, seeds=options.seeds)


def _views(out: Path, options: Namespace) -> Report:
    from replication import views

    return views.run(out, seeds=options.seeds)


def _pseudo_labels(out: Path, options: Namespace) -> Report:
    from replication import pseudo_labels

    return pseudo_labels.run(out, seeds=options.seeds)


def _promises(out: Path, options: Namespace) -> Report:
    from replication import promises

    return promises.run(out, splits=options.splits, students=options.students)


def _tweets(out: Path, options: Namespace) -> Report:
    from replication import tweets

    return tweets.run(out, seeds=options.seeds)


def _language_tails(out: Path, options: Namespace) -> Report:
    from replication import language_tails

    return language_tails.run(out)


CLAIMS: dict[str, tuple[Callable[[Path, Namespace], Report], str]] = {
    "soft-targets": (
        _soft_targets,
        "Digits: a student with soft targets is better than one with hard labels.",
    ),
    "cached-equals-live": (
        _cached_equals_live,
        "Fashion-MNIST: a cache teaches what the teacher in the loop does.",
    ),
    "any-temperature": (
        _any_temperature,
        "Fashion-MNIST: four classes and their tail give the left-out mass at any temperature.",
    ),
    "features": (
        _features,
        "Fashion-MNIST: losses of features beside soft targets each learn, and do no harm.",
    ),
    "views": (
        _views,
        "Digits: a student that sees what its teacher saw is better than one with fixed targets.",
    ),
    "pseudo-labels": (
        _pseudo_labels,
        "Digits: pseudo-labels help beside labels, and alone and skewed they do harm.",
    ),
    "promises": (
        _promises,
        "Fashion-MNIST: a promised precision is kept, and unlabelled images are worth a lot.",
    ),
    "tweets": (
        _tweets,
        "Tweets: pseudo-labels of MiniLM are as right as promised, and teach a small CNN.",
    ),
    "language-tails": (
        _language_tails,
        "SmolLM2 on Shakespeare: what a few bytes a position know of 49,152 classes.",
    ),
    "layers": (
        _layers,
        "Shakespeare, masked: a student that begins as layers of its teacher is ahead.",
    ),
    "chain": (
        _chain,
        "Digits: a small student learns as much from an assistant as from the large teacher.",
    ),
    "selections": (
        _selections,
        "SmolLM2 on Shakespeare: what of its answers to keep, for students at T = 1 and 2.",
    ),
}
OPTIONS: dict[str, dict[str, tuple[Callable[[str], int], int, str]]] = {
    "soft-targets": {"--seeds": (_whole(FEWEST, MOST), 8, "pairs of students")},
    "cached-equals-live": {
        "--seeds": (_whole(1, MOST), 3, "students of each kind"),
        "--epochs": (_whole(1, 1000), 2, "epochs of a student"),
    },
    "features": {"--seeds": (_whole(1, MOST), 3, "students of each kind")},
    "views": {"--seeds": (_whole(FEWEST, MOST), 8, "students of each kind")},
    "pseudo-labels": {"--seeds": (_whole(FEWEST, MOST), 8, "choices of the labels")},
    "promises": {
        "--splits": (_whole(FEWEST, 1000), 20, "choices of the labels"),
        "--students": (_whole(FEWEST, MOST), 5, "of them with students"),
    },
    "tweets": {"--seeds": (_whole(1, MOST), 2, "students of each kind")},
    "layers": {"--seeds": (_whole(FEWEST, MOST), 3, "pairs of students")},
    "chain": {"--seeds": (_whole(FEWEST, MOST), 10, "assistants, and students of each kind")},
    "selections": {"--seeds": (_whole(1, MOST), 3, "students of each kind")},
}

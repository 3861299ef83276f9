"""Print what the quickstart found as one table: scripts/quickstart_table.py runs/quickstart"""

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Read the results of the five steps and print the table."""
    steps = ("teacher", "cache", "cache-of-test", "hard", "soft")
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in steps}
    cache = results["cache"]
    print()
    print(f"{'':32} {'accuracy':>9} {'KL to teacher':>14} {'seconds':>8}")
    print(row("teacher (1,000 labelled images)", results["teacher"]))
    print(row("student, hard labels (100)", results["hard"]))
    print(row("student, from the cache (100)", results["soft"]))
    print(
        f"\nThe cache: {cache['size_bytes']:,} bytes for {cache['rows']} images, made in "
        f"{cache['startup_s'] + cache['elapsed_s']:.1f} s. "
        "Accuracy on 500 test images; KL in nats."
    )
    print(f"Look at it: .venv/bin/pipeline inspect {folder}/cache")


def row(title: str, result: dict[str, Any]) -> str:
    """Lay out one network."""
    test = result["test"]
    kl = f"{test['teacher_kl']:.3f}" if "teacher_kl" in test else "-"
    return f"{title:32} {test['accuracy']:>9.1%} {kl:>14} {result['elapsed_s']:>8.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

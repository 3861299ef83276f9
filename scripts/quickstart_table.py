"""Print what the quickstart found as one table: scripts/quickstart_table.py runs/quickstart"""

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Read the results of all steps and print the two tables."""
    results = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
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
    print(f"Look at it: .venv/bin/pipeline inspect {folder}/cache\n")
    tell_text(results)


def tell_text(results: dict[str, dict[str, Any]]) -> None:
    """Print the table of Shakespeare, byte by byte."""
    cache = results["text-cache"]
    print(f"{'':32} {'accuracy':>9} {'perplexity':>14} {'seconds':>8}")
    for title, name in (
        ("teacher (4,536 rows of 64 bytes)", "text-teacher"),
        ("student, hard labels (400)", "text-hard"),
        ("student, from the cache (400)", "text-soft"),
    ):
        found, elapsed_s = results[name]["validation"], results[name]["elapsed_s"]
        print(
            f"{title:32} {found['accuracy']:>9.1%} {found['perplexity']:>14.2f} {elapsed_s:>8.1f}"
        )
    print(
        f"\nShakespeare, byte by byte; perplexity of the next byte in held-out plays. The cache: "
        f"{cache['size_bytes']:,} bytes for {cache['rows']} rows."
    )


def row(title: str, result: dict[str, Any]) -> str:
    """Lay out one network."""
    test = result["test"]
    kl = f"{test['teacher_kl']:.3f}" if "teacher_kl" in test else "-"
    return f"{title:32} {test['accuracy']:>9.1%} {kl:>14} {result['elapsed_s']:>8.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A folder of pseudo-labels at a glance: how many, by which rule, how right they are to be."""

from pathlib import Path
from typing import Any

from pipeline.labelling import PAGE_FILE, SUMMARY_FILE, TABLE_FILE, read_summary
from pipeline.looking.layout import bar, facts_text, size_text

SHOWN_CLASSES = 12


def describe_labels(target: str) -> dict[str, Any]:
    """Read the summary of a folder of pseudo-labels.

    Raises: CorruptTable if it is not what was written.
    """
    folder = Path(target)
    found = read_summary(folder)
    return {"what": "labels", "folder": target, "complete": found is not None, **(found or {})}


def tell_labels(summary: dict[str, Any]) -> str:
    """Lay the summary out for a terminal."""
    folder = summary["folder"]
    if not summary["complete"]:
        return (
            f"{folder}: pseudo-labels that are not complete: there is {TABLE_FILE}, but no "
            f"{SUMMARY_FILE} yet\n  `pipeline pseudo-label RECIPE` makes them anew"
        )
    share = summary["chosen"] / summary["rows"]
    rule = summary["settings"]["rule"]
    options = ", ".join(f"{name} {value}" for name, value in rule.items() if name != "kind")
    facts = {
        "rows": f"{summary['rows']:,}, of which {summary['chosen']:,} have a pseudo-label "
        f"({share:.1%}); {summary['rows_an_epoch']:,} an epoch",
        "rule": f"{rule['kind']}{': ' if options else ''}{options}",
        "confidence": f"{summary['mean_confidence_of_chosen']:.4f} in what was chosen, "
        f"{summary['mean_confidence']:.4f} in all, at a temperature of "
        f"{summary['temperature']:.3f}",
        "precision": _precision_text(summary["expected_precision"]),
        "warning": summary["warnings"],
        "table": f"{TABLE_FILE}, {size_text(summary['size_bytes'])}",
        "next": f"look at {Path(folder) / PAGE_FILE}, then name the folder as pseudo_labels of a "
        "source in [[training.sources]]",
    }
    return "\n".join([facts_text(folder, facts), *_class_lines(summary["classes"])])


def _precision_text(expected: dict[str, Any] | None) -> str:
    if expected is None or not expected["count"]:
        return "not known: no labelled rows say how many are right"
    return (
        f"{expected['right'] / expected['count']:.4f} expected, 95 % interval "
        f"{expected['low']:.4f} to {expected['high']:.4f}"
    )


def _class_lines(classes: list[dict[str, Any]]) -> list[str]:
    most = max((each["chosen"] for each in classes), default=0) or 1
    shown = classes[:SHOWN_CLASSES]
    lines = [
        f"    {each['name'] or each['label']!s:16.16} {each['chosen']:>9,} "
        f"{bar(each['chosen'] / most)}".rstrip()
        for each in shown
    ]
    more = len(classes) - len(shown)
    return [*lines, f"    and {more:,} more classes"] if more > 0 else lines

"""`pipeline pseudo-label`: turn a cache of unlabelled data into labels with a stated error."""

import time
from pathlib import Path
from typing import Any

from pipeline.compute import set_threads
from pipeline.errors import FingerprintMismatch, list_differences
from pipeline.experiment.pseudo_labels import Planned, plan_labels
from pipeline.holding import check_folder, hold_folder
from pipeline.labelling import (
    PAGE_FILE,
    PURPOSE,
    TABLE_FILE,
    answers_there,
    digest_table,
    make_labels,
    read_summary,
    write_summary,
)
from pipeline.progress import progress, say
from pipeline.recipe import Recipe, require_tables

SHOWN_CLASSES = 12
TOO_MODEST = (
    "the teacher is more often right than it is sure, which a temperature below 1 would mend; this "
    "cache left classes out, so it serves none. Cache all classes to calibrate it"
)


def run(recipe: Recipe, *, dry_run: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Choose pseudo-labels for every row of a cache, and write them as one table.

    Raises: PipelineError for everything a user can mend; nothing has been written by then.
    """
    started = time.perf_counter()
    require_tables(recipe, "pseudo-label", "pseudo_labels")
    assert recipe.pseudo_labels
    folder = recipe.locate(recipe.pseudo_labels.path)
    check_folder(folder, PURPOSE)
    set_threads(1)  # parts are worked on side by side, each on one
    planned = plan_labels(recipe)
    if (there := _find(folder, planned, quiet)) is not None:
        return there
    if dry_run:
        return {"folder": str(folder), "rows": planned.asked.cache.plan.rows}
    with hold_folder(folder, PURPOSE):
        if (there := _find(folder, planned, quiet)) is not None:
            return there  # another process was quicker
        summary = _label(recipe, planned, folder, quiet)
        summary["elapsed_s"] = round(time.perf_counter() - started, 3)
        write_summary(folder, summary)
    return summary


def _find(folder: Path, planned: Planned, quiet: bool) -> dict[str, Any] | None:
    """Read what was made before, if it is what is asked for.

    Raises: FingerprintMismatch if it was made from another setup.
    """
    there = read_summary(folder)
    if there is None:
        return None
    if lines := list_differences((there["settings"], planned.settings)):
        head = f"{folder}: these pseudo-labels were made from another setup"
        advice = "Name another folder with --set pseudo_labels.path=..., or delete this one."
        raise FingerprintMismatch("\n  ".join([head, *lines, advice]))
    say(f"{folder}: is there already; delete the folder to make it again", quiet)
    return there


def _label(recipe: Recipe, planned: Planned, folder: Path, quiet: bool) -> dict[str, Any]:
    labelling, calibration = planned.calibrate()
    asked, temperature = planned.asked, labelling.temperature
    there = None
    if recipe.compute:
        options = recipe.compute.model_dump()
        there = answers_there(
            asked, temperature, options, tell=lambda text: say(f"pseudo-label: {text}", quiet)
        )
    rows = asked.cache.plan.rows
    with progress("pseudo-label", total=2 * rows, note=f"into {folder}", quiet=quiet) as advance:
        summary = make_labels(
            labelling, folder, answers_of=there, advance=advance, look=planned.look
        )
    summary["warnings"] += planned.warnings
    if calibration and calibration.is_cut:
        summary["warnings"].append(TOO_MODEST)
    return {
        "folder": str(folder),
        "table": str(folder / TABLE_FILE),
        "page": str(folder / PAGE_FILE),
        "temperature": labelling.temperature,
        "calibration": calibration.to_json() if calibration else None,
        "settings": planned.settings,
        **summary,
        "size_bytes": (folder / TABLE_FILE).stat().st_size,
        "sha256": digest_table(folder / TABLE_FILE),
    }


def tell(summary: dict[str, Any]) -> str:
    """Say what was kept, how right it is, and where to look."""
    if "chosen" not in summary:
        return f"{summary['folder']}: dry run: {summary['rows']:,} rows; nothing was written"
    share = summary["chosen"] / summary["rows"]
    lines = [
        f"{summary['table']}: {summary['chosen']:,} of {summary['rows']:,} rows have a "
        f"pseudo-label ({share:.1%}), {summary['rows_an_epoch']:,} rows an epoch"
    ]
    if found := summary["calibration"]:
        lines.append(
            f"  temperature {found['temperature']:.3f}: on {found['labelled']:,} labelled rows nll "
            f"{found['nll_before']:.4f} to {found['nll_after']:.4f} nats, calibration error "
            f"{found['ece_before']:.4f} to {found['ece_after']:.4f} ({found['bins']} bins)"
        )
    lines += [f"  {text}" for text in _precision(summary)]
    lines += [f"  {text}" for text in _classes(summary["classes"])]
    lines += [f"  warning: {warning}" for warning in summary["warnings"]]
    lines.append(f"  look at {summary['page']} before you train")
    return "\n".join(lines)


def _precision(summary: dict[str, Any]) -> list[str]:
    sure = summary["mean_confidence_of_chosen"]
    told = [f"the teacher's mean confidence in what was chosen is {sure:.4f}"]
    expected = summary["expected_precision"]
    if expected is None:
        told[0] += "; without a labelled cache nothing else says how many are right"
    elif expected["count"]:
        told.append(
            f"expected precision {expected['right'] / expected['count']:.4f}, 95 % interval "
            f"{expected['low']:.4f} to {expected['high']:.4f}: {expected['right']:,} of the "
            f"{expected['count']:,} labelled rows that the same limits choose are right"
        )
    rule = summary["settings"]["rule"]
    if rule["kind"] == "precision":
        scope = "in every class that has any" if rule["every_class"] else "over all classes"
        told.append(
            f"promised: {rule['at_least']:g} or more of them right {scope}, at "
            f"{rule['confidence']:g} confidence, if the unlabelled rows are like the labelled"
        )
    return told


def _classes(classes: list[dict[str, Any]]) -> list[str]:
    shown = classes[:SHOWN_CLASSES]
    width = max(len(str(each["name"] or each["label"])) for each in shown)
    lines = [f"{'class':{max(width, 5)}} {'predicted':>10} {'chosen':>10} {'an epoch':>10}"]
    lines += [
        f"{each['name'] or each['label']!s:{max(width, 5)}} {each['predicted']:>10,} "
        f"{each['chosen']:>10,} {each['copies']:>10,}"
        for each in shown
    ]
    more = len(classes) - len(shown)
    return [*lines, f"and {more:,} more classes, in the summary"] if more > 0 else lines

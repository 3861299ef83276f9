"""A cache at a glance: provenance, sizes, masses, a few decoded rows; complete or not."""

from typing import Any

import numpy as np

from pipeline.kept_targets import KeptTargets
from pipeline.looking.about import (
    data_text,
    kept_text,
    shared_bytes,
    teacher_text,
    views_text,
    written_text,
)
from pipeline.looking.layout import bar, facts_text
from pipeline.store import Cache, Where, missing_parts, open_begun, part_ranges
from pipeline.store.records import GO_ON
from pipeline.targets import (
    Targets,
    kept_mass,
    read_specs,
    soften,
)

SHOWN_TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
SHOWN_CLASSES = 4
# Of a cache without a manifest, the records that are added up: a look is to be quick.
SUMMED_RECORDS = 256


def describe_cache(where: Where, *, rows: int = 5) -> dict[str, Any]:
    """Describe a cache: provenance, sizes, masses, and a few decoded rows.

    Of one that is not complete sizes and sums are those of the first parts that are there.

    Raises: CacheError if there is no cache; CorruptPart if what is read of it is damaged.
    """
    cache = open_begun(where)
    plan = cache.plan
    missing = [] if cache.manifest else missing_parts(cache.path, plan)
    there = first_parts(cache, missing)
    counted = cache.manifest or _add_up(cache, there)
    return {
        "what": "cache",
        "cache": str(where),
        "complete": bool(cache.manifest),
        "recipe": plan.about["recipe"],
        "settings": plan.settings,
        "rows": plan.rows,
        "parts": plan.part_count,
        "parts_there": plan.part_count - len(missing),
        "parts_missing": part_ranges(missing),
        "parts_counted": plan.part_count if cache.manifest else len(there),
        "positions": counted["positions"],
        "backend": plan.backend,
        "compression": plan.compression,
        "targets": plan.about["targets"],
        "features": [
            {**each.to_json(), "told": str(each)}
            for each in read_specs(plan.about, plan.fields).values()
        ],
        "views": plan.about.get("views"),
        "class_names": plan.about["class_names"],
        "skipped": len(plan.about["skipped"]),
        "size_bytes": counted["size_bytes"],
        "shared_bytes": shared_bytes(cache),
        "digest": cache.manifest.get("digest"),
        **(_statistics(cache, counted) if counted["positions"] else {}),
        **(_decoded(cache, there[0], rows) if there else {"decoded": []}),
    }


def first_parts(cache: Cache, missing: list[int]) -> list[int]:
    """List the first parts that are there, as many as are looked at."""
    absent, there = set(missing), list[int]()
    for part in range(cache.plan.part_count):
        if len(there) == SUMMED_RECORDS:
            break
        if part not in absent:
            there.append(part)
    return there


def _add_up(cache: Cache, parts: list[int]) -> dict[str, Any]:
    """Add up the records of some parts, as a manifest adds up all."""
    sums: dict[str, Any] = {"positions": 0, "size_bytes": 0, "rows": 0, "statistics": {}}
    for part in parts:
        record = cache.read_record(part)
        sums["positions"] += record["positions"]
        sums["rows"] += len(cache.plan.part_range(part))
        sums["size_bytes"] += sum(each["size_bytes"] for each in record["files"])
        for name, value in record["statistics"].items():
            sums["statistics"][name] = sums["statistics"].get(name, 0) + value
    return sums


def _statistics(cache: Cache, counted: dict[str, Any]) -> dict[str, Any]:
    positions, sums = counted["positions"], counted["statistics"]
    entries = {"positions": positions, "rows": counted["rows"]}
    field_bytes = sum(field.entry_bytes * entries[field.axis] for field in cache.plan.fields)
    return {
        "bytes_a_position": round(counted["size_bytes"] / positions, 1),
        "field_bytes_a_position": round(field_bytes / positions, 1),
        "entropy": sums["entropy_sum"] / positions,
        "confidence": sums["confidence_sum"] / positions,
        "kept_mass": sums["kept_mass_sum"] / positions,
        "labelled": sums["labelled"],
        "teacher_accuracy": sums["teacher_right"] / sums["labelled"] if sums["labelled"] else None,
    }


def _decoded(cache: Cache, part: int, rows: int) -> dict[str, Any]:
    """Decode the first part that is there: the mass it keeps, and its first rows."""
    targets = KeptTargets(cache).decode(cache.read_part(part))
    return {
        "decoded_part": part,
        f"kept_mass_of_part_{part}": {
            f"{temperature:g}": float(kept_mass(targets, temperature).mean())
            for temperature in SHOWN_TEMPERATURES
        },
        "decoded": _decode_rows(cache, part, targets, rows),
    }


def tell_cache(summary: dict[str, Any]) -> str:
    """Lay the description out for a terminal."""
    settings, recipe = summary["settings"], summary["recipe"]
    skipped = f", {summary['skipped']} skipped" if summary["skipped"] else ""
    facts = {
        "data": data_text(settings, recipe),
        "teacher": teacher_text(settings, recipe),
        "rows": f"{summary['rows']} in {summary['parts']} parts{skipped}",
        "there": [] if summary["complete"] else _there_text(summary),
        "written": written_text(settings.get("generate")),
        "views": views_text(summary["views"]),
        "kept": kept_text(summary["targets"]),
        "features": [each["told"] for each in summary["features"]],
        **(_sums_text(summary) if summary["positions"] else {}),
        "digest": summary["digest"] or "",
    }
    return "\n".join([facts_text(summary["cache"], facts), *map(_row_text, summary["decoded"])])


def _there_text(summary: dict[str, Any]) -> list[str]:
    """Say how far a cache has come that is not complete."""
    there, parts = summary["parts_there"], summary["parts"]
    if there == parts:
        return [f"all {parts} parts, but no manifest yet", GO_ON]
    lines = [f"{there} of {parts} parts; missing are {summary['parts_missing']}"]
    if summary["parts_counted"] > 0:
        lines.append(f"what follows is of the first {summary['parts_counted']} parts there")
    return [*lines, GO_ON]


def _sums_text(summary: dict[str, Any]) -> dict[str, str]:
    part = summary["decoded_part"]
    masses = ", ".join(
        f"{mass:.4f} at T={name}" for name, mass in summary[f"kept_mass_of_part_{part}"].items()
    )
    accuracy = summary["teacher_accuracy"]
    right = "unlabelled" if accuracy is None else f"{accuracy:.4f} on {summary['labelled']} labels"
    size = f"{summary['size_bytes'] / 1e6:.2f} MB"
    shared = summary["shared_bytes"]
    once = f"; and {shared / 1e6:.2f} MB once, which all parts share" if shared else ""
    return {
        "size": f"{size}, {summary['bytes_a_position']:g} bytes a position "
        f"({summary['field_bytes_a_position']:g} of them arrays), {summary['backend']}, "
        f"compression {summary['compression']}{once}",
        "kept mass": f"{summary['kept_mass']:.4f} at T=1; in part {part}: {masses}",
        "entropy": f"{summary['entropy']:.4f} nats, confidence {summary['confidence']:.4f}",
        "accuracy": f"of the teacher: {right}",
    }


def _decode_rows(cache: Cache, part: int, targets: Targets, count: int) -> list[dict[str, Any]]:
    """Decode the first rows of a part, each by its first position."""
    table = cache.read_samples(part)
    starts = np.cumsum(table.positions) - table.positions
    names = cache.plan.about["class_names"]
    decoded = []
    for row in range(min(count, len(table))):
        label = int(table.labels[row])
        decoded.append(
            {
                "id": table.ids[row],
                "label": None if label < 0 else class_name(names, label),
                "classes": _top_classes(targets, int(starts[row]), names),
            }
        )
    return decoded


def _top_classes(targets: Targets, position: int, names: list[str] | None) -> dict[str, float]:
    one = targets[position : position + 1]
    if one.top is not None:  # of draws alone, the first choice is known
        return {class_name(names, int(one.top)): float(one.statistics["confidence"])}
    probabilities = soften(one, 1.0).log_probs[0].exp()
    count = SHOWN_CLASSES if one.count is None else min(SHOWN_CLASSES, int(one.count))
    order = probabilities.argsort(descending=True, stable=True)[:count]
    classes = order if one.classes is None else one.classes[0][order]
    return {
        class_name(names, int(each)): float(probabilities[place])
        for each, place in zip(classes, order, strict=True)
    }


def class_name(names: list[str] | None, number: int) -> str:
    """Name a class; by its number where it has no name."""
    return names[number] if names else str(number)


def _row_text(row: dict[str, Any]) -> str:
    label = "" if row["label"] is None else f" (label {row['label']})"
    bars = [
        f"    {name:16.16} {probability:.4f} {bar(probability)}".rstrip()
        for name, probability in row["classes"].items()
    ]
    return "\n".join([f"  {row['id']}{label}", *bars])

"""`pipeline inspect`: what is in a cache, in one screen; or what models are made of."""

from typing import Any

import numpy as np

from pipeline.experiment import describe_models
from pipeline.store import Cache, open_cache
from pipeline.targets import (
    Targets,
    TargetSpec,
    decode,
    decode_basis,
    kept_mass,
    read_specs,
    soften,
)

SHOWN_TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
SHOWN_CLASSES = 4
BAR_WIDTH = 20


run_model = describe_models


def run(target: str, *, rows: int = 5) -> dict[str, Any]:
    """Describe a cache: provenance, sizes, masses, and a few decoded rows.

    Raises: CacheError if there is no complete cache at `target`.
    """
    cache = open_cache(target)
    plan, manifest = cache.plan, cache.manifest
    positions, sums = manifest["positions"], manifest["statistics"]
    spec = TargetSpec.from_json(plan.about["targets"])
    specs = read_specs(plan.about, plan.fields)
    basis = decode_basis(cache.read_shared(), spec) if spec.has_mass_alone else None
    targets = decode(spec, cache.read_part(0), basis)
    return {
        "cache": target,
        "recipe": plan.about["recipe"],
        "settings": plan.settings,
        "rows": plan.rows,
        "parts": plan.part_count,
        "positions": positions,
        "backend": plan.backend,
        "compression": plan.compression,
        "targets": plan.about["targets"],
        "features": [{**each.to_json(), "told": str(each)} for each in specs.values()],
        "views": plan.about.get("views"),
        "class_names": plan.about["class_names"],
        "skipped": len(plan.about["skipped"]),
        "size_bytes": manifest["size_bytes"],
        # What all parts share, once a cache: no part's record counts it.
        "shared_bytes": sum(
            each["size_bytes"] for each in plan.about.get("shared", {}).get("files", ())
        ),
        "bytes_a_position": round(manifest["size_bytes"] / positions, 1),
        "field_bytes_a_position": round(_field_bytes(cache) / positions, 1),
        "entropy": sums["entropy_sum"] / positions,
        "confidence": sums["confidence_sum"] / positions,
        "kept_mass": sums["kept_mass_sum"] / positions,
        "kept_mass_of_part_0": {
            f"{temperature:g}": float(kept_mass(targets, temperature).mean())
            for temperature in SHOWN_TEMPERATURES
        },
        "labelled": sums["labelled"],
        "teacher_accuracy": sums["teacher_right"] / sums["labelled"] if sums["labelled"] else None,
        "digest": manifest["digest"],
        "decoded": _decode_rows(cache, targets, rows),
    }


def _field_bytes(cache: Cache) -> int:
    counts = {"positions": cache.manifest["positions"], "rows": cache.plan.rows}
    return sum(field.entry_bytes * counts[field.axis] for field in cache.plan.fields)


def _tell_models(summary: dict[str, Any]) -> str:
    """Lay the modules out for a terminal, with how large the features will be."""
    lines = [summary["recipe"]]
    for role, modules in summary["models"].items():
        width = max((len(each["name"]) for each in modules), default=0)
        lines.append(f"  {role}: what each module answers to one sample")
        for each in modules:
            shapes = ", ".join(" x ".join(map(str, shape)) or "1" for shape in each["shapes"])
            lines.append(f"    {each['name']:{width}}  {shapes or 'not asked':20} {each['kind']}")
    if summary["features"]:
        lines.append("  features that the recipe keeps")
        lines += [f"    {each['told']}" for each in summary["features"]]
    return "\n".join(lines)


def tell(summary: dict[str, Any]) -> str:
    """Lay the description out for a terminal."""
    if "models" in summary:
        return _tell_models(summary)
    targets, recipe = summary["targets"], summary["recipe"]
    name = recipe["cache"]["data"]
    masses = ", ".join(
        f"{mass:.4f} at T={name}" for name, mass in summary["kept_mass_of_part_0"].items()
    )
    accuracy = summary["teacher_accuracy"]
    right = "unlabelled" if accuracy is None else f"{accuracy:.4f} on {summary['labelled']} labels"
    skipped = f", {summary['skipped']} skipped" if summary["skipped"] else ""
    size = f"{summary['size_bytes'] / 1e6:.2f} MB"
    shared = summary["shared_bytes"]
    once = f"; and {shared / 1e6:.2f} MB once, which all parts share" if shared else ""
    facts = {
        "data": f"data.{name} ({recipe['data'][name]['kind']}), "
        f"digest {summary['settings']['data']['digest'][:16]}",
        "teacher": _teacher_text(summary),
        "rows": f"{summary['rows']} in {summary['parts']} parts{skipped}",
        "written": _written_text(summary["settings"].get("generate")),
        "views": _views_text(summary["views"]),
        "kept": _kept_text(targets),
        "features": f"\n  {'':10} ".join(each["told"] for each in summary["features"]),
        "size": f"{size}, {summary['bytes_a_position']:g} bytes a position "
        f"({summary['field_bytes_a_position']:g} of them arrays), {summary['backend']}, "
        f"compression {summary['compression']}{once}",
        "kept mass": f"{summary['kept_mass']:.4f} at T=1; in part 0: {masses}",
        "entropy": f"{summary['entropy']:.4f} nats, confidence {summary['confidence']:.4f}",
        "accuracy": f"of the teacher: {right}",
        "digest": summary["digest"],
    }
    lines = [f"  {name:10} {text}" for name, text in facts.items() if text]
    return "\n".join([summary["cache"], *lines, *map(_row_text, summary["decoded"])])


def _written_text(settings: dict[str, Any] | None) -> str:
    """Say how the teacher wrote what it answers, if it did."""
    if settings is None:
        return ""
    cut = [
        f"{name} {settings[name]:g}" for name in ("top_k", "top_p") if settings[name] is not None
    ]
    drawn = ", ".join(
        [f"temperature {settings['temperature']:g}", *cut, f"seed {settings['seed']}"]
    )
    return (
        f"{settings['count']} of each prompt of {settings['prompt_tokens']} tokens, up to "
        f"{settings['length']} tokens, {drawn}"
    )


def _views_text(views: dict[str, Any] | None) -> str:
    if views is None:
        return ""
    head = f"{views['count']} of each sample, seed {views['seed']}"
    if "mask" in views:
        return f"{head}, {views['mask']['fraction']:g} of its tokens masked"
    steps = [each["kind"] for each in views["augment"]]
    steps += [views["mix"]["kind"]] if views["mix"] else []
    return f"{head}: {', '.join(steps)}"


def _kept_text(targets: dict[str, Any]) -> str:
    """Say what a position keeps, such as `8 of 50257 classes and 16 draws (hybrid)`."""
    most = "up to " if targets["kind"] == "top_p" else ""
    parts = [f"{most}{targets['k']} of {targets['class_count']} classes"]
    if targets["kind"] == "sampled":
        parts = [f"no more than the first of {targets['class_count']} classes"]
    if "draws" in targets:
        parts.append(f"{targets['draws']} draws")
    if "rank" in targets:
        parts.append(f"the tail's shape in {targets['rank']} numbers")
    return f"{' and '.join(parts)} ({targets['kind']})"


def _teacher_text(summary: dict[str, Any]) -> str:
    teacher = summary["settings"]["teacher"]
    kind = summary["recipe"]["teacher"]["model"]["kind"]
    threads = f"{teacher['threads']} thread{'s' if teacher['threads'] != 1 else ''}"
    return (
        f"{kind}, weights {teacher['weights'][:16]}, {teacher['precision']}, batches of "
        f"{teacher['batch_size']}, {threads}, {teacher['device']}"
    )


def _decode_rows(cache: Cache, targets: Targets, count: int) -> list[dict[str, Any]]:
    """Decode the first rows of part 0, each by its first position."""
    table = cache.read_samples(0)
    starts = np.cumsum(table.positions) - table.positions
    names = cache.plan.about["class_names"]
    decoded = []
    for row in range(min(count, len(table))):
        label = int(table.labels[row])
        decoded.append(
            {
                "id": table.ids[row],
                "label": None if label < 0 else _class_name(names, label),
                "classes": _top_classes(targets, int(starts[row]), names),
            }
        )
    return decoded


def _top_classes(targets: Targets, position: int, names: list[str] | None) -> dict[str, float]:
    one = targets[position : position + 1]
    if one.top is not None:  # of draws alone, the first choice is known
        return {_class_name(names, int(one.top)): float(one.statistics["confidence"])}
    probabilities = soften(one, 1.0).log_probs[0].exp()
    count = SHOWN_CLASSES if one.count is None else min(SHOWN_CLASSES, int(one.count))
    order = probabilities.argsort(descending=True, stable=True)[:count]
    classes = order if one.classes is None else one.classes[0][order]
    return {
        _class_name(names, int(each)): float(probabilities[place])
        for each, place in zip(classes, order, strict=True)
    }


def _class_name(names: list[str] | None, number: int) -> str:
    return names[number] if names else str(number)


def _row_text(row: dict[str, Any]) -> str:
    label = "" if row["label"] is None else f" (label {row['label']})"
    bars = [
        f"    {name:16.16} {probability:.4f} {'#' * round(BAR_WIDTH * probability)}".rstrip()
        for name, probability in row["classes"].items()
    ]
    return "\n".join([f"  {row['id']}{label}", *bars])

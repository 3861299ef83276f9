"""A cache on the page: what it was made from, how sure the teacher was, what it finds alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.looking.about import (
    data_text,
    field_bytes,
    kept_text,
    shared_bytes,
    teacher_text,
    views_text,
    written_text,
)
from pipeline.metrics import calibration_error
from pipeline.report.alike import Example, Pair
from pipeline.report.counts import RIGHT, Counts, Frame
from pipeline.report.names import NameOf
from pipeline.report.page.alike import show_alike
from pipeline.report.page.certainty import show_certainty, show_classes
from pipeline.report.page.pieces import facts, paragraph, section, size_text, tiles
from pipeline.store import Cache

SHOWN_SOFTWARE = 8


@dataclass(frozen=True)
class CacheNumbers:
    """Everything that is shown of a cache; `notes` say what could not be."""

    name: str
    cache: Cache
    frame: Frame
    counts: Counts
    name_of: NameOf
    pairs: Sequence[Pair]
    examples: Sequence[Example]
    notes: Sequence[str]


def cache_section(key: str, found: CacheNumbers) -> str:
    """Show one cache."""
    frame, counts, name_of = found.frame, found.counts, found.name_of
    sure, classes = show_certainty(key, frame, counts), show_classes(frame, counts, name_of)
    alike = show_alike(frame, counts, name_of, found.pairs, found.examples)
    return section(
        key,
        f"Cache {found.name}",
        tiles(_tiles(found)),
        facts(_facts(found.cache)),
        *(paragraph(note, "note") for note in found.notes),
        section(f"{key}-sure", "How sure the teacher is", sure, level=3),
        section(f"{key}-classes", "Class by class", classes, level=3),
        section(f"{key}-alike", "What the teacher finds alike", alike, level=3),
    )


def accuracy(counts: Counts) -> float | None:
    """Give the share of labelled positions where the teacher's first choice is the label."""
    right = float(counts.classes[RIGHT].sum())
    return right / counts.labelled if counts.labelled else None


def _tiles(found: CacheNumbers) -> dict[str, str]:
    cache, counts = found.cache, found.counts
    size = cache.manifest["size_bytes"] / counts.positions
    shown = {"positions": f"{counts.positions:,}", "bytes a position": f"{size:,.1f}"}
    if (right := accuracy(counts)) is not None:
        shown["teacher right"] = f"{right:.1%}"
        shown["calibration error"] = f"{calibration_error(counts.reliability):.4f}"
    shown["mean confidence"] = f"{counts.confidence_sum / counts.positions:.1%}"
    shown["mean entropy, nats"] = f"{counts.entropy_sum / counts.positions:.3f}"
    if found.frame.keeps_some:
        shown["kept mass at T = 1"] = f"{float(counts.mass_sum[0] / counts.positions):.4f}"
    return shown


def _facts(cache: Cache) -> dict[str, str]:
    plan, manifest = cache.plan, cache.manifest
    settings, recipe = plan.settings, plan.about.get("recipe", {})
    parts = f"{plan.part_count} part{'s' if plan.part_count != 1 else ''}"
    skipped = len(plan.about.get("skipped", ()))
    model = recipe.get("teacher", {}).get("model", {})
    named = model.get("path") or model.get("factory") or ""
    shared = shared_bytes(cache)
    arrays = field_bytes(cache) / manifest["positions"]
    software = list(settings.get("software", {}).items())[:SHOWN_SOFTWARE]
    return {
        "teacher": ", ".join(filter(None, [named, teacher_text(settings, recipe)])),
        "data": data_text(settings, recipe),
        "rows": f"{plan.rows:,} in {parts}, {manifest['positions']:,} positions"
        + (f", {skipped} samples skipped" if skipped else ""),
        "kept": kept_text(plan.about["targets"]),
        "features": ", ".join(each["name"] for each in plan.about.get("features", ())),
        "views": views_text(plan.about.get("views")),
        "written": written_text(settings.get("generate")),
        "size": f"{size_text(manifest['size_bytes'])}, {arrays:,.1f} bytes a position as arrays"
        + (f"; {size_text(shared)} once, which all parts share" if shared else ""),
        "format": f"{plan.backend}, compression {plan.compression}",
        "software": ", ".join(f"{name} {version}" for name, version in software),
        "digest": cache.digest,
        "fingerprint": plan.fingerprint,
        "lies at": str(cache.path),
    }

"""What a cache says of itself, in words: what was kept, of which teacher, in which views.

Plans in, sentences out; it reads no part and knows neither terminal nor page.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.store import Cache

Document = Mapping[str, Any]


def data_name(cache: Cache) -> str | None:
    """Name the data of a recipe that a cache is of; None of one that was made without a recipe."""
    named: str | None = cache.plan.about.get("recipe", {}).get("cache", {}).get("data")
    return named


def kept_text(targets: Document) -> str:
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


def teacher_text(settings: Document, recipe: Document) -> str:
    """Say who answered, and under which conditions, as far as it is told."""
    if "teacher" not in settings or "teacher" not in recipe:
        return ""
    teacher, kind = settings["teacher"], recipe["teacher"]["model"]["kind"]
    threads = f"{teacher['threads']} thread{'s' if teacher['threads'] != 1 else ''}"
    return (
        f"{kind}, weights {teacher['weights'][:16]}, {teacher['precision']}, batches of "
        f"{teacher['batch_size']}, {threads}, {teacher['device']}"
    )


def data_text(settings: Document, recipe: Document) -> str:
    """Say which data was answered, such as `data.train (parquet), digest 0123456789abcdef`."""
    if "data" not in settings or "cache" not in recipe:
        return ""
    name = recipe["cache"]["data"]
    return f"data.{name} ({recipe['data'][name]['kind']}), digest {settings['data']['digest'][:16]}"


def views_text(views: Document | None) -> str:
    """Say in which views samples were shown; nothing where they were shown as they are."""
    if views is None:
        return ""
    head = f"{views['count']} of each sample, seed {views['seed']}"
    if "mask" in views:
        return f"{head}, {views['mask']['fraction']:g} of its tokens masked"
    steps = [each["kind"] for each in views["augment"]]
    steps += [views["mix"]["kind"]] if views["mix"] else []
    return f"{head}: {', '.join(steps)}"


def written_text(settings: Document | None) -> str:
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


def shared_bytes(cache: Cache) -> int:
    """Count what all parts share, once a cache: no part's record counts it."""
    return sum(each["size_bytes"] for each in cache.plan.about.get("shared", {}).get("files", ()))


def field_bytes(cache: Cache) -> int:
    """Count the bytes of a cache's arrays as they would lie raw."""
    counts = {"positions": cache.manifest["positions"], "rows": cache.plan.rows}
    return sum(field.entry_bytes * counts[field.axis] for field in cache.plan.fields)

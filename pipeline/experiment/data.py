"""From the [data] tables of a recipe to datasets, whole or joined to a cache.

It reads every sample once, so that what is wrong shows before the long work. It knows no network.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.errors import FingerprintMismatch, SampleError, list_differences, see
from pipeline.experiment.caches import open_named
from pipeline.labelling import PseudoLabelTable, open_table
from pipeline.progress import progress, say
from pipeline.recipe import Recipe
from pipeline.samples import (
    ContentLog,
    Locator,
    Samples,
    Scan,
    Viewed,
    Views,
    make_views,
    open_samples,
    read_labels,
    scan_samples,
    subset,
    tokens_of,
    views_of,
    without,
)
from pipeline.samples.text.tokenizer import Tokenizer, open_tokenizer
from pipeline.store import Cache
from pipeline.stream import Stream, open_cached

SHOWN_SKIPS = 5
# Of the settings of views, those that no recipe says.
NOT_CHOSEN = ("version", "software")


@dataclass(frozen=True)
class Scanned:
    """A dataset without what was skipped, and what one reading of all of it found."""

    samples: Samples
    scan: Scan


@dataclass(frozen=True)
class Joined:
    """A stream, the highest label of its data (-1: unlabelled), and digests of what it reads."""

    stream: Stream
    highest_label: int
    identity: dict[str, Any]


def open_data(recipe: Recipe, name: str) -> Samples:
    """Open the dataset [data.NAME], cut to its subset.

    Raises: SampleError if it is not what the recipe says.
    """
    table = recipe.data[name]
    arguments = table.model_dump(exclude={"kind", "subset", "on_error"})
    # A cache is no kind of the samples' room, which knows no caches.
    open_kind = open_cached if table.kind == "cache" else partial(open_samples, table.kind)
    samples = open_kind(base=recipe.base, name=f"data.{name}", **arguments)
    return subset(samples, **table.subset.model_dump()) if table.subset else samples


def tokenizer_of(recipe: Recipe, name: str) -> Tokenizer | None:
    """Open the tokenizer of [data.NAME] as its rows are made by it; None where it names none.

    Raises: SampleError if it cannot be opened.
    """
    table = recipe.data[name]
    source = getattr(table, "tokenizer", None)
    if source is None:
        return None
    return open_tokenizer(
        base=recipe.base,
        where=f"data.{name}",
        source=source,
        end=getattr(table, "end", None),
        masks=getattr(table, "task", None) == "masked_token",
        mask_token=getattr(table, "mask_token", None),
    )


def scan_data(
    recipe: Recipe,
    name: str,
    *,
    quiet: bool,
    log: ContentLog | None = None,
    for_teacher: bool = False,
) -> Scanned:
    """Open a dataset and read every sample once, so that what is wrong shows before the long work.

    It is to be seen as `as_scanned` says; the scan sees the samples as they are. `log` is told of
    the contents of all that may be used.

    Raises: SampleError that counts and names what cannot be used.
    """
    samples = open_data(recipe, name)
    with progress(f"reading data.{name}", total=len(samples), quiet=quiet) as advance:
        scan = scan_samples(
            samples,
            on_error=recipe.data[name].on_error,
            threads=os.cpu_count() or 1,
            advance=advance,
            log=log,
        )
    for skip in scan.skipped[:SHOWN_SKIPS]:
        say(f"data.{name}: skipped {skip.id}: {skip.reason}", quiet)
    if len(scan.skipped) > SHOWN_SKIPS:
        say(f"data.{name}: skipped {len(scan.skipped)} samples in all", quiet)
    return as_scanned(recipe, name, samples, scan, for_teacher=for_teacher)


def as_scanned(
    recipe: Recipe, name: str, samples: Samples, scan: Scan, *, for_teacher: bool = False
) -> Scanned:
    """Leave out what a scan skipped, and see the others in the views that the recipe says.

    What a student alone sees in views of its own is clean `for_teacher`.
    """
    kept = without(samples, [skip.index for skip in scan.skipped])
    is_clean = for_teacher and _is_fresh(recipe, name) and tokens_of(kept) is None
    return Scanned(kept if is_clean else _viewed(recipe, name, kept), scan)


def open_viewed(recipe: Recipe, name: str) -> Samples:
    """Open a dataset in the views that the recipe says, without reading it."""
    return _viewed(recipe, name, open_data(recipe, name))


def _viewed(recipe: Recipe, name: str, samples: Samples) -> Samples:
    views = recipe_views(recipe, name, samples)
    return Viewed(samples, views) if views.change else samples


def recipe_views(recipe: Recipe, name: str, samples: Samples) -> Views:
    """Make the views that the recipe says of a dataset.

    Masks are of all text that asks for masked tokens. Augmentations are of the data that is trained
    on, and of what is cached where nothing is trained: what a student is judged by stays as it is.
    """
    options = recipe.views.model_dump(exclude_none=True) if recipe.views else {}
    cached = (recipe.cache.data,) if recipe.cache else ()
    trained = recipe.training.names if recipe.training else cached
    if name not in trained and tokens_of(samples) is None:
        return Views()
    return make_views(samples, **options)


def teachers_of(recipe: Recipe) -> dict[str, float]:
    """Name the places of the caches that teach the student, each with its weight."""
    assert recipe.training
    if recipe.training.sources:
        return {each.cache: 1.0 for each in recipe.training.sources if each.cache}
    if recipe.training.teachers:
        return {each.cache: each.weight for each in recipe.training.teachers}
    return {recipe.cache.path: 1.0} if recipe.cache else {}


def join_data(
    recipe: Recipe,
    name: str,
    cache_place: str | None,
    *,
    also: Sequence[str] = (),
    pseudo_place: str | None = None,
    quiet: bool,
    **options: Any,
) -> Joined:
    """Stream the dataset [data.NAME], joined to the targets of a cache if one is named.

    `also` are the places of caches of further teachers, `pseudo_place` that of pseudo-labels.

    Raises: SampleError if the data is not what the recipe says, or not what the caches were made
        from; CacheError if there is no complete cache.
    """
    known: dict[str, Any] = {}
    if pseudo_place is not None:
        table = _open_table(recipe, name, pseudo_place)
        options["pseudo_labels"], known["pseudo_labels"] = table, table.sha256
    if cache_place is None:
        data = scan_data(recipe, name, quiet=quiet)
        highest = max([_highest_token(data.samples), *data.scan.label_counts])
        settings = views_of(data.samples).settings
        known |= {"data": data.scan.digest} | ({"views": settings} if settings else {})
        return Joined(Stream(data.samples, **options), highest, known)
    samples = open_data(recipe, name)
    cache, *others = (open_named(recipe, place) for place in (cache_place, *also))
    for each in (cache, *others):
        _check_tokenizer(each, samples)
        _check_views(recipe, name, samples, each)
    count = cache.plan.rows // _view_count(cache)
    if len(samples) > count:
        more = len(samples) - count
        say(f"data.{name}: {more} samples are not in {cache.path}, so they are not used", quiet)
    fresh = _fresh_views(recipe, name, samples)
    if cache.is_growing:
        known |= _check_source(recipe, name, cache, quiet=quiet)
    is_read = cache.is_growing  # and compared by its digest
    with progress(f"comparing data.{name}", total=count, quiet=quiet or is_read) as advance:
        stream = Stream(samples, cache, also=others, advance=advance, fresh=fresh, **options)
    highest, labels = _labels(samples, cache)
    identity = {**known, "cache": cache.digest, "labels": labels, **_teachers(stream)}
    if fresh:
        identity["views"] = fresh.settings
    return Joined(stream, highest, identity)


def _check_source(recipe: Recipe, name: str, cache: Cache, *, quiet: bool) -> dict[str, Any]:
    """Prove that data is what a cache that is still being made was planned for.

    Raises: SampleError if it is not.
    """
    here, there = scan_data(recipe, name, quiet=quiet).scan.digest, cache.plan.settings["data"]
    if here != there["digest"]:
        raise SampleError(
            f"{cache.path}: is being made of other data than data.{name}: its digest is "
            f"{there['digest'][:16]}, here {here[:16]}. Give the very data that the teacher reads, "
            "or leave training.follow out and start once the cache is complete."
        )
    return {"follow": True}


def _open_table(recipe: Recipe, name: str, place: str) -> PseudoLabelTable:
    """Open a table of pseudo-labels whose classes are those of the data.

    Raises: SampleError if they are not.
    """
    table, names = open_table(recipe.locate(place)), recipe.data[name].class_names
    there = table.about["class_names"]
    if names and there and tuple(there) != tuple(names):
        raise SampleError(
            f"{table.path}: is of the classes {', '.join(there[:SHOWN_SKIPS])}, but data.{name} "
            f"has {', '.join(names[:SHOWN_SKIPS])}. Label with a teacher of the same classes."
        )
    return table


def _teachers(stream: Stream) -> dict[str, Any]:
    """Say which caches teach together, and how much each counts, where they are several."""
    if len(stream.caches) < 2:
        return {}
    pairs = zip(stream.caches, stream.weights, strict=True)
    return {"teachers": [{"cache": cache.digest, "weight": weight} for cache, weight in pairs]}


def _labels(samples: Samples, cache: Cache) -> tuple[int, str]:
    """Give the highest label and a digest of all, in the order of the cache.

    They are the dataset's own, which may have been added or mended since the teacher ran.
    """
    if cache.is_growing:  # of the very data, which was read just now
        labels = read_labels(samples, np.arange(len(samples)))
        own = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
        return max(_highest_token(samples), int(labels.max())), own
    locator, highest, digest, hint = Locator(samples), _highest_token(samples), hashlib.sha256(), 0
    left = cache.plan.rows // _view_count(cache)  # of the first view; others have the same labels
    for part in range(cache.plan.part_count):
        ids = cache.read_samples(part).ids[:left]
        if not ids:
            break
        indices = locator.locate(ids, hint)
        labels = read_labels(samples, indices)
        left -= len(ids)
        highest, hint = max(highest, int(labels.max())), int(indices[-1]) + 1
        digest.update(labels.astype("<i8").tobytes())
    return highest, digest.hexdigest()


def _view_count(cache: Cache) -> int:
    count: int = cache.plan.about.get("views", {"count": 1})["count"]
    return count


def _highest_token(samples: Samples) -> int:
    """Give the highest label that text has by itself, -1 if it has none."""
    tokens = tokens_of(samples)
    return tokens.vocabulary - 1 if tokens and tokens.task != "label" else -1


def _check_views(recipe: Recipe, name: str, samples: Samples, cache: Cache) -> None:
    """Refuse views that are asked for beside those that the cache was made of."""
    there = cache.plan.about.get("views")
    if recipe.views is None or _is_fresh(recipe, name):
        if there and _is_fresh(recipe, name):
            raise FingerprintMismatch(
                f"{cache.path}: this cache holds views of its own, so training.views = 'fresh' "
                "would show a student other images than its teacher saw. Leave it out, or cache "
                "the samples as they are, without [views]."
            )
        return
    here = recipe_views(recipe, name, samples).settings
    are_masks = ["mask" in (each or {}) for each in (there, here)]
    if there == here or are_masks[0] != are_masks[1]:
        return  # whether the data asks for masked tokens is another question
    if there is None:
        error = FingerprintMismatch(
            f"{cache.path}: its teacher saw the samples as they are, and the recipe has [views] of "
            "them. Cache again, leave [views] out, or set training.views = 'fresh' if the student "
            "alone is to see them."
        )
        raise see(error, "data-and-teachers.md#views-the-student-sees-what-the-teacher-saw")
    lines = list_differences(({"views": _chosen(there)}, {"views": _chosen(here)}))
    if lines:
        head = f"{cache.path}: this cache holds other views than the recipe asks for"
        advice = (
            "A student sees what its teacher saw: leave [views] out, or write there what is there."
        )
        raise FingerprintMismatch("\n  ".join([head, *lines, advice]))


def _chosen(settings: dict[str, Any] | None) -> dict[str, Any]:
    """Keep of views what a recipe says; counts of tokens and versions are told of elsewhere."""
    kept = {key: value for key, value in (settings or {}).items() if key not in NOT_CHOSEN}
    if "mask" in kept:
        kept["mask"] = {k: v for k, v in kept["mask"].items() if k not in ("token", "counts")}
    return kept


def _is_fresh(recipe: Recipe, name: str) -> bool:
    training = recipe.training
    return training is not None and training.views == "fresh" and name in training.names


def _fresh_views(recipe: Recipe, name: str, samples: Samples) -> Views | None:
    """Make the views that a student alone sees, where the recipe says so."""
    return recipe_views(recipe, name, samples) if _is_fresh(recipe, name) else None


def _check_tokenizer(cache: Cache, samples: Samples) -> None:
    """Say that a tokenizer is another one, before every sample would be found changed."""
    tokens = tokens_of(samples)
    there = cache.plan.settings["data"].get("tokenizer")
    here = tokens.tokenizer_digest if tokens else None
    if there != here:
        described = [f"{each[:16]}" if each else "none" for each in (there, here)]
        error = SampleError(
            f"{samples.name}: its tokenizer is another than that of {cache.path}: there "
            f"{described[0]}, here {described[1]}. Token ids mean something else, so the targets "
            "cannot be used. Give the data the tokenizer that the teacher saw."
        )
        raise see(error, "faq.md#what-if-i-name-the-wrong-tokenizer")

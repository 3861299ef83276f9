"""What a cache will hold and from what: the one place that decides what is in the fingerprint.

It opens data and teacher, asks the teacher once for its number of classes, and writes nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.caching.choice import choose_targets
from pipeline.caching.describe import describe, make_settings
from pipeline.caching.join import KeptLog, recall_scan
from pipeline.caching.shape import Shape, find_shape
from pipeline.caching.size import check_size, choose_rows_per_part
from pipeline.caching.writing import Writing
from pipeline.compute import (
    keep_freed_memory,
    pick_device,
    set_threads,
    use_deterministic_kernels,
)
from pipeline.errors import RecipeError
from pipeline.experiment import (
    Scanned,
    as_scanned,
    check_lengths,
    count_classes,
    open_data,
    open_model,
    plan_features,
    scan_data,
    tap_features,
)
from pipeline.models import Network, context_of, set_precision, weights_digest
from pipeline.recipe import Recipe
from pipeline.recipe.schema import Cache, Teacher
from pipeline.samples import ContentLog, Samples, Scan, tokens_of, views_of
from pipeline.samples.text.tokenizer import open_tokenizer
from pipeline.store import Field, Plan, Where, is_planned, read_plan
from pipeline.stream.tokens.rows import token_fields
from pipeline.targets import FeatureSpec, TargetSpec, target_fields

SHOWN_NAMES = 5
# Of inputs read at once; more would leave a core's cache before the teacher sees it.
READ_BYTES = 2**20


@dataclass(frozen=True)
class Work:
    """Everything a part is made from."""

    samples: Samples
    scan: Scan
    contents: ContentLog | KeptLog
    network: Network
    device: torch.device
    batch_size: int
    # Read at once: whole batches, for small samples are cheaper by the thousand.
    read_rows: int
    plan: Plan
    spec: TargetSpec
    shape: Shape
    folder: Where
    # Reads ahead, too. A teacher on the CPU wants every core, and each of its threads waits for the
    # slowest: work beside it was measured to cost twice what it costs between two batches.
    builds_behind: bool
    features: tuple[FeatureSpec, ...] = ()
    # Where the samples are prompts, which the teacher goes on with before it answers.
    writing: Writing | None = None


def plan_written(recipe: Recipe, *, quiet: bool) -> Work:
    """Plan the cache of text that the teacher is to write; the recipe must have teacher, targets
    and generate.

    Raises: RecipeError if the prompts are no text, or rows would be longer than the teacher can
        read; what `plan_cache` raises.
    """
    table = recipe.generate
    assert table
    cache = (recipe.cache or Cache(path=table.path)).model_copy(
        update={"path": table.path, "data": table.prompts}
    )
    writing = _plan_writing(recipe)
    return plan_cache(recipe.model_copy(update={"cache": cache}), quiet=quiet, writing=writing)


def _plan_writing(recipe: Recipe) -> Writing:
    table = recipe.generate
    assert table
    samples, data = open_data(recipe, table.prompts), recipe.data[table.prompts]
    tokens = tokens_of(samples)
    if tokens is None or tokens.task != "next_token":
        what = f"asks for '{tokens.task}'" if tokens else f"is of kind '{data.kind}', no text"
        line = (
            f"generate.prompts: data.{table.prompts} {what}; text is continued from data of kind "
            "'text' with task = 'next_token'"
        )
        raise RecipeError(recipe.file, [line])
    named, source = getattr(data, "end", None), getattr(data, "tokenizer", None)
    end = None
    if named and source:
        where = f"data.{table.prompts}"
        tokenizer = open_tokenizer(base=recipe.base, where=where, source=source, end=named)
        end = int(tokenizer.encode([""])[0][-1])
    settings = table.model_dump(exclude={"path", "prompts"})
    return Writing(**settings, end=end, vocabulary=tokens.vocabulary)


def plan_cache(recipe: Recipe, *, quiet: bool, writing: Writing | None = None) -> Work:
    """Open what the recipe names and plan the cache; the recipe must have teacher, targets and
    cache. With `writing` the samples are prompts, and rows are what the teacher makes of them.

    Raises: RecipeError if the selection does not fit the teacher's classes; SampleError,
    ModelError.
    """
    assert recipe.teacher
    assert recipe.cache
    teacher, cache, folder = recipe.teacher, recipe.cache, recipe.locate_cache(recipe.cache.path)
    device, threads = _prepare(teacher, folder)
    network = open_model(recipe, teacher.model, where="teacher.model")
    tap_features(recipe, network)
    check_lengths(recipe, network, [cache.data])
    if writing:
        _check_length(recipe, network, writing)
    data, contents = _find_data(recipe, folder, quiet=quiet)
    weights = weights_digest(network)
    network = set_precision(network, teacher.precision).to(device).eval()
    class_count = count_classes(network, data.samples, device, whose="teacher")
    spec, tail = choose_targets(recipe, class_count)
    _check_classes(recipe, data, class_count)
    features = plan_features(recipe, network, data.samples, device)
    settings = make_settings(
        recipe, data, network, weights=weights, threads=threads, device=device, tail=tail
    )
    if writing:
        settings["generate"] = writing.to_json()
    shape = find_shape(
        recipe, spec, tail, settings, samples=data.samples, network=network, device=device
    )
    spec = shape.spec
    feature_fields = [field for each in features for field in each.fields]
    fields = (*target_fields(spec), *feature_fields, *_token_fields(data, writing))
    count = writing.count if writing else views_of(data.samples).count
    plan = Plan(
        rows=len(data.samples) * count,
        rows_per_part=cache.rows_per_part or choose_rows_per_part(fields, data.samples),
        backend=cache.backend,
        compression=cache.compression,
        fields=fields,
        settings=settings,
        about=describe(recipe, data, network, shape, features, is_written=writing is not None),
    )
    check_size(recipe, plan, data.samples)
    return Work(
        samples=data.samples,
        scan=data.scan,
        contents=contents,
        network=network,
        device=device,
        batch_size=teacher.batch_size,
        read_rows=teacher.batch_size * _batches_at_once(data.scan, teacher.batch_size),
        plan=plan,
        spec=spec,
        shape=shape,
        folder=folder,
        builds_behind=device.type != "cpu",
        features=features,
        writing=writing,
    )


def _prepare(teacher: Teacher, folder: Where) -> tuple[torch.device, int]:
    """Make the process one that answers the same each time; gives its device and its threads."""
    device = pick_device(teacher.device)
    threads = teacher.threads or _planned_threads(folder) or torch.get_num_threads()
    set_threads(threads)
    use_deterministic_kernels()
    keep_freed_memory()
    # A factory without a checkpoint draws its weights: the same ones each time, or no resume.
    torch.manual_seed(0)
    return device, threads


def _find_data(
    recipe: Recipe, folder: Where, *, quiet: bool
) -> tuple[Scanned, ContentLog | KeptLog]:
    """Scan the data, or take what was found when the cache that lies there was planned.

    Samples that are others by now are refused when they are read.
    """
    assert recipe.cache
    name, planned = recipe.cache.data, _read_planned(folder)
    if found := planned and recall_scan(folder, planned.fingerprint):
        (scan, kept), samples = found, open_data(recipe, name)
        if len(samples) == scan.count + len(scan.skipped):
            return as_scanned(recipe, name, samples, scan, for_teacher=True), kept
    log = ContentLog()
    return scan_data(recipe, name, quiet=quiet, log=log, for_teacher=True), log


def _batches_at_once(scan: Scan, batch_size: int) -> int:
    batch_bytes = batch_size * math.prod(scan.shape) * np.dtype(scan.dtype).itemsize
    return max(1, READ_BYTES // max(1, batch_bytes))


def _planned_threads(folder: Where) -> int | None:
    """A recipe that names no number of threads goes on with the number a cache was begun with."""
    planned = _read_planned(folder)
    return planned.settings["teacher"]["threads"] if planned else None


def _read_planned(folder: Where) -> Plan | None:
    return read_plan(folder) if is_planned(folder) else None


def _check_classes(recipe: Recipe, data: Scanned, class_count: int) -> None:
    assert recipe.cache
    where, names = f"data.{recipe.cache.data}", data.samples.class_names
    highest, tokens = max(data.scan.label_counts, default=-1), tokens_of(data.samples)
    problem = None
    if tokens and tokens.task != "label":
        if tokens.vocabulary > class_count:
            problem = f"is of {tokens.vocabulary} tokens"
    elif names is not None and len(names) != class_count:
        more = ", ..." if len(names) > SHOWN_NAMES else ""
        problem = f"has {len(names)} classes ({', '.join(names[:SHOWN_NAMES])}{more})"
    elif highest >= class_count:
        problem = f"has labels up to {highest}"
    if problem:
        raise RecipeError(
            recipe.file,
            [
                f"{where}: {problem}, but the teacher answers with {class_count} classes; give the "
                "data the teacher was trained for, or leave out the label column and class_names"
            ],
        )


def _check_length(recipe: Recipe, network: Network, writing: Writing) -> None:
    context = context_of(network.model)
    if context is not None and writing.length > context:
        line = (
            f"generate.length: must be at most {context}, the tokens that {network.where} takes at "
            f"once; got {writing.length}"
        )
        raise RecipeError(recipe.file, [line])


def _token_fields(data: Scanned, writing: Writing | None) -> tuple[Field, ...]:
    tokens = tokens_of(data.samples)
    length = writing.length if writing else data.scan.shape[-1]
    return token_fields(tokens.vocabulary, length) if tokens else ()

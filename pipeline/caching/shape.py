"""What all parts of a cache share: the shape of the tail, and what masks are drawn by.

The shape is learned once for a whole cache, from the teacher's answers on some rows. A cache that
was begun keeps the basis it has: its plan vouches for it.
"""

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from pipeline.compute import guard_memory
from pipeline.models import Network, Output, prepare
from pipeline.recipe import Recipe
from pipeline.recipe.schema import LowRank
from pipeline.samples import Samples, read_views, views_of
from pipeline.store import (
    Field,
    Shared,
    encode_shared,
    is_planned,
    read_plan,
    read_shared,
    shared_faults,
)
from pipeline.stream.tokens.rows import TOKEN_COUNTS, encode_token_counts
from pipeline.targets import Basis, TargetSpec, basis_fields, decode_basis, encode_basis, fit_basis


@dataclass(frozen=True)
class Shape:
    """What is kept of every position, now that its directions are known; a basis, None where tails
    keep their mass alone; and the files of all that is shared.
    """

    spec: TargetSpec
    basis: Basis | None = None
    shared: Shared | None = None


def find_shape(
    recipe: Recipe,
    spec: TargetSpec,
    tail: LowRank | None,
    settings: dict[str, Any],
    *,
    samples: Samples,
    network: Network,
    device: torch.device,
) -> Shape:
    """Take the basis of a cache that was begun with these settings, or learn one.

    Raises: TargetError if the rank does not fit, or a logit is not finite.
    """
    assert recipe.cache
    assert recipe.teacher
    fields, arrays, basis = list[Field](), dict[str, Any](), None
    if tail:
        basis, batch_size = _planned(recipe, settings), recipe.teacher.batch_size
        basis = basis or _learn(tail, batch_size, samples=samples, network=network, device=device)
        spec = replace(spec, rank=basis.rank, bits=basis.bits)
        fields += basis_fields(spec)
        arrays |= encode_basis(basis)
    if masks := views_of(samples).masks:
        fields.append(TOKEN_COUNTS)
        arrays[TOKEN_COUNTS.name] = encode_token_counts(masks.maskable.counts, spec.class_count)
    if not fields:
        return Shape(spec)
    backend, compression = recipe.cache.backend, recipe.cache.compression
    shared = encode_shared(fields, arrays, backend=backend, compression=compression)
    return Shape(spec, basis, shared)


def _planned(recipe: Recipe, settings: dict[str, Any]) -> Basis | None:
    assert recipe.cache
    where = recipe.locate_cache(recipe.cache.path)
    if not is_planned(where):
        return None
    plan = read_plan(where)
    is_same = plan.settings == settings and "shared" in plan.about
    if not is_same or shared_faults(where, plan):
        return None
    spec = TargetSpec.from_json(plan.about["targets"])
    return decode_basis(read_shared(where, plan), spec)


@torch.inference_mode()
def _learn(
    tail: LowRank, batch_size: int, *, samples: Samples, network: Network, device: torch.device
) -> Basis:
    order = np.random.Generator(np.random.PCG64(tail.seed)).permutation(
        len(samples) * views_of(samples).count
    )
    outputs, positions, everything = list[Output](), 0, range(len(order))
    with guard_memory(batch_size, "teacher"):
        for start in range(0, len(order), batch_size):
            # Partners, if there are any, come from anywhere: what is learned is of the whole cache.
            inputs = read_views(samples, order[start : start + batch_size], everything).inputs
            outputs.append(network(prepare(inputs, device)))
            positions += len(outputs[-1])
            if positions >= tail.positions:
                break
        return fit_basis(
            lambda: chain.from_iterable(each.blocks() for each in outputs),
            tail.rank,
            tail.seed,
            tail.bytes,
        )

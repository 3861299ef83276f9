"""The shape of the tail, learned once for a whole cache, from the teacher's answers on some rows.

A cache that was begun keeps the basis it has: its plan vouches for it.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.compute import guard_memory
from pipeline.models import Network, Output, prepare
from pipeline.recipe import Recipe
from pipeline.samples import Samples
from pipeline.store import PLAN_FILE, Shared, encode_shared, read_plan, read_shared, shared_faults
from pipeline.targets import Basis, TargetSpec, basis_fields, decode_basis, encode_basis, fit_basis


@dataclass(frozen=True)
class Shape:
    """A basis, and the files it is kept in; both None where tails keep their mass alone."""

    basis: Basis | None = None
    shared: Shared | None = None


def find_shape(
    recipe: Recipe,
    spec: TargetSpec,
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
    if not spec.rank:
        return Shape()
    folder = recipe.locate(recipe.cache.path)
    basis = _planned(folder, settings) or _learn(recipe, spec, samples, network, device)
    shared = encode_shared(
        basis_fields(spec),
        encode_basis(basis),
        backend=recipe.cache.backend,
        compression=recipe.cache.compression,
    )
    return Shape(basis, shared)


def _planned(folder: Path, settings: dict[str, Any]) -> Basis | None:
    if not (folder / PLAN_FILE).is_file():
        return None
    plan = read_plan(folder)
    is_same = plan.settings == settings and "shared" in plan.about
    if not is_same or shared_faults(folder, plan):
        return None
    return decode_basis(read_shared(folder, plan))


@torch.inference_mode()
def _learn(
    recipe: Recipe, spec: TargetSpec, samples: Samples, network: Network, device: torch.device
) -> Basis:
    assert recipe.teacher
    assert recipe.targets
    tail, batch_size = recipe.targets.tail, recipe.teacher.batch_size
    assert tail.kind == "low_rank"
    order = np.random.Generator(np.random.PCG64(tail.seed)).permutation(len(samples))
    outputs, positions = list[Output](), 0
    with guard_memory(batch_size, "teacher"):
        for start in range(0, len(order), batch_size):
            inputs = samples.read(order[start : start + batch_size]).inputs
            outputs.append(network(prepare(inputs, device)))
            positions += len(outputs[-1])
            if positions >= tail.positions:
                break
        return fit_basis(
            lambda: chain.from_iterable(each.blocks() for each in outputs), spec.rank, tail.seed
        )

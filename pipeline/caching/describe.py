"""What a plan says beside its fields: the settings that can change a byte, and what readers need.

Every key of `settings` is in the fingerprint by its value; `about` is what a cache says of itself.
"""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.caching.shape import Shape
from pipeline.compute import device_kind, software_versions
from pipeline.experiment import Scanned
from pipeline.models import Network
from pipeline.recipe import Recipe, comparable
from pipeline.recipe.schema import LowRank
from pipeline.samples import Samples, tokens_of, views_of
from pipeline.targets import FeatureSpec


def make_settings(  # each is opened apart
    recipe: Recipe,
    data: Scanned,
    network: Network,
    *,
    weights: str,
    threads: int,
    device: torch.device,
    tail: LowRank | None,
) -> dict[str, Any]:
    """List every setting that can change the bytes of a part; `weights` is their digest."""
    assert recipe.teacher
    features = [feature.model_dump() for feature in recipe.features]
    return {
        "data": {"digest": data.scan.digest, **_tokenizer(data.samples)},
        "teacher": {
            "weights": weights,
            "precision": recipe.teacher.precision,
            "batch_size": recipe.teacher.batch_size,
            "threads": threads,
            "device": device_kind(device),
        },
        "software": software_versions(also=_library_of(network)),
        **({"tail": comparable(tail)} if tail else {}),
        **({"features": features} if features else {}),
    }


def describe(
    recipe: Recipe,
    data: Scanned,
    network: Network,
    shape: Shape,
    features: Sequence[FeatureSpec],
    *,
    is_written: bool = False,
) -> dict[str, Any]:
    """Say what one must know to understand the fields."""
    assert recipe.cache
    full, views = comparable(recipe), views_of(data.samples).settings
    names = data.samples.class_names or network.class_names
    return {
        "targets": shape.spec.to_json(),
        **({"features": [each.to_json() for each in features]} if features else {}),
        "class_names": list(names) if names else None,
        "skipped": [{"id": skip.id, "reason": skip.reason} for skip in data.scan.skipped],
        "recipe": {
            "data": {recipe.cache.data: full["data"][recipe.cache.data]},
            **{table: full[table] for table in ("teacher", "targets", "cache")},
            **({"features": full["features"]} if recipe.features else {}),
            **({"generate": full["generate"]} if is_written else {}),
        },
        **({"views": views} if views else {}),
        **_tokens(data.samples),
        **({"shared": shape.shared.about} if shape.shared else {}),
    }


def _tokenizer(samples: Samples) -> dict[str, Any]:
    tokens = tokens_of(samples)
    return {"task": tokens.task, "tokenizer": tokens.tokenizer_digest} if tokens else {}


def _tokens(samples: Samples) -> dict[str, Any]:
    """What a student must know of the tokens that are kept for it."""
    tokens = tokens_of(samples)
    if tokens is None:
        return {}
    about = {"task": tokens.task, "vocabulary": tokens.vocabulary}
    return {"tokens": about | {"tokenizer": tokens.tokenizer_digest}}


def _library_of(network: Network) -> tuple[str, ...]:
    """Name the library whose code answers, where that is not the user's own."""
    library = type(network.model).__module__.partition(".")[0]
    return (library,) if library == "transformers" else ()

"""The table of a recipe that says which inner tensors of the teacher are cached."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.schema import Positive, Seed, Table

Reduce = Literal[
    "none", "mean", "first_token", "last_token", "attention_map", "attention_probabilities"
]


class RandomProjection(Table):
    """A fixed random projection of a feature's channels to fewer."""

    width: Positive
    seed: Seed = 0


class Feature(Table):
    """An inner tensor of the teacher that is cached: what one of its modules answers, reduced.

    `exponent` is that of an attention map.
    """

    name: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,39}$")]
    module: str
    reduce: Reduce = "none"
    exponent: Annotated[float, Field(gt=0)] = 2.0
    dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    projection: RandomProjection | None = None

"""The table of a recipe that lets a causal teacher write text for a student to learn from."""

from typing import Annotated

from pydantic import Field

from pipeline.recipe.schema import Place, Positive, Seed, Table


class Generate(Table):
    """What `pipeline generate` writes: continuations of the first tokens of a dataset's rows.

    `length` counts prompt and continuation; temperature 0 always takes the most probable token.
    Soft targets are kept as [targets] and [cache] say.
    """

    path: Place
    prompts: str = "train"
    prompt_tokens: Positive
    length: Annotated[int, Field(ge=2)]
    count: Positive = 1
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_k: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed = 0

"""How large a cache will be, before the teacher has said a word.

Bytes are those of the arrays, before compression; of text, of rows that are full of one document.
"""

import math
from collections.abc import Sequence

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from pipeline.samples import Samples, tokens_of, views_of
from pipeline.store import Field, Plan

# The writer holds a part in memory, and a student's stream several.
PART_BYTES = 64 * 2**20
ROWS_PER_PART = 8192


def choose_rows_per_part(fields: Sequence[Field], samples: Samples) -> int:
    """Choose how many rows a part has: 8192, or half of it again and again until it is small."""
    rows, size_bytes = ROWS_PER_PART, sum(bytes_by_field(fields, samples).values())
    while rows > 1 and rows * size_bytes > PART_BYTES:
        rows //= 2
    return rows


def bytes_by_field(fields: Sequence[Field], samples: Samples) -> dict[str, int]:
    """Count the bytes of each array of one row."""
    length = next((field.shape[0] for field in fields if field.name == "tokens"), 0)
    counts = {"rows": 1, "positions": _positions_a_row(samples, length)}
    return {field.name: field.entry_bytes * counts[field.axis] for field in fields}


def _positions_a_row(samples: Samples, length: int) -> int:
    tokens, masks = tokens_of(samples), views_of(samples).masks
    if masks:
        return math.ceil(masks.fraction * length)
    return length - 1 if tokens and tokens.task == "next_token" else 1


def plan_bytes_by_field(plan: Plan, samples: Samples) -> dict[str, int]:
    """Count the bytes of each array of a whole cache."""
    sizes = bytes_by_field(plan.fields, samples)
    return {name: size * plan.rows for name, size in sizes.items()}


def check_size(recipe: Recipe, plan: Plan, samples: Samples) -> None:
    """Refuse a cache that would be larger than the recipe allows.

    Raises: RecipeError naming the largest field.
    """
    assert recipe.cache
    allowed, sizes = recipe.cache.max_bytes, plan_bytes_by_field(plan, samples)
    total = sum(sizes.values())
    if allowed is None or total <= allowed:
        return
    largest = max(sizes, key=lambda name: sizes[name])
    raise RecipeError(
        recipe.file,
        [
            f"cache.max_bytes: the arrays would take {total:,} bytes, more than the {allowed:,} "
            f"allowed; {sizes[largest]:,} of them are '{largest}'. Keep less (a feature's reduce, "
            "dtype or projection; a smaller selection), or allow more"
        ],
    )

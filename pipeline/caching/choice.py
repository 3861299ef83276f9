"""From what a recipe says of targets to what a cache keeps of every position.

Which classes there are is the teacher's to say; which tail suits so many is decided here.
"""

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe
from pipeline.recipe.schema import LowRank
from pipeline.targets import TargetSpec, nodes_with

# From so many classes on a tail keeps its shape unless the recipe says otherwise: what few classes
# leave out is then most of what a teacher says (pipeline/guide/measured.md).
MANY_CLASSES = 4096


def choose_targets(recipe: Recipe, class_count: int) -> tuple[TargetSpec, LowRank | None]:
    """Say what is kept of so many classes, and how the tail's shape is learned, if it is kept.

    Raises: RecipeError if selection or tail do not fit the teacher's classes.
    """
    assert recipe.targets
    selection = recipe.targets.selection
    options = selection.model_dump(exclude={"kind"})
    key = "k_max" if selection.kind == "top_p" else "k"
    k = options.pop(key, 0 if selection.kind == "sampled" else class_count)
    tail = _tail(recipe, k, class_count)
    rank = tail.rank if tail else 0
    if size := tail and tail.bytes:  # until directions are known, one a bit: bytes are right
        rank = 8 * size
    bits = ((1, rank),) if size else ()
    problems = []
    if k > class_count:
        problems.append(
            f"targets.selection.{key}: must be between 1 and {class_count}, the classes of the "
            f"teacher; got {k}"
        )
    elif k == class_count and (rank or selection.kind == "hybrid"):
        what = "targets.tail" if rank else "targets.selection.draws"
        problems.append(
            f"{what}: all {class_count} classes are kept, so there is no tail; leave it out"
        )
    elif rank and "draws" in options:
        problems.append(
            f"targets.tail: 'low_rank' is for selections of kind top_k and top_p; "
            f"'{selection.kind}' says what is in its tail by draws. Keep one of the two"
        )
    if options.get("k_min", 0) > k:
        problems.append(
            f"targets.selection.k_min: must be at most k_max, {k}; got {options['k_min']}"
        )
    is_small = recipe.targets.encoding == "small"
    if is_small and rank and recipe.targets.temperatures:
        problems.append(
            "targets.temperatures: of a small encoding the tail's mass is exact at T = 1, and what "
            "its shape says elsewhere; leave them out, or leave out targets.encoding"
        )
    if problems:
        raise RecipeError(recipe.file, problems)
    proposed = {options["proposal_temperature"]} if "draws" in options else set()
    nodes = nodes_with({*recipe.targets.temperatures, *proposed})
    if is_small and rank:
        nodes = (1.0,)
    return TargetSpec(
        selection.kind, class_count, k, nodes, rank, bits, is_small=is_small, **options
    ), tail


def _tail(recipe: Recipe, k: int, class_count: int) -> LowRank | None:
    assert recipe.targets
    tail, kind = recipe.targets.tail, recipe.targets.selection.kind
    if tail is not None:
        return tail if tail.kind == "low_rank" else None
    is_cut = kind in ("top_k", "top_p") and k < class_count
    return LowRank(kind="low_rank") if is_cut and class_count >= MANY_CLASSES else None

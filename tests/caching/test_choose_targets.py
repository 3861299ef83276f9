"""What a recipe's targets become, for a teacher of so many classes."""

import pytest
from laboratory import Lab

from pipeline.caching.choice import MANY_CLASSES, choose_targets
from pipeline.recipe import load_recipe

TOP_P = "targets.selection={ kind = 'top_p', p = 0.9, k_max = 8 }"
SAMPLED = "targets.selection={ kind = 'sampled', draws = 8, proposal_temperature = 3.0 }"
ALL = "targets.selection={ kind = 'all' }"
BUCKET = "targets.tail={ kind = 'bucket' }"
SMALL = "targets.tail={ kind = 'low_rank', rank = 3 }"


@pytest.mark.parametrize(
    ("overrides", "classes", "rank"),
    [
        ([], MANY_CLASSES - 1, 0),
        ([], MANY_CLASSES, 64),
        ([TOP_P], MANY_CLASSES, 64),
        ([SMALL], MANY_CLASSES, 3),
        ([SMALL], 10, 3),
        ([BUCKET], MANY_CLASSES, 0),
        ([SAMPLED], MANY_CLASSES, 0),
        ([ALL], MANY_CLASSES, 0),
        ([f"targets.selection.k={MANY_CLASSES}"], MANY_CLASSES, 0),
    ],
)
def test_many_classes_keep_the_shape_of_their_tail_unless_told_otherwise(
    lab: Lab, overrides: list[str], classes: int, rank: int
) -> None:
    spec, tail = choose_targets(load_recipe(lab.recipe, overrides), classes)
    assert spec.rank == rank
    assert (tail.rank if tail else 0) == rank


def test_the_temperature_of_draws_is_a_node(lab: Lab) -> None:
    spec, _ = choose_targets(load_recipe(lab.recipe, [SAMPLED]), 100)
    assert 1 / 3 in spec.nodes
    assert (spec.k, spec.draws, spec.proposal_temperature) == (0, 8, 3.0)

import shutil
from collections.abc import Iterator

import pytest
import torch
from laboratory import Lab

from pipeline.caching import plan_cache
from pipeline.errors import RecipeError
from pipeline.recipe import load_recipe


@pytest.fixture(autouse=True)
def _kernels() -> Iterator[None]:
    """A plan asks for deterministic kernels, of the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def fingerprint(lab: Lab, *overrides: str) -> str:
    return plan_cache(load_recipe(lab.recipe, overrides), quiet=True).plan.fingerprint


def test_a_plan_says_what_readers_need(lab: Lab) -> None:
    plan = plan_cache(load_recipe(lab.recipe), quiet=True).plan
    assert (plan.rows, plan.part_count, plan.backend) == (60, 8, "zarr")
    assert [field.name for field in plan.fields][:3] == ["classes", "logits", "tail"]
    assert plan.about["targets"]["k"] == 2
    assert plan.about["skipped"] == []
    assert set(plan.settings) == {"data", "teacher", "software"}
    assert plan.settings["teacher"]["threads"] == 1
    assert not lab.cache.exists()


def test_where_things_lie_is_no_part_of_a_plan(lab: Lab) -> None:
    moved = Lab(lab.folder.with_name("moved"))
    shutil.copytree(lab.folder, moved.folder)
    shutil.move(moved.folder / "train.parquet", moved.folder / "other.parquet")
    overrides = ("data.train.path=other.parquet", "cache.path=elsewhere", "teacher.device=cpu")
    assert fingerprint(moved, *overrides) == fingerprint(lab)


@pytest.mark.parametrize(
    "override",
    [
        "teacher.batch_size=8",
        "teacher.threads=2",
        "teacher.precision=bfloat16",
        "teacher.model.arguments={ seed = 1 }",
        "targets.selection.k=3",
        "targets.temperatures=[3.0]",
        "cache.rows_per_part=16",
        "cache.compression=lz4",
        "cache.backend=parquet",
        "data.train.subset={ count = 50 }",
    ],
)
def test_whatever_can_change_a_byte_is_part_of_a_plan(override: str, lab: Lab) -> None:
    assert fingerprint(lab, override) != fingerprint(lab)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "targets.selection.k=6",
            "targets.selection.k: must be between 1 and 5, the classes of the teacher; got 6",
        ),
        (
            "teacher.model.arguments={ classes = 3 }",
            "data.train: has labels up to 4, but the teacher answers with 3 classes; give the data "
            "the teacher was trained for, or leave out the label column and class_names",
        ),
        (
            "data.train.class_names=['a', 'b', 'c', 'd', 'e', 'f']",
            "data.train: has 6 classes (a, b, c, d, e, ...), but the teacher answers with 5 "
            "classes; give the data the teacher was trained for, or leave out the label column "
            "and class_names",
        ),
    ],
    ids=["k", "labels", "names"],
)
def test_a_teacher_that_does_not_fit_is_refused(override: str, problem: str, lab: Lab) -> None:
    with pytest.raises(RecipeError) as refused:
        plan_cache(load_recipe(lab.recipe, [override]), quiet=True)
    assert problem in refused.value.problems

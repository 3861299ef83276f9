import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe import comparable, load_recipe, resolved
from pipeline.recipe.schema import Table

# Where or how fast work runs; everything else can change what comes out.
LEFT_OUT = {
    *(("SpoolTable", "path"), ("SpoolTable", "max_bytes")),
    *(("ParquetData", "path"), ("ImagesData", "path"), ("ArraysData", "path")),
    *(("ArraysData", name) for name in ("inputs", "labels", "ids")),
    *(("IdxData", name) for name in ("images", "labels")),
    *(
        ("CachedData", "path"),
        ("HuggingFaceData", "path"),
        ("HuggingFaceData", "tokenizer"),
        ("PythonModel", "checkpoint"),
        ("RunModel", "path"),
        ("TextData", "path"),
        ("TextData", "tokenizer"),
        ("TransformersModel", "path"),
    ),
    *(("Teacher", "device"), ("Cache", "path"), ("Cache", "max_bytes"), ("Run", "path")),
    ("Recipe", "compute"),
    *(("TaughtBy", "cache"), ("Training", "teachers"), ("Training", "sources")),
    *(("Source", "cache"), ("Source", "pseudo_labels"), ("Generate", "path")),
    *(("Labelling", name) for name in ("path", "cache", "labelled_cache", "show", "threads")),
    *(("Evaluate", name) for name in ("cache", "runs", "device", "threads")),
    *(("Evaluation", "cache"), ("Validation", "cache"), ("Test", "cache")),
    *(("Training", name) for name in ("checkpoint_every", "log_every", "device", "threads")),
}
WHOLE = """\
name = "whole"
[data.parquet]
kind = "parquet"
path = "PLACE"
subset = { count = 3, balanced = true }
filter = { split = "kept" }
[data.images]
kind = "images"
path = "PLACE"
size = [8, 9]
[data.arrays]
kind = "arrays"
inputs = "PLACE"
labels = "PLACE"
ids = "PLACE"
path = "PLACE"
class_names = ["kept"]
[data.idx]
kind = "idx"
images = "PLACE"
labels = "PLACE"
[data.python]
kind = "python"
factory = "kept:kept"
arguments = { kept = [1, { kept = 2 }] }
[data.text]
kind = "text"
path = "PLACE"
tokenizer = "PLACE"
length = 8
column = "kept"
[data.saved]
kind = "huggingface"
path = "PLACE"
tokenizer = "PLACE"
split = "kept"
[data.cached]
kind = "cache"
path = "PLACE"
[teacher]
model = { kind = "python", factory = "kept:kept", checkpoint = "PLACE", mean = [0.5] }
device = "PLACE"
[targets]
selection = { kind = "top_k", k = 2 }
temperatures = [2.0]
[cache]
path = "PLACE"
data = "idx"
[student]
model = { kind = "run", path = "PLACE" }
[[losses]]
kind = "soft_targets"
weight = 0.5
[[losses]]
kind = "hard_labels"
weight = 0.25
[training]
data = "idx"
epochs = 2
device = "PLACE"
[[training.teachers]]
cache = "PLACE"
weight = 0.5
[validation]
data = "python"
cache = "PLACE"
[test]
data = "python"
cache = "PLACE"
[run]
path = "PLACE"
"""


def tables(parent: type[Table] = Table) -> Iterator[type[Table]]:
    for table in parent.__subclasses__():
        yield table
        yield from tables(table)


FIELDS = [(table, name) for table in tables() for name in table.model_fields]


@pytest.mark.parametrize(
    ("table", "name"), FIELDS, ids=[f"{table.__name__}.{name}" for table, name in FIELDS]
)
def test_a_table_differs_by_every_field_that_can_change_what_comes_out(
    table: type[Table], name: str
) -> None:
    values: dict[str, Any] = dict.fromkeys(table.model_fields, "one")
    first = comparable(table.model_construct(**values))
    second = comparable(table.model_construct(**(values | {name: "other"})))
    assert (first == second) == ((table.__name__, name) in LEFT_OUT)


def test_places_are_left_out_at_any_depth_and_all_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    path.write_text(WHOLE)
    kept = json.dumps(comparable(load_recipe(path)))
    assert "PLACE" in WHOLE
    assert "PLACE" not in kept
    assert kept.count("kept") == WHOLE.count("kept")
    assert '"losses": [{"kind": "soft_targets", "weight": 0.5' in kept


def test_a_recipe_that_was_written_out_is_read_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "whole.toml"
    path.write_text(WHOLE)
    recipe = load_recipe(path)
    again = type(recipe).model_validate_json(json.dumps(resolved(recipe)))
    assert comparable(again) == comparable(recipe)

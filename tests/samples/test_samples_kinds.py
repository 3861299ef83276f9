from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RecipeError, SampleError
from pipeline.samples import open_samples, scan_samples

SOURCE = """
import numpy as np

class Squares:
    class_names = ("even", "odd")
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        values = np.full((2,), index**2, ">f4")
        return {"id": f"square-{index}", "input": values, "label": index % 2}

class Named(Squares):
    ids = [f"square-{index}" for index in range(100)]

class Asked(Squares):
    def ids(self, start, stop):
        return [f"square-{index}" for index in range(start, stop)]

class Contradicting(Squares):
    ids = [f"cube-{index}" for index in range(100)]

class Faulty(Squares):
    def __getitem__(self, index):
        return {
            "item": {"input": index},
            "text": {"id": 7, "input": 1.0},
            "label": {"id": "a", "input": 1.0, "label": 0.5},
            "object": {"id": "a", "input": "x"},
        }[self.count]
    def __len__(self):
        return 1

class Unlabelled(Squares):
    def __getitem__(self, index):
        return {"id": str(index), "input": [1, 2]}

def number(): return 5
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "squares.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.parametrize("name", ["Squares", "Named", "Asked"], ids=["items", "list", "method"])
def test_python_dataset_gives_ids_inputs_and_labels(base: Path, name: str) -> None:
    samples = open_samples(
        "python", base=base, name="data.train", factory=f"squares:{name}", arguments={"count": 9}
    )
    batch = samples.read([8, 3])
    assert len(samples) == 9
    assert samples.class_names == ("even", "odd")
    assert samples.ids(7, 20) == ["square-7", "square-8"]
    assert batch.ids == ["square-8", "square-3"]
    assert batch.labels.tolist() == [0, 1]
    assert np.array_equal(batch.inputs, [[64, 64], [9, 9]])
    assert batch.inputs.dtype == np.dtype("float32")


def test_python_dataset_without_labels_is_unlabelled(base: Path) -> None:
    samples = open_samples(
        "python", base=base, name="x", factory="squares:Unlabelled", arguments={"count": 3}
    )
    assert samples.read([0, 1]).labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        ("item", r"^x: item 0 failed: KeyError: 'id' \(kinds.py"),
        ("text", r"^x: the id of item 0 must be text; got 7$"),
        ("label", r"^x: item 0 failed: TypeError: 'float' object cannot be interpreted"),
        ("object", r"^x: the input of a must be numbers; got <U1$"),
    ],
)
def test_faulty_items_are_named(base: Path, count: str, message: str) -> None:
    samples = open_samples(
        "python", base=base, name="x", factory="squares:Faulty", arguments={"count": count}
    )
    with pytest.raises(SampleError, match=message):
        samples.read([0])


def test_items_that_contradict_their_ids_are_refused(base: Path) -> None:
    arguments = {"count": 2}
    samples = open_samples(
        "python", base=base, name="x", factory="squares:Contradicting", arguments=arguments
    )
    with pytest.raises(SampleError, match="item 0 calls itself 'square-0', but ids says 'cube-0'"):
        scan_samples(samples)


def test_factory_that_makes_no_dataset_is_refused(base: Path) -> None:
    with pytest.raises(SampleError) as caught:
        open_samples("python", base=base, name="x", factory="squares:number")
    assert str(caught.value) == (
        "x.factory: squares:number made a int, which has no __len__ and no __getitem__; "
        "return an object with both"
    )


def test_missing_factory_is_a_recipe_error(base: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'Squares'"):
        open_samples("python", base=base, name="x", factory="squares:Square")


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            "parqet",
            {},
            "data.train.kind: unknown kind 'parqet'; did you mean 'parquet'? "
            "there are arrays, huggingface, idx, images, parquet, python, text",
        ),
        (
            "idx",
            {"images": "a", "label": "b"},
            "data.train.label: unknown key; did you mean 'labels'? "
            "kind 'idx' takes images, labels, class_names",
        ),
        ("idx", {}, "data.train.images: kind 'idx' needs it"),
    ],
    ids=["kind", "key", "missing"],
)
def test_wrong_kind_or_key_is_named(
    tmp_path: Path, kind: str, arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(SampleError) as caught:
        open_samples(kind, base=tmp_path, name="data.train", **arguments)
    assert str(caught.value) == message

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import ModelError, PipelineError
from pipeline.models import Network, load_network, read_reference, save_reference, weights_digest

FACTORIES = """
import torch
from torch import nn

def small(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))

def number():
    return 7

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))

def broken():
    raise TypeError("inside the user's function")
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "my_models.py").write_text(FACTORIES)
    return folder


def load(base: Path, factory: str = "my_models:small", **arguments: Any) -> Network:
    return load_network("python", base=base, where="teacher.model", factory=factory, **arguments)


def trained(base: Path, **arguments: Any) -> dict[str, Tensor]:
    """Weights that no factory starts from."""
    state = load(base, arguments=arguments).model.state_dict()
    return {name: torch.full_like(value, 0.25) for name, value in state.items()}


def finish_run(base: Path, folder: Path, **reference: Any) -> dict[str, Tensor]:
    folder.mkdir(parents=True)
    weights = trained(base, width=6)
    save_file(weights, folder / "best.safetensors")
    reference = {"kind": "python", "factory": "my_models:small", **reference}
    save_reference(folder, reference | {"arguments": {"width": 6}}, base)
    return weights


def test_factory_beside_the_recipe_makes_the_network(base: Path) -> None:
    network = load(base, arguments={"width": 5}, mean=[0.5], std=[0.5])
    assert network(torch.zeros(2, 1, 2, 2, dtype=torch.uint8)).logits.shape == (2, 3)
    assert network.model.get_submodule("1").out_features == 5
    assert network.extra_repr() == "mean=[0.5], std=[0.5]"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_checkpoint_fills_the_model(base: Path, name: str) -> None:
    weights = trained(base)
    save = save_file if name.endswith(".safetensors") else torch.save
    save(weights, base / name)
    loaded = load(base, checkpoint=name).model.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)


def test_weights_of_another_architecture_are_refused_by_name(base: Path) -> None:
    weights = trained(base, width=6)
    del weights["3.bias"]
    save_file(weights | {f"head.{n}": torch.ones(1) for n in range(7)}, base / "w.safetensors")
    with pytest.raises(ModelError) as caught:
        load(base, checkpoint="w.safetensors")
    assert str(caught.value).split("\n") == [
        "teacher.model.checkpoint: these weights do not fit Sequential",
        "  1 missing: 3.bias",
        "  7 unexpected: head.0, head.1, head.2, head.3, head.4 and 2 more",
        "  3 of another shape: 1.bias (model (4,), file (6,)), "
        "1.weight (model (4, 4), file (6, 4)), 3.weight (model (3, 4), file (3, 6))",
        "  Give the weights of this very architecture, or build the model they belong to.",
    ]


def test_code_in_a_checkpoint_is_never_run(base: Path) -> None:
    torch.save(nn.Linear(2, 2), base / "whole.pt")
    with pytest.raises(ModelError, match=r"whole\.pt holds more than tensors, .* is never run"):
        load(base, checkpoint="whole.pt")


def test_a_checkpoint_that_is_no_state_dict_is_refused(base: Path) -> None:
    torch.save({"model": {"weight": torch.ones(1)}, "epoch": 3}, base / "training.pt")
    with pytest.raises(ModelError, match="holds a dict with model, epoch that is not a plain"):
        load(base, checkpoint="training.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.safetensors", None, r"checkpoint: there is no file .*gone\.safetensors\.$"),
        ("w.bin", b"x", r"w\.bin is of no known kind; allowed are \.safetensors, \.pt and \.pth"),
        ("w.safetensors", b"short", r"w\.safetensors cannot be read as weights \(.*deserializ"),
        ("w.pt", b"", r"w\.pt cannot be read as weights \("),
    ],
    ids=["missing", "unknown kind", "damaged safetensors", "empty"],
)
def test_unreadable_checkpoint_is_named(
    base: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (base / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(base, checkpoint=name)


def test_wrong_arguments_show_what_the_factory_takes(base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(base, arguments={"widht": 5})
    assert str(caught.value) == (
        "teacher.model.arguments: 'my_models:small' cannot be called with {'widht': 5} "
        "(got an unexpected keyword argument 'widht'). It takes (width=4)."
    )


def test_a_mistake_inside_the_factory_is_not_blamed_on_its_arguments(base: Path) -> None:
    with pytest.raises(TypeError, match="inside the user's function"):
        load(base, factory="my_models:broken")


def test_factory_of_something_else_is_refused(base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(base, factory="my_models:number")
    assert str(caught.value) == (
        "teacher.model.factory: 'my_models:number' returned a int; "
        "allowed is a torch.nn.Module. Return the model itself."
    )


def test_a_model_whose_sizes_a_first_batch_would_tell_is_refused(base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(base, factory="my_models:lazy")
    assert str(caught.value) == (
        "teacher.model.factory: 'my_models:lazy' returned a model whose '1.weight' has no size "
        "before it is run. Give its layers their sizes, or let the factory run it once."
    )


def test_missing_factory_is_refused_with_a_near_miss(base: Path) -> None:
    with pytest.raises(PipelineError, match="did you mean 'small'"):
        load(base, factory="my_models:smal")


def test_unknown_kind_is_refused_with_a_near_miss(base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_network("pyhton", base=base, where="student.model")
    assert str(caught.value) == (
        "student.model.kind: 'pyhton' is not known, allowed are python, run, transformers; "
        "did you mean 'python'?"
    )


def test_finished_run_is_the_network_with_its_best_weights(base: Path, tmp_path: Path) -> None:
    weights = finish_run(base, tmp_path / "runs/first", checkpoint="gone.pt", mean=[0.5], std=None)
    network = load_network("run", base=base, where="teacher.model", path="../runs/first")
    assert all(torch.equal(network.model.state_dict()[key], weights[key]) for key in weights)
    assert network.extra_repr() == "mean=[0.5], std=None"


def test_run_of_a_run_has_the_last_weights(base: Path, tmp_path: Path) -> None:
    finish_run(base, tmp_path / "runs/first")
    second = tmp_path / "runs/second"
    second.mkdir()
    weights = {key: value + 1 for key, value in trained(base, width=6).items()}
    save_file(weights, second / "best.safetensors")
    save_reference(second, {"kind": "run", "path": "../runs/first"}, base)
    network = load_network("run", base=tmp_path, where="teacher.model", path="runs/second")
    assert all(torch.equal(network.model.state_dict()[key], weights[key]) for key in weights)


def test_recipes_and_runs_may_be_moved_together(base: Path, tmp_path: Path) -> None:
    finish_run(base, tmp_path / "runs/first")
    before = load_network("run", base=base, where="model", path="../runs/first")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("recipes", "runs"):
        shutil.move(tmp_path / name, moved / name)
    after = load_network("run", base=moved / "recipes", where="model", path="../runs/first")
    assert weights_digest(after) == weights_digest(before)


def test_reference_is_replaced_whole(base: Path, tmp_path: Path) -> None:
    finish_run(base, tmp_path / "runs/first")
    save_reference(tmp_path / "runs/first", {"kind": "python", "factory": "m:f"}, base)
    document = json.loads((tmp_path / "runs/first/model.json").read_text())
    assert document == {
        "kind": "python",
        "factory": "m:f",
        "base": "../../recipes",
        "weights": "best.safetensors",
        "weights_sha256": hashlib.sha256(
            (tmp_path / "runs/first/best.safetensors").read_bytes()
        ).hexdigest(),
    }
    assert {path.name for path in (tmp_path / "runs/first").iterdir()} == {
        "model.json",
        "best.safetensors",
    }


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, r"is not a finished run \(no model\.json\)\. Continue it with 'pipeline train"),
        ("{", r"model\.json is not JSON \(.*\)\. Train that run again\."),
        (
            '{"kind": "python"}',
            r"model\.json lacks base, weights, weights_sha256\. Train that run again\.",
        ),
    ],
    ids=["unfinished", "cut", "foreign"],
)
def test_folder_that_is_no_finished_run_is_refused(
    tmp_path: Path, document: str | None, message: str
) -> None:
    if document is not None:
        (tmp_path / "model.json").write_text(document)
    with pytest.raises(ModelError, match=message):
        read_reference(tmp_path, "teacher.model.path")


def test_missing_run_is_refused(base: Path) -> None:
    with pytest.raises(
        ModelError, match=r"teacher\.model\.path: there is no folder .*runs/none\. "
    ):
        load_network("run", base=base, where="teacher.model", path="runs/none")

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models import load_network

CLASSES = {0: "shirt", 1: "shoe", 2: "bag"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny classifiers, a backbone without a head, and the configuration of a text model."""
    import transformers

    folder = tmp_path_factory.mktemp("transformers")
    labels: dict[str, Any] = {
        "id2label": CLASSES,
        "label2id": {name: index for index, name in CLASSES.items()},
    }
    vit = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_channels=1,
        **labels,
    )
    resnet = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], **labels
    )
    transformers.ViTForImageClassification(vit).save_pretrained(folder / "vit")
    transformers.ResNetForImageClassification(resnet).save_pretrained(folder / "resnet")
    transformers.ViTModel(vit).save_pretrained(folder / "backbone")
    transformers.BertConfig().save_pretrained(folder / "bert")
    return folder


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_saved_classifier_answers_as_the_library_does(
    base: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    import transformers

    network = load_network("transformers", base=base, where="teacher.model", path=name)
    assert capfd.readouterr() == ("", "")
    inputs = torch.rand(5, 1, 8, 8)
    reference = transformers.AutoModelForImageClassification.from_pretrained(base / name)
    assert torch.equal(network(inputs).logits, reference(inputs).logits)
    assert network.class_names == ("shirt", "shoe", "bag")
    assert not network.model.training


@pytest.mark.parametrize(
    ("document", "given", "shown"),
    [
        ({"image_mean": [0.3], "image_std": [0.25]}, {}, "mean=[0.30000001192092896], std=[0.25]"),
        ({"image_mean": [0.3], "image_std": [0.25]}, {"mean": [0.5]}, "mean=[0.5], std=None"),
        ({"do_normalize": False, "image_mean": [0.3]}, {}, "mean=None, std=None"),
        (None, {}, "mean=None, std=None"),
    ],
    ids=["from the folder", "recipe goes first", "switched off", "no file"],
)
def test_normalisation_comes_from_the_folder_unless_given(
    base: Path, tmp_path: Path, document: object, given: dict[str, list[float]], shown: str
) -> None:
    shutil.copytree(base / "vit", tmp_path / "vit")
    if document is not None:
        (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(document))
    network = load_network("transformers", base=tmp_path, where="model", path="vit", **given)
    assert network.extra_repr() == shown


def test_model_without_a_trained_head_is_refused(base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_network("transformers", base=base, where="teacher.model", path="backbone")
    assert str(caught.value) == (
        "teacher.model: 'backbone' has no weights for classifier.bias, classifier.weight, "
        "which would be random. Give a model that was trained as an image classifier."
    )


def test_other_kind_of_model_is_refused(base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_network("transformers", base=base, where="teacher.model", path="bert")
    assert str(caught.value).startswith(
        "teacher.model: 'bert' cannot be loaded as a sequence classifier (Error no file named"
    )
    assert str(caught.value).endswith(
        f"Give a folder beside the recipe (looked for {base / 'bert'}) or a hub name."
    )


def test_missing_library_names_the_extra(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError) as caught:
        load_network("transformers", base=base, where="teacher.model", path="vit")
    assert "kind 'transformers' needs a library that is not installed" in str(caught.value)
    assert str(caught.value).endswith("Install it: pip install 'teacher-logit-cache[transformers]'")

"""Sequence classifiers of transformers answer as the library does, whatever is beside a text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models import Network, load_network, save_pretrained
from pipeline.samples.text.tokens import token_row

pytest.importorskip("transformers")

LABELS: dict[str, Any] = {
    "id2label": {"0": "comedy", "1": "history", "2": "tragedy"},
    "label2id": {"comedy": 0, "history": 1, "tragedy": 2},
}
SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 7,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **SMALL, **LABELS},
    "distilbert": {"model_type": "distilbert", "vocab_size": 40, "dim": 16, "hidden_dim": 20,
                   "n_layers": 2, "n_heads": 2, **LABELS},
    # These look for the last token of a text.
    "llama": {"model_type": "llama", **SMALL, **LABELS},
    "gpt2": {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2,
             "pad_token_id": 7, **LABELS},
}  # fmt: skip


def make(kind: str, **settings: Any) -> Network:
    torch.manual_seed(0)
    config = CONFIGS[kind] | settings
    return load_network("transformers", base=Path(), where="model", config=config, task="label")


def rows(*documents: list[int], length: int = 8) -> torch.Tensor:
    """Lay out a document a row. Shapes: returns (B, 2, length)."""
    made = [token_row([np.array(each, np.int32)], length) for each in documents]
    return torch.from_numpy(np.stack(made))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_text_is_answered_as_if_it_were_alone(kind: str) -> None:
    network = make(kind)
    documents = [[3, 4, 5, 0, 2], [8], [0, 0, 9]]
    with torch.no_grad():
        output = network(rows(*documents))
        alone = [network.model(torch.tensor([each])).logits for each in documents]
    torch.testing.assert_close(output.logits, torch.cat(alone), atol=1e-6, rtol=1e-5)
    assert output.logits.shape == (3, 3)
    assert output.positions.tolist() == [1, 1, 1]
    assert network.class_names == ("comedy", "history", "tragedy")


@pytest.mark.parametrize("task", [None, "label"], ids=["by itself", "told"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_saved_model_says_itself_that_it_classifies_text(
    kind: str, task: str | None, tmp_path: Path
) -> None:
    made = make(kind)
    assert save_pretrained(made, tmp_path / "saved")
    network = load_network(
        "transformers", base=tmp_path, where="teacher.model", path="saved", task=task
    )
    assert (network.task, network.class_names) == ("label", made.class_names)
    inputs = rows([3, 4, 5], [6])
    with torch.no_grad():
        assert torch.equal(network(inputs).logits, made.eval()(inputs).logits)


def test_a_language_model_has_no_trained_labels(tmp_path: Path) -> None:
    config = CONFIGS["llama"]
    made = load_network("transformers", base=tmp_path, where="model", config=config)
    save_pretrained(made, tmp_path / "saved")
    with pytest.raises(ModelError) as caught:
        load_network("transformers", base=tmp_path, where="model", path="saved", task="label")
    assert str(caught.value) == (
        "model: 'saved' has no weights for score.weight, which would be random. Give a model that "
        "was trained as a sequence classifier."
    )


def save_body(folder: Path, kind: str = "bert") -> None:
    import transformers

    settings = {key: value for key, value in CONFIGS[kind].items() if key not in LABELS}
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(1)
    auto: Any = transformers.AutoModel
    auto.from_config(config).save_pretrained(folder)


def with_new_head(base: Path, *, where: str = "student.model", **settings: Any) -> Network:
    torch.manual_seed(0)
    return load_network("transformers", base=base, where=where, path="saved", **settings)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_body_is_given_a_new_head(kind: str, tmp_path: Path) -> None:
    import transformers

    save_body(tmp_path / "saved", kind)
    network = with_new_head(tmp_path, new_head=["short", "long"])
    assert (network.task, network.class_names) == ("label", ("short", "long"))
    body = transformers.AutoModel.from_pretrained(tmp_path / "saved").state_dict()
    model: Any = network.model
    found = getattr(model, model.base_model_prefix).state_dict()
    assert all(torch.equal(found[name], value) for name, value in body.items())
    inputs = rows([3, 4, 5], [6])
    again = with_new_head(tmp_path, new_head=["short", "long"], task="label")
    with torch.no_grad():
        assert network(inputs).logits.shape == (2, 2)
        assert torch.equal(network(inputs).logits, again(inputs).logits)


def test_a_head_for_other_classes_is_replaced_and_one_for_as_many_is_not(tmp_path: Path) -> None:
    save_pretrained(make("bert"), tmp_path / "saved")
    assert with_new_head(tmp_path, new_head=["short", "long"]).class_names == ("short", "long")
    with pytest.raises(ModelError) as caught:
        with_new_head(tmp_path, new_head=["a", "b", "c"])
    assert str(caught.value) == (
        "student.model: 'saved' has a head of 3 classes already, which would be kept. Leave "
        "new_head out, or name other classes than so many."
    )


def test_a_body_is_never_new(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_body(tmp_path / "saved")
    save_file({"a": torch.zeros(1)}, tmp_path / "saved/model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"weights for bert.embeddings.LayerNorm.bias and 3\d other"
    ):
        with_new_head(tmp_path, new_head=["short", "long"])


@pytest.mark.parametrize("settings", [{"task": "masked_token"}, {"path": None, "config": {}}])
def test_a_new_head_is_for_labels_and_on_a_saved_body(settings: dict[str, Any]) -> None:
    given = {"path": "saved", "new_head": ["a", "b"], **settings}
    with pytest.raises(ModelError) as caught:
        load_network("transformers", base=Path(), where="model", **given)
    assert str(caught.value) == (
        "model.new_head: is for a saved model that will be a classifier. Give path, and task = "
        "'label' or none."
    )


def test_a_model_that_must_know_padding_is_asked_for_it() -> None:
    with pytest.raises(ModelError) as caught:
        make("gpt2", pad_token_id=None)
    assert str(caught.value) == (
        "model: GPT2ForSequenceClassification cannot be asked about several texts at once "
        "(ValueError: Cannot handle batch sizes > 1 if no padding token is defined.). Mend its "
        "configuration; most often it lacks a pad_token_id."
    )


def test_images_are_no_text() -> None:
    with pytest.raises(ModelError) as caught:
        make("bert")(torch.zeros(2, 1, 8))
    assert str(caught.value) == (
        "model: classifies text, but its inputs have shape (2, 1, 8) torch.float32. Give it data "
        "of kind 'text' with task = 'label'."
    )


def test_a_new_image_classifier_is_still_one() -> None:
    small = {key: SMALL[key] for key in SMALL if key not in ("vocab_size", "pad_token_id")}
    config = {"model_type": "vit", "image_size": 8, "patch_size": 4, **small}
    network = load_network("transformers", base=Path(), where="m", config=config, task="label")
    assert network(torch.rand(2, 3, 8, 8)).logits.shape == (2, 2)

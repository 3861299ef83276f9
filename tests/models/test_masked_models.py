"""Masked language models of transformers answer as the library does, where a token is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models import Network, Tap, load_network, save_pretrained
from pipeline.models.huggingface.parting import part_body
from pipeline.samples.text.tokens import token_row

pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,
    "pad_token_id": 1,
}
# Their heads are a module, four modules, a module that counts places otherwise, and two modules.
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **SMALL},
    "distilbert": {"model_type": "distilbert", "vocab_size": 40, "dim": 16, "hidden_dim": 32,
                   "n_layers": 2, "n_heads": 2, "max_position_embeddings": 20},
    "roberta": {"model_type": "roberta", **SMALL},
    "electra": {"model_type": "electra", "embedding_size": 8, **SMALL},
}  # fmt: skip
DOCUMENTS = ([3, 4, 5, 6, 7], [8, 9, 10], [11, 12])
ASKED = ([0, 3, 4], [1], [0, 1])


def make(kind: str) -> Network:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"config": CONFIGS[kind], "task": "masked_token"}
    return load_network("transformers", base=Path(), where="teacher.model", **arguments)


def rows(*packed: tuple[int, ...], length: int = 12) -> torch.Tensor:
    """Lay out rows of documents by number. Shapes: returns (B, 3, length)."""
    made = np.full((len(packed), 3, length), -1, np.int32)
    for row, numbers in zip(made, packed, strict=True):
        row[:2] = token_row([np.array(DOCUMENTS[each], np.int32) for each in numbers], length)
        start = 0
        for each in numbers:
            row[2, [start + place for place in ASKED[each]]] = 39
            start += len(DOCUMENTS[each])
    return torch.from_numpy(made)


def answers(network: Network) -> torch.Tensor:
    """Ask the library about each document alone. Shapes: returns (6, 40)."""
    pairs = zip(DOCUMENTS, ASKED, strict=True)
    return torch.cat(
        [network.model(torch.tensor([each])).logits[0, asked] for each, asked in pairs]
    )


@pytest.mark.parametrize("packed", [((0,), (1,), (2,)), ((0, 1), (2,)), ((0, 1, 2),)], ids=str)
@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_only_what_is_asked_is_answered_padded_or_packed(
    kind: str, packed: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.models.network.BLOCK_ELEMENTS", 4 * 40)
    network = make(kind)
    output = network(rows(*packed))
    assert output.positions.tolist() == [sum(len(ASKED[each]) for each in row) for row in packed]
    torch.testing.assert_close(output.logits, answers(network), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(list(output.blocks())), output.logits)


@pytest.mark.parametrize(
    ("kind", "width"), [("bert", 16), ("distilbert", 16), ("roberta", 16), ("electra", 8)]
)
@torch.no_grad()
def test_the_head_is_the_output_layer_alone(kind: str, width: int) -> None:
    output = make(kind)(rows((0,), (1,)))
    parts = part_body(make(kind).model)
    assert isinstance(parts.head, torch.nn.Linear)
    assert output.states.shape == (4, width)
    assert output.layer is not None
    assert output.layer.bias is not None
    output.layer.bias.uniform_()
    made = torch.nn.functional.linear(output.states, output.layer.weight, output.layer.bias)
    torch.testing.assert_close(made, output.logits)


@pytest.mark.parametrize(
    ("kind", "module"), [("bert", "bert"), ("distilbert", "distilbert.transformer.layer.1")]
)
@torch.no_grad()
def test_features_are_those_of_the_tokens_that_are_asked_for(kind: str, module: str) -> None:
    network, inputs = make(kind), rows((0,), (1,), (2,))
    network.tap({"last": Tap(module)})
    output = network(inputs)
    pairs = zip(DOCUMENTS, ASKED, strict=True)
    body: Any = network.model.base_model
    wanted = [body(torch.tensor([each])).last_hidden_state[0, asked] for each, asked in pairs]
    torch.testing.assert_close(output.features["last"], torch.cat(wanted), atol=1e-5, rtol=1e-5)


def test_a_module_behind_the_positions_is_no_feature() -> None:
    network = make("bert")
    network.tap({"last": Tap("cls.predictions.transform")})
    with pytest.raises(ModelError, match=r"gives \(1, 4, 16\) for a batch of 2; with reduce"):
        network(rows((0,), (1,)))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_parted_model_learns_as_one_in_one_piece(kind: str) -> None:
    parted, inputs = make(kind), rows((0,), (1,))
    gradients = []
    for network in (parted, Network(parted.model, task="masked_token")):
        network.zero_grad()
        network(inputs).logits.logsumexp(1).sum().backward()
        gradients.append({name: each.grad.clone() for name, each in parted.model.named_parameters()
                          if each.grad is not None})  # fmt: skip
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_the_head_follows_what_becomes_of_the_model() -> None:
    network = make("bert")
    before = network(rows((0,))).logits
    with torch.no_grad():
        for each in network.model.parameters():
            each.mul_(1.5)
    network.model.to(torch.float64)
    after = network(rows((0,))).logits
    assert after.dtype == torch.float64
    assert not torch.allclose(before.double(), after)
    assert set(network.model.state_dict()) == set(make("bert").model.state_dict())


@torch.no_grad()
def test_a_model_whose_forward_does_more_answers_in_one_piece() -> None:
    network = make("bert")

    class Capped(type(network.model)):  # type: ignore[misc]
        def forward(self, input_ids: torch.Tensor, attention_mask: Any = None) -> Any:
            answer = super().forward(input_ids, attention_mask)
            answer.logits = answer.logits + input_ids.sum()
            return answer

    network.model.__class__ = Capped
    parts = part_body(network.model)
    assert parts.body is network.model
    whole = Network(network.model, task="masked_token", parts=parts)
    assert whole(rows((0,))).states.shape == (3, 40)


def test_packed_documents_are_refused_by_a_model_that_mixes_them() -> None:
    config = {"model_type": "mpnet", **SMALL}
    network = load_network(
        "transformers", base=Path(), where="teacher.model", config=config, task="masked_token"
    )
    assert len(network(rows((0,), (1,)))) == 4
    with pytest.raises(ModelError) as caught:
        network(rows((0, 1)))
    assert str(caught.value).startswith(
        "teacher.model: MPNetForMaskedLM cannot keep packed documents apart, so they would be "
        "answered from each other. Set pack = false in the data, or let"
    )


def test_a_saved_model_says_itself_that_it_is_masked(tmp_path: Path) -> None:
    made = make("distilbert")
    assert save_pretrained(made, tmp_path / "saved")
    network = load_network("transformers", base=tmp_path, where="teacher.model", path="saved")
    assert network.task == "masked_token"
    with torch.no_grad():
        assert torch.equal(network(rows((0,))).logits, made(rows((0,))).logits)


def test_a_causal_model_is_no_masked_one(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2,
              "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    made = load_network("transformers", base=Path(), where="model", config=config)
    save_pretrained(made, tmp_path / "saved")
    with pytest.raises(ModelError) as caught:
        load_network("transformers", base=tmp_path, where="m", path="saved", task="masked_token")
    assert str(caught.value).startswith("m: 'saved' cannot be loaded as a masked language model (")


@pytest.mark.parametrize("inputs", [torch.zeros(2, 2, 8, dtype=torch.int32), torch.zeros(2, 3, 8)])
def test_what_holds_no_masked_tokens_is_refused(inputs: torch.Tensor) -> None:
    with pytest.raises(ModelError, match=r"teacher.model: fills in masked tokens, but its inputs"):
        make("bert")(inputs)

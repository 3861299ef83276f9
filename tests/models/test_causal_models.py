"""Causal language models of transformers answer as the library does, at every token asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models import Network, load_network, save_pretrained
from pipeline.samples.text.tokens import token_row

pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Gemma 2 caps its logits after the output layer, so it cannot be parted before that.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True, **SMALL},
    "gpt2": {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2,
             "bos_token_id": 1, "eos_token_id": 2, "resid_pdrop": 0.0},
    "gemma2": {"model_type": "gemma2", "final_logit_softcapping": 0.5, **SMALL},
}  # fmt: skip


def make(kind: str) -> Network:
    torch.manual_seed(0)
    return load_network("transformers", base=Path(), where="teacher.model", config=CONFIGS[kind])


def rows(*documents: list[list[int]], length: int = 10) -> torch.Tensor:
    """Lay out rows of documents. Shapes: returns (B, 2, length)."""
    made = [token_row([np.array(each, np.int32) for each in row], length) for row in documents]
    return torch.from_numpy(np.stack(made))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_token_asked_for_is_answered_as_the_library_does(kind: str) -> None:
    network = make(kind)
    first, second = [3, 4, 5, 6, 7], [8, 9, 10]
    with torch.no_grad():
        output = network(rows([first], [second]))
        for document, positions in ((first, slice(0, 4)), (second, slice(4, 6))):
            wanted = network.model(torch.tensor([document])).logits[0, :-1]
            torch.testing.assert_close(output.logits[positions], wanted, atol=1e-5, rtol=1e-5)
    assert output.positions.tolist() == [4, 2]
    assert output.logits.shape == (6, 40)


@pytest.mark.parametrize("kind", CONFIGS)
def test_packed_documents_do_not_see_each_other(kind: str) -> None:
    network = make(kind)
    with torch.no_grad():
        packed = network(rows([[3, 4, 5, 6], [8, 9, 10]], [[7, 8]]))
        alone = [
            network(rows([document])).logits for document in ([3, 4, 5, 6], [8, 9, 10], [7, 8])
        ]
    assert packed.positions.tolist() == [5, 1]
    torch.testing.assert_close(packed.logits, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_logits_are_made_under_the_autocast_that_the_model_was_asked_under() -> None:
    network = make("llama")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = network(rows([[3, 4, 5, 6, 7]]))
        narrow = network._parts.head(output.states)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(output.logits, narrow.float())
    assert torch.equal(torch.cat(list(output.blocks())), narrow.float())


@pytest.mark.parametrize(("kind", "width"), [("llama", 16), ("gpt2", 16), ("gemma2", 40)])
def test_logits_are_made_in_blocks_where_only_the_output_layer_makes_them(
    kind: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        output = make(kind)(rows([[3, 4, 5, 6, 7]]))
        monkeypatch.setattr("pipeline.models.network.BLOCK_ELEMENTS", 3 * output.class_count + 1)
        blocks = list(output.blocks())
    assert output.states.shape == (4, width)
    assert [len(block) for block in blocks] == [3, 1]
    torch.testing.assert_close(torch.cat(blocks), output.logits)


def test_a_saved_model_says_itself_that_it_is_causal(tmp_path: Path) -> None:
    made = make("llama")
    assert save_pretrained(made, tmp_path / "llama")
    network = load_network("transformers", base=tmp_path, where="teacher.model", path="llama")
    assert network.task == "next_token"
    inputs = rows([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(network(inputs).logits, made(inputs).logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "student.model: give either path, a saved model, or config, for a new one."),
        (
            {"config": {"model_type": "lama"}},
            "student.model.config: no model of transformers can be",
        ),
        ({"config": {"hidden_size": 8}}, "student.model.config: no model of transformers can be"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_network("transformers", base=Path(), where="student.model", **arguments)
    assert str(caught.value).startswith(message)


def test_images_are_no_tokens() -> None:
    with pytest.raises(ModelError, match=r"predicts tokens, but its inputs have shape \(2, 1, 8\)"):
        make("llama")(torch.zeros(2, 1, 8))


def test_a_model_that_sees_what_comes_next_is_refused(tmp_path: Path) -> None:
    bert = {
        "model_type": "bert",
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }

    def load(**more: object) -> None:
        load_network("transformers", base=tmp_path, where="student.model", config=bert | more)

    with pytest.raises(ModelError, match="BertLMHeadModel sees the tokens that come next, so it"):
        load()
    load(is_decoder=True)

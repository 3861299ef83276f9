"""How much text a model takes at once, where it says so."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from pipeline.models import context_of, vocabulary_of

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 34,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "bert": SMALL,
    # Positions begin behind that of padding, which is 1.
    "roberta": SMALL,
    "gpt2": {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 34},
    "t5": {"vocab_size": 40, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2},
    "bloom": {"vocab_size": 40, "hidden_size": 16, "n_layer": 1, "n_head": 2},
}


@pytest.mark.parametrize(
    ("kind", "context"),
    [("llama", 34), ("bert", 34), ("roberta", 32), ("gpt2", 34), ("t5", None), ("bloom", None)],
)
def test_a_model_of_transformers_says_it_in_its_configuration(
    kind: str, context: int | None
) -> None:
    config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind])
    model = transformers.AutoModel.from_config(config)
    assert context_of(model) == context
    assert vocabulary_of(model) == 40


def test_a_model_of_ones_own_may_say_it_or_nothing() -> None:
    model = nn.Linear(1, 1)
    assert (context_of(model), vocabulary_of(model)) == (None, None)
    model.config = SimpleNamespace(max_position_embeddings=8, vocab_size=-1)  # type: ignore[assignment]
    assert (context_of(model), vocabulary_of(model)) == (8, None)

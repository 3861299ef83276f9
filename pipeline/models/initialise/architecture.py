"""Whether layers of one model mean the same in another: its type, its heads, its settings.

Shapes are not looked at here. Of models that have no configuration nothing is known.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from pipeline.errors import ModelError

# Model types of transformers -> what to replace in the first's names to have the second's, in turn.
NAMES: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("bert", "distilbert"): (
        ("bert.", "distilbert."),
        ("encoder.layer", "transformer.layer"),
        ("attention.self.query", "attention.q_lin"),
        ("attention.self.key", "attention.k_lin"),
        ("attention.self.value", "attention.v_lin"),
        ("attention.output.dense", "attention.out_lin"),
        ("attention.output.LayerNorm", "sa_layer_norm"),
        ("intermediate.dense", "ffn.lin1"),
        ("output.dense", "ffn.lin2"),
        ("output.LayerNorm", "output_layer_norm"),
        ("cls.predictions.transform.dense", "vocab_transform"),
        ("cls.predictions.transform.LayerNorm", "vocab_layer_norm"),
        ("cls.predictions.decoder", "vocab_projector"),
    ),
}
# Other heads cut the same weights otherwise, which no shape would show.
HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
# Settings that change nothing of what a layer computes, or that shapes show.
OF_NO_CONSEQUENCE = {
    *("architectures", "dtype", "id2label", "label2id", "problem_type", "transformers_version"),
    *("initializer_range", "model_type", "num_labels", "pretraining_tp", "use_cache"),
    *("layer_types", "max_position_embeddings", "n_ctx", "n_positions", "tie_word_embeddings"),
    *("max_window_layers", "n_layer", "n_layers", "num_hidden_layers", "type_vocab_size"),
    *("vocab_size", "output_attentions", "output_hidden_states", "return_dict"),
}


def translation(source: nn.Module, student: nn.Module, where: str) -> tuple[tuple[str, str], ...]:
    """Say what to replace in the source's names so that they are the student's.

    Raises: ModelError if the models are of types that have no layers in common, or have other
        heads.
    """
    there, here = _config(source), _config(student)
    kinds: tuple[Any, Any]
    kinds = (getattr(there, "model_type", None), getattr(here, "model_type", None))
    if kinds[0] != kinds[1] and kinds not in NAMES:
        named = (kinds[0] or type(source).__name__, kinds[1] or type(student).__name__)
        others = "; ".join(f"{a} for a student of {b}" for a, b in NAMES)
        raise ModelError(
            f"{where}: layers of {named[0]} are no layers of {named[1]}, another architecture. "
            f"Give both models the same type (or {others}), or leave initialise out."
        )
    for name in HEADS:
        values = (getattr(there, name, None), getattr(here, name, None))
        if None not in values and values[0] != values[1]:
            raise ModelError(
                f"{where}: {name} is {values[0]} in the model to begin from and {values[1]} in the "
                "student, whose heads would be cut from the same weights otherwise. Give both the "
                "same."
            )
    return NAMES.get(kinds, ()) if kinds[0] != kinds[1] else ()


def layer_count(model: nn.Module) -> int | None:
    """Tell how many layers a model says it has; None if it says nothing."""
    count = getattr(_config(model), "num_hidden_layers", None)
    return count if isinstance(count, int) else None


def other_settings(source: nn.Module, student: nn.Module, layers: Sequence[int]) -> list[str]:
    """Name what a layer computes otherwise in the student, though its weights are the same."""
    there, here = _settings(source), _settings(student)
    differing = [
        key
        for key in sorted(there.keys() & here.keys() - OF_NO_CONSEQUENCE)
        if there[key] != here[key]
        and not (key.startswith("_") or "drop" in key or "token_id" in key)
    ]
    kinds, own = there.get("layer_types"), here.get("layer_types")
    if kinds and own and [kinds[each] for each in layers] != list(own):
        differing.append("layer_types")
    return differing


def _settings(model: nn.Module) -> dict[str, Any]:
    to_dict = getattr(_config(model), "to_dict", None)
    return dict(to_dict()) if to_dict else {}


def _config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    text = getattr(config, "get_text_config", None)
    return text() if text else config

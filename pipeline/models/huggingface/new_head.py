"""A saved model of transformers with another head than it was saved with: new, for other labels.

Its body is what was trained; the head's weights are drawn, so it is for a student alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import ModelError

# What pools the states of a text is a part of the body by name, but many bodies are saved without.
POOLER = ".pooler."


def head_settings(new_head: Sequence[str] | None) -> dict[str, Any]:
    """Say it to `from_pretrained`: a head for classes of these names, whatever was there."""
    if new_head is None:
        return {}
    return {
        "id2label": dict(enumerate(new_head)),
        "label2id": {name: number for number, name in enumerate(new_head)},
        "ignore_mismatched_sizes": True,
    }


def drawn_weights(report: Mapping[str, Any]) -> list[str]:
    """Name the weights that the files lacked, or had in another shape."""
    return sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})


def check_new_head(model: Any, drawn: Sequence[str], where: str) -> None:
    """Refuse a head that is not new, and a body that is.

    Raises: ModelError naming what the files have, or lack.
    """
    body = f"{model.base_model_prefix}."
    absent = [name for name in drawn if name.startswith(body) and POOLER not in name]
    if absent:
        raise ModelError(
            f"{where} has no weights for {absent[0]} and {len(absent) - 1} others of its body; "
            "only a head can be new. Give a model of this architecture that was trained."
        )
    if not drawn:
        raise ModelError(
            f"{where} has a head of {model.config.num_labels} classes already, which would be "
            "kept. Leave new_head out, or name other classes than so many."
        )

"""What a cache keeps of every position: the selection, the tail's nodes, and the fields they need.

Knows shapes and dtypes only: no logits pass through here, and how fields are stored is the store's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from pipeline.errors import TargetError
from pipeline.store.fields import Field
from pipeline.targets.low_rank import packed_size
from pipeline.targets.tail import DEFAULT_NODES

Kind = Literal["all", "top_k", "top_p", "sampled", "hybrid"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class TargetSpec:
    """What is kept at a position: `k` of `class_count` classes, and the tail at `nodes`.

    `nodes` are inverse temperatures, 1 first, descending; without a tail (k = class_count) they
    are not used.
    """

    kind: Kind
    class_count: int
    # Of "top_p" the most there can be; none of "sampled".
    k: int
    nodes: tuple[float, ...] = DEFAULT_NODES
    # Of the tail's shape; 0 keeps its mass alone.
    rank: int = 0
    # Of "sampled" and "hybrid": draws from the tail at a temperature, in a seed's own random order.
    draws: int = 0
    proposal_temperature: float = 1.0
    seed: int = 0
    # Of "top_p": the mass that is enough, and the fewest classes.
    p: float = 1.0
    k_min: int = 1

    @property
    def has_tail(self) -> bool:
        return self.k < self.class_count

    @property
    def is_compact(self) -> bool:
        """Whether the tail and the statistics take 16 bits a number: where 16 bytes matter."""
        return bool(self.rank or self.draws)

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "class_count": self.class_count,
            "k": self.k,
            "nodes": list(self.nodes),
            **({"rank": self.rank} if self.rank else {}),
            **{name: getattr(self, name) for name in OF_KIND.get(self.kind, ())},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TargetSpec":
        """Read what a cache says of its targets.

        Raises: TargetError if they are of a kind this software does not know.
        """
        kind = document["kind"]
        if kind not in KINDS:
            raise TargetError(
                f"targets: of kind '{kind}'; this software reads {', '.join(KINDS)}. "
                "Use the software that made the cache, or a newer one."
            )
        return cls(
            kind,
            int(document["class_count"]),
            int(document["k"]),
            tuple(float(node) for node in document["nodes"]),
            int(document.get("rank", 0)),
            **{name: document[name] for name in OF_KIND.get(kind, ())},
        )


_DRAWN = ("draws", "proposal_temperature", "seed")
# What a kind is described by, beside what all are.
OF_KIND: dict[str, tuple[str, ...]] = {
    "top_p": ("p", "k_min"),
    "sampled": _DRAWN,
    "hybrid": _DRAWN,
}


def target_fields(spec: TargetSpec) -> tuple[Field, ...]:
    """List the arrays that hold such targets, all of them over positions.

    Shapes: of one position: classes and logits (K,); drawn classes and logits (D,); tail (M,);
        codes (r / 2,); count, top and statistics ().
    """
    ids, number = class_dtype(spec.class_count), "float16" if spec.is_compact else "float32"
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    if spec.kind not in ("all", "sampled"):
        fields.append(("classes", ids, (spec.k,)))
    if spec.kind == "sampled":
        fields.append(("top", ids, ()))
    else:
        fields.append(("logits", "float16", (spec.k,)))
    if spec.kind == "top_p":
        fields.append(("count", class_dtype(spec.k + 1), ()))
    if spec.draws:
        fields += [("drawn", ids, (spec.draws,)), ("drawn_logits", "float16", (spec.draws,))]
    if spec.has_tail:
        # One value a node, then the slopes at b = 0 and b = 1.
        fields.append(("tail", "int16" if spec.is_compact else "float32", (len(spec.nodes) + 2,)))
    if spec.rank:
        fields.append(("codes", "uint8", (packed_size(spec.rank),)))
    fields += [(name, number, ()) for name in ("entropy", "confidence", "margin")]
    return tuple(Field(name, dtype, shape, "positions") for name, dtype, shape in fields)


def basis_fields(spec: TargetSpec) -> tuple[Field, ...]:
    """List the arrays that a low-rank tail shares over the whole cache, all of them over classes.

    Shapes: of one class: bias and weights (); vectors (r,).
    """
    return (
        Field("bias", "float32", (), "classes"),
        Field("weights", "float32", (), "classes"),
        Field("vectors", "float16", (spec.rank,), "classes"),
    )


def class_dtype(class_count: int) -> str:
    """Name the smallest unsigned integer that holds every class.

    Raises: TargetError if there are more classes than 2^31.
    """
    if not 1 <= class_count <= 2**31:
        raise TargetError(
            f"targets: {class_count} classes; between 1 and {2**31} can be cached. "
            "Check the teacher's output layer."
        )
    return np.min_scalar_type(class_count - 1).name

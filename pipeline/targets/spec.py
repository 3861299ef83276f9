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

Kind = Literal["all", "top_k"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class TargetSpec:
    """What is kept at a position: `k` of `class_count` classes, and the tail at `nodes`.

    `nodes` are inverse temperatures, 1 first, descending; without a tail (k = class_count) they
    are not used.
    """

    kind: Kind
    class_count: int
    k: int
    nodes: tuple[float, ...] = DEFAULT_NODES
    # Of the tail's shape; 0 keeps its mass alone.
    rank: int = 0

    @property
    def has_tail(self) -> bool:
        return self.k < self.class_count

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "class_count": self.class_count,
            "k": self.k,
            "nodes": list(self.nodes),
            **({"rank": self.rank} if self.rank else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TargetSpec":
        """Read what a cache says of its targets.

        Raises: TargetError if they are of a kind this software does not know.
        """
        if document["kind"] not in KINDS:
            raise TargetError(
                f"targets: of kind '{document['kind']}'; this software reads {', '.join(KINDS)}. "
                "Use the software that made the cache, or a newer one."
            )
        nodes = tuple(float(node) for node in document["nodes"])
        rank = int(document.get("rank", 0))
        return cls(document["kind"], int(document["class_count"]), int(document["k"]), nodes, rank)


def target_fields(spec: TargetSpec) -> tuple[Field, ...]:
    """List the arrays that hold such targets, all of them over positions.

    Shapes: of one position: classes and logits (K,); tail (M,); statistics ().
    """
    kept = [Field("logits", "float16", (spec.k,), "positions")]
    if spec.kind == "top_k":
        kept.insert(0, Field("classes", class_dtype(spec.class_count), (spec.k,), "positions"))
    if spec.has_tail:
        # One value a node, then the slopes at b = 0 and b = 1.
        kept.append(Field("tail", "float32", (len(spec.nodes) + 2,), "positions"))
    if spec.rank:
        kept.append(Field("codes", "uint8", (packed_size(spec.rank),), "positions"))
    statistics = ("entropy", "confidence", "margin")
    return (*kept, *(Field(name, "float32", (), "positions") for name in statistics))


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

"""What a cache keeps of every position: the selection, the tail's nodes, and the fields they need.

Knows shapes and dtypes only: no logits pass through here, and how fields are stored is the store's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from pipeline.errors import TargetError
from pipeline.store.fields import Field
from pipeline.targets.low_rank.steps import Bits, Steps, even_steps, steps_of
from pipeline.targets.tail import DEFAULT_NODES

Kind = Literal["all", "top_k", "top_p", "sampled", "hybrid"]
KINDS: tuple[str, ...] = get_args(Kind)
SMALL = "small"
# Field of 8-bit logits -> that of their ranges.
RANGE_OF = {"logits": "range", "drawn_logits": "drawn_range"}
STATISTICS = ("entropy", "confidence", "margin")


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
    # Of the tail's shape; 0 keeps its mass alone. Its directions, if not of 4 bits each: pairs of
    # bits and how many have so many. Before they are known, as many of 1 bit as bytes can hold.
    rank: int = 0
    bits: Bits = ()
    # Of "sampled" and "hybrid": draws from the tail at a temperature, in a seed's own random order.
    draws: int = 0
    proposal_temperature: float = 1.0
    seed: int = 0
    # Of "top_p": the mass that is enough, and the fewest classes.
    p: float = 1.0
    k_min: int = 1
    # Whether kept logits take 8 bits, and what follows from the rest is left out.
    is_small: bool = False

    @property
    def has_tail(self) -> bool:
        return self.k < self.class_count

    @property
    def is_compact(self) -> bool:
        """Whether the tail and the statistics take 16 bits a number: where 16 bytes matter."""
        return bool(self.rank or self.draws or self.is_small)

    @property
    def steps(self) -> tuple[Steps, ...]:
        """How the codes of the tail's shape lie in bytes."""
        return steps_of(self.bits) if self.bits else even_steps(self.rank)

    @property
    def has_mass_alone(self) -> bool:
        """Whether of the tail's mass only that at T = 1 is kept: its shape says the others."""
        return self.is_small and self.rank > 0

    @property
    def knows_runner_up(self) -> bool:
        """Whether every position keeps its two largest logits, of which the margin follows."""
        return (self.k_min if self.kind == "top_p" else self.k) >= min(2, self.class_count)

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "class_count": self.class_count,
            "k": self.k,
            "nodes": list(self.nodes),
            **({"rank": self.rank} if self.rank else {}),
            **({"bits": [list(pair) for pair in self.bits]} if self.bits else {}),
            **({"encoding": SMALL} if self.is_small else {}),
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
            tuple((int(width), int(count)) for width, count in document.get("bits", ())),
            is_small=_is_small(document),
            **{name: document[name] for name in OF_KIND.get(kind, ())},
        )


def _is_small(document: Mapping[str, Any]) -> bool:
    encoding = document.get("encoding")
    if encoding not in (None, SMALL):
        raise TargetError(
            f"targets: encoded as '{encoding}'; this software reads '{SMALL}' and what names none. "
            "Use the software that made the cache, or a newer one."
        )
    return encoding == SMALL


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
        codes (bytes,); count, top, ranges and statistics (); drawn_new (bytes,).
    """
    ids, number = class_dtype(spec.class_count), "float16" if spec.is_compact else "float32"
    logit = "uint8" if spec.is_small else "float16"
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    if spec.kind not in ("all", "sampled"):
        fields.append(("classes", ids, (spec.k,)))
    if spec.kind == "sampled":
        fields.append(("top", ids, ()))
    else:
        fields.append(("logits", logit, (spec.k,)))
    if spec.kind == "top_p":
        fields.append(("count", class_dtype(spec.k + 1), ()))
    if spec.draws:
        fields += [("drawn", ids, (spec.draws,)), ("drawn_logits", logit, (spec.draws,))]
    if spec.is_small and spec.draws:
        fields.append(("drawn_new", "uint8", (-(-spec.draws // 8),)))
    if spec.is_small:
        fields += [(RANGE_OF[name], "float16", ()) for name, *_ in fields if name in RANGE_OF]
    if spec.has_tail:
        # One value a node, then the slopes at b = 0 and b = 1.
        count = 1 if spec.has_mass_alone else len(spec.nodes) + 2
        fields.append(("tail", "int16" if spec.is_compact else "float32", (count,)))
    if spec.rank:
        fields.append(("codes", "uint8", (sum(each.size_bytes for each in spec.steps),)))
    fields += [(name, number, ()) for name in STATISTICS if name not in derived(spec)]
    return tuple(Field(name, dtype, shape, "positions") for name, dtype, shape in fields)


def derived(spec: TargetSpec) -> tuple[str, ...]:
    """Name the statistics that are computed from the other fields when they are read."""
    if not spec.is_small:
        return ()
    return ("confidence", "margin") if spec.knows_runner_up else ("confidence",)


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

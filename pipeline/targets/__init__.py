"""What is kept of a teacher's answer, and what can be known from it at any temperature?

`encode` turns logits into the arrays of `target_fields`, `decode` turns arrays into `Targets`, and
`soften` gives the distribution at a temperature. A selection is one function beside `select_top_k`.
"""

from pipeline.targets.encoding import encode, find_bad_positions
from pipeline.targets.kept import Targets, decode
from pipeline.targets.soften import (
    Soft,
    check_temperature,
    kept_mass,
    log_tail_sum,
    soften,
    tail_mass,
)
from pipeline.targets.spec import TargetSpec, target_fields
from pipeline.targets.tail import DEFAULT_NODES, nodes_with, tail_weights

__all__ = [
    "DEFAULT_NODES",
    "Soft",
    "TargetSpec",
    "Targets",
    "check_temperature",
    "decode",
    "encode",
    "find_bad_positions",
    "kept_mass",
    "log_tail_sum",
    "nodes_with",
    "soften",
    "tail_mass",
    "tail_weights",
    "target_fields",
]

"""What is kept of a teacher's answer, and what can be known from it at any temperature?

`encode` turns logits into the arrays of `target_fields`, `decode` turns arrays into `Targets`, and
`soften` gives the distribution at a temperature. A selection is one function beside `select_top_k`.
"""

from pipeline.targets.draws import uniforms
from pipeline.targets.encoding import encode, find_bad_positions
from pipeline.targets.features import (
    FeatureSpec,
    decode_feature,
    encode_features,
    feature_field,
    read_specs,
)
from pipeline.targets.kept import Targets, decode, decode_basis, encode_basis
from pipeline.targets.low_rank.basis import Basis
from pipeline.targets.low_rank.fit import fit_basis
from pipeline.targets.mixtures import Mixture, mix_targets, normalise_weights
from pipeline.targets.mixtures.labels import Bounded, MixedLabels, PseudoLabels, bounded
from pipeline.targets.soften import (
    FEW_CLASSES,
    PROBED,
    Exps,
    Soft,
    blocks_of,
    check_temperature,
    constants,
    kept_mass,
    leave_out,
    log_sums_of,
    log_tail_sum,
    low_rank_logits,
    low_rank_probs,
    make_exps,
    normalise,
    one_hot,
    rebuild_tail,
    soften,
    tail_mass,
    uniform_logits,
    weigh_draws,
)
from pipeline.targets.spec import STATISTICS, TargetSpec, basis_fields, target_fields
from pipeline.targets.tail import DEFAULT_NODES, nodes_with, tail_weights

__all__ = [
    "DEFAULT_NODES",
    "FEW_CLASSES",
    "PROBED",
    "STATISTICS",
    "Basis",
    "Bounded",
    "Exps",
    "FeatureSpec",
    "MixedLabels",
    "Mixture",
    "PseudoLabels",
    "Soft",
    "TargetSpec",
    "Targets",
    "basis_fields",
    "blocks_of",
    "bounded",
    "check_temperature",
    "constants",
    "decode",
    "decode_basis",
    "decode_feature",
    "encode",
    "encode_basis",
    "encode_features",
    "feature_field",
    "find_bad_positions",
    "fit_basis",
    "kept_mass",
    "leave_out",
    "log_sums_of",
    "log_tail_sum",
    "low_rank_logits",
    "low_rank_probs",
    "make_exps",
    "mix_targets",
    "nodes_with",
    "normalise",
    "normalise_weights",
    "one_hot",
    "read_specs",
    "rebuild_tail",
    "soften",
    "tail_mass",
    "tail_weights",
    "target_fields",
    "uniform_logits",
    "uniforms",
    "weigh_draws",
]

"""Where does a recipe meet the rooms? Its tables become datasets, networks, a student to train.

Stages open the same things the same way by asking here. This room starts no work and writes
nothing.
"""

from pipeline.experiment.data import (
    Joined,
    Scanned,
    as_scanned,
    join_data,
    open_data,
    open_viewed,
    scan_data,
)
from pipeline.experiment.features import plan_features, tap_features
from pipeline.experiment.modules import describe_models
from pipeline.experiment.networks import (
    check_lengths,
    count_classes,
    open_model,
)
from pipeline.experiment.several import check_same
from pipeline.experiment.student import Setup, open_student

__all__ = [
    "Joined",
    "Scanned",
    "Setup",
    "as_scanned",
    "check_lengths",
    "check_same",
    "count_classes",
    "describe_models",
    "join_data",
    "open_data",
    "open_model",
    "open_student",
    "open_viewed",
    "plan_features",
    "scan_data",
    "tap_features",
]

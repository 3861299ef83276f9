"""Where does a recipe meet the rooms? Its tables become datasets, networks, a student to train.

Stages open the same things the same way by asking here. This room starts no work and writes
nothing.
"""

from pipeline.experiment.data import Joined, Scanned, join_data, open_data, open_viewed, scan_data
from pipeline.experiment.networks import (
    ModuleSeen,
    check_lengths,
    count_classes,
    list_modules,
    measure_features,
    open_model,
)
from pipeline.experiment.student import Setup, open_student

__all__ = [
    "Joined",
    "ModuleSeen",
    "Scanned",
    "Setup",
    "check_lengths",
    "count_classes",
    "join_data",
    "list_modules",
    "measure_features",
    "open_data",
    "open_model",
    "open_student",
    "open_viewed",
    "scan_data",
]

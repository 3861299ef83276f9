"""Where does a recipe meet the rooms? Its tables become datasets, networks, a student to train.

Stages open the same things the same way by asking here. This room starts no work and writes
nothing.
"""

from pipeline.experiment.data import Joined, Scanned, join_data, open_data, scan_data
from pipeline.experiment.networks import check_lengths, count_classes, measure_features, open_model
from pipeline.experiment.student import Setup, open_student

__all__ = [
    "Joined",
    "Scanned",
    "Setup",
    "check_lengths",
    "count_classes",
    "join_data",
    "measure_features",
    "open_data",
    "open_model",
    "open_student",
    "scan_data",
]

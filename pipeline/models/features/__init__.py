"""How are inner tensors of a model read, by the name of the module that makes them?"""

from pipeline.models.features.reduce import RULES, Tap, axis_of, make_feature
from pipeline.models.features.taps import AllRead, check_taps, read_taps

__all__ = ["RULES", "AllRead", "Tap", "axis_of", "check_taps", "make_feature", "read_taps"]

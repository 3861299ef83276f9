"""How are inner tensors of a model read, by the name of the module that makes them?"""

from pipeline.models.features.taps import at_positions, check_taps, read_taps

__all__ = ["at_positions", "check_taps", "read_taps"]

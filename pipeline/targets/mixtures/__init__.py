"""What do several teachers say together? The weighted average of their distributions.

At every temperature it is another one, so the teachers' targets lie side by side in a `Mixture`
until a loss asks; `merge` then says which classes they have together and what each has of the rest.
"""

from pipeline.targets.mixtures.average import average
from pipeline.targets.mixtures.merge import Merged, merge, merge_kept
from pipeline.targets.mixtures.mixture import Mixture, mix_targets, normalise_weights

__all__ = [
    "Merged",
    "Mixture",
    "average",
    "merge",
    "merge_kept",
    "mix_targets",
    "normalise_weights",
]

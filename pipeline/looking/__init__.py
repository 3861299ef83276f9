"""What is there, at a glance: a cache, a run, pseudo-labels, a recipe, or one sample's targets?

Each module reads what a quick look needs, gives it as plain values, and lays it out for a terminal.
Nothing here writes, opens a model or reads a whole dataset.
"""

from pipeline.looking.caches import describe_cache, tell_cache
from pipeline.looking.kinds import find_kind
from pipeline.looking.labels import describe_labels, tell_labels
from pipeline.looking.recipes import describe_recipe, tell_recipe
from pipeline.looking.runs import describe_run, tell_run
from pipeline.looking.samples import describe_sample, tell_sample, token_names

__all__ = [
    "describe_cache",
    "describe_labels",
    "describe_recipe",
    "describe_run",
    "describe_sample",
    "find_kind",
    "tell_cache",
    "tell_labels",
    "tell_recipe",
    "tell_run",
    "tell_sample",
    "token_names",
]

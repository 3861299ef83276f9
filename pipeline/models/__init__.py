"""Models: how is any network asked the same question, and answered in the same shape?

`load_network` finds a network by reference, `Network` wraps it so that inputs go in as the dataset
gives them and logits come out as (P, C). Nothing here knows whether it plays the teacher or the
student.
"""

from pipeline.models.digest import weights_digest
from pipeline.models.features import Tap, axis_of, read_taps
from pipeline.models.huggingface import save_pretrained
from pipeline.models.initialise import copy_layers
from pipeline.models.language import context_of, vocabulary_of
from pipeline.models.loading import load_network
from pipeline.models.network import (
    Network,
    Output,
    block_elements,
    prepare,
    set_precision,
    split_output,
)
from pipeline.models.runs import read_reference, save_reference
from pipeline.models.weights import load_weights, read_weights

__all__ = [
    "Network",
    "Output",
    "Tap",
    "axis_of",
    "block_elements",
    "context_of",
    "copy_layers",
    "load_network",
    "load_weights",
    "prepare",
    "read_reference",
    "read_taps",
    "read_weights",
    "save_pretrained",
    "save_reference",
    "set_precision",
    "split_output",
    "vocabulary_of",
    "weights_digest",
]

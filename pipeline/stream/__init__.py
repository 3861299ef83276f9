"""In what order, and from where, do students read? Epoch order as arithmetic, parts, prefetch,
resume.

It joins the targets of a cache, or of several, to raw samples by id and content digest. It knows no
student, no loss and no training loop; it is a torch IterableDataset that anyone's loop can use.
"""

from pipeline.stream.ahead import prefetch
from pipeline.stream.batch import Batch
from pipeline.stream.order import Order
from pipeline.stream.several.beside import no_targets
from pipeline.stream.several.blend import Blend, Blended
from pipeline.stream.stored import Picked
from pipeline.stream.stream import Stream
from pipeline.stream.tokens.cached import CachedSamples, open_cached

__all__ = [
    "Batch",
    "Blend",
    "Blended",
    "CachedSamples",
    "Order",
    "Picked",
    "Stream",
    "no_targets",
    "open_cached",
    "prefetch",
]

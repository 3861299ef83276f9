"""Memory for batches, used again as soon as nobody looks at it any more.

Without it each batch's memory goes back to the system and comes back page by page, zeroed: on a
plain loop that costs several times what copying the batch does.
"""

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Smaller ones come and go in the allocator's own memory.
SMALLEST_BYTES = 2**16
# More are never needed: the batches read ahead, the one that is learned from, and the next.
MOST = 64
# What `sys.getrefcount` says of a buffer that only the list, the loop and the question know.
_UNUSED = 3


@dataclass(frozen=True)
class Buffers:
    """Arrays that were handed out; one that nothing refers to any more is handed out again.

    Tensors and views refer to the array they share memory with, so a batch that is kept stays as it
    is.
    """

    known: list[NDArray[np.uint8]] = field(default_factory=list)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give an array whose content is arbitrary."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST_BYTES:
            return np.empty(shape, dtype)
        return self._find(size)[:size].view(dtype).reshape(shape)

    def _find(self, size: int) -> NDArray[np.uint8]:
        for buffer in self.known:
            if size <= len(buffer) <= 2 * size and sys.getrefcount(buffer) == _UNUSED:
                return buffer
        if len(self.known) == MOST:
            self.known.pop(0)  # whoever still looks at it keeps it
        # Batches of rows of varying length differ a little.
        self.known.append(np.empty(size + size // 8, np.uint8))
        return self.known[-1]

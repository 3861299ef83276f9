"""Maps of several files put side by side, so that rows are copied out of all of them by one call.

To copy from several arrays takes a view of each first: of rows of text, that is an eighth of an
epoch. Linux maps once more what is mapped already, wherever it is told to; nothing is read or
copied for it, and no file need be found again.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
# A process has 65,530 maps, unless its system says otherwise, and may have several streams.
MOST_ARRAYS = 1024
# Rooms in which something could not be mapped: the system may have made a gap there, which others
# have taken since, and what is theirs would go with the room. They are addresses, not memory.
_LEFT: list[Array] = []


def side_by_side(arrays: Sequence[Array]) -> Array | None:
    """Give arrays one behind another, in memory that they share; None where that is not possible.

    They must be whole files that are mapped, all but the last of equal length, in pages.

    Shapes: (n, ...) each; returns (sum of n, ...).
    Source: mremap(2), on an old size of zero.
    """
    if not (sys.platform == "linux" and 1 < len(arrays) <= MOST_ARRAYS and _are_alike(arrays)):
        return None
    size, total = arrays[0].nbytes, sum(each.nbytes for each in arrays)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        place = mmap.mmap(-1, total, flags=flags, prot=mmap.PROT_READ)
    except OSError:  # a limit on addresses, as `ulimit -v` sets one
        return None
    # The array keeps the room, which takes all that lies there along when it goes.
    room = np.frombuffer(place, np.uint8)
    for number, array in enumerate(arrays):
        if not _map_again(array, room.ctypes.data + number * size):
            _LEFT.append(room)
            return None
    # Their pages would count as memory twice; whoever asks for them finds them again.
    for array in arrays:
        if (file := _file_of(array)) is not None:
            file.madvise(mmap.MADV_DONTNEED)
    return room.view(arrays[0].dtype).reshape(-1, *arrays[0].shape[1:])


def _are_alike(arrays: Sequence[Array]) -> bool:
    first, last = arrays[0], arrays[-1]
    return (
        0 < last.nbytes <= first.nbytes
        and first.nbytes % mmap.PAGESIZE == 0
        and all(each.nbytes == first.nbytes for each in arrays[:-1])
        and all(each.shape[1:] == first.shape[1:] for each in arrays)
        and all(each.dtype == first.dtype and _file_of(each) is not None for each in arrays)
    )


def _file_of(array: Array) -> mmap.mmap | None:
    """Give the map of a file that an array is, from its beginning."""
    owner: Any = array
    while isinstance(owner, (np.ndarray, memoryview)):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    is_whole = array.flags.c_contiguous and array.ctypes.data % mmap.PAGESIZE == 0
    return owner if isinstance(owner, mmap.mmap) and is_whole else None


def _map_again(array: Array, place: int) -> bool:
    how = MREMAP_MAYMOVE | MREMAP_FIXED
    found: int | None = _mremap()(array.ctypes.data, 0, array.nbytes, how, place)
    return found == place


@cache
def _mremap() -> Callable[..., int | None]:
    function = ctypes.CDLL(None, use_errno=True).mremap
    size, address = ctypes.c_size_t, ctypes.c_void_p
    function.argtypes, function.restype = (address, size, size, ctypes.c_int, address), address
    found: Callable[..., int | None] = function
    return found

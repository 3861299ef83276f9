"""Random numbers that follow from a key alone, however many are drawn beside them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def view_key(seed: int, sample_id: str, view: int, purpose: bytes = b"") -> bytes:
    """Make the 16 bytes that decide all draws for one view of one sample.

    What is drawn for another purpose has nothing to do with it.

    Source: BLAKE2b, RFC 7693, of seed and view as 8 bytes each, little-endian, then the id; the
        purpose is its personalisation.
    """
    numbers = seed.to_bytes(8, "little") + view.to_bytes(8, "little")
    named = numbers + sample_id.encode()
    return hashlib.blake2b(named, digest_size=16, person=purpose).digest()


def draw_uniform(keys: Sequence[bytes], count: int) -> NDArray[np.float64]:
    """Draw numbers above 0 and below 1, of each key its own.

    Shapes: returns (number of keys, count).
    Source: the upper 52 bits of each of `draw_words`, and a half.
    """
    words = draw_words(keys, count)
    uniform: NDArray[np.float64] = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return uniform


def draw_words(keys: Sequence[bytes], count: int) -> NDArray[np.uint64]:
    """Draw words of 64 random bits, of each key its own.

    Shapes: returns (number of keys, count).
    Source: Philox 4x64-10, Salmon et al. 2011, from counter 0.
    """
    # Raw words, for numpy promises those for ever, which it does not of its distributions. One
    # generator is set to key after key: making one takes three times as long.
    generator = np.random.Philox(0)
    words = np.empty((len(keys), count), np.uint64)
    for place, key in enumerate(keys):
        generator.state = _state(key)
        words[place] = generator.random_raw(count)
    return words


def _state(key: bytes) -> Any:  # numpy's own type of it is private
    counter, buffer = np.zeros(4, np.uint64), np.zeros(4, np.uint64)
    return {
        "bit_generator": "Philox",
        "state": {"counter": counter, "key": np.frombuffer(key, "<u8").astype(np.uint64)},
        "buffer": buffer,
        "buffer_pos": len(buffer),
        "has_uint32": 0,
        "uinteger": 0,
    }

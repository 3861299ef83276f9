"""From text to token ids, by a Hugging Face tokenizer or byte by byte.

Knows no files but the tokenizer's own, and no samples.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError

Ids = NDArray[np.int32]
BYTES = "bytes"
# 256 bytes, and one that ends a document.
BYTE_VOCABULARY, BYTE_END = 257, 256
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Tokenizer:
    """Turns texts into ids below `vocabulary`; `digest` is of everything that decides them."""

    vocabulary: int
    digest: str
    encode: Callable[[Sequence[str]], list[Ids]]


def open_tokenizer(*, base: Path, where: str, source: str, end: str | None) -> Tokenizer:
    """Open the tokenizer `source`: "bytes", a folder or file beside the recipe, or a hub name.

    `end` is the token that is put at the end of every document.

    Raises: SampleError if it cannot be opened, or has no such token.
    """
    if source == BYTES:
        return _of_bytes(where, end)
    try:
        import tokenizers
    except ImportError as error:
        raise SampleError(
            f"{where}.tokenizer: '{source}' needs a library that is not installed ({error}). "
            "Install it: pip install 'teacher-logit-cache[transformers]', or use "
            f'tokenizer = "{BYTES}"'
        ) from error
    place = base / source
    file = place / TOKENIZER_FILE if place.is_dir() else place
    try:
        if file.is_file():
            opened = tokenizers.Tokenizer.from_file(str(file))
        else:
            opened = tokenizers.Tokenizer.from_pretrained(source)
    # The library raises bare Exceptions, whatever is wrong.
    except Exception as error:
        raise SampleError(
            f"{where}.tokenizer: '{source}' cannot be opened ({str(error).splitlines()[0]}); give "
            f'a folder with {TOKENIZER_FILE} (looked for {file}), a hub name, or "{BYTES}"'
        ) from error
    opened.no_truncation()
    opened.no_padding()
    last = _end_ids(opened, where, end)

    def encode(texts: Sequence[str]) -> list[Ids]:
        found = opened.encode_batch_fast(list(texts))
        return [np.array([*each.ids, *last], np.int32) for each in found]

    description = json.dumps([json.loads(opened.to_str()), end], sort_keys=True)
    # Not how many tokens there are: some vocabularies have gaps.
    vocabulary = 1 + max(opened.get_vocab().values(), default=-1)
    return Tokenizer(vocabulary, _digest(description), encode)


def _end_ids(opened: Any, where: str, end: str | None) -> list[int]:
    if end is None:
        return []
    number = opened.token_to_id(end)
    if number is None:
        raise SampleError(f"{where}.end: the tokenizer has no token {end!r}; name one it has")
    return [number]


def _of_bytes(where: str, end: str | None) -> Tokenizer:
    if end not in (None, "end"):
        raise SampleError(f"{where}.end: bytes have no token {end!r}; allowed is 'end', or nothing")
    last = [] if end is None else [BYTE_END]

    def encode(texts: Sequence[str]) -> list[Ids]:
        return [np.array([*text.encode(), *last], np.int32) for text in texts]

    return Tokenizer(BYTE_VOCABULARY, _digest(f"{BYTES} {end}"), encode)


def _digest(description: str) -> str:
    return hashlib.sha256(description.encode()).hexdigest()

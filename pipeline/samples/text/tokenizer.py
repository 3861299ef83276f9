"""From text to token ids, by a Hugging Face tokenizer or byte by byte.

Knows no files but the tokenizer's own, and no samples.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError

Ids = NDArray[np.int32]
BYTES = "bytes"
# 256 bytes, one that ends a document, and one that masks another where that is asked for.
BYTE_END, BYTE_MASK = 256, 257
TOKENIZER_FILE = "tokenizer.json"
# What tokenizers call the token that stands for a masked one.
MASK_TOKENS = ("[MASK]", "<mask>")
# Any text will do: what is put before and after it is put around every other one, too.
PROBE = "a"
NO_IDS: Ids = np.empty(0, np.int32)


@dataclass(frozen=True)
class Masking:
    """What a masked language model needs to know: ids that are never masked, the one that masks.

    `before` and `after` are put around every piece of a document, not the document.
    """

    token: int
    special: tuple[int, ...]
    before: Ids = field(default_factory=NO_IDS.copy)
    after: Ids = field(default_factory=NO_IDS.copy)


@dataclass(frozen=True)
class Tokenizer:
    """Turns texts into ids below `vocabulary`, and back; `digest` is of all that decides them."""

    vocabulary: int
    digest: str
    encode: Callable[[Sequence[str]], list[Ids]]
    decode: Callable[[Sequence[int]], str]
    masking: Masking | None = None


def open_tokenizer(
    *,
    base: Path,
    where: str,
    source: str,
    end: str | None,
    masks: bool = False,
    mask_token: str | None = None,
) -> Tokenizer:
    """Open the tokenizer `source`: "bytes", a folder or file beside the recipe, or a hub name.

    `end` is the token that is put at the end of every document; with `masks` tokens can be masked,
    by `mask_token` or what the tokenizer itself has for it.

    Raises: SampleError if it cannot be opened, or has no such token.
    """
    if mask_token is not None and not masks:
        raise SampleError(
            f"{where}.mask_token: nothing is masked but for the task 'masked_token'; leave it out"
        )
    if source == BYTES:
        return _of_bytes(where, end, masks, mask_token)
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
    masking = _masking(opened, where, mask_token) if masks else None

    def encode(texts: Sequence[str]) -> list[Ids]:
        found = opened.encode_batch_fast(list(texts), add_special_tokens=masking is None)
        return [np.array([*each.ids, *last], np.int32) for each in found]

    description = json.dumps([json.loads(opened.to_str()), end], sort_keys=True)
    # Ids may have gaps, so that there are fewer of them than the largest says.
    vocabulary = 1 + max(opened.get_vocab().values(), default=-1)
    return Tokenizer(vocabulary, _digest(description), encode, opened.decode, masking)


def _masking(opened: Any, where: str, named: str | None) -> Masking:
    numbers = [opened.token_to_id(each) for each in ([named] if named else MASK_TOKENS)]
    token = next((number for number in numbers if number is not None), None)
    if token is None:
        lacks = f"no token {named!r}" if named else f"no {' and no '.join(MASK_TOKENS)}"
        raise SampleError(
            f"{where}.mask_token: the tokenizer has {lacks}; name the one of its tokens that "
            "stands for a masked one"
        )
    added = opened.get_added_tokens_decoder()
    special = {number for number, each in added.items() if each.special}
    bare = opened.encode(PROBE, add_special_tokens=False).ids
    framed = opened.encode(PROBE).ids
    starts = range(len(framed) - len(bare) + 1)
    start = next(each for each in starts if framed[each : each + len(bare)] == bare)
    before, after = framed[:start], framed[start + len(bare) :]
    special |= {token, *before, *after}
    return Masking(
        token, tuple(sorted(special)), np.array(before, np.int32), np.array(after, np.int32)
    )


def _end_ids(opened: Any, where: str, end: str | None) -> list[int]:
    if end is None:
        return []
    number = opened.token_to_id(end)
    if number is None:
        raise SampleError(f"{where}.end: the tokenizer has no token {end!r}; name one it has")
    return [number]


def _of_bytes(where: str, end: str | None, masks: bool, mask_token: str | None) -> Tokenizer:
    if mask_token not in (None, "mask"):
        raise SampleError(
            f"{where}.mask_token: bytes have no token {mask_token!r}; allowed is 'mask', or nothing"
        )
    if end not in (None, "end"):
        raise SampleError(f"{where}.end: bytes have no token {end!r}; allowed is 'end', or nothing")
    last = [] if end is None else [BYTE_END]

    def encode(texts: Sequence[str]) -> list[Ids]:
        return [np.array([*text.encode(), *last], np.int32) for text in texts]

    def decode(ids: Sequence[int]) -> str:
        return bytes(each for each in ids if each < BYTE_END).decode(errors="replace")

    masking = Masking(BYTE_MASK, (BYTE_END, BYTE_MASK)) if masks else None
    vocabulary = (BYTE_MASK if masks else BYTE_END) + 1
    return Tokenizer(vocabulary, _digest(f"{BYTES} {end}"), encode, decode, masking)


def _digest(description: str) -> str:
    return hashlib.sha256(description.encode()).hexdigest()

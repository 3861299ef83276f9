"""Sealed JSON: the one form in which plan, record and manifest are written and accepted.

A sealed document is canonical JSON (so its bytes follow from its content) and carries the SHA-256
of its other keys. Any changed byte is noticed. Does not know what the documents say.
"""

import hashlib
import json
from typing import Any

from pipeline.errors import CorruptPart

Document = dict[str, Any]


def canonical(document: Document) -> bytes:
    """Serialise to the only accepted bytes: ASCII, keys sorted, two spaces, a final newline.

    Source: FORMAT.md, section 6.
    """
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def sha256(content: bytes | memoryview) -> str:
    """Return the hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sealed(document: Document, *, key: str) -> Document:
    """Add `key`: the SHA-256 of the canonical JSON of all the others."""
    return {**document, key: sha256(canonical(document))}


def parse_sealed(raw: bytes, *, where: str, key: str) -> Document:
    """Read a sealed document back, its seal included.

    Raises: CorruptPart if the bytes are not canonical JSON or do not match their own digest.
    """
    document: Document
    try:
        document = json.loads(raw)
        is_canonical = isinstance(document, dict) and canonical(document) == raw
    except (ValueError, RecursionError) as error:
        raise CorruptPart(f"{where}: is not JSON any more ({error})") from error
    if not is_canonical:
        raise CorruptPart(f"{where}: a byte was changed: it is not canonical JSON any more")
    if document.get(key) != sha256(_without(raw, document, key)):
        raise CorruptPart(f"{where}: a byte was changed: '{key}' does not match the other keys")
    return document


def _without(raw: bytes, document: Document, key: str) -> bytes:
    """Give the canonical JSON of the other keys: a line less, which is faster than writing it anew.

    Lines that begin with two spaces and a quote are the outermost; the last has no comma.
    """
    value = document.get(key)
    line = b"  %b: %b" % (json.dumps(key).encode(), json.dumps(value).encode())
    before, found, after = raw.partition(b"\n" + line + b",\n")
    if found:
        return before + b"\n" + after
    rest = {name: each for name, each in document.items() if name != key}
    return canonical(rest)

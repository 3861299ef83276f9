"""What classes are called: by the cache, or by the tokenizer whose tokens they are.

Every name can be seen: spaces and signs that print nothing are spelled out. Opens a tokenizer's own
file, if it is on this machine; nothing is fetched.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from unicodedata import category

from pipeline.looking.about import data_name
from pipeline.recipe import Recipe
from pipeline.samples.text.tokenizer import BYTES, Tokenizer, open_tokenizer
from pipeline.store import Cache

Decode = Callable[[Sequence[int]], str]
NameOf = Callable[[int], str]
# Of what a tokenizer cannot say by itself: a piece of a letter, or nothing.
UNSAID = "\ufffd"
SPACE, LINE = "␣", "⏎"
# Categories of Unicode: controls, halves of pairs, and what is no sign at all; and what lays out.
CONTROL, LAYOUT = ("Cc", "Cs", "Cn"), "\n\t"
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def visible(text: str) -> str:
    """Spell out what cannot be seen, or not be told from something else."""
    spelled = text.replace(" ", SPACE).replace("\n", LINE)
    return "".join(each if each.isprintable() else _escaped(each) for each in spelled)


def printable(text: str) -> str:
    """Spell out signs that no page may hold, or that turn the text after them around."""
    return "".join(
        _escaped(each) if each not in LAYOUT and _is_control(each) else each for each in text
    )


def _is_control(sign: str) -> bool:
    return category(sign) in CONTROL or sign in TURNING


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def open_decoder(cache: Cache, recipe: Recipe | None) -> Decode | None:
    """Find what turns tokens of a cache into text: the very tokenizer it was made with, or None.

    Raises: SampleError if a tokenizer's file cannot be read.
    """
    tokens = cache.plan.about.get("tokens")
    if not tokens:
        return None
    name = data_name(cache)
    table = recipe.data.get(name) if recipe and name else None
    is_masked, found = tokens["task"] == "masked_token", list[Tokenizer]()
    for end in (None, "end"):  # a cache does not say where its tokenizer lay, only which it was
        found.append(
            open_tokenizer(base=Path(), where="data", source=BYTES, end=end, masks=is_masked)
        )
    source = getattr(table, "tokenizer", None)
    # A name of the hub would be fetched from there.
    if recipe and source and source != BYTES and recipe.locate(source).exists():
        options = {"end": getattr(table, "end", None), "masks": is_masked}
        options["mask_token"] = getattr(table, "mask_token", None)
        where = f"data.{name}"
        found.append(open_tokenizer(base=recipe.base, where=where, source=source, **options))
    return next((each.decode for each in found if each.digest == tokens["tokenizer"]), None)


def name_classes(cache: Cache, decode: Decode | None) -> NameOf:
    """Make what names classes: as the cache does, by their tokens, or by their numbers."""
    named = cache.plan.about["class_names"]
    if named:
        return lambda each: str(named[each])
    tokens = cache.plan.about.get("tokens")
    if decode is None or tokens is None or tokens["task"] == "label":
        return str

    @lru_cache(maxsize=4096)
    def name(each: int) -> str:
        text = decode([each])
        return f"token {each}" if not text or UNSAID in text else visible(text)

    return name

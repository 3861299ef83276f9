"""What a cache holds of one sample: each of its views, position by position, at temperatures.

It knows token ids; how they are spelled is handed to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.experiment.data import tokenizer_of
from pipeline.kept_targets import KeptTargets
from pipeline.looking.caches import class_name
from pipeline.looking.layout import bar
from pipeline.looking.search import absent_parts, find_row, sample_count
from pipeline.recipe import Recipe
from pipeline.samples.text.tokens import PADDING, is_predicted, read_text
from pipeline.store import UNLABELLED, Cache, Where, open_begun
from pipeline.stream.tokens.cached import ROW
from pipeline.stream.tokens.rows import decode_rows
from pipeline.targets import (
    Targets,
    soften,
    tail_mass,
    weigh_draws,
)

TEMPERATURES = (1.0, 2.0, 4.0)
SHOWN_CLASSES = 10
SHOWN_TOKENS = 40
# Statistic of a position -> how it is told.
TOLD = {
    "entropy": "entropy {:.4f} nats",
    "confidence": "confidence {:.4f}",
    "margin": "margin {:.4f}",
}
Spell = Callable[[Sequence[int]], str]
Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Look:
    """What is the same for all views of a sample, opened once; `limit` positions are decoded."""

    cache: Cache
    kept: KeptTargets
    names: list[str] | None
    limit: int
    spell: Spell | None

    @property
    def has_token_classes(self) -> bool:
        """Whether a class is a token, as of language models."""
        return "tokenizer" in self.cache.plan.settings.get("data", {}) and not self.names


def token_names(recipe: Recipe) -> tuple[str, Spell] | None:
    """Open what spells tokens of the cache's data: the tokenizer's digest, and its decoding.

    None where the data names no tokenizer.

    Raises: SampleError if it cannot be opened.
    """
    assert recipe.cache
    tokenizer = tokenizer_of(recipe, recipe.cache.data)
    return (tokenizer.digest, tokenizer.decode) if tokenizer else None


def describe_sample(
    where: Where,
    sample: str,
    *,
    positions: int = 5,
    names: tuple[str, Spell] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Decode what a cache holds of a sample: of every view the first `positions`.

    `names` is what `token_names` gives.

    Raises: SampleError if there is no such sample, with the nearest ids, or tokens are spelled by
        another tokenizer; CacheError if there is no cache; CorruptPart if what is read is damaged.
    """
    cache = open_begun(where)
    class_names = cache.plan.about["class_names"]
    look = Look(cache, KeptTargets(cache), class_names, positions, _checked(cache, names))
    first, absent = find_row(cache, sample, quiet), absent_parts(cache)
    rows = range(first, cache.plan.rows, sample_count(cache))
    there = [row for row in rows if row // cache.plan.rows_per_part not in absent]
    return {
        "what": "sample",
        "cache": str(where),
        "sample": sample,
        "views_cached": len(rows),
        "views": [_view(look, row) for row in there],
        "has_tokens": look.has_token_classes,
        "is_spelled": look.spell is not None,
    }


def _checked(cache: Cache, names: tuple[str, Spell] | None) -> Spell | None:
    """Refuse to spell tokens by another tokenizer than theirs."""
    there = cache.plan.settings.get("data", {}).get("tokenizer")
    if names is None or there is None:
        return None
    here, spell = names
    if here != there:
        raise SampleError(
            f"{cache.path}: was made with another tokenizer (there {there[:16]}, here {here[:16]}) "
            "than the recipe names, so its tokens cannot be spelled. Name the cache in place of "
            "the recipe to see their numbers."
        )
    return spell


def _view(look: Look, row: int) -> dict[str, Any]:
    """Decode a row."""
    part, place = divmod(row, look.cache.plan.rows_per_part)
    table = look.cache.read_samples(part)
    start, count = int(table.positions[:place].sum()), int(table.positions[place])
    shown = slice(start, start + min(count, look.limit))
    arrays = {
        name: each[shown] for name, each in look.cache.read_part(part, look.kept.names).items()
    }
    label, tokens = int(table.labels[place]), _tokens(look.cache, part, place)
    labels = _token_labels(look.cache, tokens)[: look.limit]
    targets = look.kept.decode(arrays)
    return {
        "view": int(table.views[place]),
        "row": row,
        "part": part,
        "label": None if label == UNLABELLED else class_name(look.names, label),
        "text": None if tokens is None else _text(look, tokens),
        "position_count": count,
        "positions": [
            {
                "position": number,
                "label": _name(look, labels[number]) if labels else None,
                **_position(look, targets[number : number + 1]),
            }
            for number in range(len(targets))
        ],
    }


def _tokens(cache: Cache, part: int, place: int) -> Tokens | None:
    """Build a row of tokens again, where the cache holds it. Shapes: returns (2, L)."""
    if not set(ROW) <= {each.name for each in cache.plan.fields}:
        return None
    arrays = cache.read_part(part, ROW)
    row: Tokens = decode_rows({name: each[place : place + 1] for name, each in arrays.items()})[0]
    return row


def _text(look: Look, tokens: Tokens) -> str:
    if look.spell:
        return read_text(tokens, look.spell)
    ids = tokens[0][tokens[1] != PADDING].tolist()
    more = " ..." if len(ids) > SHOWN_TOKENS else ""
    return " ".join(map(str, ids[:SHOWN_TOKENS])) + more


def _token_labels(cache: Cache, tokens: Tokens | None) -> list[int]:
    """List the tokens that were there, where each is predicted from those before it."""
    about = cache.plan.about.get("tokens")
    if tokens is None or about is None or about["task"] != "next_token":
        return []
    found: list[int] = tokens[0, 1:][is_predicted(tokens[None])[0]].tolist()
    return found


def _name(look: Look, number: int) -> str:
    if look.has_token_classes and look.spell:
        return repr(look.spell([number]))
    return class_name(look.names, number)


def _position(look: Look, one: Targets) -> dict[str, Any]:
    """Decode a position: its statistics, its classes, the most probable first, and its tail."""
    both = sorted([*_kept(one), *_drawn(one)], key=lambda each: -each["probabilities"]["1"])
    return {
        **{name: float(value[0]) for name, value in one.statistics.items()},
        "classes": [
            {"class": _name(look, each["number"]), **each} for each in both[:SHOWN_CLASSES]
        ],
        "classes_known": len(both),
        "left_out": int(one.left_out_count) if one.has_tail else 0,
        "tail": {f"{each:g}": float(tail_mass(one, each)[0]) for each in TEMPERATURES},
    }


def _kept(one: Targets) -> list[dict[str, Any]]:
    soft = {f"{each:g}": soften(one, each).log_probs[0].exp().tolist() for each in TEMPERATURES}
    count = one.logits.shape[1] if one.count is None else int(one.count[0])
    numbers = range(count) if one.classes is None else one.classes[0][:count].tolist()
    return [
        {"number": number, "draws": 0, "probabilities": _pick(soft, place)}
        for place, number in enumerate(numbers)
    ]


def _drawn(one: Targets) -> list[dict[str, Any]]:
    """Give the classes that were drawn from the tail, each once, and how often."""
    if one.drawn is None:
        return []
    soft = {f"{each:g}": weigh_draws(one, each)[1][0].exp().tolist() for each in TEMPERATURES}
    found = np.unique(one.drawn[0].numpy(), return_index=True, return_counts=True)
    return [
        {"number": number, "draws": draws, "probabilities": _pick(soft, place)}
        for number, place, draws in zip(*(each.tolist() for each in found), strict=True)
    ]


def _pick(soft: Mapping[str, Sequence[float]], place: int) -> dict[str, float]:
    return {name: each[place] for name, each in soft.items()}


def tell_sample(summary: dict[str, Any]) -> str:
    """Lay a sample's targets out for a terminal."""
    count = summary["views_cached"]
    views = f", {count} views" if count > 1 else ""
    lines = [f"{summary['cache']}: sample {summary['sample']}{views}"]
    for view in summary["views"]:
        label = "" if view["label"] is None else f", label {view['label']}"
        lines.append(f"  view {view['view']}: row {view['row']}, in part {view['part']}{label}")
        if view["text"] is not None:
            lines.append(f"    {'text' if summary['is_spelled'] else 'tokens'}: {view['text']!r}")
        for each in view["positions"]:
            lines += _position_lines(each, view["position_count"])
        if more := view["position_count"] - len(view["positions"]):
            lines.append(f"    and {more} more positions; --rows N shows N of them")
    if summary["has_tokens"] and not summary["is_spelled"]:
        lines.append("  give the recipe in place of the cache to see tokens as text")
    return "\n".join(lines)


def _position_lines(position: dict[str, Any], count: int) -> Iterator[str]:
    told = [text.format(position[name]) for name, text in TOLD.items() if name in position]
    if position["label"] is not None:
        told.insert(0, f"label {position['label']}")
    head = f"position {position['position']}: " if count > 1 else ""
    yield f"    {head}{', '.join(told)}"
    yield f"      {'class':20}" + "".join(f"{f'T={each:g}':>8}" for each in TEMPERATURES)
    for each in position["classes"]:
        drawn = f"  drawn {each['draws']} times" if each["draws"] else ""
        yield _probabilities(each["class"], each["probabilities"], drawn)
    if more := position["classes_known"] - len(position["classes"]):
        yield f"      and {more} more classes"
    if position["left_out"]:
        yield _probabilities(f"tail of {position['left_out']}", position["tail"])


def _probabilities(name: str, at: Mapping[str, float], more: str = "") -> str:
    numbers = "".join(f"{each:8.4f}" for each in at.values())
    return f"      {name:20.20}{numbers}  {bar(at['1'])}{more}".rstrip()

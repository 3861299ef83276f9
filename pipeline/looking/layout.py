"""How numbers look in a terminal: bars, a curve in a line, sizes, and facts one below the other.

It knows text alone.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

BAR_WIDTH = 20
LEVELS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 40


def bar(share: float) -> str:
    """Draw a share of 1."""
    return "#" * round(BAR_WIDTH * share)


def curve(values: Sequence[float]) -> str:
    """Draw numbers from left to right; of many, the means of neighbours."""
    count = min(CURVE_WIDTH, len(values))
    cuts = [len(values) * each // count for each in range(count + 1)] if count else []
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(cuts)]
    if not means:
        return ""
    low, high = min(means), max(means)
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(LEVELS[round((each - low) * scale)] for each in means)


def size_text(size_bytes: int) -> str:
    """Write a number of bytes."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.2f} kB"


def facts_text(head: str, facts: Mapping[str, str | Sequence[str]], width: int = 10) -> str:
    """Lay facts below a head; those that say nothing are left out, lists take a line each."""
    lines = [head]
    for name, said in facts.items():
        told = [said] if isinstance(said, str) else list(said)
        for number, text in enumerate(filter(None, told)):
            lines.append(f"  {'' if number else name:{width}} {text}")
    return "\n".join(lines)

"""How do models compare, in quality, size and speed; and the card that says so?

Numbers come from one pass over held-out data for each model, and from timed passes side by side. It
knows networks, not where they came from.
"""

from pipeline.card.acceptance import accepted
from pipeline.card.compare import Compared, compare
from pipeline.card.pages import FILES, as_csv, as_markdown, as_text
from pipeline.card.quality import ask_live, judge
from pipeline.card.speed import Speed, measure_speeds

__all__ = [
    "FILES",
    "Compared",
    "Speed",
    "accepted",
    "as_csv",
    "as_markdown",
    "as_text",
    "ask_live",
    "compare",
    "judge",
    "measure_speeds",
]

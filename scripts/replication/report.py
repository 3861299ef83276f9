"""What a claim was measured to be: a table for people, and the bars it must clear."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

COMPARISONS = {">": operator.gt, ">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Bar:
    """One number and what it must be; a number that is not one clears nothing."""

    name: str
    measured: float
    comparison: Literal[">", ">=", "<="]
    limit: float

    @property
    def is_met(self) -> bool:
        return bool(COMPARISONS[self.comparison](self.measured, self.limit))

    def line(self) -> str:
        """Say what was measured and what was asked."""
        verdict = "met" if self.is_met else "MISSED"
        return f"{verdict:6}  {self.name}: {self.measured:.4g} ({self.comparison} {self.limit:g})"


@dataclass(frozen=True)
class Report:
    """Lines of a table, and bars."""

    table: Sequence[str]
    bars: Sequence[Bar]

    @property
    def is_met(self) -> bool:
        return all(bar.is_met for bar in self.bars)

    def text(self) -> str:
        """Lay both out for a terminal."""
        return "\n".join([*self.table, "", *(bar.line() for bar in self.bars)])

"""Which of a teacher's answers to unlabelled data are worth being called labels, and how right?

Caches in, a table out: one temperature is fitted on labelled rows, a rule sets limits, classes are
balanced and cut, and every row is told what became of it. To add a rule, write how it sets limits
and add a line to `RULES`.
"""

from pipeline.labelling.answers import Asked, ask_rows
from pipeline.labelling.calibration import Calibration, fit_temperature, judge
from pipeline.labelling.make import Labelling, make_labels
from pipeline.labelling.output.folder import (
    PAGE_FILE,
    PURPOSE,
    SUMMARY_FILE,
    TABLE_FILE,
    read_summary,
    write_summary,
)
from pipeline.labelling.output.page import Look
from pipeline.labelling.output.table import PseudoLabelTable, digest_table, open_table
from pipeline.labelling.rules import RULES, Wanted
from pipeline.labelling.there import answers_there

__all__ = [
    "PAGE_FILE",
    "PURPOSE",
    "RULES",
    "SUMMARY_FILE",
    "TABLE_FILE",
    "Asked",
    "Calibration",
    "Labelling",
    "Look",
    "PseudoLabelTable",
    "Wanted",
    "answers_there",
    "ask_rows",
    "digest_table",
    "fit_temperature",
    "judge",
    "make_labels",
    "open_table",
    "read_summary",
    "write_summary",
]

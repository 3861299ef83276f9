"""Which of a teacher's answers to unlabelled data are worth being called labels, and how right?

Caches in, a table out: one temperature is fitted on labelled rows, a rule sets limits, classes are
balanced and cut, and every row is told what became of it. To add a rule, write how it sets limits
and add a line to `RULES`.
"""

from pipeline.labelling.answers import Asked, ask_rows
from pipeline.labelling.calibration import Calibration, fit_temperature, judge
from pipeline.labelling.make import Labelling, make_labels
from pipeline.labelling.output.folder import (
    SUMMARY_FILE,
    hold_folder,
    read_summary,
    refuse_strangers,
    write_summary,
)
from pipeline.labelling.output.page import PAGE_FILE, Look
from pipeline.labelling.output.table import (
    TABLE_FILE,
    PseudoLabelTable,
    digest_table,
    open_table,
)
from pipeline.labelling.rules import RULES, Wanted

__all__ = [
    "PAGE_FILE",
    "RULES",
    "SUMMARY_FILE",
    "TABLE_FILE",
    "Asked",
    "Calibration",
    "Labelling",
    "Look",
    "PseudoLabelTable",
    "Wanted",
    "ask_rows",
    "digest_table",
    "fit_temperature",
    "hold_folder",
    "judge",
    "make_labels",
    "open_table",
    "read_summary",
    "refuse_strangers",
    "write_summary",
]

"""What will a cache cost, and from when on is it cheaper than a teacher in the training loop?

A dry run asks the teacher about three batches, and the student for three steps, and multiplies.
`costs` is the arithmetic and knows no clock; `teacher`, `files` and `student` measure; `tell` says
it to people. Nothing is written but scratch files of those batches, in the system's temporary
folder.
"""

from pipeline.estimate.dry_run import estimate_cache
from pipeline.estimate.tell import tell_estimate

__all__ = ["estimate_cache", "tell_estimate"]

"""How does a teacher's answer become parts of a cache?

`plan_cache` fixes everything that can change a byte, `make_parts` turns rows into committed parts.
Neither knows the terminal, and neither decides which machine makes which part.
"""

from pipeline.caching.answer import answer
from pipeline.caching.make import make_parts
from pipeline.caching.plan import Work, plan_cache
from pipeline.caching.size import plan_bytes_by_field

__all__ = ["Work", "answer", "make_parts", "plan_bytes_by_field", "plan_cache"]

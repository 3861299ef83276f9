"""How do numbers become a page? Pieces of HTML, drawings, and one document that holds them all.

The style and the script lie beside as files of their own. The room is given numbers and plain text;
it opens nothing, and whatever is shown is escaped in `pieces`.
"""

from pipeline.report.page.caches import CacheNumbers
from pipeline.report.page.document import Contents, make_page
from pipeline.report.page.plots import need_plots

__all__ = ["CacheNumbers", "Contents", "make_page", "need_plots"]

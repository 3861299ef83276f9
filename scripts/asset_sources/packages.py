"""Archives of packages: fetched by pip, held to their SHA-256, and read without being installed."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class AssetError(Exception):
    """An asset cannot be had, for a reason that the user can mend."""


@dataclass(frozen=True)
class Package:
    """One file of a package, wheel or source archive; `options` of pip choose among several."""

    requirement: str
    sha256: str
    options: tuple[str, ...] = ()


def download(package: Package, folder: Path) -> Path:
    """Let pip fetch the archive of a package into an empty folder; nothing is installed.

    Raises: AssetError if pip is missing or fails, or the archive is another one.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    options = ["--disable-pip-version-check", "--dest", str(folder), *package.options]
    # A wheel of another platform than this one is never built here.
    options += ["--only-binary=:all:"] if package.options else []
    options.append(package.requirement)
    ended = subprocess.run([*command, *options], capture_output=True, text=True)
    if ended.returncode:
        raise AssetError(_pip_failed(package, ended.stderr))
    (archive,) = folder.iterdir()
    with archive.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != package.sha256:
        raise AssetError(
            f"{package.requirement}: {archive.name} has the SHA-256 {found}, but "
            f"{package.sha256} is known; pip was given another file by this name"
        )
    return archive


def _pip_failed(package: Package, said: str) -> str:
    if "No module named pip" in said:
        return f"{package.requirement}: {sys.executable} has no pip; python -m ensurepip adds it"
    lines = [line for line in said.splitlines() if line.strip() and "WARNING" not in line]
    last = lines[-1].strip() if lines else "it said nothing"
    return f"{package.requirement}: pip could not fetch it ({last}); is a package index in reach?"


def extract(archive: Path, place: Callable[[str], Path | None]) -> int:
    """Copy files out of a wheel or a source archive; returns how many.

    `place` says where a file of this name in the archive goes, or None to leave it.
    """
    count = 0
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if path := place(name):
                    with wheel.open(name) as content:
                        count += _copy(content, path)
        return count
    with tarfile.open(archive) as tar:
        for member in tar:
            path = place(member.name) if member.isfile() else None
            if path and (file := tar.extractfile(member)):
                count += _copy(file, path)
    return count


def _copy(content: IO[bytes], path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file, 2**20)
    return 1

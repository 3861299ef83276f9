"""The objects below a prefix of an object store as the place of a cache.

One client, obstore, for all that Zarr and Parquet need. It retries what fails on the way; what is
left is said in plain words. An object appears whole, so nothing is written beside and renamed.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CacheError
from pipeline.store.places.leases import Leases, patiently
from pipeline.store.places.place import SCRATCH, Content

# Requests in flight: each waits for the store, not for a processor.
PARALLEL = 16
# Of one request, with all its retries: a store that restarts is back by then.
RETRY_S, RETRIES, LONGEST_PAUSE_S = 180, 60, 10
# Of the very first one: a wrong address should not take minutes to be told.
FIRST_RETRIES = 4
# What nothing answers with for so long is asked again.
REQUEST_S = 60
SCHEMES = ("s3",)
_REFUSED = ("PermissionDeniedError", "UnauthenticatedError")


@dataclass(frozen=True)
class Bucket:
    """A place in an object store; `url` names it, without a final slash.

    `client` is of obstore, and below the prefix; `greet` asks the store, with little patience,
    whether it is there.
    """

    url: str
    client: Any
    leases: Leases
    process: int
    greet: Callable[[], None]
    greeted: list[bool] = field(default_factory=list, compare=False)

    def __str__(self) -> str:
        """Name it as the user did."""
        return self.url

    @property
    def parallel(self) -> int:
        """Many: a request takes milliseconds of waiting."""
        return PARALLEL

    def missing(self) -> str | None:
        """Say why nothing can be there, or None if it exists."""
        with self._told():
            has_one = any(self._list_once(""))
        return None if has_one else "there is no such folder"

    def read(self, path: str, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read a whole object. Shapes: returns (size_bytes,)."""
        with self._told():
            content = np.frombuffer(self.client.get(path).bytes(), np.uint8)
        if into is None or into.nbytes != content.nbytes:
            return content
        into[:] = content
        return into

    def map(self, path: str) -> NDArray[np.uint8]:
        """Read a whole object. Shapes: returns (size_bytes,)."""
        return self.read(path)

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Do nothing: what comes over a network is fetched by those who have room for it."""

    def size(self, path: str) -> int | None:
        """Give the size of an object in bytes, None if there is no such object."""
        try:
            with self._told():
                return int(self.client.head(path)["size"])
        except FileNotFoundError:
            return None

    def sizes(self, folders: Sequence[str]) -> Callable[[str], int | None]:
        """List the folders, a thousand objects a request, and remember some 200 bytes of each."""
        found: dict[str, int] = {}
        for folder in folders:
            found |= {each["path"]: each["size"] for each in self._list(folder)}
        return found.get

    def names(self, folder: str = "") -> list[str]:
        """List what lies directly in a folder, sorted."""
        with self._told():
            listed = self.client.list_with_delimiter(prefix=folder or None)
        paths = [*listed["common_prefixes"], *(each["path"] for each in listed["objects"])]
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths})

    def files(self, folder: str) -> list[str]:
        """List all objects below a folder by their path relative to it, sorted."""
        return sorted(each["path"].removeprefix(f"{folder}/") for each in self._list(folder))

    def check(self) -> None:
        """Find out whether it can be written, and whether it can keep two writers apart."""
        path = f"{SCRATCH}/probe-{uuid4().hex}"
        with self._told():
            is_first, is_second = (self.leases.create(path, uuid4().bytes) for _ in range(2))
            patiently(lambda: self.client.delete(path))
        if not is_first or is_second:
            raise CacheError(
                f"{self.url}: this store does not honour `If-None-Match: *`, so it cannot keep two "
                "writers apart. Cache into a folder and copy it there when it is complete: what "
                "reads it needs no such writes."
            )

    def begin(self) -> None:
        """Do nothing: a prefix is there as soon as something is below it."""

    def claim(self, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
        """Lease a name for as long as this process renews it."""
        return self.leases.claim(name, wait=wait, told=self._told)

    def is_claimed_here(self, name: str) -> bool:
        """Whether a thread of this process holds a name."""
        return self.leases.is_held(name)

    def put(self, path: str, content: bytes, *, name: str) -> None:
        """Write an object."""
        with self._told():
            self.client.put(path, content, use_multipart=False)

    def publish(self, contents: Sequence[Content], *, name: str) -> None:
        """Write objects, many at a time."""

        def write(content: Content) -> None:
            self.client.put(content[0], bytes(content[1]), use_multipart=False)

        with self._told():
            _in_threads(write, contents)

    def remove(self, path: str) -> None:
        """Remove an object and all below it."""
        below = [each["path"] for each in self._list(path)]
        with self._told():
            patiently(lambda: self.client.delete([path, *below]))

    def leave(self, path: str, blocks: Iterable[bytes]) -> None:
        """Write an object in pieces; it appears when the last one is there."""
        with self._told():
            self.client.put(f"{SCRATCH}/{path}", iter(blocks))

    def recall(self, path: str, start: int, stop: int | None) -> bytes | None:
        """Read a range of an object below `.scratch/`; None if there is none."""
        key = f"{SCRATCH}/{path}"
        try:
            with self._told():
                end = int(self.client.head(key)["size"])
                end = end if stop is None else min(stop, end)
                return (
                    bytes(self.client.get_range(key, start=start, end=end)) if end > start else b""
                )
        except FileNotFoundError:
            return None

    def sweep(self) -> None:
        """Remove what dead writers left in `.scratch/`."""
        with self._told():
            self.leases.sweep()
            left = [path for path in self.files(SCRATCH) if not path.endswith(".lease")]
            for path in left:
                patiently(partial(self.client.delete, f"{SCRATCH}/{path}"))

    def _list(self, folder: str) -> Iterator[dict[str, Any]]:
        with self._told():
            for block in self.client.list(prefix=folder or None):
                yield from block

    def _list_once(self, folder: str) -> Iterable[Any]:
        listed = self.client.list_with_delimiter(prefix=folder or None)
        return [*listed["common_prefixes"], *listed["objects"]]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the client raises into words, and what is absent into FileNotFoundError.

        Raises: CacheError naming the bucket and what to do.
        """
        from obstore.exceptions import BaseError

        if os.getpid() != self.process:
            raise CacheError(
                f"{self.url}: a forked process cannot use its parent's connections to the store. "
                "Use a DataLoader without workers, or one whose workers are spawned."
            )
        try:
            if not self.greeted:
                self.greet()
                self.greeted.append(True)
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise CacheError(
                    f"{self.url}: there is no such bucket. Make it, or name another one."
                ) from error
            raise
        except (BaseError, PermissionError) as error:
            raise CacheError(f"{self.url}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Say what went wrong, shortly, and what to do."""
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>", text)
    named = f" ({code[1]})" if code else ""
    is_refused = type(error).__name__ in _REFUSED or re.search(r"status code: 40[13]\b", text)
    if isinstance(error, PermissionError) or is_refused:
        return (
            f"the store refuses these credentials{named}. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) to ones that may read and write there."
        )
    if "NoSuchBucket" in text:
        return "there is no such bucket. Make it, or name another one."
    first = text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__
    return (
        f"the store does not answer as it should: {first}\n"
        "  Look at AWS_ENDPOINT_URL and AWS_REGION, then run the same command again; what was "
        "finished is kept."
    )


def _in_threads(write: Callable[[Content], None], contents: Sequence[Content]) -> None:
    with ThreadPoolExecutor(min(PARALLEL, max(1, len(contents)))) as pool:
        list(pool.map(write, contents))


def open_bucket(url: str) -> Bucket:
    """Open a place such as s3://bucket/prefix; one client a process and place.

    Credentials, region and endpoint are read from the AWS_* variables.

    Raises: CacheError if the address is not one of these, or obstore is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc or not parts.path.strip("/"):
        raise CacheError(f"{url}: is no place of a cache; give a path, or s3://BUCKET/PREFIX.")
    return _open(url.rstrip("/"), os.getpid())


@lru_cache
def _open(url: str, process: int) -> Bucket:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise CacheError(
            f"{url}: object stores need obstore. Install it: pip install 'teacher-logit-cache[s3]'"
        ) from error
    client = _client(from_url, url, RETRIES)
    greet = partial(_greet, _client(from_url, url, FIRST_RETRIES))
    return Bucket(url, client, Leases(client), process, greet)


def _client(from_url: Callable[..., Any], url: str, retries: int) -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    pauses = {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
        "base": 3,
    }
    return from_url(
        url,
        **options,
        client_options={
            "timeout": timedelta(seconds=REQUEST_S),
            "allow_http": bool(endpoint) and str(endpoint).startswith("http://"),
        },
        retry_config={
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=RETRY_S),
            "backoff": pauses,
        },
    )


def _greet(client: Any) -> None:
    """Ask for anything; what the store answers does not matter.

    Raises: GenericError if it does not answer.
    """
    from obstore.exceptions import BaseError, GenericError

    try:
        client.head("plan.json")
    except GenericError:
        raise
    except (BaseError, FileNotFoundError, PermissionError):
        return  # it is there; what it refuses is told to whoever asks next

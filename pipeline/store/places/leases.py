"""Who works on what in an object store: leases, that others take over once nobody renews them.

A lease is an object `.scratch/NAME.N.lease`, made only if it is absent, and written anew every few
seconds by who holds it. Whoever finds one that has not changed for `LEASE_S` seconds of their own
clock, or whose holder was a process of this machine that is gone, makes the one of number N + 1;
again only one of them can. Two that believe they hold a name make the same bytes, so a lease that
was lost unnoticed costs time and nothing else.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.store.places.place import SCRATCH

# So long nobody takes over from one who is silent, and so often one who is not says so.
LEASE_S = 30.0
RENEW_S = 5.0
# Between two looks at a lease that is waited for.
LOOK_AGAIN_S = 0.5
# Of requests that the client does not repeat by itself, for they are not safe to: ours are.
TRIES = 8
FIRST_PAUSE_S = 0.1

Told = Callable[[], AbstractContextManager[None]]


def patiently(call: Callable[[], object]) -> None:
    """Make a request that may be made twice, again and again if it is lost on the way."""
    from obstore.exceptions import GenericError

    for again in range(TRIES - 1):
        try:
            call()
        except GenericError:
            time.sleep(FIRST_PAUSE_S * 2**again)
        else:
            return
    call()


@dataclass(eq=False)
class Leases:
    """The leases below one prefix: those held here, and when others were last seen to change."""

    client: Any
    held: dict[str, str] = field(default_factory=dict)
    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    # A renewal on its way would bring back a lease that was let go of meanwhile.
    writing: threading.Lock = field(default_factory=threading.Lock)
    renewing: threading.Thread | None = None

    @contextmanager
    def claim(self, name: str, *, wait: bool, told: Told) -> Iterator[bool]:
        """Hold a name, or give False; with `wait`, wait for others instead.

        `told` turns what the client raises into words.
        """
        with self.changed:
            is_free = name not in self.held
            if wait:
                is_free = self.changed.wait_for(lambda: name not in self.held)
            if is_free:
                self.held[name] = ""
        if not is_free:
            yield False
            return
        try:
            with told():
                path = self._take(name)
                while path is None and wait:
                    time.sleep(LOOK_AGAIN_S)
                    path = self._take(name)
            if path is None:
                yield False
                return
            self._keep(name, path)
            try:
                yield True
            finally:
                with told():
                    self._release(name)
        finally:
            with self.changed:
                self.held.pop(name, None)
                self.changed.notify_all()

    def is_held(self, name: str) -> bool:
        """Whether this process holds a name."""
        with self.changed:
            return bool(self.held.get(name))

    def create(self, path: str, content: bytes) -> bool:
        """Make an object if it is absent; a try that landed unseen is found by its content."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            patiently(lambda: self.client.put(path, content, mode="create", use_multipart=False))
        except (AlreadyExistsError, PreconditionError):
            return self._content(path) == content
        return True

    def sweep(self) -> None:
        """Remove leases that nobody holds any more."""
        for name in sorted({_name_of(path) for path in self._paths("")}):
            if self._take(name) is not None:
                # All there are: one of a dead process may have been written by its last breath,
                # after another had taken it over and let go.
                for path in sorted(self._paths(name), key=_number_of, reverse=True):
                    self._delete(path)

    def _take(self, name: str) -> str | None:
        """Make the lease of a name, or give None if another holds it."""
        first = _path(name, 0)
        if self.create(first, _owner()):
            return first
        there = max(self._paths(name), key=_number_of, default=first)
        if not self._is_stale(there):
            return None
        following = _path(name, _number_of(there) + 1)
        return following if self.create(following, _owner()) else None

    def _is_stale(self, path: str) -> bool:
        content = self._content(path)
        if content is None:  # let go of between two looks; the next one takes it
            return False
        if _is_gone(json.loads(content)):
            return True
        now, told = time.monotonic(), content.decode()
        if self.seen.get(path, ("", 0.0))[0] != told:
            self.seen[path] = told, now
        return now - self.seen[path][1] > LEASE_S

    def _keep(self, name: str, path: str) -> None:
        with self.changed:
            self.held[name] = path
            if self.renewing is None:
                self.renewing = threading.Thread(target=self._renew, daemon=True)
                self.renewing.start()

    def _renew(self) -> None:
        """Write the leases held here anew, until there are none; a store that is away is asked
        again the next time."""
        from obstore.exceptions import BaseError

        while True:
            with self.changed:
                self.changed.wait(RENEW_S)
                paths = [path for path in self.held.values() if path]
                if not paths:
                    self.renewing = None
                    return
            for path in paths:
                try:
                    self._renew_one(path)
                except (BaseError, OSError):
                    break

    def _renew_one(self, path: str) -> None:
        with self.writing:
            with self.changed:
                is_held = path in self.held.values()
            if is_held:
                self.client.put(path, _owner(), use_multipart=False)

    def _release(self, name: str) -> None:
        with self.changed:
            number = _number_of(self.held.pop(name, "") or _path(name, 0))
        with self.writing:
            pass  # what is on its way has arrived, and no renewal follows
        # The first one last: while it is there, nobody begins at 0 again.
        for each in range(number, -1, -1):
            self._delete(_path(name, each))

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            patiently(lambda: self.client.delete(path))

    def _paths(self, name: str) -> list[str]:
        listed = self.client.list_with_delimiter(prefix=SCRATCH)["objects"]
        paths = [each["path"] for each in listed if each["path"].endswith(".lease")]
        return [path for path in paths if not name or _name_of(path) == name]

    def _content(self, path: str) -> bytes | None:
        try:
            return bytes(self.client.get(path).bytes())
        except FileNotFoundError:
            return None


def _path(name: str, number: int) -> str:
    return f"{SCRATCH}/{name}.{number}.lease"


def _name_of(path: str) -> str:
    return path.removeprefix(f"{SCRATCH}/").rsplit(".", 2)[0]


def _number_of(path: str) -> int:
    return int(path.rsplit(".", 2)[1])


def _owner() -> bytes:
    """Say who holds a lease: this process of this machine, and something new each time."""
    return json.dumps(
        {**_here(), "pid": os.getpid(), "started": _started(os.getpid()), "renewal": uuid4().hex}
    ).encode()


def _here() -> dict[str, str]:
    """Name the machine since it was started, and the space that its process numbers are of."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    if not boot.exists():
        return {"boot": uuid4().hex, "space": ""}  # not known: nobody is taken for dead
    return {"boot": boot.read_text(encoding="ascii").strip(), "space": os.readlink(space)}


def _started(pid: int) -> str | None:
    """Tell when a process began, in ticks; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[19]


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether a lease's holder was a process of this machine that has ended."""
    here = _here()
    is_here = all(owner.get(key) == value for key, value in here.items())
    return is_here and _started(int(owner["pid"])) != owner["started"]

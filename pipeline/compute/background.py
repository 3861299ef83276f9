"""One thing at a time behind the caller's back; a failure there reaches the caller.

It knows a function to call, not what the function does. Bounded: a second one waits for the first.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """Run calls in one thread, in order, at most one ahead.

    Leaving the block waits for the last call. A failure is raised by the next `submit`, or then.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._last: Future[None] | None = None

    def submit(self, call: Callable[[], None]) -> None:
        """Wait for the call before, then start this one."""
        self.wait()
        self._last = self._pool.submit(call)

    def wait(self) -> None:
        """Wait for the call in hand, and raise what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if value is None:
                self.wait()
        finally:
            self._pool.shutdown(wait=True)

"""What a scheduler's SIGTERM means: end soon, in order if possible, and say that it can go on.

The main thread is told by an exception, so work ends as it does after Ctrl-C. If that takes too
long (a forward pass does not listen, a disk is slow), a thread ends the process all the same:
whatever is not committed counts as not begun, and the system drops the claims. It knows no stage.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# EX_TEMPFAIL of sysexits.h: try again.
AGAIN = 75
# Schedulers kill for good after 5 s (Slurm's GraceTime, at the least) to 30 s (Kubernetes).
GRACE_S = 4.0
TERMINATED = "terminated; the same command goes on where this one stopped"


class Terminated(SystemExit):
    """The process was asked to end; its exit status says that trying again is worth it."""


@contextmanager
def ends_when_told(say: Callable[[str], None], grace_s: float = GRACE_S) -> Iterator[None]:
    """Raise Terminated here on SIGTERM, and end the process `grace_s` later if it still runs.

    `say` is told once, by whoever ends the process. Outside the main thread, nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    once = threading.Lock()

    def tell() -> None:
        if once.acquire(blocking=False):
            say(TERMINATED)

    def watch() -> None:
        # The interpreter's own handler waits for the bytecode to end; the number is here at once.
        while signal.SIGTERM not in (numbers := os.read(reader, 64)):
            if not numbers:  # all went well
                os.close(reader)
                return
        time.sleep(grace_s)
        tell()
        os._exit(AGAIN)

    handler = signal.signal(signal.SIGTERM, _raise_once)
    descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, name="termination", daemon=True).start()
    is_told = False
    try:
        yield
    except Terminated:
        is_told = True
        tell()
        raise
    finally:
        # Who was told is watched to the very end, for the interpreter may take its time.
        if not is_told:
            signal.signal(signal.SIGTERM, handler)
            signal.set_wakeup_fd(descriptor)
            os.close(writer)


def _raise_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _know_already)
    raise Terminated(AGAIN)


def _know_already(number: int, frame: FrameType | None) -> None:
    """Do not disturb those who clean up."""


def _is_listening() -> bool:
    return signal.getsignal(signal.SIGTERM) in (_raise_once, _know_already)


def _hold_back() -> None:
    if _is_listening():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_go() -> None:
    if _is_listening():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _forget_in_child() -> None:
    """A forked process shares the pipe: what is sent to it must not end its parent."""
    if _is_listening():
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


os.register_at_fork(before=_hold_back, after_in_parent=_let_go, after_in_child=_forget_in_child)

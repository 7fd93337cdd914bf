"""Stopping in good order. In: SIGINT and SIGTERM. Out: a Stop that the pipeline asks between two steps.

The first signal lets the running step finish and be kept; the second stops at once. Knows nothing of stages.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from musetalk_cli.errors import InternalError, InterruptedRun

NOTICE = b"\nstopping after the running step; once more to stop at once\n"


_thread = threading.local()


class Abandoned(InternalError):
    """Another thread of the same work has failed, and told why: this one need not go on."""


@contextmanager
def abandoned_with(event: threading.Event) -> Iterator[None]:
    """Within, this thread's next `Stop.check` raises Abandoned once the event is set."""
    _thread.event = event
    try:
        yield
    finally:
        del _thread.event


class Stop:
    """Whether the user wants to stop."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0: none came

    @property
    def requested(self) -> bool:
        return self.number != 0

    def request(self, number: int = signal.SIGINT) -> None:
        """Ask for it, from any thread: what is running is finished and kept, as at the first Ctrl-C."""
        self.number = self.number or number

    def check(self) -> None:
        """Raises InterruptedRun once a signal came, Abandoned where another thread failed; to be called where everything finished is
        on disk."""
        if self.requested:
            raise InterruptedRun(self.number)
        event: threading.Event | None = getattr(_thread, "event", None)
        if event is not None and event.is_set():
            raise Abandoned("stopped, since another shot failed")


@contextmanager
def stop_on_signals(*, quiet: bool = False) -> Iterator[Stop]:
    """Both signals feed the Stop while inside; afterwards they do what they did before."""
    stop = Stop()

    def answer(number: int, _: FrameType | None) -> None:
        if stop.requested:
            raise InterruptedRun(number)
        stop.number = number
        if not quiet:
            os.write(2, NOTICE)  # print() may be what the signal interrupted

    before = {number: signal.signal(number, answer) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

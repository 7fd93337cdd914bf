"""Stopping in good order. In: SIGINT and SIGTERM. Out: a Stop that the pipeline asks between two steps.

The first signal lets the running step finish and be kept; the second stops at once. Knows nothing of stages.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from musetalk_cli.errors import InterruptedRun

NOTICE = b"\nstopping after the running step; once more to stop at once\n"


class Stop:
    """Whether the user wants to stop."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0: none came

    @property
    def requested(self) -> bool:
        return self.number != 0

    def check(self) -> None:
        """Raises InterruptedRun once a signal came; to be called where everything finished is on disk."""
        if self.requested:
            raise InterruptedRun(self.number)


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

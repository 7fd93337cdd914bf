"""Work for child processes of tests: light to import, and one kind of it kills its process."""

import os
import signal
from types import SimpleNamespace
from typing import Any


def start(*_: Any) -> None:
    """Nothing to open."""


def answer(video: SimpleNamespace) -> SimpleNamespace:
    """What became of a video; a deadly one ends the process as a crash would."""
    if "deadly" in video.source:
        os.kill(os.getpid(), signal.SIGKILL)
    return SimpleNamespace(source=video.source, unreadable=False)

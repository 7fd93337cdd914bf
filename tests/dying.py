"""Work for child processes of tests: light to import, and one kind of it kills its process."""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def start(*_: Any) -> None:
    """Nothing to open."""


def answer(video: SimpleNamespace) -> SimpleNamespace:
    """What became of a video; a deadly one ends the process as a crash would."""
    if "deadly" in video.source:
        os.kill(os.getpid(), signal.SIGKILL)
    return SimpleNamespace(source=video.source, unreadable=False)


def musetalk(arguments: Sequence[str], environment: Mapping[str, str], said: Path, deadly: str = "") -> None:
    """The command, as a process of its own. said: a file for stdout and stderr. deadly: the stage in which it is killed, when all of
    its result is written and none of it published; "deliver": likewise the film."""
    os.environ.clear()
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    from musetalk_cli import cli, pipeline, work

    delivery: Any = pipeline

    def publish(out: Path, folder: Path, done: Any = work._publish) -> None:
        if folder.parent.name == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        done(out, folder)

    def sync(path: Path, done: Any = work.sync) -> None:
        if deadly == "deliver":
            os.kill(os.getpid(), signal.SIGKILL)
        done(path)

    work._publish, delivery.sync = publish, sync
    os._exit(cli.run(list(arguments)))

"""Errands that children of tests can be sent on: light to import, two stages each, and some kinds of trouble."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import Runtime
from musetalk_cli.errors import InputError
from musetalk_cli.work import Ref, Work, stage


@dataclass(frozen=True, slots=True)
class Number:
    of: NDArray[np.int64]  # (1,)


@dataclass(frozen=True, slots=True)
class Knob:
    deed: str = ""
    seconds: float = 0.0


@stage(version=1)
def begin(number: int, *, config: None, runtime: Runtime, out: Path) -> Number:
    return Number(np.array([number]))


@stage(version=1)
def square(begun: Number, *, config: Knob, runtime: Runtime, out: Path) -> Number:
    """deed: die | die once | fail; seconds: it takes so long."""
    (out / "half").write_text("of a result")
    time.sleep(config.seconds)
    died = out.parents[1 if out.parent.name == "tmp" else 2] / "died"
    if config.deed == "die" or (config.deed == "die once" and not died.exists()):
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if config.deed == "fail":
        raise InputError("film.mp4: is broken", "mend it")
    if config.deed == "crash":
        raise ValueError("a bug")
    return Number(begun.of**2)


@dataclass(frozen=True, slots=True)
class Toy:
    """number -> its square, kept as two results."""

    number: int
    knob: Knob = Knob()
    cost: float = 1.0

    @property
    def unit(self) -> str:
        return f"{self.number:05d}"

    def do(self, work: Work, runtime: Runtime) -> Ref[Number]:
        begun = work.do(begin, self.number, config=None, runtime=runtime, unit=self.unit)
        return work.do(square, begun, config=self.knob, runtime=runtime, unit=self.unit)


def hold_processes(folder: Path) -> None:
    """A parent of children that would work for a minute."""
    from musetalk_cli.executor_processes import Processes
    from musetalk_cli.progress import Events
    from musetalk_cli.signals import Stop

    with Work.open(folder, Events(), Stop()) as work, Processes(["", ""]) as processes:
        processes.map([Toy(number, Knob(seconds=60)) for number in range(2)], work, Runtime())

"""The parsers under fire. In: a seed, numbers of cases. Out: Findings, each with the bytes that led to it.

Each case follows from (seed, number) alone, so a stopped run goes on from any number, and a finding is seen again by its own.
"""

import resource
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import NamedTuple

from fuzz.mutate import mutated
from fuzz.target import Target
from musetalk_cli.errors import InternalError, MusetalkError

WATCH_S = 2.0  # of a case
BUSY_S = 1.0  # a case that had less of the processor than this waits for others, or for ever; it is asked again
PATIENCE = 5
MORE_BYTES = 2 << 30  # of address space, beyond what the loaded program has


class Finding(NamedTuple):
    seed: int
    number: int
    target: str
    what: str  # the error in a line
    where: str  # the last lines of its trace
    data: bytes


class _Hang(BaseException):
    pass


def cases(targets: Sequence[Target], seed: int, start: int, stop: int) -> Iterator[Finding]:
    """Cases [start, stop), in order; what was wrong in them."""
    weights = [target.weight for target in targets]
    with watched(), bounded():
        for number in range(start, stop):
            chance = Random((seed << 40) + number)
            target = chance.choices(targets, weights)[0]
            data = mutated(chance.choice(target.seeds), chance, json_lines=target.json_lines, sign=target.sign)
            found = ask(target, data)
            if found is not None:
                yield Finding(seed, number, target.name, *found, data)


def ask(target: Target, data: bytes) -> tuple[str, str] | None:
    """None where it ended as it may: in success or an error of ours that blames the file, not us."""
    _wait_for()
    try:
        target.ask(data)
    except InternalError as error:
        return _told(error)
    except MusetalkError as error:
        str(error)
    except (_Hang, Exception) as error:  # noqa: BLE001  # whatever it is, it is what we look for
        return _told(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def _told(error: BaseException) -> tuple[str, str]:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__}: {str(error)[:200]!a}", where


@contextmanager
def watched() -> Iterator[None]:
    """A case that goes on for longer than WATCH_S ends in a finding."""
    before = signal.signal(signal.SIGALRM, _expired)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_began = [0.0, 0]


def _wait_for() -> None:
    _began[:] = [time.process_time(), 0]
    signal.setitimer(signal.ITIMER_REAL, WATCH_S)


def _expired(_number: int, _frame: FrameType | None) -> None:
    _began[1] += 1
    if time.process_time() - _began[0] < BUSY_S and _began[1] < PATIENCE:
        signal.setitimer(signal.ITIMER_REAL, WATCH_S)
        return
    raise _Hang(f"no end after {WATCH_S * _began[1]:g} s")


@contextmanager
def bounded() -> Iterator[None]:
    """A parser that takes much memory for a small file ends in MemoryError, which is a finding."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

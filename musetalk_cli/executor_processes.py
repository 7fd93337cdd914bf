"""Shots in processes of their own, one a device. In: errands. Out: their results, and their events in the run's own journal.

Each child loads its models once and keeps them from film to film. It is told paths, numbers and settings over a pipe, and leaves its
results in the work folder, which this process holds. A child that dies has its shot given to another; one whose parent dies ends at once.
Knows nothing of stages.
"""

import os
import shutil
import signal
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from musetalk_cli.config import Runtime
from musetalk_cli.errors import RetryableError
from musetalk_cli.executor import Errand, Outcome, dearest_first, handed, outcomes_of
from musetalk_cli.progress import Events
from musetalk_cli.signals import Stop
from musetalk_cli.work import Work

T = TypeVar("T")
GIVEN_AGAIN = 2  # times that a lost shot is given to another
LOOK_S = 0.2  # at the signals, while all are at work


class _Order(NamedTuple):
    """What a child is told."""

    numbers: tuple[int, ...]
    errands: tuple[Errand[Any], ...]
    folder: Path
    runtime: Runtime


class Processes:
    """A child for each of `devices` (torch's names; "": the run's own). Use `with`: the children live until it ends."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._children = [_Child(device, f"child-{os.getpid()}-{number}") for number, device in enumerate(devices)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.end()

    def map(self, errands: Sequence[Errand[T]], work: Work, runtime: Runtime) -> list[T]:
        """As Executor. Raises RetryableError for a shot that was lost with three children, one after another."""
        made: list[Any] = [None] * len(errands)
        todo = deque(dearest_first(errands))
        lost: Counter[int] = Counter()
        failed: BaseException | None = None
        try:
            while todo or any(child.numbers for child in self._children):
                if failed is not None or work.stop.requested:
                    todo.clear()
                    self._ask_to_stop()
                self._hand_out(todo, errands, made, work, runtime, lost)
                for child, outcomes in self._answers(work.events):
                    numbers, child.numbers = child.numbers, ()
                    if outcomes is None:
                        shutil.rmtree(work.folder / "tmp" / child.name, ignore_errors=True)
                        lost.update(numbers)
                        todo.extendleft(reversed(numbers))
                        failed = failed or next((_lost(errands[n], lost[n]) for n in numbers if lost[n] > GIVEN_AGAIN), None)
                        continue
                    for number, outcome in zip(numbers, outcomes, strict=False):  # none of those after an error
                        made[number], failed = outcome.made, failed or outcome.error
        except BaseException:  # a second signal: at once
            self.__exit__()
            raise
        work.stop.check()
        if failed is not None:
            raise failed
        return made

    def _hand_out(
        self,
        todo: deque[int],
        errands: Sequence[Errand[Any]],
        made: list[Any],
        work: Work,
        runtime: Runtime,
        lost: Counter[int],
    ) -> None:
        idle = deque(child for child in self._children if not child.numbers)
        while todo and idle:
            number = todo[0]
            if errands[number].cost == 0:  # there is nothing to do
                made[todo.popleft()] = errands[number].do(work, runtime)
                continue
            child = idle.popleft()
            here = replace(runtime, device=child.device or runtime.device)
            some = (
                1 if lost[number] else handed(len(todo), len(self._children), here)
            )  # alone, to know which ends those sent on it
            numbers = tuple(todo.popleft() for _ in range(some))
            child.send(_Order(numbers, tuple(errands[n] for n in numbers), work.folder, here))

    def _answers(self, events: Events) -> list[tuple["_Child", tuple[Outcome, ...] | None]]:
        """Of those who are through, None of those who are lost."""
        busy = {child.wire: child for child in self._children if child.numbers}
        ready = connection.wait(list(busy), timeout=LOOK_S) if busy else []
        answered: list[tuple[_Child, tuple[Outcome, ...] | None]] = []
        for child in (busy[wire] for wire in ready):  # type: ignore[index]
            try:
                said = child.wire.recv()
            except (EOFError, OSError):
                child.end()
                answered.append((child, None))
                continue
            if isinstance(said, tuple):
                answered.append((child, said))
            else:
                events.relay(said)
        return answered

    def _ask_to_stop(self) -> None:
        for child in self._children:
            child.ask_to_stop()


def _lost(errand: Errand[Any], times: int) -> RetryableError:
    fact = f"shot {errand.unit}: {times} processes died over it"
    return RetryableError(fact, "look for what ended them, often too little memory; then run the same command again")


class _Child:
    """A process that does errands; started when it gets its first, and anew where it was lost."""

    def __init__(self, device: str, name: str) -> None:
        self.device, self.name = device, name
        self.numbers: tuple[int, ...] = ()  # of the errands it is on
        self._asked = False
        self._process: Any = None

    def send(self, order: _Order) -> None:
        if self._process is None:
            self._start()
        self.numbers, self._asked = order.numbers, False
        with suppress(OSError):  # it is dead, which is seen when its answer is read
            self.wire.send(order)

    def ask_to_stop(self) -> None:
        """After the step it is at."""
        if self.numbers and not self._asked:
            self._asked = True
            with suppress(OSError):
                self._lifeline.send(self.numbers[0])

    def end(self) -> None:
        """At once: what it published is kept."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self.wire.close()
            self._lifeline.close()
            self._process = None

    def _start(self) -> None:
        context = get_context("spawn")  # CUDA and OpenMP do not survive a fork
        self.wire, theirs = context.Pipe()
        hears, self._lifeline = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(theirs, hears, self.name), daemon=True)
        self._process.start()
        theirs.close()
        hears.close()


@dataclass(slots=True)
class _AtWork:
    """What a child is at, for the thread that hears its parent."""

    number: int = -1
    stop: Stop | None = None


def _serve(wire: Any, lifeline: Any, name: str) -> None:
    """A child's life. Signals of the terminal are its parent's to answer."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    at_work = _AtWork()
    threading.Thread(target=_hear, args=(lifeline, at_work), daemon=True).start()
    while True:
        try:
            order: _Order = wire.recv()
        except (EOFError, OSError):
            return
        stop = Stop()
        at_work.number, at_work.stop = order.numbers[0], stop
        work = Work(order.folder, Events([_Wire(wire)]), stop, order.folder / "tmp" / name)
        wire.send(outcomes_of(order.errands, work, order.runtime))


def _hear(lifeline: Any, at_work: _AtWork) -> None:
    """The numbers of errands to stop after; the end of it is the end of the parent, and of this process."""
    while True:
        try:
            number = lifeline.recv()
        except (EOFError, OSError):
            os._exit(1)
        if number == at_work.number and at_work.stop is not None:
            at_work.stop.number = signal.SIGTERM


class _Wire:
    """A sink: events go to the parent."""

    def __init__(self, wire: Any) -> None:
        self._wire = wire

    def take(self, record: Mapping[str, Any]) -> None:
        self._wire.send(dict(record))

    def close(self) -> None:
        """The wire outlives the events of one errand."""

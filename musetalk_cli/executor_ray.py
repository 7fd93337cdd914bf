"""Shots on the machines of a Ray cluster. In: errands. Out: their results. The only module that imports ray.

An actor for each GPU, or where the cluster has none for each CPU, keeps its models from film to film. Only paths, numbers and settings
travel: films, weights and the work folder lie where every machine sees them under the same path. A lost actor has its shot given to
another. The driver keeps nothing that the folder does not hold: after the cluster's head was lost, the same command goes on.
"""

import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from musetalk_cli.config import Runtime
from musetalk_cli.errors import MissingError, RetryableError
from musetalk_cli.executor import Errand, Hands, Outcome, dearest_first, handed, outcomes_of
from musetalk_cli.offline import refuse
from musetalk_cli.progress import Events
from musetalk_cli.sharing import at_once
from musetalk_cli.signals import Stop
from musetalk_cli.work import Work

T = TypeVar("T")
GIVEN_AGAIN = 2  # times that a lost shot is given to another
BUNDLES = (
    4  # in which each gets its share: the first hold several shots, the last one; a thousand actors would wait for one driver
)
LOOK_S = 0.2  # at the signals, while all are at work
READY_S = 120.0  # for the first actor; a cluster that grows on demand starts a machine for it


@contextmanager
def on_ray(hands: Hands) -> Iterator["OnRay"]:
    """Raises MissingError without the package or without GPUs that were asked for, RetryableError where no cluster answers."""
    ray = _ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    alone = hands.ray_address == "local"
    if not alone:
        refuse(f"a Ray cluster at {hands.ray_address}")
    size = {"num_cpus": hands.workers} if alone and hands.workers else {}
    try:
        ray.init(
            address=hands.ray_address,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if alone else None,
            **size,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        cure = "start one: ray start --head, or use this machine alone: --ray-address local"
        raise RetryableError(f"no Ray cluster answers at {hands.ray_address}", cure) from error
    executor = OnRay(hands)
    try:
        yield executor
    finally:
        executor.end()
        ray.shutdown()


def _ray() -> Any:
    """The package, which is typed by halves."""
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingError("ray: the package is not installed", "pip install 'musetalk[ray]'") from error


class _Actor(NamedTuple):
    """A process somewhere in the cluster."""

    name: str
    handle: Any


@dataclass(slots=True)
class _Order:
    """Errands on their way. running: by what ray answers with, who is on which."""

    errands: Sequence[Errand[Any]]
    folder: Path
    runtime: Runtime
    todo: deque[int]
    made: list[Any]
    running: dict[Any, tuple[_Actor, tuple[int, ...]]] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)  # to stop


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an actor brings back. outcomes: of the errands it was sent on, up to the first error."""

    outcomes: tuple[Outcome, ...]
    told: tuple[Mapping[str, Any], ...]


class OnRay:
    """An Executor on the cluster that this process is connected to. Make it with `on_ray`."""

    def __init__(self, hands: Hands) -> None:
        ray = _ray()
        there = ray.cluster_resources()
        self._needs: dict[str, float] = {"num_gpus": 1} if there.get("GPU") else {"num_cpus": 1}
        slots = int(there.get("GPU") or there.get("CPU") or 1)
        if hands.gpus and not there.get("GPU"):
            raise MissingError(f"--gpus {hands.gpus}: the Ray cluster has no GPU", "leave --gpus out to work on its CPUs")
        self._starting: dict[Any, _Actor] = {}
        self._idle: deque[_Actor] = deque()
        self._born = 0
        for _ in range(min(hands.workers or slots, slots)):
            self._start()

    def map(self, errands: Sequence[Errand[T]], work: Work, runtime: Runtime) -> list[T]:
        """As Executor. Raises RetryableError for a shot that was lost with three actors, one after another, and where none starts."""
        order = _Order(errands, work.folder, runtime, deque(dearest_first(errands)), [None] * len(errands))
        lost = Counter[int]()
        failed: BaseException | None = None
        while order.todo or order.running:
            if failed is not None or work.stop.requested:
                order.todo.clear()
                self._ask_to_stop(order)
            self._hand_out(order, work, lost)
            for actor, numbers, answer in self._answers(order):
                if answer is None:
                    shutil.rmtree(work.folder / "tmp" / actor.name, ignore_errors=True)
                    self._start()
                    lost.update(numbers)
                    order.todo.extendleft(reversed(numbers))
                    failed = failed or next((_lost(errands[n], lost[n]) for n in numbers if lost[n] > GIVEN_AGAIN), None)
                    continue
                self._idle.append(actor)
                for record in answer.told:
                    work.events.relay(record)
                for number, outcome in zip(numbers, answer.outcomes, strict=False):  # none of those after an error
                    order.made[number], failed = outcome.made, failed or outcome.error
        work.stop.check()
        if failed is not None:
            raise failed
        return order.made

    def end(self) -> None:
        """At once: what was published is kept."""
        ray = _ray()
        for actor in (*self._idle, *self._starting.values()):
            ray.kill(actor.handle)
        self._idle.clear()
        self._starting.clear()

    def _start(self) -> None:
        ray = _ray()
        self._born += 1
        name = f"ray-{os.getpid()}-{self._born}"
        handle = ray.remote(_Hand).options(max_concurrency=2, **self._needs).remote(name)
        self._starting[handle.ready.remote()] = _Actor(name, handle)

    def _hand_out(self, order: "_Order", work: Work, lost: Counter[int]) -> None:
        self._welcome(wait=bool(order.todo) and not order.running and not self._idle)
        while order.todo and self._idle:
            if order.errands[order.todo[0]].cost == 0:  # there is nothing to do
                number = order.todo.popleft()
                order.made[number] = order.errands[number].do(work, order.runtime)
                continue
            hands = len(self._idle) + len(order.running)
            on_gpu = replace(order.runtime, device="cuda") if "num_gpus" in self._needs else order.runtime
            some = max(at_once(len(order.todo), hands), handed(len(order.todo), hands, on_gpu))
            if lost[order.todo[0]]:
                some = 1  # so that it is known which shot ends those who are sent on it
            numbers = tuple(order.todo.popleft() for _ in range(some))
            actor = self._idle.popleft()
            sent = actor.handle.do.remote(numbers[0], [order.errands[n] for n in numbers], order.folder, order.runtime)
            order.running[sent] = actor, numbers

    def _welcome(self, *, wait: bool) -> None:
        """Actors that are ready. wait: for the first, since nobody else works."""
        ray = _ray()
        deadline = time.monotonic() + (READY_S if wait else 0)
        while self._starting:
            ready, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=LOOK_S if wait else 0)
            for ref in ready:
                actor = self._starting.pop(ref)
                try:
                    ray.get(ref)
                    self._idle.append(actor)
                except ray.exceptions.RayError:  # its machine went away before it was up
                    self._start()
            if self._idle or not wait:
                return
            if time.monotonic() > deadline:
                raise RetryableError("the Ray cluster starts no worker", "see `ray status`, then run the same command again")

    def _answers(self, order: "_Order") -> Iterator[tuple[_Actor, tuple[int, ...], "_Answer | None"]]:
        """Of those who are through, None of those who are lost."""
        ray = _ray()
        running = order.running
        ready = ray.wait(list(running), num_returns=1, timeout=LOOK_S)[0] if running else []
        if ready:  # and all others that are through by now: a look at a thousand takes milliseconds
            ready = ray.wait(list(running), num_returns=len(running), timeout=0)[0]
        for ref in ready:
            actor, numbers = running.pop(ref)
            try:
                yield actor, numbers, ray.get(ref)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError:  # the actor, its machine or its memory
                yield actor, numbers, None

    def _ask_to_stop(self, order: "_Order") -> None:
        for actor, numbers in order.running.values():
            if numbers[0] not in order.asked:
                order.asked.add(numbers[0])
                actor.handle.stop_after.remote(numbers[0])


def _lost(errand: Errand[Any], times: int) -> RetryableError:
    fact = f"shot {errand.unit}: {times} workers were lost over it"
    return RetryableError(fact, "look for what ended them, often too little memory; then run the same command again")


class _Hand:
    """The actor: does one errand at a time, and hears in another thread when to stop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._number, self._stop = -1, Stop()

    def ready(self) -> None:
        """Answers when it is up."""

    def do(self, number: int, errands: Sequence[Errand[Any]], folder: Path, runtime: Runtime) -> _Answer:
        """One after another. number: by which `stop_after` knows them."""
        self._number, self._stop = number, Stop()
        if not folder.is_dir():
            fact = "this machine of the cluster does not see the work folder"
            cure = "mount it under the same path everywhere, --work-dir names it"
            return _Answer((Outcome(error=MissingError(fact, cure, thing=str(folder))),), ())
        told = _Told()
        work = Work(folder, Events([told]), self._stop, folder / "tmp" / self._name)
        here = replace(runtime, device="cuda") if _ray().get_gpu_ids() else runtime
        return _Answer(outcomes_of(errands, work, here), tuple(told.records))

    def stop_after(self, number: int) -> None:
        """After the step at which that errand is."""
        if number == self._number:
            self._stop.number = 15


class _Told:
    """A sink that keeps what it takes."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []

    def take(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))

    def close(self) -> None:
        """Its records travel with the answer."""

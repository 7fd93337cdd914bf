"""Where the work on a film's shots is done. In: errands, one a shot. Out: their results, in the errands' order. Knows nothing of stages.

Executors only decide where: the work folder is the truth, so every one of them leaves the same files. An errand that was done before is
found, whoever did it.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.errors import InternalError, MissingError, MusetalkError, UsageError
from musetalk_cli.models import SHOTS_ON_GPU, free_workers
from musetalk_cli.signals import abandoned_with
from musetalk_cli.work import Work

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Errand(Protocol[T_co]):
    """What is to be done with one shot: a frozen record of paths, numbers and settings, so that another process can be sent on it."""

    @property
    def unit(self) -> str:
        """What the shot is called in the work folder."""
        ...

    @property
    def cost(self) -> float:
        """Estimated seconds; only what is dearer than what counts."""
        ...

    def do(self, work: Work, runtime: Runtime) -> T_co:
        """Its results in the work folder, made now or found."""
        ...


class Executor(Protocol):
    def map(self, errands: Sequence[Errand[T]], work: Work, runtime: Runtime) -> list[T]:
        """The result of every errand, in their order. Raises the first error of any, when the others have stopped between two stages."""
        ...


class Serial:
    """One after another, here."""

    def map(self, errands: Sequence[Errand[T]], work: Work, runtime: Runtime) -> list[T]:
        return [errand.do(work, runtime) for errand in errands]


class Threads:
    """`workers` at once in threads of this process, over one loaded model."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def map(self, errands: Sequence[Errand[T]], work: Work, runtime: Runtime) -> list[T]:
        made: list[Any] = [None] * len(errands)
        todo = deque(dearest_first(errands))
        failed: list[BaseException] = []
        abandoned = threading.Event()

        def go() -> None:
            with abandoned_with(abandoned):
                try:
                    while not abandoned.is_set() and (number := _taken(todo)) is not None:
                        made[number] = errands[number].do(work, runtime)
                except BaseException as error:  # noqa: BLE001 it is raised below, in the thread that asked
                    failed.append(error)
                    abandoned.set()

        threads = [threading.Thread(target=go, daemon=True) for _ in range(min(self._workers, len(errands)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()  # a second signal raises here, and leaves the threads, which end with the process
        if failed:
            raise failed[0]
        return made


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an errand, as it crosses from one process to another."""

    made: Any = None
    error: BaseException | None = None


def outcome_of(errand: Errand[Any], work: Work, runtime: Runtime) -> Outcome:
    """Do it; an error is an answer too."""
    try:
        return Outcome(errand.do(work, runtime))
    except MusetalkError as error:
        return Outcome(error=error)
    except MemoryError:
        return Outcome(error=MemoryError())
    except Exception as error:  # noqa: BLE001 which may hold what cannot be sent
        return Outcome(error=InternalError(f"{type(error).__name__}: {error}", "run it again with -v and without --workers"))


def outcomes_of(errands: Sequence[Errand[Any]], work: Work, runtime: Runtime) -> tuple[Outcome, ...]:
    """Of each in order; on a GPU several at once. One at a time ends at the first error."""
    at_once = shots_on(runtime)
    if at_once > 1:
        return tuple(Threads(at_once).map([_Caught(errand) for errand in errands], work, runtime))
    outcomes: list[Outcome] = []
    for errand in errands:
        outcomes.append(outcome_of(errand, work, runtime))
        if outcomes[-1].error is not None:
            break
    return tuple(outcomes)


@dataclass(frozen=True, slots=True)
class _Caught:
    """An errand whose error is an answer too."""

    errand: Errand[Any]

    @property
    def unit(self) -> str:
        return self.errand.unit

    @property
    def cost(self) -> float:
        return self.errand.cost

    def do(self, work: Work, runtime: Runtime) -> Outcome:
        return outcome_of(self.errand, work, runtime)


def shots_on(runtime: Runtime) -> int:
    """How many shots a process that was hired for its device works on at once: on a CPU one, since there are others beside it."""
    return runtime.workers or (SHOTS_ON_GPU if runtime.device.startswith("cuda") else 1)


def handed(left: int, hands: int, runtime: Runtime) -> int:
    """How many errands one of so many hands is given at once: what keeps its GPU busy, but not what would leave others idle."""
    return max(1, min(shots_on(runtime), left // hands))


def dearest_first(errands: Sequence[Errand[Any]]) -> list[int]:
    """Their numbers: what takes longest is begun first, so that all who work end at about the same time."""
    return sorted(range(len(errands)), key=lambda number: (-errands[number].cost, number))


def _taken(todo: deque[int]) -> int | None:
    try:
        return todo.popleft()
    except IndexError:
        return None


def executor_for(model: ModelConfig, runtime: Runtime) -> Executor:
    """What keeps this process's machine busy, or `runtime` asks for."""
    workers = free_workers(model, runtime)
    return Threads(workers) if workers > 1 else Serial()


@dataclass(frozen=True, slots=True)
class Hands:
    """Who works on the shots, as the user said. Nothing said: this process."""

    gpus: str = ""  # all, or numbers with commas between: a process each
    workers: int = 0  # processes on the run's own device
    executor: Literal["local", "ray"] = "local"
    ray_address: str = "auto"  # auto: the cluster that this machine belongs to; local: one of this machine alone


@contextmanager
def hired(hands: Hands) -> Iterator[Executor | None]:
    """An executor that keeps its models while inside; None: as `Runtime` says. Raises UsageError for what does not fit together,
    MissingError where a GPU or ray is not there."""
    if hands.gpus and hands.workers:
        raise UsageError("--gpus and --workers: only one can be meant", "--gpus starts one process on each; leave --workers out")
    if hands.executor == "ray":
        from musetalk_cli.executor_ray import on_ray

        with on_ray(hands) as there:
            yield there
    elif hands.gpus or hands.workers > 1:
        from musetalk_cli.executor_processes import Processes

        with Processes(gpus_of(hands.gpus) if hands.gpus else [""] * hands.workers) as here:
            yield here
    else:
        yield None


def gpus_of(text: str) -> list[str]:
    """torch's names of the devices that `--gpus` means. Raises UsageError for what is no list, MissingError for one that is not there."""
    import torch

    there = torch.cuda.device_count()
    numbers = [str(number) for number in range(there)] if text == "all" else text.split(",")
    if text != "all" and not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--gpus {text}: not numbers of GPUs", "write all, or numbers with commas between: 0,1")
    if not numbers or any(int(number) >= there for number in numbers):
        fact = f"--gpus {text}: torch sees {there} CUDA devices"
        raise MissingError(fact, "leave --gpus out to work on the CPU, --workers N takes N processes; see `musetalk doctor`")
    return [f"cuda:{int(number)}" for number in dict.fromkeys(numbers)]

"""Executors only decide where: whoever does the errands, results, order, errors and the folder are the same."""

import multiprocessing.reduction
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_errands import Knob, Toy, hold_processes

from musetalk_cli.config import Runtime
from musetalk_cli.errors import InputError, InternalError, InterruptedRun, NoFaceError, RetryableError
from musetalk_cli.executor import Executor, Serial, Threads, dearest_first, outcome_of
from musetalk_cli.executor_processes import Processes
from musetalk_cli.progress import Events
from musetalk_cli.signals import Stop
from musetalk_cli.work import Work


class Heard(list[Mapping[str, Any]]):
    """A sink that keeps what it takes."""

    take = list.append

    def close(self) -> None: ...


@contextmanager
def serial() -> Iterator[Executor]:
    yield Serial()


@contextmanager
def threads() -> Iterator[Executor]:
    yield Threads(2)


def processes() -> Processes:
    return Processes(["", ""])


EVERYWHERE = pytest.mark.parametrize("where", [serial, threads, processes])


@EVERYWHERE
def test_results_come_in_the_order_of_the_errands_and_are_the_same_everywhere(where: Callable[[], Any], tmp_path: Path) -> None:
    heard = Heard()
    errands = [Toy(number, cost=cost) for number, cost in enumerate((1, 0, 3, 2, 5))]
    with Work.open(tmp_path, Events([heard]), Stop()) as work, where() as executor:
        made = executor.map(errands, work, Runtime())
        again = executor.map(errands, work, Runtime())
    assert [int(ref.load().of[0]) for ref in made] == [0, 1, 4, 9, 16]
    assert made == again
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("[bs]*/*/*"))
    assert len(names) == 25  # two and three files a result
    done = [event for event in heard if event["event"] == "stage.done"]
    assert (len(done), sum(event["reused"] for event in done)) == (20, 10)
    assert not list((tmp_path / "tmp").rglob("*.npy"))


@EVERYWHERE
def test_the_first_error_surfaces_as_it_is_and_what_is_finished_is_kept(where: Callable[[], Any], tmp_path: Path) -> None:
    errands = [Toy(0), Toy(1), Toy(2, Knob("fail", 0.3)), *(Toy(number, Knob(seconds=0.2)) for number in range(3, 30))]
    with Work.open(tmp_path, Events(), Stop()) as work, where() as executor:
        with pytest.raises(InputError, match=r"film\.mp4: is broken; mend it") as caught:
            executor.map(errands, work, Runtime())
        assert (caught.value.exit_code, caught.value.thing) == (3, "film.mp4")
        assert 2 <= len(list(tmp_path.glob("square/*"))) < 10
        assert [int(ref.load().of[0]) for ref in executor.map(errands[:2], work, Runtime())] == [0, 1]


@EVERYWHERE
def test_a_signal_lets_the_running_steps_finish_and_starts_no_other(where: Callable[[], Any], tmp_path: Path) -> None:
    stop = Stop()
    with Work.open(tmp_path, Events(), stop) as work, where() as executor:
        executor.map([Toy(100), Toy(101)], work, Runtime())  # so that the children are there

        def signal_comes() -> None:
            while not list((tmp_path / "tmp").rglob("half")):
                time.sleep(0.01)
            stop.number = signal.SIGTERM

        threading.Thread(target=signal_comes).start()
        with pytest.raises(InterruptedRun) as caught:
            executor.map([Toy(number, Knob(seconds=0.5)) for number in range(9)], work, Runtime())
    assert caught.value.exit_code == 143
    assert 3 <= len(list(tmp_path.glob("square/*"))) <= 4  # the two before, and those that ran
    assert not list((tmp_path / "tmp").rglob("half"))


def test_two_threads_that_ask_for_one_result_make_it_once(tmp_path: Path) -> None:
    heard = Heard()
    with Work.open(tmp_path, Events([heard]), Stop()) as work:
        first, second = Threads(2).map([Toy(3, Knob(seconds=0.2))] * 2, work, Runtime())
    assert first == second
    assert [event["reused"] for event in heard if event["event"] == "stage.done"].count(False) == 2


def test_a_process_that_is_to_keep_a_gpu_busy_works_on_several_shots_at_once(tmp_path: Path) -> None:
    heard = Heard()
    with Work.open(tmp_path, Events([heard]), Stop()) as work, Processes([""]) as executor:
        made = executor.map([Toy(number, Knob(seconds=0.5)) for number in range(3)], work, Runtime(workers=3))
    assert [int(ref.load().of[0]) for ref in made] == [0, 1, 4]
    squares = [event["event"] for event in heard if event["stage"] == "square"]
    assert squares == ["stage.start"] * 3 + ["stage.done"] * 3


def test_a_shot_whose_process_is_killed_is_given_to_another(tmp_path: Path) -> None:
    heard = Heard()
    with Work.open(tmp_path, Events([heard]), Stop()) as work, processes() as executor:
        made = executor.map([Toy(number, Knob("die once")) for number in range(5)], work, Runtime())
    assert [int(ref.load().of[0]) for ref in made] == [0, 1, 4, 9, 16]
    assert not list((tmp_path / "tmp").rglob("half"))
    begun = [event["unit"] for event in heard if event["event"] == "stage.done" and event["stage"] == "begin"]
    assert len([event for event in heard if event["event"] == "stage.done" and not event["reused"]]) == 10
    assert len(begun) > 5  # what the dead had finished was found


def test_a_shot_that_three_processes_died_over_is_told(tmp_path: Path) -> None:
    with Work.open(tmp_path, Events(), Stop()) as work, processes() as executor:
        with pytest.raises(RetryableError, match="shot 00001: 3 processes died over it"):
            executor.map([Toy(0), Toy(1, Knob("die")), Toy(2)], work, Runtime())
        assert len(executor.map([Toy(0), Toy(2)], work, Runtime())) == 2


def test_children_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=hold_processes, args=(tmp_path,))
    parent.start()
    while len(list((tmp_path / "tmp").rglob("half")) if (tmp_path / "tmp").is_dir() else []) < 2:
        assert parent.is_alive()
        time.sleep(0.05)
    children = children_of(parent.pid)
    assert len(children) >= 2
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 10
    while any(
        os.path.exists(f"/proc/{child}/status") and "zombie" not in Path(f"/proc/{child}/status").read_text()
        for child in children
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(pid: int | None) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_dearest_errand_comes_first() -> None:
    assert dearest_first([Toy(0, cost=2), Toy(1, cost=9), Toy(2, cost=2)]) == [1, 0, 2]


@pytest.mark.parametrize("error", [InterruptedRun(15), InputError("a.mp4: is empty", "cure"), NoFaceError("x", thing="f")])
def test_errors_cross_between_processes_as_they_are(error: Any) -> None:
    crossed = multiprocessing.reduction.ForkingPickler.loads(multiprocessing.reduction.ForkingPickler.dumps(error))
    assert (type(crossed), str(crossed), crossed.exit_code, vars(crossed)) == (
        type(error),
        str(error),
        error.exit_code,
        vars(error),
    )


def test_a_bug_crosses_as_an_internal_error(tmp_path: Path) -> None:
    with Work.open(tmp_path, Events(), Stop()) as work:
        error = outcome_of(Toy(1, Knob("crash")), work, Runtime()).error
    assert isinstance(error, InternalError) and "ValueError: a bug" in str(error)

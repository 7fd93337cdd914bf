"""Runs of the command. In: orders, one JSON line each. Out: what became of each, one JSON line.

A warm run is a fork of this process, which has imported everything and computed nothing (so it has one thread, and forking is safe): a
fresh one takes four seconds more. A cold run is the command as a user starts it. Both get a session of their own. Whatever a run
leaves behind becomes this process's child (PR_SET_CHILD_SUBREAPER), so an orphan cannot hide.
"""

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, NoReturn, Self

from .deeds import Deed, do
from .shim import control_in

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
LOOK_S = 0.002
GRACE_S = (
    3.0  # in which what a run started may end after it: a child notices the end of its parent at once, but the machine is busy
)
LONGEST_S = 240.0  # of a run; longer, it hangs


@dataclass(frozen=True, slots=True)
class Order:
    """One run."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    said: str  # file for stdout and stderr
    control: str  # file of the control block
    warm: bool = True
    stand_in: bool = False  # see standin.py; warm only
    deed: Deed = field(default_factory=Deed)
    signals: tuple[tuple[float, int], ...] = ()  # seconds from the start, number
    prey: str = ""  # what is in the command line of a child to be killed: "ffmpeg", "spawn_main"
    prey_signal: int = 0
    prey_after_s: float = 0.0  # after it was first seen


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of it."""

    code: int  # as a shell says it, but -N for one ended by signal N
    seconds: float
    struck: int  # signals sent while it lived, children killed
    orphans: tuple[str, ...]
    hung: bool


class Nursery:
    """The process that has the runs, seen from outside. Use `with`."""

    def __init__(self, shim: Path | None, environment: dict[str, str]) -> None:
        preload = {"LD_PRELOAD": str(shim)} if shim else {}
        tests = str(Path(__file__).parents[1])
        code = f"import sys; sys.path.insert(0, {tests!r}); from faults.nursery import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, **preload},
        )

    def run(self, order: Order) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        return Ended(**{**told, "orphans": tuple(told["orphans"])})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    """Until stdin ends. Answers go where stdout was; a run's own stdout is a file."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    _warm_up()
    for line in sys.stdin:
        read = json.loads(line)
        order = Order(**{**read, "deed": Deed(**read["deed"]), "arguments": tuple(read["arguments"])})
        answers.write(json.dumps(asdict(_run(order, answers))) + "\n")
        answers.flush()


def _warm_up() -> None:
    """All imports and the model, no computing: the threads of torch, OpenCV and MediaPipe begin with their first work."""
    from musetalk_cli.models import load_family
    from musetalk_cli.settings import Choices, choose_runtime, dub_config

    for name in ("cli", "jobs", "pipeline", "models.lite", "report.command", "report.measure"):
        import_module(f"musetalk_cli.{name}")
    import_module("faults.standin")
    for name in (
        "mediapipe.tasks.python.vision",
        "typer._adapters",
    ):  # after ours, as in a fresh run: what ends them is called in this order
        import_module(name)
    runtime = choose_runtime(Choices())
    load_family(dub_config(Choices(), runtime).model, runtime)
    gc.freeze()  # else the first collection of every fork copies all pages of all modules
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads: a fork would lose them"


def _run(order: Order, answers: IO[str]) -> Ended:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        answers.close()
        _be_the_run(order)
    code, struck, hung = _watch(child, order, began)
    return Ended(code, round(time.monotonic() - began, 3), struck, tuple(_orphans()), hung)


def _be_the_run(order: Order) -> NoReturn:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(order.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    preload = os.environ.get("LD_PRELOAD")
    os.environ.clear()
    os.environ.update(order.environment, FAULTS_CONTROL=order.control, **({"LD_PRELOAD": preload} if preload else {}))
    control = control_in(Path(order.control))
    control.main_pid = os.getpid()
    if not order.warm:
        os.execv(sys.executable, [sys.executable, "-m", "musetalk_cli", *order.arguments])
    if preload:
        ctypes.CDLL(None).faults_arm(order.control.encode())
    _forget_the_nursery()
    from musetalk_cli import cli

    from . import standin

    if order.stand_in:
        standin.put_in()
    do(order.deed, control)
    sys.exit(cli.run(order.arguments))


def _forget_the_nursery() -> None:
    """What a fresh process would ask anew."""
    import tempfile

    from musetalk_cli.media.ffmpeg import find_ffmpeg

    tempfile.tempdir = None
    find_ffmpeg.cache_clear()


def _watch(child: int, order: Order, began: float) -> tuple[int, int, bool]:
    """Wait for it, and strike when it is due."""
    due, struck, seen = list(order.signals), 0, 0.0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), struck, False
        now = time.monotonic()
        while due and now - began >= due[0][0]:
            os.kill(child, due.pop(0)[1])
            struck += 1
        if order.prey and struck == 0:
            prey = [pid for pid in _descendants(child) if order.prey in _command_line(pid)]
            seen = seen or (now if prey else 0.0)
            if prey and now - seen >= order.prey_after_s:
                with suppress(ProcessLookupError):
                    os.kill(prey[0], order.prey_signal)
                    struck += 1
        if now - began > LONGEST_S:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status), struck, True
        time.sleep(LOOK_S)


def _orphans() -> Iterator[str]:
    """Command lines of processes that outlived their run; they are ended here."""
    late = time.monotonic() + GRACE_S
    while (left := _children(os.getpid())) and time.monotonic() < late:
        _reap(left)
        time.sleep(LOOK_S)
    _reap(left)
    for pid in _children(os.getpid()):
        yield _command_line(pid) or str(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _reap(children: Sequence[int]) -> None:
    for pid in children:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""

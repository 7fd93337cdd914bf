"""The one piece of work that the server has under way. In: an Order. Out: a process that does it; its State, at any moment.

The process leads a session of its own, so that Ctrl-C at the server's terminal reaches it through `Tasks.end` alone; it stops by itself
when the server is gone, see `worker`. What it tells are the events of the command, counted by the same Tally. Knows nothing of pages.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Literal

from musetalk_cli.errors import InternalError, InterruptedRun, RetryableError
from musetalk_cli.progress import SPOKEN, Tally, sentence
from musetalk_cli.serve.orders import FAILED, FINISHED, Order, Problem, Request, Settings, problem_of, to_json

Phase = Literal["idle", "working", "stopping", "stopping at once", "done", "stopped", "failed"]
AT_WORK: tuple[Phase, ...] = ("working", "stopping", "stopping at once")
MOST_TOLD = 200  # sentences that are kept; a film of thousands of shots may warn of each


@dataclass(frozen=True, slots=True)
class State:
    """What the page shows."""

    version: int  # raised by every change
    phase: Phase = "idle"
    order: Order | None = None
    seconds: float = 0.0  # since it began
    share: float = 0.0
    frames: int = 0
    frames_done: int = 0
    stage: str = ""
    shot: int = 0  # from 1; 0 where the stage is of the whole film
    shots: int = 0
    fps: float = 0.0
    seconds_left: float | None = None
    reused: float = 0.0  # share that earlier runs did
    told: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: Problem | None = None
    found: Mapping[str, Any] | None = None  # what the command prints with --json


@dataclass(slots=True)
class _Work:
    """A process and what it has told so far."""

    order: Order
    process: "subprocess.Popen[str]"
    began: float = field(default_factory=time.monotonic)
    phase: Phase = "working"
    tally: Tally = field(default_factory=Tally)
    told: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problem: Problem | None = None
    found: Mapping[str, Any] | None = None
    seconds: float = 0.0  # that it took, once it is over

    def take(self, record: Mapping[str, Any]) -> None:
        match record["event"]:
            case event if event == FINISHED:
                self.found = record["found"]
            case event if event == FAILED:
                self.problem = Problem(**record["problem"])
            case "warning":
                self.warnings = [*self.warnings, sentence(record)][-MOST_TOLD:]
            case event if event in SPOKEN:
                self.told = [*self.told, sentence(record)][-MOST_TOLD:]
        self.tally.take(record)

    def close(self, code: int) -> None:
        """The process is over."""
        self.seconds = time.monotonic() - self.began
        if self.found is None and self.problem is None:
            fact = f"ended by signal {-code}" if code < 0 else f"ended with code {code}, and did not say why"
            error = InterruptedRun(-code) if -code in (signal.SIGINT, signal.SIGTERM) else InternalError(f"the process {fact}")
            self.problem = problem_of(error)
        stopped = self.problem is not None and self.problem.code == InterruptedRun.code
        self.phase = "done" if self.problem is None else "stopped" if stopped else "failed"


class Tasks:
    """One piece of work at a time. May be asked by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._work: _Work | None = None

    def start(self, order: Order, settings: Settings) -> None:
        """Raises RetryableError while another is under way."""
        with self._lock:
            if self._work is not None and self._work.phase in AT_WORK:
                raise RetryableError("is under way", "wait for it, or stop it first", thing=self._work.order.title)
            self._work = _Work(order, _process(Request(order, settings)))
            self._version += 1
            threading.Thread(target=self._listen, args=(self._work,), daemon=True).start()

    def stop(self) -> None:
        """Once: after the step that is running; twice: at once. Nothing where nothing is under way."""
        with self._lock:
            if self._work is not None and self._work.phase in AT_WORK:
                self._work.phase = "stopping" if self._work.phase == "working" else "stopping at once"
                self._version += 1
                self._work.process.send_signal(signal.SIGTERM)  # a shell's background jobs may ignore SIGINT

    def state(self) -> State:
        with self._lock:
            return State(self._version) if self._work is None else _state_of(self._work, self._version)

    @property
    def version(self) -> int:
        return self._version

    @property
    def at_work(self) -> bool:
        return self._work is not None and self._work.phase in AT_WORK

    def end(self) -> None:
        """Stop what is under way and wait for it; each InterruptedRun that a signal raises meanwhile asks once more, a third kills."""
        asked = 0
        while self._work is not None and self._work.process.poll() is None:
            asked += 1
            with suppress(InterruptedRun):
                if asked > 2:
                    self._work.process.kill()
                else:
                    self.stop()
                self._work.process.wait()

    def _listen(self, work: _Work) -> None:
        for record in _records(work.process.stdout):
            with self._lock:
                work.take(record)
                self._version += 1
        code = work.process.wait()
        if work.process.stdin is not None:
            work.process.stdin.close()
        with self._lock:
            work.close(code)
            self._version += 1


def _process(request: Request) -> "subprocess.Popen[str]":
    """Its stdin stays open as long as the server lives: its end tells the process that the server is gone."""
    command = [sys.executable, "-m", "musetalk_cli.serve.worker"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8", start_new_session=True)
    assert process.stdin is not None
    try:
        process.stdin.write(to_json(request) + "\n")
        process.stdin.flush()
    except BrokenPipeError:  # it died at once; how is told when its end is read
        pass
    return process


def _records(stream: IO[str] | None) -> Iterator[Mapping[str, Any]]:
    assert stream is not None
    with stream:
        for line in stream:
            with suppress(ValueError):  # the last line of a process that was killed may be half of one
                yield json.loads(line)


def _state_of(work: _Work, version: int) -> State:
    tally, over = work.tally, work.phase not in AT_WORK
    number = tally.unit.partition(".")[0]
    return State(
        version=version,
        phase=work.phase,
        order=work.order,
        seconds=round(work.seconds if over else time.monotonic() - work.began, 1),
        share=1.0 if work.phase == "done" else round(tally.share, 4),
        frames=tally.frames,
        frames_done=tally.finished,
        stage="" if over else tally.stage,
        shot=int(number) + 1 if number.isdigit() else 0,
        shots=tally.shots,
        fps=round(tally.fps, 2),
        seconds_left=None if over or tally.seconds_left is None else round(tally.seconds_left, 1),
        reused=round(tally.reused_share, 4),
        told=tuple(work.told),
        warnings=tuple(work.warnings),
        problem=work.problem,
        found=work.found,
    )

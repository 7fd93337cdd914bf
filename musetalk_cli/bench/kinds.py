"""What a process spends its time on. In: the stacks of its threads, and what CPU time each used. Out: seconds of every kind of work.

    kind       what of it
    network    the dubbing model, whisper, voice activity: everything below models/ but the next line
    detector   face detection, landmarks, identity, parsing, cuts
    codec      decoding, encoding, pixel formats, muxing: media/, and an ffmpeg that is waited for
    blending   crops, masks, colour, grain, sharpness, pasting: crop.py, media/planes.py, media/grain.py, s3_masks.py, s5_blend.py
    imports    modules being loaded
    python     everything else: hashes and files of the work folder, decisions, tracking, records
    waiting    nobody computes: disk, another process that has the CPU, a GPU whose thread sleeps

A hundred times a second each thread is asked for its stack and for the CPU time it used since. The innermost function of this package
says its kind, so that numpy or OpenCV count for who called them; a network's own Python counts for the network. Threads that libraries
started (OpenMP, x264) have no stack: they are of the kind of work that was under way when they began, libav's by their name codec. The
wall time between two looks is shared out by that CPU time; what no thread used is waiting.

Stacks are read as faulthandler writes them. Frames of running threads, asked for their callers, crash CPython 3.11 (one dub in nine).
"""

import faulthandler
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Kind = Literal["network", "detector", "codec", "blending", "imports", "python", "waiting"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OVERHEAD: tuple[Kind, ...] = ("blending", "imports", "python")
PACKAGE = f"{Path(__file__).parents[1]}{os.sep}".encode("ascii", "backslashreplace").decode()  # as faulthandler writes it
TASKS = Path("/proc/self/task")
OF_FILE: dict[str, Kind] = {
    "crop.py": "blending",
    "landmarks.py": "blending",
    "media/grain.py": "blending",
    "media/planes.py": "blending",
    "media/shots.py": "detector",
    "models/analysis.py": "detector",
    "models/arcface.py": "detector",
    "models/face_alignment_analyser.py": "detector",
    "models/parsing.py": "detector",
    "stages/s3_masks.py": "blending",
    "stages/s5_blend.py": "blending",
}
THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)", re.MULTILINE)
CALL = re.compile(r'^  File "(.*)", line \S+ in (.*)$', re.MULTILINE)
OF_FOLDER: dict[str, Kind] = {"models": "network", "media": "codec"}
CHILD = "run_ffmpeg"  # whose caller waits for another process


class Call(NamedTuple):
    """A function under way."""

    file: str
    function: str


Stack = tuple[Call, ...]  # innermost first


def kind_of(file: str) -> Kind | None:
    """Of a source file; None outside of this package."""
    if not file.startswith(PACKAGE):
        return None
    inside = file.removeprefix(PACKAGE).replace(os.sep, "/")
    return OF_FILE.get(inside) or OF_FOLDER.get(inside.partition("/")[0], "python")


def kind_of_stack(stack: Stack) -> Kind:
    """By the innermost function of this package, or the import that it waits for."""
    for call in stack:
        if call.file.startswith("<frozen importlib"):
            return "imports"
        if kind := kind_of(call.file):
            return kind
    return "python"


def waits_for_child(stack: Stack) -> bool:
    """Whether the thread has started a program and waits for it."""
    return any(call.function == CHILD and kind_of(call.file) == "codec" for call in stack)


def read_stacks(told: str) -> dict[int, Stack]:
    """faulthandler's text -> the stack of each thread, by Python's number for it."""
    stacks: dict[int, Stack] = {}
    for block in told.split("\n\n"):
        if found := THREAD.search(block):
            stacks[int(found[1], 16)] = tuple(Call(*call) for call in CALL.findall(block))
    return stacks


def apportioned(wall_s: float, used_s: Mapping[Kind, float], *, child: bool) -> dict[Kind, float]:
    """Wall time by CPU time; its sum is wall_s. used_s: of all threads since the last look. child: an ffmpeg is waited for, and what
    no thread used is its."""
    used = sum(used_s.values())
    scale = min(1.0, wall_s / used) if used > 0 else 0.0
    shares: dict[Kind, float] = {kind: seconds * scale for kind, seconds in used_s.items()}
    rest: Kind = "codec" if child else "waiting"
    shares[rest] = shares.get(rest, 0.0) + max(0.0, wall_s - used * scale)
    return shares


class Looker:
    """Looks at this process's threads; call `look` from a thread of its own, as often as wanted. Linux alone tells of other threads."""

    def __init__(self) -> None:
        self.seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        self._used: dict[int, float] = {}  # CPU seconds of each thread, by the system's number
        self._born: dict[int, Kind] = {}  # of threads that Python does not know
        self._file = os.fdopen(os.memfd_create("stacks"), "w+b", buffering=0)
        self._at = time.perf_counter()
        self.look()
        self.seconds = dict.fromkeys(KINDS, 0.0)

    @staticmethod
    def able() -> bool:
        """Whether this system tells of single threads."""
        return TASKS.is_dir()

    def look(self) -> None:
        """Share out the time since the last look."""
        now = time.perf_counter()
        stacks = self._stacks()
        known = {thread.native_id: stacks.get(thread.ident or 0, ()) for thread in threading.enumerate()}
        me = threading.get_native_id()
        under_way = self._under_way(known, me)
        used: dict[Kind, float] = {}
        for name in os.listdir(TASKS):
            number = int(name)
            spent = self._spent(number)
            if number != me and spent > 0:
                kind = kind_of_stack(known[number]) if number in known else self._birth(number, under_way)
                used[kind] = used.get(kind, 0.0) + spent
        child = any(waits_for_child(stack) for stack in known.values())
        for kind, seconds in apportioned(now - self._at, used, child=child).items():
            self.seconds[kind] += seconds
        self._at = now

    def close(self) -> None:
        """No more looks."""
        self._file.close()

    def _stacks(self) -> dict[int, Stack]:
        self._file.seek(0)
        self._file.truncate()
        faulthandler.dump_traceback(self._file, all_threads=True)
        self._file.seek(0)
        return read_stacks(self._file.read().decode("ascii", "replace"))

    def _spent(self, number: int) -> float:
        """CPU seconds of a thread since the last look."""
        try:
            total = time.clock_gettime(~number << 3 | 6)  # a thread's CPU clock, <linux/posix-timers.h>
        except OSError:  # it has ended
            return 0.0
        before, self._used[number] = self._used.get(number, 0.0), total
        return total - before

    def _under_way(self, known: Mapping[int | None, Stack], me: int) -> Kind:
        """What most likely starts threads now: work before Python."""
        at = [kind_of_stack(stack) for number, stack in known.items() if number != me and stack]
        return next((kind for kind in KINDS if kind in at), "python")

    def _birth(self, number: int, under_way: Kind) -> Kind:
        if number not in self._born:
            self._born[number] = "codec" if _name_of(number).startswith("av:") else under_way
        return self._born[number]


def _name_of(number: int) -> str:
    try:
        return (TASKS / str(number) / "comm").read_text(errors="replace").strip()
    except OSError:  # it has ended
        return ""

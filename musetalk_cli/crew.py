"""Who is at work in a shared work folder. In: the folder. Out: a Member, who is known there and claims units before making them.

Correct results need none of this: they are named by what made them and appear by rename, so two who make the same one leave the same
file. Claims only save the work. Asked of the shared folder: rename within it is atomic, a file that is made exclusively is made once, and
what one machine has closed another one sees when it opens it. Its own clock tells how old things are; clocks of machines may differ.

A member's file `workers/NAME.lock` is touched every BEAT_S seconds by a thread, and flocked where the system can. On the same machine
the lock tells who lives, at once; of other machines the time of the last touch does, after STALE_S seconds.
"""

import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from musetalk_cli.errors import RetryableError
from musetalk_cli.reading import is_plain_name, read_bytes

BEAT_S = 10.0
STALE_S = 60.0  # six beats: a machine that swaps, or a file server that is slow for a while, is not dead
HOLDER_S = 1.0  # for which one who looks may hold the lock of the whole folder
ALIVE_FOR_S = 2.0  # a member that lived this long ago is not asked after again


class Member:
    """One who works in the folder beside others. Make it with `enter`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._file = folder / "workers" / f"{name}.lock"
        self._claims = folder / "claims"
        self._seen_alive: dict[str, float] = {}
        self._mine: set[str] = set()  # units, of whichever thread

    @property
    def tmp(self) -> Path:
        """For halves; nobody else clears them away."""
        return self.folder / "tmp" / self.name

    def claim(self, unit: str) -> bool:
        """Whether the unit is now the caller's to make: nobody has it, or one who died."""
        if unit in self._mine:
            return False
        claim = self._claims / unit
        for _ in range(2):
            try:
                handle = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                if self._is_held(claim):
                    return False
                with suppress(FileNotFoundError):  # somebody else was as quick
                    claim.replace(self.tmp / f"claim-{uuid.uuid4().hex}")
            else:
                self._mine.add(unit)
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(self.name)
                return True
        return False

    def release(self, unit: str) -> None:
        """The unit is made, or given up."""
        (self._claims / unit).unlink(missing_ok=True)
        self._mine.discard(unit)

    def claimed(self) -> set[str]:
        """Units that anyone has claimed, the dead included."""
        return set(os.listdir(self._claims))

    def _is_held(self, claim: Path) -> bool:
        try:
            owner = read_bytes(claim).decode("utf-8", "replace")
            made = claim.stat().st_mtime
        except (FileNotFoundError, IsADirectoryError, ValueError):  # gone, or none of ours
            return False
        if owner == self.name:
            return False  # of a process that had our name before us
        if not owner:  # made this moment, its name not yet written; or its maker died in between
            return self._now() - made < STALE_S
        return is_plain_name(owner) and self._lives(owner)

    def _lives(self, name: str) -> bool:
        if time.monotonic() - self._seen_alive.get(name, -ALIVE_FOR_S) < ALIVE_FOR_S:
            return True
        lives = is_alive(self.folder, name, self._now())
        if lives:
            self._seen_alive[name] = time.monotonic()
        return lives

    def _now(self) -> float:
        """By the clock of the folder's file system."""
        return beat(self._file)


def beat(file: Path) -> float:
    """Touch the file; the time of that, as its file system has it. A folder's own clock is asked so, not the machine's."""
    os.utime(file)
    return file.stat().st_mtime


@contextmanager
def enter(folder: Path, title: str) -> Iterator[Member]:
    """Be known in the folder as `{host}-{pid}-{title}` while inside. Raises RetryableError where a run holds all of it."""
    name = f"{socket.gethostname()}-{os.getpid()}-{title}"
    member = Member(folder, name)
    for place in (folder / "workers", folder / "claims", member.tmp):
        place.mkdir(parents=True, exist_ok=True)
    with _beating(
        folder / "workers" / f"{name}.lock"
    ):  # first known, then look: who takes the whole folder does it the other way
        holder = holder_in(folder)
        if holder:
            raise RetryableError(f"{folder}: in use by {holder}", "wait for it, or choose another --work-dir")
        bury(folder, member)
        try:
            yield member
        finally:
            shutil.rmtree(member.tmp, ignore_errors=True)


@contextmanager
def _beating(file: Path) -> Iterator[None]:
    from filelock import FileLock

    unseen = file.with_suffix(".part")  # until it is locked: who looks must not take it for one of the dead
    lock = FileLock(unseen)
    with suppress(NotImplementedError, OSError):  # a file system without flock: then its beats alone are heard
        lock.acquire(timeout=HOLDER_S)
    unseen.touch()
    unseen.replace(file)
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(BEAT_S):
            with suppress(OSError):  # a file server that is away for a while
                beat(file)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        lock.release()
        file.unlink(missing_ok=True)


def living(folder: Path) -> list[str]:
    """Names of those at work in the folder."""
    files = sorted((folder / "workers").glob("*.lock")) if (folder / "workers").is_dir() else []
    if not files:
        return []
    clock = folder / "workers" / f".clock-{uuid.uuid4().hex}"
    clock.touch()
    try:
        now = beat(clock)
    finally:
        clock.unlink()
    return [file.stem for file in files if is_alive(folder, file.stem, now)]


def is_alive(folder: Path, name: str, now: float) -> bool:
    """Whether that member still works. now: by the folder's clock."""
    file = folder / "workers" / f"{name}.lock"
    try:
        beaten = file.stat().st_mtime
    except FileNotFoundError:
        return False
    if name.startswith(f"{socket.gethostname()}-") and (locked := _is_locked(file)) is not None:
        return locked
    return now - beaten < STALE_S


def _is_locked(file: Path) -> bool | None:
    """None where this file system cannot tell."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
    except (NotImplementedError, OSError):
        return None


def bury(folder: Path, member: Member | None = None) -> None:
    """Clear away the files and halves of those who died. member: who does it, and lives."""
    files = list((folder / "workers").glob("*.lock"))  # before it is asked who lives: who enters meanwhile is not among them
    alive = {*living(folder), *([] if member is None else [member.name])}
    for file in files:
        if file.stem not in alive:
            file.unlink(missing_ok=True)
            shutil.rmtree(folder / "tmp" / file.stem, ignore_errors=True)


def holder_in(folder: Path, wait_s: float = HOLDER_S) -> str:
    """Which process holds the whole folder, "" where none does: a killed one leaves its name, but not the lock."""
    from filelock import FileLock, Timeout

    holder = folder / "holder"
    if not holder.exists():
        return ""
    try:
        with FileLock(folder / "lock", timeout=wait_s):
            return ""
    except (NotImplementedError, Timeout, PermissionError):  # the folder of another user: only what it says is known
        return holder.read_text(encoding="utf-8", errors="replace") if holder.exists() else ""

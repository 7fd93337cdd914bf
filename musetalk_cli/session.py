"""One run of the command over one film. In: the film and how to tell of it. Out: a Session: locked work folder, journal, signals.

Finds the work folder by the film's content, turns whatever goes wrong into a MusetalkError, and clears up after delivery. Knows
nothing of stages.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from musetalk_cli.errors import InternalError, MusetalkError, ResourceError, RetryableError, UsageError
from musetalk_cli.progress import Events, OnEvent, ProgressMode, open_events
from musetalk_cli.signals import Stop, stop_on_signals
from musetalk_cli.store import store_behind
from musetalk_cli.work import DISK_FAILS, DISK_FULL, Work, disk_fault, fingerprint, kept_results

JOURNAL = "run.jsonl"
OURS = {JOURNAL, "plan.json"}  # what tells a work folder; a copy of a plan alone is one to be
REMOVED = re.compile(r"\.[0-9a-f]{16}\.\d+")  # a work folder of the cache on its way out, see _remove
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, slots=True)
class Place:
    """Which work folder, and what becomes of it."""

    work_dir: Path | None = None  # None: named by the film's content, in the user's cache
    keep: bool = False  # after delivery; a work_dir that the user named is always kept
    fresh: bool = False  # forget what earlier runs finished, in the store too
    store: str = ""  # URL under which results are kept too; "": nowhere

    def folder(self, film: Path) -> Path:
        """Raises InputError where the film cannot be read."""
        folder = self.work_dir if self.work_dir is not None else cache_folder() / fingerprint(film)[:16]
        return folder.absolute()

    def store_of(self, film: Path) -> str:
        """URL of this film's results, "" without a store."""
        return f"{self.store.rstrip('/')}/{fingerprint(film)[:16]}" if self.store else ""


@dataclass(frozen=True, slots=True)
class Voice:
    """How a run speaks on stderr, who else hears it, and who may stop it."""

    progress: ProgressMode = "auto"
    quiet: bool = False  # errors only
    verbose: bool = False
    on_event: OnEvent | None = None  # told what run.jsonl is told
    stop: Stop | None = None  # None: SIGINT and SIGTERM stop it


@dataclass(frozen=True, slots=True)
class Session:
    work: Work
    events: Events
    journal: Path


@contextmanager
def open_session(film: Path, place: Place, voice: Voice, *, deliver: bool = True) -> Iterator[Session]:
    """Hold the film's work folder. Raises RetryableError where another run does, InterruptedRun after a signal, UsageError where
    the folder cannot be written or holds other things.

    deliver: whether the work is done with when the block ends well; then a folder that nobody asked to keep is removed. A folder
    in the cache is removed too when the block fails before anything was finished in it.
    """
    folder = place.folder(film)
    mode: ProgressMode = "none" if voice.quiet else voice.progress
    stopping = stop_on_signals(quiet=voice.quiet) if voice.stop is None else nullcontext(voice.stop)
    with as_faults(), stopping as stop:
        check_ours(folder)
        _make_folder(folder)
        if place.work_dir is None:
            _sweep(folder.parent)
        with ExitStack() as held:
            with _unless_cleared(folder):
                events = held.enter_context(open_events(folder / JOURNAL, mode, verbose=voice.verbose, on_event=voice.on_event))
                work = held.enter_context(Work.open(folder, events, stop, place.store_of(film)))
            if place.fresh:
                _forget(folder)
            with _cleared_if_empty(folder, place), _told_to(events):
                yield Session(work, events, folder / JOURNAL)
            if deliver and not place.keep and place.work_dir is None:
                _remove(folder)


def cache_folder() -> Path:
    """`musetalk` in $XDG_CACHE_HOME or the system's own place for such things."""
    from platformdirs import user_cache_path

    return user_cache_path("musetalk")


@contextmanager
def as_faults() -> Iterator[None]:
    """Every error leaves as a MusetalkError."""
    try:
        yield
    except MusetalkError:
        raise
    except Exception as error:
        raise fault_of(error) from error


def fault_of(error: Exception) -> MusetalkError:
    """What a foreign error means to a user."""
    if isinstance(error, MemoryError):
        return ResourceError("out of memory", "close other programs, or choose a smaller --chunk or --batch-size")
    if isinstance(error, OSError) and (fault := disk_fault(error, error.filename or "a file")) is not None:
        return fault
    if isinstance(error, OSError) and error.errno in NOT_WRITABLE and error.filename:
        cure = "change its permissions, or choose another place by -o or --work-dir"
        return UsageError(f"cannot be written ({error.strerror})", cure, thing=str(error.filename))
    return InternalError(f"{type(error).__name__}: {error}", "run it again with -v and report what it prints")


@contextmanager
def _told_to(events: Events) -> Iterator[None]:
    try:
        with as_faults():
            yield
    except MusetalkError as error:
        with suppress(OSError):  # a full disk takes no line about itself
            events.emit("error", code=error.code, message=error.fact, hint=error.cure)
            error.told = events.shows_errors
        raise


def check_ours(folder: Path) -> None:
    """Raises UsageError where the folder holds anything but work: a run clears away in its folder, so no other is taken for one."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}", "choose another --work-dir") from error
    if names and not names & OURS:
        raise UsageError(f"{folder}: not empty, and not a work folder", "choose an empty or a new folder for --work-dir")
    check_own(folder)


def check_own(folder: Path) -> None:
    """Raises UsageError where the folder holds links or pipes: what is written there must not end up elsewhere."""
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # another run's, gone since
            mode = (folder / name).lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                fact, cure = "a link, a pipe or a device in a work folder", "delete it, or choose another --work-dir"
                raise UsageError(fact, cure, thing=str(folder / name))


def _make_folder(folder: Path) -> None:
    """A read-only cache is told as what it is, before anything is tried in it."""
    cure = "choose another --work-dir"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in DISK_FULL | DISK_FAILS:
            raise
        raise UsageError(f"cannot be made ({error.strerror})", cure, thing=str(folder)) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError("cannot be written", cure, thing=str(folder))


@contextmanager
def _cleared_if_empty(folder: Path, place: Place) -> Iterator[None]:
    """Remove a work folder of the cache when the run failed with nothing to go on from."""
    try:
        yield
    except MusetalkError:
        if place.work_dir is None and not any(kept_results(folder)):
            _remove(folder)
        raise


@contextmanager
def _unless_cleared(folder: Path) -> Iterator[None]:
    """One who waits for the lock of a run that then delivers and removes its folder may hold a lock, or write a journal, that nobody
    sees. Raises RetryableError."""
    gone = RetryableError(f"{folder}: another run has just finished with it and cleared it away", "run the same command again")
    try:
        yield
    except FileNotFoundError as error:
        raise gone from error
    if not (folder / JOURNAL).exists():  # the folder is new and ours, but for the journal
        _remove(folder)
        raise gone


def _remove(folder: Path) -> None:
    """At once for all who look, by a rename; with the lock, which this process holds until it closes it."""
    away = folder.with_name(f".{folder.name}.{os.getpid()}")
    with suppress(OSError):
        folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """What others were removing when they were killed."""
    for path in cache.iterdir():
        if REMOVED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _forget(folder: Path) -> None:
    """Every result, those in the store too; the lock and the journal stay."""
    for path in folder.glob("*/*/result.json"):
        path.parent.unlink() if path.parent.is_symlink() else shutil.rmtree(path.parent)
    if store := store_behind(folder):
        store.forget()

"""The work folder: name a result by what made it, publish it whole, read it back.

In: a stage function and its inputs. Out: a Ref to its result on disk, made now or by an earlier run. Knows nothing of film.

A result lies in `STAGE/UNIT-KEY/`: one `.npy` for each array, files the stage wrote, and `result.json` with the key's
ingredients and the sha256 of every file and of itself. The key is sha256(stage, version, config, what each input is called); a Path is
called by its size and sampled content, so a film may be moved. A folder appears by rename, whole or not at all.

With a store behind it (see store.py) the folder is a cache: what is finished here is kept there too, and what is not here is looked for
there. Its mark is enough to be found; its files come, and are compared with their sha256, when they are first read.
"""

import ctypes
import errno
import hashlib
import inspect
import json
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod
from pathlib import Path
from threading import Lock
from tokenize import TokenError
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast, get_type_hints

import cattrs
import numpy as np

from musetalk_cli.config import Runtime
from musetalk_cli.crew import Member, bury, enter, holder_in, living
from musetalk_cli.errors import InputError, InternalError, MusetalkError, ResourceError, RetryableError
from musetalk_cli.progress import Events
from musetalk_cli.reading import check_regular, is_plain_name, parse_fraction, read_json
from musetalk_cli.signals import Stop
from musetalk_cli.store import digest_of, name_store, store_behind

T = TypeVar("T")
SAMPLE_BYTES = 1 << 20
SAMPLES = 32
PROBE_SECONDS = 0.3  # longer than one who only looks ever holds the lock
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK_FAILS = {errno.EIO, errno.ESTALE, errno.ENXIO}  # a disk that is dying, a file server that went away

_records = cattrs.Converter()
_records.register_unstructure_hook(Fraction, str)
_records.register_structure_hook(Fraction, lambda text, _: parse_fraction(text))
NOT_OURS = (  # what reading a record raises that another program wrote, or a disk changed; tried on a million
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, SyntaxError, EOFError, TokenError),
    *(FileNotFoundError, IsADirectoryError, NotADirectoryError, cattrs.BaseValidationError, cattrs.StructureHandlerNotFoundError),
)


class Unmade(InternalError):
    """A result was asked for that nobody has made."""

    def __init__(self, stage: str) -> None:
        super().__init__(f"{stage} is not made yet")
        self.stage = stage


@dataclass(frozen=True, slots=True)
class Ref(Generic[T]):
    """A finished result, on disk or in the store behind it; `load` reads it. Arrays come memory-mapped, so that a film's length costs
    no memory."""

    key: str
    stage: str
    unit: str
    folder: Path
    kind: type[T]

    @property
    def exists(self) -> bool:
        """Whether it was made and is still there; not whether every byte is as it was."""
        if (self.folder / "result.json").is_file():
            return True
        store = store_behind(self.folder.parents[1])
        return store is not None and store.has(_name_in_store(self.folder))

    def load(self) -> T:
        """Raises Unmade where it is not there, RetryableError where the store's copy is damaged, which then is gone from there; InputError
        for what another program put there."""
        if not (self.folder / "result.json").is_file() and not _fetch(self.folder):
            raise Unmade(self.stage)
        try:
            return _read_record(self.kind, read_json(self.folder / "result.json")["record"], self.folder)
        except NOT_OURS as error:
            fact = f"{self.folder}: not what {self.stage} leaves there ({type(error).__name__})"
            raise InputError(fact, "delete that folder and run the same command again") from error


def stage(*, version: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Mark a function as a stage. Raise `version` when its results change for the same inputs: it and all after it run again."""

    def mark(function: Callable[..., T]) -> Callable[..., T]:
        function.version = version  # type: ignore[attr-defined]
        return function

    return mark


class Work:
    """A work folder in use by this process. `Work.open` holds it for this process alone, `Work.enter` works there beside others.

    Made directly, it is a place in a folder that another process holds and lends. tmp: for halves, its own alone. Threads may share one.
    """

    def __init__(self, folder: Path, events: Events, stop: Stop, tmp: Path | None = None) -> None:
        self.folder = folder
        self.events = events
        self.stop = stop
        self._tmp = tmp or folder / "tmp"
        self._store = store_behind(folder)
        self._making: defaultdict[str, Lock] = defaultdict(Lock)  # by key: of two threads that want the same result one makes it

    @classmethod
    @contextmanager
    def open(cls, folder: Path, events: Events, stop: Stop, store: str = "") -> Iterator["Work"]:
        """Hold the folder for this process alone. store: URL of the one behind it, "": none. Raises RetryableError where another run
        holds the folder, or workers are in it; UsageError where the store cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            name_store(folder, store)
            _clear_halves(folder)  # of runs that were killed
            try:
                yield cls(folder, events, stop)
            finally:
                _clear_halves(folder)  # of threads that a second signal left where they were

    @classmethod
    @contextmanager
    def enter(cls, folder: Path, title: str, events: Events, stop: Stop, store: str = "") -> Iterator[tuple["Work", Member]]:
        """Work in the folder beside others, who may be on other machines. store: as of `open`. Raises RetryableError where a run holds
        all of the folder."""
        with enter(folder, title) as member:
            if store:
                name_store(folder, store)
            yield cls(folder, events, stop, member.tmp), member

    def do(self, function: Callable[..., T], *inputs: Any, config: Any, runtime: Runtime, unit: str, frames: int = 0) -> Ref[T]:
        """The result of function(*inputs, config=, runtime=, out=): found if it is there, else made and kept.

        inputs: Refs (their records are handed over), sequences of Refs, Paths of files, or frozen records. frames: how many
        frames this unit stands for, for progress. Raises ResourceError on a full disk, InterruptedRun when asked to stop.
        """
        made_of = _made_of(function, inputs, config)
        ref = self._ref(function, made_of, unit)
        told = {"stage": ref.stage, "unit": unit, "frames": frames, "key": ref.key[:16]}
        with self._making[ref.key]:
            if self._is_done(ref):
                self.events.emit("stage.done", **told, seconds=0.0, reused=True)
                return ref
            self.stop.check()
            self.events.emit("stage.start", **told)
            began = time.perf_counter()
            with _disk_errors(self.folder):
                self._make(ref, function, inputs, config, runtime, made_of)
            self.events.emit("stage.done", **told, seconds=round(time.perf_counter() - began, 3), reused=False)
            return ref

    def ref(self, function: Callable[..., T], *inputs: Any, config: Any, unit: str) -> Ref[T]:
        """What `do` would return, whether it is there or not."""
        return self._ref(function, _made_of(function, inputs, config), unit)

    def has(self, function: Callable[..., T], *inputs: Any, config: Any, unit: str) -> bool:
        """Whether `do` would find this result."""
        ref = self.ref(function, *inputs, config=config, unit=unit)
        return _is_whole(ref.folder) or (self._store is not None and self._store.has(_name_in_store(ref.folder)))

    def why(self, function: Callable[..., T], *inputs: Any, config: Any, unit: str) -> list[str]:
        """What differs from the nearest result that is kept for this unit, as people read it: `config.margin: 10 -> 12`,
        `another audio: es.wav`, `because listen runs again`; or which stages a result that was never made waits for."""
        made_of = _made_of(function, inputs, config)
        kept = [
            read["made_of"] for read in kept_results(self.folder) if (read["stage"], read["unit"]) == (function.__name__, unit)
        ]
        if not kept:
            awaited = dict.fromkeys(ref.stage for value in inputs for ref in _refs(value) if not ref.exists)
            return [f"waits for {', '.join(awaited)}" if awaited else "not made yet"]
        given = dict(zip(inspect.signature(function).parameters, inputs, strict=False))
        changes = [_changes(old, json.loads(json.dumps(made_of)), given) for old in kept]
        return min(changes, key=len)

    def keeps(self, ref: Ref[Any]) -> bool:
        """Whether it is there, every byte as it was written; what is in the store alone is compared when it is read."""
        return self._is_done(ref)

    def drop(self, *refs: Ref[Any]) -> None:
        """Forget results that the delivered film no longer needs."""
        for ref in refs:
            shutil.rmtree(ref.folder, ignore_errors=True)

    def _ref(self, function: Callable[..., T], made_of: dict[str, Any], unit: str) -> Ref[T]:
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        kind = cast(type[T], get_type_hints(function)["return"])
        name = function.__name__
        return Ref(key, name, unit, self.folder / name / f"{unit}-{key[:16]}", kind)

    def _is_done(self, ref: Ref[T]) -> bool:
        """Here or in the store; what is here only is put there: an earlier run may have lost the connection."""
        here = _is_whole(ref.folder)
        if self._store is None:
            return here
        if here:
            self._store.keep(ref.folder, _name_in_store(ref.folder))
            return True
        if not self._store.has(_name_in_store(ref.folder)):
            return False
        return not ref.folder.exists() or _fetch(ref.folder)  # there is one, but damaged

    def _make(
        self,
        ref: Ref[T],
        function: Callable[..., T],
        inputs: Sequence[Any],
        config: Any,
        runtime: Runtime,
        made_of: dict[str, Any],
    ) -> None:
        out = self._tmp / uuid.uuid4().hex
        out.mkdir(parents=True)
        try:
            record = function(*(_loaded(value) for value in inputs), config=config, runtime=runtime, out=out)
            _write_record(record, out, {"stage": ref.stage, "unit": ref.unit, "key": ref.key, "made_of": made_of})
            _publish(out, ref.folder)
            if self._store is not None:
                self._store.keep(ref.folder, _name_in_store(ref.folder))
        finally:
            shutil.rmtree(out, ignore_errors=True)
            _give_back_memory()


def _clear_halves(folder: Path) -> None:
    """By a rename first: a thread that is still at work finds its place gone, and cannot put another file there."""
    away = folder / f"tmp.{uuid.uuid4().hex}"
    with suppress(OSError):
        (folder / "tmp").rename(away)
    for path in folder.glob("tmp.*"):
        shutil.rmtree(path, ignore_errors=True)


def _give_back_memory() -> None:
    """What was freed goes back to the system: glibc keeps holes between blocks, and they grow with the number of chunks."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def kept_results(folder: Path) -> Iterator[dict[str, Any]]:
    """The result.json of every finished result in a work folder, in order of stage and unit."""
    for path in sorted(folder.glob("*/*/result.json")):
        if not path.parent.parent.name.startswith("tmp"):
            with suppress(OSError, ValueError):  # half of it, or not ours: it is made again
                read = read_json(path)
                if _tells_of_itself(read):
                    yield read


def _tells_of_itself(read: Any) -> bool:
    """Whether it has the form of a result.json."""
    match read:
        case {"stage": str(), "unit": str(), "key": str(), "made_of": {"inputs": dict()}, "record": dict(), "files": dict()}:
            return True
    return False


def holder_of(folder: Path) -> str:
    """Who is at work in a folder, "" where nobody is: a killed one leaves its name, but not the lock."""
    return ", ".join(filter(None, [holder_in(folder, wait_s=0), *living(folder)]))


def fingerprint(path: Path) -> str:
    """A file by its content: sha256 of its size and all of it up to 64 MiB, else of 33 samples of 1 MiB, ends included.

    Not by path or time, so that films and work folders may be moved. Raises InputError where it cannot be read.
    """
    try:
        state = path.stat()
        check_regular(state.st_mode, path)
        return _fingerprint(str(path.absolute()), state.st_size, state.st_mtime_ns)
    except OSError as error:
        url = re.match(r"[a-z][a-z0-9+]*:/", str(path))
        cure = "a URL is no file here: fetch it first" if url else "check the path and its permissions"
        raise InputError(f"{path}: {error.strerror}", cure) from error
    except ValueError as error:  # a pipe, a device, a name with a NUL
        raise InputError(f"{str(path)!a}: {error}", "give a file") from error


@lru_cache(maxsize=256)
def _fingerprint(path: str, size: int, _mtime_ns: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= 64 * SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for i in range(SAMPLES + 1):
                file.seek(i * (size - SAMPLE_BYTES) // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _made_of(function: Callable[..., Any], inputs: Sequence[Any], config: Any) -> dict[str, Any]:
    return {
        "stage": function.__name__,
        "version": function.version,  # type: ignore[attr-defined]
        "config": _called(config),
        "inputs": dict(zip(inspect.signature(function).parameters, map(_called, inputs), strict=False)),
    }


def _called(value: Any) -> Any:
    """What an input is called in a key."""
    match value:
        case Ref():
            return value.key
        case Path():
            return fingerprint(value)
        case list():
            return [_called(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return json.loads(json.dumps(asdict(value), default=str))
        case tuple() if hasattr(value, "_asdict"):
            return value._asdict()
        case str() | int() | float() | None:
            return value
    raise TypeError(f"{type(value).__name__} has no name to make a key of")


def _loaded(value: Any) -> Any:
    match value:
        case Ref():
            return value.load()
        case list():
            return [_loaded(item) for item in value]
    return value


def _write_record(record: Any, out: Path, about: dict[str, Any]) -> None:
    saved: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.memmap) and Path(str(value.filename)).parent == out.resolve():  # numpy resolves it
            value.flush()  # a stage that streams writes {field}.npy itself
            saved[field.name] = f"{field.name}.npy"
        elif isinstance(value, np.ndarray):
            _write_array(out / f"{field.name}.npy", value)
            saved[field.name] = f"{field.name}.npy"
        elif isinstance(value, Path):
            saved[field.name] = str(value.relative_to(out))  # a result names only files in its own folder
        else:
            saved[field.name] = _records.unstructure(value)
    files = {path.name: sha256_of(path) for path in sorted(out.iterdir())}
    told = json.loads(json.dumps({"v": 1, **about, "record": saved, "files": files}))
    (out / "result.json").write_text(json.dumps({**told, "sha256": digest_of(told)}, indent=1))


class _Sink(NamedTuple):
    """What numpy does not take for a file."""

    write: Callable[[bytes], int]


def _write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """As numpy.save, which on a full disk only says how much less was written: it hands files to C, and the errno is lost."""
    with path.open("wb") as file:
        np.lib.format.write_array(_Sink(file.write), array, allow_pickle=False)


def _read_record(kind: type[T], saved: dict[str, Any], folder: Path) -> T:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in saved.items():
        if isinstance(value, str) and value == f"{name}.npy":
            values[name] = _read_array(folder / value)
        elif hints[name] is Path:
            if not is_plain_name(value):
                raise ValueError(f"{value!r} is no file of its own")
            values[name] = folder / value
        else:
            values[name] = _records.structure(value, hints[name])
    return kind(**values)


def _read_array(path: Path) -> np.ndarray[Any, Any]:
    """Mapped, where it has any elements. Raises ValueError for a header that promises more or less than there is, or objects."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):  # later ones may have headers of gigabytes; nothing of ours has
            raise ValueError("no array of ours")
        shape, column_major, dtype = np.lib.format.read_array_header_1_0(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.hasobject or min(shape, default=1) < 0 or prod(shape) * dtype.itemsize != size - start:
        raise ValueError("not the array that its header promises")
    if not size - start:  # nothing to map
        return np.zeros(shape, dtype)
    order: Literal["F", "C"] = "F" if column_major else "C"
    mapped = np.memmap(path, dtype, "r", start, shape, order)
    return np.asarray(mapped)  # a plain view: each slice of a memmap costs microseconds


def _publish(out: Path, folder: Path) -> None:
    """By rename. Where another one was quicker, what it made is as good; what was refused there before, since it is damaged, goes."""
    for path in (*out.iterdir(), out):
        sync(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        out.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _is_whole(folder):
            return
        with suppress(FileNotFoundError):
            folder.rename(out.with_name(f"{out.name}.damaged"))
        shutil.rmtree(out.with_name(f"{out.name}.damaged"), ignore_errors=True)
        out.rename(folder)
    sync(folder.parent)


def _name_in_store(folder: Path) -> str:
    """STAGE/UNIT-KEY."""
    return f"{folder.parent.name}/{folder.name}"


def _fetch(folder: Path) -> bool:
    """A result from the store behind its work folder. False where it is not there."""
    root, name = folder.parents[1], _name_in_store(folder)
    store = store_behind(root)
    if store is None:
        return False
    out = root / "tmp" / f"fetch-{uuid.uuid4().hex}"
    out.mkdir(parents=True)
    try:
        with _disk_errors(root):
            if not store.fetch(name, out):
                return False
            if not _is_whole(out):
                store.forget(name)
                raise RetryableError(f"{name}: damaged in {store.url}", "run the same command again, which makes it anew")
            _publish(out, folder)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return True


def _is_whole(folder: Path) -> bool:
    """Finished, and every byte as it was written: a damaged result is made again, and one that names files or is a link to elsewhere."""
    try:
        told = read_json(folder / "result.json")
        return (
            told.pop("sha256") == digest_of(told)
            and not folder.is_symlink()
            and all(_is_own(folder, name) and sha256_of(folder / name) == digest for name, digest in told["files"].items())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # what is no JSON any more, or no object
        return False


def _is_own(folder: Path, name: str) -> bool:
    """Whether it is a file in that folder, not a link or a pipe."""
    return is_plain_name(name) and stat.S_ISREG((folder / name).lstat().st_mode)


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Bytes of a file or names of a folder, on the disk before we go on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _changes(old: dict[str, Any], new: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Lines for people, in the order in which the ingredients stand. given: the inputs themselves, whose names say more than keys."""
    was, now = old["inputs"], new["inputs"]
    named = {name for name in now if any(True for _ in _refs(given[name])) or isinstance(given[name], Path)}
    lines = [_another(name, given[name]) for name in now if name in named and was.get(name) != now[name]]
    before, after = (
        {**made_of, "inputs": {k: v for k, v in made_of["inputs"].items() if k not in named}} for made_of in (old, new)
    )
    return list(dict.fromkeys([*lines, *_differences(before, after)]))


def _another(name: str, value: Any) -> str:
    """An input that is another one than before."""
    if isinstance(value, Path):
        return f"another {name}: {value.name}"
    changed = dict.fromkeys(ref.stage for ref in _refs(value) if not ref.exists)
    return f"because {', '.join(changed)} runs again" if changed else f"another {name}"


def _refs(value: Any) -> Iterator[Ref[Any]]:
    """The results among an input."""
    match value:
        case Ref():
            yield value
        case list():
            for item in value:
                yield from _refs(item)


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        both = [*new, *(key for key in old if key not in new)]
        return [line for key in both for line in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))]
    return [] if old == new else [f"{name}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except MusetalkError:
        raise
    except MemoryError as error:
        raise ResourceError("out of memory", "close other programs, or choose a smaller --chunk or --batch-size") from error
    except OSError as error:
        fault = disk_fault(error, folder)
        if fault is not None:
            raise fault from error
        raise


def disk_fault(error: OSError, where: Path | str, flag: str = "--work-dir") -> ResourceError | None:
    """What a full or failing disk means to a user; None for an error of another kind. flag: which chooses another place."""
    kept = "what is finished is kept"
    if error.errno in DISK_FULL:
        return ResourceError(f"{where}: the disk is full", f"free some space or choose another {flag}; {kept}")
    if error.errno in DISK_FAILS:
        cure = f"see what the system's log says of it, choose another {flag}; {kept}"
        return ResourceError(f"{where}: the disk fails ({os.strerror(error.errno)})", cure)
    return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock", timeout=PROBE_SECONDS)
    holder = folder / "holder"
    try:
        lock.acquire()
    except Timeout:
        who = "another run"
        with suppress(FileNotFoundError):
            who = holder.read_text(errors="replace")
        raise RetryableError(f"{folder}: in use by {who}", "wait for it, or choose another --work-dir") from None
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        if workers := living(folder):  # who enters looks at the holder after being known here: one of the two sees the other
            raise RetryableError(f"{folder}: in use by {', '.join(workers)}", "wait for them, or choose another --work-dir")
        bury(folder)
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()

"""A place for results beyond this machine: any URL that fsspec opens. In: finished result folders. Out: the same ones elsewhere.

    work folder (a cache)         store, at URL/FILM
    STAGE/UNIT-KEY/               STAGE/UNIT-KEY/
        values.npy                    {first 16 hex digits of its sha256}.values.npy
        result.json                   result.json, written last

The work folder relies on POSIX: a folder that is renamed appears whole or not at all. Object stores have no rename; what they promise is
that one object appears whole. So `result.json` is the commit mark: it is written when all files that it names are there, and what has
none is no result. Each file lies under its own content's name, so two machines that make the same result never mix their files, even
where their last bits differ: the mark that comes last names one machine's. Whatever is fetched is compared with the sha256 in the mark
before it counts. On a plain folder (`file://`) even one file does not appear whole; a half mark does not match the sha256 of itself, and
counts as none.

Knows nothing of stages or keys.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from musetalk_cli.errors import MissingError, MusetalkError, RetryableError, UsageError
from musetalk_cli.offline import refuse
from musetalk_cli.reading import is_plain_name, parse_json, read_text

MARK = "result.json"
NAMED = "store.url"  # in a work folder: the store behind it, so that every process that works there finds it
PROBE = ".musetalk"


class Store:
    """What lies under one URL. Threads may share it."""

    def __init__(self, url: str) -> None:
        """Nothing is asked of the other side yet. Raises UsageError for what is no such URL, MissingError without the package for it
        or without a network."""
        self.url = url.rstrip("/")
        self._files, self._root = _opened(self.url)
        self._known: set[str] = set()

    def check(self) -> None:
        """That it can be written, before minutes of work. Raises UsageError where it cannot."""
        with _faults(self.url):
            try:
                self._files.pipe_file(f"{self._root}/{PROBE}", b"musetalk keeps results here\n")
            except FileNotFoundError as error:
                raise UsageError(
                    f"cannot be written ({_said(error)})", "make the bucket or the folder first", thing=self.url
                ) from error

    def has(self, name: str) -> bool:
        """Whether that result was kept here. name: STAGE/UNIT-KEY."""
        return name in self._known or self._mark(name) is not None

    def kept(self, stage: str) -> set[str]:
        """UNIT-KEY of all results of a stage, at one look; that their marks are whole is seen when they are asked for by name."""
        with _faults(self.url):
            try:
                self._files.invalidate_cache()
                paths = self._files.find(f"{self._root}/{stage}")
            except FileNotFoundError:
                return set()
        return {path.split("/")[-2] for path in map(str, paths) if path.endswith(f"/{MARK}")}

    def keep(self, folder: Path, name: str) -> None:
        """Publish a finished result, unless somebody was quicker: what they made is as good."""
        if self.has(name):
            return
        told = (folder / MARK).read_bytes()
        digests: dict[str, str] = json.loads(told)["files"]
        with _faults(self.url):
            here, there = [str(folder / file) for file in digests], [self._path(name, *named) for named in digests.items()]
            if here:
                self._files.put(here, there)
            self._files.pipe_file(f"{self._root}/{name}/{MARK}", told)
        self._known.add(name)

    def fetch(self, name: str, into: Path) -> bool:
        """A kept result's files into an empty folder; the caller compares them with their mark. False: it is not kept here."""
        told = self._mark(name)
        if told is None:
            return False
        digests: dict[str, str] = json.loads(told)["files"]
        with _faults(self.url):
            with suppress(FileNotFoundError):  # a file is missing: the comparison says so
                here, there = [str(into / file) for file in digests], [self._path(name, *named) for named in digests.items()]
                if here:
                    self._files.get(there, here)
            (into / MARK).write_bytes(told)
        return True

    def forget(self, name: str = "") -> None:
        """Take a result away, or all of them; the mark goes first, so that no half remains that counts."""
        self._known.clear()
        with _faults(self.url), suppress(FileNotFoundError):
            self._files.invalidate_cache()
            if name:
                self._files.rm_file(f"{self._root}/{name}/{MARK}")
                return
            paths = self._files.find(self._root)
            for path in sorted(paths, key=lambda path: not path.endswith(f"/{MARK}")):
                self._files.rm_file(path)

    def _mark(self, name: str) -> bytes | None:
        with _faults(self.url):
            try:
                told = bytes(self._files.cat_file(f"{self._root}/{name}/{MARK}"))
            except FileNotFoundError:
                return None
        if not is_mark(told):
            return None
        self._known.add(name)
        return told

    def _path(self, name: str, file: str, digest: str) -> str:
        return f"{self._root}/{name}/{digest[:16]}.{file}"


def store_behind(folder: Path) -> Store | None:
    """The store that a work folder names, if any."""
    try:
        return open_store(read_text(folder / NAMED))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(str(error), "delete it, or name the store again by --store", thing=str(folder / NAMED)) from error


def name_store(folder: Path, url: str) -> None:
    """Put a store behind a work folder, or with an empty url take it away. Raises UsageError for one that cannot be written."""
    if url:
        open_store(url).check()
        part = folder / f"part.{uuid.uuid4().hex}.{NAMED}"  # several may do this at once
        part.write_text(url, encoding="utf-8")
        part.replace(folder / NAMED)
    else:
        (folder / NAMED).unlink(missing_ok=True)


@lru_cache(maxsize=64)
def open_store(url: str) -> Store:
    """The Store at a URL; one for a process, so that what is known to be there is asked once."""
    return Store(url)


def is_url(text: str) -> bool:
    """Whether it is written as a URL, not as a path."""
    scheme, there, _ = text.partition("://")
    return bool(there) and scheme.replace("+", "").isalnum()


def digest_of(told: dict[str, Any]) -> str:
    """Of what a result says of itself: a bit that flips in a frame number would else go unnoticed."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def is_mark(told: bytes) -> bool:
    """Whether a result.json is all there."""
    try:
        read = parse_json(told)
        return bool(read.pop("sha256") == digest_of(read)) and all(map(is_plain_name, read["files"].keys()))
    except (ValueError, LookupError, AttributeError, TypeError):
        return False


def _opened(url: str) -> tuple[Any, str]:
    """The file system, and the path in it. A plain path is a folder of this machine."""
    from fsspec.core import url_to_fs
    from fsspec.utils import get_protocol

    local = {"auto_mkdir": True} if get_protocol(url) in ("file", "local") else {}
    if get_protocol(url) not in ("file", "local", "memory"):
        refuse(url)
    try:
        files, root = url_to_fs(url, use_listings_cache=False, **local)
    except ImportError as error:
        raise MissingError(f"cannot be opened ({error})", "pip install 'musetalk[s3]', or that package", thing=url) from error
    except ValueError as error:
        raise UsageError(
            f"no such kind of store ({error})", "give s3://BUCKET/PREFIX, gs://..., or a folder", thing=url
        ) from error
    return files, str(root).rstrip("/")


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """What goes wrong over there, in our words. The libraries' own errors share no class: those of keys are known by their names."""
    try:
        yield
    except (MusetalkError, FileNotFoundError):
        raise
    except Exception as error:
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            cure = "give its keys as its own tools want them, such as AWS_ACCESS_KEY_ID, and the right to write"
            raise UsageError(f"cannot be used ({_said(error)})", cure, thing=url) from error
        fact = f"does not answer as it should ({_said(error)})"
        raise RetryableError(fact, "run the same command again; what is finished is kept here", thing=url) from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

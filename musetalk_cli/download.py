"""One public file, whole and checked. In: where it comes from and how it is known. Out: the file under its name, or an error.

    hub cache | bytes of a stopped download + the rest over HTTP  ->  .{name}.part  ->  size, sha256  ->  fsync  ->  name

Knows nothing of models. The transport is huggingface_hub's, imported when something is to be fetched.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from musetalk_cli.errors import MissingError, MusetalkError, ResourceError, RetryableError, UsageError
from musetalk_cli.offline import switch
from musetalk_cli.work import DISK_FULL, disk_fault, sha256_of, sync

Tell = Callable[[int, int | None], None]  # bytes that are here, bytes in all where known
WHOLE_DIGEST = 64  # hex digits of a sha256
COPY_BLOCK = 16 << 20  # bytes; a kill loses no more


class Origin(NamedTuple):
    """Where a file comes from, and how it is known to be itself. Empty: made by the user."""

    repo: str = ""  # of the Hugging Face hub
    revision: str = ""
    path: str = ""  # in the repository
    url: str = ""  # where it is not on the hub
    size: int | None = None  # bytes; None: nobody published it
    sha256: str = ""  # 64 hex digits; or the leading ones that its own name carries; or "": nobody published it

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision[:7]}/{self.path}" if self.repo else self.url

    @property
    def digest(self) -> str:
        return self.sha256 if len(self.sha256) == WHOLE_DIGEST else f"{self.sha256}..."


class Comparison(NamedTuple):
    """Whether a file on the disk is the one from its origin, and what was compared."""

    fits: bool
    fact: str


def compare(path: Path, origin: Origin, *, deep: bool) -> Comparison:
    """By size, and if deep by sha256 (seconds a gigabyte). What nobody published is not held against the file."""
    size = path.stat().st_size
    if origin.size not in (None, size):
        return Comparison(False, f"{size} bytes, should be {origin.size}")
    if not deep:
        return Comparison(True, "size fits" if origin.size else "size was never published")
    found = sha256_of(path)
    if not origin.sha256:
        return Comparison(True, f"no hash was ever published; sha256 is {found}")
    if not found.startswith(origin.sha256):
        return Comparison(False, f"sha256 is {found}, should be {origin.digest}")
    whole = len(origin.sha256) == WHOLE_DIGEST
    return Comparison(True, "sha256 fits" if whole else f"sha256 begins as the file's name says; it is {found}")


def download(origin: Origin, target: Path, *, endpoint: str | None = None, mirror: str = "", tell: Tell | None = None) -> str:
    """Fetch, check, publish; returns what was compared. A stopped download goes on where it was, also after kill -9.

    endpoint: a mirror of the hub, else huggingface.co. mirror: the file's address or path in another place, which then is the only one
    asked; it is checked as one from its origin. Raises MissingError where the file cannot be had or is not what it should
    be (then nothing is kept), RetryableError where the network failed (what is here is kept), ResourceError where the disk is
    full, UsageError where the folder cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _is_whole(part, origin) and not _taken_from_cache(origin, part):
            if mirror and "://" not in mirror:
                _copy(Path(mirror), origin, target, part, tell)
            else:
                _fetch(origin._replace(repo="", url=mirror) if mirror else origin, target, part, endpoint, tell)
        return _publish(part, target, origin)


def _is_whole(part: Path, origin: Origin) -> bool:
    """The last download was stopped between its last byte and the rename."""
    if not part.is_file() or not origin.sha256 or origin.size not in (None, part.stat().st_size):
        return False
    return compare(part, origin, deep=True).fits


def _taken_from_cache(origin: Origin, part: Path) -> bool:
    """Whether huggingface_hub's own cache had the file, so that nothing needs to be fetched."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(origin.repo, origin.path, revision=origin.revision) if origin.repo else None
    if not isinstance(cached, str) or not compare(Path(cached), origin, deep=True).fits:
        return False
    shutil.copyfile(cached, part)
    return True


def _copy(source: Path, origin: Origin, target: Path, part: Path, tell: Tell | None) -> None:
    """Bytes of a mirror's folder, which may be a network's, after those that are there."""
    if not source.is_file():
        raise MissingError(f"{source}: the mirror does not have it", f"copy it there: it is {origin}")
    size = source.stat().st_size
    if origin.size not in (None, size):
        raise _another_file(target, str(source), f"{size} bytes, should be {origin.size}")
    done = _usable_bytes(part, size)
    _check_room(target, size, done)
    with source.open("rb") as read, part.open("ab") as out:
        read.seek(done)
        while block := read.read(COPY_BLOCK):
            out.write(block)
            done += len(block)
            if tell is not None:
                tell(done, size)


def _fetch(origin: Origin, target: Path, part: Path, endpoint: str | None, tell: Tell | None) -> None:
    """Bytes into `part`, after those that are there.

    hf_hub_download would throw them away: since huggingface_hub 1.x each process downloads to a name of its own and removes it
    when stopped. Its inner http_get takes up where it is told to.
    """
    if name := switch():
        cure = f"unset {name}, pull from a folder by --mirror, or copy the file there from another machine: it is {origin}"
        raise MissingError(f"{target}: not there, and the network is switched off by {name}", cure)
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get

    url = origin.url or hf_hub_url(origin.repo, origin.path, revision=origin.revision, endpoint=endpoint)
    headers = {"Accept-Encoding": "identity"}  # ranges of the file itself; no token: these files are public
    with _network_errors(origin, target, part):
        size = _announced_size(origin, target, url, endpoint) if origin.repo else origin.size
        done = _usable_bytes(part, size)
        _check_room(target, size, done)
        with part.open("ab") as out:
            http_get(url, out, resume_size=done, headers=headers, expected_size=size, tqdm_class=_teller(tell))


def _announced_size(origin: Origin, target: Path, url: str, endpoint: str | None) -> int | None:
    """Bytes that the hub announces. Refuses another file before its gigabytes are here: a large file's ETag is its sha256."""
    from huggingface_hub import get_hf_file_metadata

    told = get_hf_file_metadata(url, token=False, endpoint=endpoint)
    digest = told.etag if told.etag and len(told.etag) == WHOLE_DIGEST else ""
    if told.size is not None and origin.size not in (None, told.size):
        raise _another_file(target, url, f"{told.size} bytes, should be {origin.size}")
    if digest and not digest.startswith(origin.sha256):
        raise _another_file(target, url, f"sha256 is {digest}, should be {origin.digest}")
    return told.size if told.size is not None else origin.size


def _another_file(target: Path, source: str, fact: str) -> MissingError:
    cure = "nothing was kept; try again, without a mirror; if it stays so, the file was changed at its origin"
    return MissingError(f"{target}: {source} has another file: {fact}", cure)


def _usable_bytes(part: Path, size: int | None) -> int:
    done = part.stat().st_size if part.is_file() else 0
    if size is not None and done >= size:  # as long as the file, but not the file: begin again
        part.unlink(missing_ok=True)
        return 0
    return done


def _check_room(target: Path, size: int | None, done: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if size is not None and size - done > free:
        need_mb, free_mb = (size - done) >> 20, free >> 20
        raise ResourceError(f"{target}: needs {need_mb} MB, {free_mb} MB are free", "free some space or choose another folder")


def _teller(tell: Tell | None) -> Any:
    """What http_get takes for a tqdm class: it tells `tell` and prints nothing."""

    class Teller:
        def __init__(self, *, total: int | None = None, initial: int = 0, **_: object) -> None:
            self.total, self.done = total, initial

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            self.done += count
            if tell is not None:
                tell(self.done, self.total)

    return Teller


def _publish(part: Path, target: Path, origin: Origin) -> str:
    """Checked, on the disk, and only then under its name."""
    found = compare(part, origin, deep=True)
    if not found.fits:
        part.unlink()
        raise _another_file(target, str(origin), found.fact)
    sync(part)
    os.replace(part, target)
    sync(target.parent)
    return found.fact


@contextmanager
def _network_errors(origin: Origin, target: Path, part: Path) -> Iterator[None]:
    from huggingface_hub import errors

    transport = cast(type[Exception], vars(errors)["HTTPError"])  # of whichever httpx the hub was built on
    try:
        yield
    except (errors.HfHubHTTPError, errors.FileMetadataError) as error:
        raise _refused(origin, target, part, error) from error
    except transport as error:
        raise _broken_off(target, part, error) from error
    except OSError as error:
        if error.errno is not None:  # the disk's, not the network's
            raise
        raise _broken_off(target, part, error) from error


def _refused(origin: Origin, target: Path, part: Path, error: Exception) -> MusetalkError:
    status = int(getattr(getattr(error, "response", None), "status_code", 0))
    told = str(error).strip().splitlines()[0]
    if status == 416:  # the part is longer than the file: begin again
        part.unlink(missing_ok=True)
    if status in (408, 416, 429) or status >= 500:
        return RetryableError(f"{target}: {origin}: {told}", "run the same command again")
    return MissingError(f"{target}: {origin} cannot be had: {told}", "check your network, proxy, --mirror and HF_ENDPOINT")


def _broken_off(target: Path, part: Path, error: Exception) -> RetryableError:
    kept_mb = part.stat().st_size >> 20 if part.is_file() else 0
    fact = f"{target}: the connection failed: {error or type(error).__name__}"
    return RetryableError(fact, f"run the same command again; {kept_mb} MB are here and are kept")


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(f"{target}: the disk is full", "free some space or choose another folder") from error
        if (fault := disk_fault(error, target)) is not None:
            raise fault from error
        raise UsageError(f"{target}: cannot be written: {error.strerror or error}", "choose another folder") from error

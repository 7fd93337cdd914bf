"""A manifest into a film. In: the finished film, a Statement, its inputs, who signs. Out: the signed film, or a sidecar beside it.

    film.mp4 -- c2pa -- film.mp4 with a box of its own, every other byte hashed
    film.mkv -- c2pa -- film.mkv untouched + film.mkv.c2pa

A manifest that was once signed for the same film, words and certificate is put back: c2pa salts each one anew, and the same work is to
give the same bytes. Nothing is fetched, no time stamp is asked for.
"""

import fcntl
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from musetalk_cli.config import SignConfig
from musetalk_cli.errors import InternalError, ResourceError, UsageError
from musetalk_cli.places import data_folder
from musetalk_cli.provenance.identity import Identity, algorithm, identity, key_bytes
from musetalk_cli.provenance.statement import COMPOSITE, FileHash, Statement, definition, hash_of
from musetalk_cli.work import sync

SETTINGS: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "core": {"backing_store_memory_threshold_in_mb": 16},  # beyond it c2pa's copy of the film is a file; usually 512
    "builder": {"thumbnail": {"enabled": False}, "bmff_hash_exclude_free_and_skip_boxes": False},
}
EMBEDDED = {".mp4": "video/mp4", ".m4v": "video/x-m4v", ".mov": "video/quicktime"}
BESIDE = {".mkv": "video/x-matroska", ".webm": "video/webm", ".avi": "video/x-msvideo"}  # c2pa cuts an AVI off at 1 GB
MEDIA_TYPES = {**EMBEDDED, **BESIDE}
BMFF = (".mp4", ".m4v", ".mov")
SIDECAR = ".c2pa"
FIND_BLOCK = 1 << 22
TRIAL = {
    "format": "video/x-matroska",
    "assertions": [
        {"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": COMPOSITE}]}}
    ],
}
REFUSED_CURE = (
    "give one that an authority issued, not one that signed itself, valid today, for digital signatures and with the extended use "
    "`emailProtection` or `documentSigning`"
)


class Signed(NamedTuple):
    film: Path
    sidecar: Path | None  # where the container holds no manifest


def check_signing(config: SignConfig) -> None:
    """Before the work: that a film can be signed when it is finished, hours later, by signing a few bytes.

    Raises UsageError for a pair that C2PA does not take, ResourceError where certificate or manifests cannot be kept.
    """
    import c2pa

    if not config.on:
        return
    who = identity(config.cert, config.key)
    try:
        with (
            c2pa.Context.from_dict(SETTINGS) as context,
            _signer(who) as signer,
            c2pa.Builder(TRIAL, context) as builder,
        ):
            builder.set_no_embed()
            builder.sign(signer, TRIAL["format"], io.BytesIO(b"a film"), io.BytesIO())
    except c2pa.C2paError as error:
        raise UsageError(f"{who.chain}: C2PA does not take it ({error})", REFUSED_CURE, thing="--sign-cert") from error
    folder = data_folder() / "manifests"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_kept(folder, error) from error


def sign(film: Path, told: Statement, inputs: Sequence[FileHash], who: Identity, out: Path) -> Signed:
    """film signed as `out`, which must not be there; its suffix names the container. film is moved or deleted.

    Two films of memory are never held: c2pa reads and hashes in blocks. Raises ResourceError where the disk is full, InternalError where
    the library refuses.
    """
    suffix = film.suffix.lower()
    words = definition(told, inputs, hash_of(film, "").sha256, head_of(film), MEDIA_TYPES[suffix])
    key = hashlib.sha256(f"{words['label']} {hash_of(who.chain, '').sha256}".encode()).hexdigest()
    if suffix in BESIDE:
        manifest = _kept(key, lambda: _made(film, words, who, out, embed=False))
        out.unlink(missing_ok=True)
        os.replace(film, out)
        sidecar = out.with_name(out.name + SIDECAR)
        sidecar.write_bytes(manifest)
        return Signed(out, sidecar)
    new = _made(film, words, who, out, embed=True)
    manifest = _kept(key, lambda: new)
    if manifest != new:
        _put_back(out, new, manifest)
    film.unlink()
    return Signed(out, None)


def head_of(film: Path) -> bytes:
    """The first box of an MP4 or MOV, which C2PA does not hash: it says what kind of file it is."""
    if film.suffix.lower() not in BMFF:
        return b""
    with film.open("rb") as file:
        size = int.from_bytes(file.read(4), "big")
        file.seek(0)
        return file.read(size) if 8 <= size <= 4096 else b""


def _made(film: Path, words: dict[str, Any], who: Identity, out: Path, *, embed: bool) -> bytes:
    """The manifest; out: the film with it, or a copy."""
    import c2pa

    try:
        with (
            _temporary_in(out.parent),
            c2pa.Context.from_dict(SETTINGS) as context,
            _signer(who) as signer,
            c2pa.Builder(words, context) as builder,
            film.open("rb") as read,
            out.open("w+b") as written,
        ):
            if not embed:
                builder.set_no_embed()
            manifest: bytes = builder.sign(signer, words["format"], read, written)
            return manifest
    except c2pa.C2paError as error:
        if str(error).startswith("Io"):  # the library keeps the errno to itself
            fact = f"{out.parent}: no room to sign the film, or the disk fails ({error})"
            raise ResourceError(fact, "make room, see what the system's log says of it, and run again") from error
        raise InternalError(f"{film.name}: its provenance could not be signed: {error}") from error


def _signer(who: Identity) -> Any:
    import c2pa

    info = c2pa.C2paSignerInfo(algorithm(who).encode(), who.chain.read_bytes(), key_bytes(who), None)
    return c2pa.Signer.from_info(info)


@contextmanager
def _temporary_in(folder: Path) -> Iterator[None]:
    """c2pa writes a whole film into a nameless temporary file, and /tmp may be memory: beside the film is room for it."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _kept(key: str, make: Callable[[], bytes]) -> bytes:
    """The manifest of this name, or a new one, kept; of two who make it at once, both take the first."""
    path = data_folder() / "manifests" / key[:2] / key
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_file() and (found := _whole(path)):
                return found
            made = make()
            for left in path.parent.glob(".*.part"):  # of processes that were killed: who holds the lock is alone here
                left.unlink()
            part = path.with_name(f".{key}.part")
            try:
                part.write_bytes(hashlib.sha256(made).digest() + made)
                sync(part)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
            sync(path.parent)
            return made
    except OSError as error:
        raise _not_kept(path.parent, error) from error


def _not_kept(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(f"{folder}: {error.strerror}", "make room there, or set XDG_DATA_HOME elsewhere")


def _whole(path: Path) -> bytes | None:
    """What is kept there; None where it is damaged."""
    told = path.read_bytes()
    return told[32:] if hashlib.sha256(told[32:]).digest() == told[:32] else None


def _put_back(film: Path, new: bytes, manifest: bytes) -> None:
    """The kept manifest in the place of the new one: both are of one length, and the film's hash does not see them."""
    if len(new) != len(manifest):
        raise InternalError(f"{film.name}: a manifest of {len(new)} bytes was kept with {len(manifest)}")
    with film.open("r+b") as file:
        at = _place_of(new, file)
        file.seek(at)
        file.write(manifest)


def _place_of(new: bytes, file: Any) -> int:
    start = 0
    while block := (file.seek(start), file.read(FIND_BLOCK + len(new)))[1]:
        if (found := block.find(new)) >= 0:
            return start + int(found)
        start += FIND_BLOCK
    raise InternalError("the manifest is not in the film that was signed")


def hashes(film: Path, voices: Sequence[Path]) -> list[FileHash]:
    """Of everything that went in, the film first; a voice that is twice among them once."""
    return [hash_of(film, "film"), *(hash_of(path, "voice") for path in dict.fromkeys(voices))]

"""Is a manifest's envelope as c2pa writes it? In: a film or a sidecar. Out: yes or no. Knows nothing of what the manifest says.

c2pa verifies words, links and signature; sizes and names of some boxes, and a kilobyte of padding beside the signature, it reads over. Here
they must be the only ones that they can be, so that no byte of a film can change unseen. Source: ISO 19566-5 (JUMBF), C2PA 2.x, 11.1.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEAD = 8  # bytes of size and kind before each box
STORE = (
    b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71\x03c2pa\x00"  # what the outermost box begins with, after its size
)
MP4_BOX = (
    b"uuid\xd8\xfe\xc3\xd6\x1b\x0e\x48\x3c\x92\x97\x58\x28\x87\x7e\xc4\x81" + bytes(4) + b"manifest\0" + bytes(8)
)  # what holds it there
MP4 = (".mp4", ".m4v", ".mov")
PARTS = (b"c2pa.assertions", b"c2pa.claim.v2", b"c2pa.signature")
SWITCHES_AT = 16  # in a description's body: after the kind's UUID
UNKNOWN_SWITCHES = 0xE0
DEEPEST = 8  # boxes within boxes; c2pa writes four
LABEL_AT = HEAD + 17  # in a description: after the kind's UUID and a byte of switches
PADDING = re.compile(rb"\x63pad|\x64pad2")
NULL = b"\xf6"  # CBOR's
BLOCK = 1 << 22
MOST_BYTES = 1 << 28  # of a manifest: two hours of stretches are under 10 MB


class Box(NamedTuple):
    kind: bytes
    body: bytes


def envelope_is_whole(path: Path) -> bool:
    """Of the first manifest in a file; one that is beside its film must be all of its file."""
    with path.open("rb") as file:
        at = _place(path)
        if at is None:
            return False
        file.seek(max(at - len(MP4_BOX), 0))
        if path.suffix.lower() in MP4 and file.read(len(MP4_BOX)) != MP4_BOX:
            return False
        file.seek(at)
        size = int.from_bytes(file.read(4), "big")
        if not HEAD < size <= MOST_BYTES or (path.suffix.lower() not in MP4 and (at, size) != (0, path.stat().st_size)):
            return False
        file.seek(at)
        return _is_store(file.read(size))


def _place(path: Path) -> int | None:
    """Where the outermost box begins."""
    start, before = 0, b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found = (before + block).find(STORE)
            if found >= 0:
                return max(start - len(before) + found - HEAD - 4, 0)
            start += len(block)
            before = block[-len(STORE) :]
    return None


def _is_store(data: bytes) -> bool:
    try:
        (store,) = _boxes(data)
        described, *manifests = _boxes(store.body)
        if described.kind != b"jumd" or not manifests or not _is_described_plainly(store):
            return False
        return all(_is_manifest(one) for one in manifests)
    except ValueError:
        return False


def _is_manifest(box: Box) -> bool:
    described, *parts = _boxes(box.body)
    if box.kind != b"jumb" or described.kind != b"jumd" or tuple(_label(part) for part in parts) != PARTS:
        return False
    return _padded_with_nothing(parts[-1].body)


def _is_described_plainly(box: Box, depth: int = 0) -> bool:
    """No switch is set that ISO 19566-5 does not know: c2pa reads over them, here and in all that the box holds."""
    if box.kind != b"jumb":
        return True
    if depth > DEEPEST:
        return False
    described, *parts = _boxes(box.body)
    if described.kind != b"jumd" or len(described.body) <= SWITCHES_AT or described.body[SWITCHES_AT] & UNKNOWN_SWITCHES:
        return False
    return all(_is_described_plainly(part, depth + 1) for part in parts)


def _label(box: Box) -> bytes:
    described, *_ = _boxes(box.body)
    return described.body[LABEL_AT - HEAD :].split(b"\0")[0]


def _padded_with_nothing(signature: bytes) -> bool:
    """CBOR: the name `pad`, a byte string's head of two or three bytes, zeros; and null, where COSE has what was signed if it is within."""
    found = [_padding(signature, one.end()) for one in PADDING.finditer(signature)]
    if not found or any(signature[start:stop].strip(b"\0") for start, stop in found):
        return False
    return signature[found[-1][1] :][:1] == NULL


def _padding(data: bytes, at: int) -> tuple[int, int]:
    """From where to where."""
    kind = data[at] if at < len(data) else 0
    wide = {0x58: 1, 0x59: 2, 0x5A: 4}.get(kind, 0)
    size = int.from_bytes(data[at + 1 : at + 1 + wide], "big") if wide else kind & 0x1F
    return at + 1 + wide, at + 1 + wide + size


def _boxes(data: bytes) -> Iterator[Box]:
    """That fill `data`. Raises ValueError where they do not."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < HEAD or at + size > len(data):
            raise ValueError("a box that does not fit")
        yield Box(data[at + 4 : at + HEAD], data[at + HEAD : at + size])
        at += size

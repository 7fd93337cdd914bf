"""Small files that say how to work: manifests, settings, records. In: a path. Out: what is written there. Knows nothing of its meaning.

Such a file may come from anybody. So before it is read it must be a file, not a pipe or device that never ends, and of a size that what
it is for can need; and whatever is wrong with it is a ValueError or an OSError, one deeply nested included.
"""

import json
import os
import stat
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

MOST_BYTES = 16 << 20  # the plan of a two-hour film has 0.2 MB
MOST_DIGITS = 32  # of a fraction: Fraction("1e999999999") would take all memory


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Raises OSError where it cannot be read, ValueError where it is no file or larger than `most` bytes."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer must not hold us
    with open(handle, "rb") as file:
        check_regular(os.fstat(handle).st_mode, path)
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most >> 20} MiB")
    return data


def check_regular(mode: int, path: Path) -> None:
    """Raises OSError for a folder, ValueError for what has no end: a pipe, a socket, a device."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise ValueError("it is a pipe, a socket or a device, not a file")


def read_text(path: Path, most: int = MOST_BYTES, encoding: str = "utf-8") -> str:
    """As `read_bytes`; ValueError also for bytes that are no text."""
    return read_bytes(path, most).decode(encoding)


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """As `read_text`; ValueError also for what is no JSON."""
    return parse_json(read_text(path, most))


def is_plain_name(name: object) -> bool:
    """Whether it names something in a folder, and nothing outside of it."""
    try:
        return (
            isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\0"} & set(name) and len(os.fsencode(name)) < 256
        )
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError, for one that is nested too deeply too."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Raises ValueError, for one that is nested too deeply too."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_fraction(text: str) -> Fraction:
    """As `str` writes one. Raises ValueError, for exponents and very long ones too: their value need not fit into any memory."""
    if not isinstance(text, str) or len(text) > 2 * MOST_DIGITS or "e" in text.lower():
        raise ValueError(f"{str(text)[:MOST_DIGITS]!r} is no fraction")
    try:
        return Fraction(text)
    except ZeroDivisionError as error:
        raise ValueError(f"{text!r} is no fraction") from error

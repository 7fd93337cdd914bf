"""A parser under fire. Knows nothing of any one of them."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple


class Target(NamedTuple):
    """A parser. weight: how often it is asked, in proportion."""

    name: str
    seeds: tuple[bytes, ...]
    ask: Callable[[bytes], object]
    json_lines: bool = False
    sign: Callable[[Any], Any] = lambda tree: tree
    weight: float = 1.0


def bytes_of(write: Callable[[io.BytesIO], object]) -> bytes:
    """What is written into a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()

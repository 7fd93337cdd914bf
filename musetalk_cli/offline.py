"""Whether the network is switched off, and keeping it so. In: --offline, MUSETALK_OFFLINE, HF_HUB_OFFLINE. Out: a refusal where somebody asks
for it all the same. Knows nothing of who asks.

This machine's own addresses stay open: the page of `serve`, Ray's workers and an object store that runs here are no network.
"""

import ipaddress
import os
import sys
from collections.abc import Iterable

from musetalk_cli.errors import MissingError

ENV = "MUSETALK_OFFLINE"
SWITCHES = (ENV, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # the last two are those of the libraries that fetch
YES = ("1", "ON", "YES", "TRUE")
WATCHED = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
_guarded: list[bool] = []


def switch() -> str:
    """The name of the environment variable that switches the network off, "" where none does."""
    return next((name for name in SWITCHES if os.environ.get(name, "").upper() in YES), "")


def go_offline() -> None:
    """For this process and those that it starts."""
    for name in SWITCHES:
        os.environ[name] = "1"


def guard() -> None:
    """From now on Python refuses every connection to another machine while a switch is on, whichever library asks for it."""
    if not _guarded:
        sys.addaudithook(_refuse)
        _guarded.append(True)


def refuse(what: str) -> None:
    """Raises MissingError for `what`, which needs the network, where that is switched off."""
    if name := switch():
        raise MissingError(f"{what}: needs the network, which is switched off by {name}", f"leave out --offline, unset {name}")


def _refuse(event: str, given: tuple[object, ...]) -> None:
    if event in WATCHED and switch() and not _is_here(event, given):
        refuse(" ".join(str(one) for one in _asked(event, given)))


def _asked(event: str, given: tuple[object, ...]) -> Iterable[object]:
    """Host and port, or whatever stands in their place."""
    address = given[0] if event.startswith("socket.get") else given[1]
    return address if isinstance(address, tuple) else (address,)


def _is_here(event: str, given: tuple[object, ...]) -> bool:
    """Whether it stays on this machine; a socket that is a file does."""
    host = next(iter(_asked(event, given)), None)
    named = event.startswith("socket.get")
    if not named and not isinstance(given[1], tuple):
        return True
    if host is None or host in ("", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host)).is_loopback or host == "0.0.0.0"
    except ValueError:
        return False

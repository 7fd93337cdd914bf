"""Lip-sync for film: `musetalk dub film.mp4 --audio fr.wav`, or `from musetalk_cli import dub`."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from musetalk_cli.api import DubConfig as DubConfig
    from musetalk_cli.api import DubResult as DubResult
    from musetalk_cli.api import dub as dub
    from musetalk_cli.api import inspect as inspect
    from musetalk_cli.api import verify as verify
    from musetalk_cli.errors import MusetalkError as MusetalkError
    from musetalk_cli.executor import Hands as Hands
    from musetalk_cli.session import Place as Place
    from musetalk_cli.signals import Stop as Stop
    from musetalk_cli.types import DubJob as DubJob

_HOMES = {
    "DubConfig": "api",
    "DubJob": "types",
    "DubResult": "api",
    "Hands": "executor",
    "MusetalkError": "errors",
    "Place": "session",
    "Stop": "signals",
    "dub": "api",
    "inspect": "api",
    "verify": "api",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Imported when asked for: the command starts in a tenth of a second."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Faults that no system call shows: networks without memory or with NaN, signals exactly between two stages. In: a Deed, in the process
that will dub. Out: its modules, patched. Knows nothing of what should follow."""

import os
import resource
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .shim import Control

NETS = ("listen", "encode", "unet", "decode")


@dataclass(frozen=True, slots=True)
class Deed:
    """kind: oom | nan | memory | boundary | file limit; "": nothing."""

    kind: str = ""
    net: str = ""  # oom, nan: of NETS
    at: int = 1  # the call, step or byte from which on
    rows: int = 0  # oom: so many still fit; nothing fits: 0
    times: int = 0  # nan, oom: so often; 0: always
    signal: int = 0  # boundary
    where: str = ""  # boundary, memory: before | published | after


def do(deed: Deed, control: Control) -> None:
    """Patch this process. control.fired counts how often it struck."""
    match deed.kind:
        case "oom" | "nan":
            _spoil(deed, control)
        case "boundary" | "memory":
            _at_boundary(deed, control)
        case "file limit":
            with suppress(ValueError):
                resource.setrlimit(resource.RLIMIT_FSIZE, (deed.at, deed.at))
            control.fired = 1


class _Counted:
    """From the n-th call on, so many times."""

    def __init__(self, deed: Deed, control: Control) -> None:
        self._deed, self._control, self._lock, self._calls = deed, control, threading.Lock(), 0

    def strikes(self) -> bool:
        with self._lock:
            self._calls += 1
            if self._calls < self._deed.at or (self._deed.times and self._control.fired >= self._deed.times):
                return False
            self._control.fired += 1
            return True


def _spoil(deed: Deed, control: Control) -> None:
    """The network's own forward pass, below all that could notice."""
    import torch

    from musetalk_cli.models import lite, whisper_encoder

    owner, name = {
        "listen": (whisper_encoder.WhisperEncoder, "forward"),
        "encode": (lite.Autoencoder, "encode"),
        "unet": (lite.LipUNet, "forward"),
        "decode": (lite.Autoencoder, "decode"),
    }[deed.net]
    whole: Callable[..., Any] = getattr(owner, name)
    counted = _Counted(deed, control)

    def spoiled(self: Any, *given: Any, **more: Any) -> Any:
        if deed.kind == "oom":
            if len(given[0]) > deed.rows and counted.strikes():
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return whole(self, *given, **more)
        made = whole(self, *given, **more)
        return _with_nan(made) if counted.strikes() else made

    setattr(owner, name, spoiled)


def _with_nan(made: Any) -> Any:
    import torch

    if isinstance(made, torch.Tensor):
        made = made.clone()
        made.flatten()[:: max(made.numel() // 7, 1)] = float("nan")
        return made
    return type(made)(_with_nan(part) for part in made)


def _at_boundary(deed: Deed, control: Control) -> None:
    from musetalk_cli import work

    counted = _Counted(deed, control)

    def strike() -> None:
        if not counted.strikes():
            return
        if deed.kind == "memory":
            raise MemoryError
        os.kill(os.getpid(), deed.signal)

    spot: Any = work.Work if deed.where != "published" else work
    name = "_make" if deed.where != "published" else "_publish"
    whole: Callable[..., Any] = getattr(spot, name)

    def struck(*given: Any, **more: Any) -> Any:
        if deed.where == "before":
            strike()
        made = whole(*given, **more)
        if deed.where != "before":
            strike()
        return made

    setattr(spot, name, struck)

"""What a run takes of the machine. In: a device, the time while it runs. Out: CPU and GPU busy, memory, kinds of work. Knows no stages.

every 10 ms, on request: stacks -> kinds.Looker
every 100 ms: CPU time, resident memory, GPU busy share (NVML), GPU memory -> Sample
"""

import os
import resource
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from musetalk_cli.bench.kinds import Kind, Looker

LOOK_S = 0.01
LOOKS_A_SAMPLE = 10
STATM = Path("/proc/self/statm")
STATUS = Path("/proc/self/status")
PAGE = resource.getpagesize()
NO_NVML = "GPU busy share is not measured: pip install nvidia-ml-py"


class Sample(NamedTuple):
    """One look. time_s: of the system's clock, as in run.jsonl. cpu_s: of this process and its ended children, since it began."""

    time_s: float
    cpu_s: float
    memory: int  # resident bytes
    gpu_busy: float | None  # 0..1
    gpu_memory: int  # bytes that torch holds


class Use(NamedTuple):
    """Of a stretch of time. cpu_busy: CPU time over wall time times cores. gpu_busy: None without a GPU or NVML."""

    cpu_busy: float
    gpu_busy: float | None
    memory: int
    gpu_memory: int


class Meter:
    """Measures while it is open. Raises nothing of its own: what a machine does not tell is None or 0."""

    def __init__(self, device: str = "cpu", *, stacks: bool = False) -> None:
        self.samples: list[Sample] = []
        self.note = ""
        self._device = device
        self._busy: Callable[[], float] | None = None
        if device.startswith("cuda"):
            self._busy = open_nvml(int(device.partition(":")[2] or 0))
            self.note = "" if self._busy else NO_NVML
        self._stacks = stacks and Looker.able()
        self._looker: Looker | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def __enter__(self) -> Self:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if self._looker is not None:
            self._looker.close()

    @property
    def kinds(self) -> dict[Kind, float] | None:
        """Wall seconds by kind of work; None where nobody asked, or the system does not tell."""
        return None if self._looker is None else dict(self._looker.seconds)

    def peak_gpu_memory(self) -> int:
        """Bytes; by torch's own account."""
        if not self._device.startswith("cuda"):
            return 0
        import torch

        return int(torch.cuda.max_memory_allocated(self._device))

    def _run(self) -> None:
        self._looker = Looker() if self._stacks else None
        looks = 0
        while True:
            if looks % LOOKS_A_SAMPLE == 0:
                self.samples.append(self._sample())
            if self._stop.wait(LOOK_S):
                break
            if self._looker is not None:
                self._looker.look()
            looks += 1
        self.samples.append(self._sample())

    def _sample(self) -> Sample:
        used = os.times()
        cpu_s = used.user + used.system + used.children_user + used.children_system
        gpu_memory = 0
        if self._device.startswith("cuda"):
            import torch

            gpu_memory = int(torch.cuda.memory_allocated(self._device))
        return Sample(time.time(), cpu_s, resident(), self._busy() if self._busy else None, gpu_memory)


def use_of(samples: Sequence[Sample], stretches: Sequence[tuple[float, float]], cores: int) -> Use:
    """stretches: [start, stop) by the system's clock, which may overlap. Those shorter than a sample count by the samples around them."""
    merged = merge(stretches)
    within = [one for one in samples if any(start <= one.time_s < stop for start, stop in merged)]
    nearest = within or samples[-1:]
    wall = sum(stop - start for start, stop in merged)
    cpu = sum(_cpu_at(samples, stop) - _cpu_at(samples, start) for start, stop in merged)
    busy = [one.gpu_busy for one in nearest if one.gpu_busy is not None]
    return Use(
        round(min(cpu / (wall * cores), 1.0), 3) if wall > 0 else 0.0,
        round(sum(busy) / len(busy), 3) if busy else None,
        max((one.memory for one in nearest), default=0),
        max((one.gpu_memory for one in nearest), default=0),
    )


def merge(stretches: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time without overlap, ascending."""
    merged: list[tuple[float, float]] = []
    for start, stop in sorted(stretches):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    try:
        return int(STATM.read_text().split()[1]) * PAGE
    except OSError:
        return 0


def peak_resident() -> int:
    """The most bytes it ever had in memory."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def open_nvml(number: int) -> Callable[[], float] | None:
    """Tells how busy the GPU is, 0..1; None where nvidia-ml-py is not installed or finds no driver."""
    try:
        pynvml = import_module("pynvml")  # untyped, and of use on NVIDIA's machines alone
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


def _cpu_at(samples: Sequence[Sample], time_s: float) -> float:
    """Between the samples around it."""
    import numpy as np

    return float(np.interp(time_s, [one.time_s for one in samples], [one.cpu_s for one in samples]))

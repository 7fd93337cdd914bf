"""What the machine is, and how fast it multiplies. In: a device, a precision. Out: its name, its measured ceiling. Knows no models."""

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from musetalk_cli.config import Precision

if TYPE_CHECKING:
    import torch

TRIES_S = 0.4  # of each shape: the first multiplications warm caches and clocks
SHAPES = (  # rows, inner, columns: squares, and what convolutions of the U-Net and the decoder come to
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (4096, 4096, 4096),
    (4096, 2880, 640),
    (8192, 4608, 512),
    (65536, 1152, 128),
)
LARGE = ((8192, 8192, 8192), (16384, 4608, 512))  # which only a GPU has time for


class Machine(NamedTuple):
    """Where figures come from. cores: those this process may use."""

    cpu: str
    cores: int
    gpu: str
    torch: str
    python: str
    load: float  # of the last minute, before anything was measured: others at work make every figure worse
    date: str  # UTC


class Ceiling(NamedTuple):
    """The largest rate of torch.matmul over SHAPES."""

    gflops: float
    shape: tuple[int, int, int]
    precision: Precision


def machine(device: str) -> Machine:
    """This machine, with the GPU that `device` names."""
    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Machine(_cpu_name(), cores(), gpu, torch.__version__, platform.python_version(), round(os.getloadavg()[0], 2), now)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matmul_ceiling(device: str, precision: Precision) -> Ceiling:
    """Measured, a few seconds long: what no network can pass on this device."""
    import torch

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    shapes = SHAPES + (LARGE if device.startswith("cuda") else ())
    gflops, shape = max((_rate(shape, device, dtype), shape) for shape in shapes)
    return Ceiling(round(gflops, 1), shape, precision)


def _rate(shape: tuple[int, int, int], device: str, dtype: "torch.dtype") -> float:
    """GFLOP/s of the fastest multiplication."""
    import torch

    rows, inner, columns = shape
    # noise, since a GPU multiplies ones at a lower power and a higher clock
    a, b = (torch.randn(*size, device=device).to(dtype) for size in ((rows, inner), (inner, columns)))
    best, until = float("inf"), time.perf_counter() + TRIES_S
    tries = 0
    while tries < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        torch.matmul(a, b)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
        tries += 1
    return 2 * rows * inner * columns / best / 1e9


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()

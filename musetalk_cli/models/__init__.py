"""Which family of weights, loaded once. In: ModelConfig, Runtime. Out: a Family. The families know nothing of stages."""

import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.errors import UsageError
from musetalk_cli.machine import cores
from musetalk_cli.models.family import Family, Numbers

ROWS_ON_CPU = 8  # for each core
SHOTS_AT_ONCE = 4  # each holds a chunk's records and an encoder, 150 MB
SHOTS_ON_GPU = 3  # one on the GPU while another is decoded and a third encoded
GPU_BYTES_PER_ROW = 600 << 20  # U-Net activations of a row in fp16, measured high; the batch halves if it is not enough
MAX_ROWS = 64
_loading = threading.Lock()  # two threads that ask at once are given one model


def load_family(config: ModelConfig, runtime: Runtime) -> Family:
    """The model that config names, on runtime's device; loaded once for a process. Raises MissingError without its files."""
    numbers = Numbers(config.precision, config.exact)
    _share_cores(config, runtime)
    with _loading:
        return _load(config.name, numbers, runtime.device, runtime.weights, runtime.model)


def preload_family(config: ModelConfig, runtime: Runtime) -> None:
    """Load it in a thread of its own, 3 s of imports, while the film is looked at; what goes wrong is told where it is asked for."""

    def load() -> None:
        with suppress(Exception):
            load_family(config, runtime)

    threading.Thread(target=load, name="preload").start()


def free_workers(config: ModelConfig, runtime: Runtime) -> int:
    """How many shots at once keep the machine busy: a GPU needs others to decode and encode for it, lite a thread for each core; the
    published nets fill all cores by themselves."""
    if runtime.workers:
        return runtime.workers
    if runtime.device.startswith("cuda"):
        return SHOTS_ON_GPU
    return min(cores(), SHOTS_AT_ONCE) if config.name == "lite" else 1


def _share_cores(config: ModelConfig, runtime: Runtime) -> None:
    """lite on a CPU has a thread of its own for every row, so none of its layers is split: that would give other last digits on another
    number of cores, and threads that spin while they wait for each other starve where the machine has other work."""
    import torch

    wanted = 1 if config.name == "lite" and runtime.device == "cpu" else cores()
    if torch.get_num_threads() != wanted:  # of the calling thread
        torch.set_num_threads(wanted)


def free_batch(runtime: Runtime) -> int:
    """Rows that surely fit: from free memory on a GPU, a few for each core on a CPU, where more rows are no faster."""
    if not runtime.device.startswith("cuda"):
        return ROWS_ON_CPU * cores()
    import torch

    free_bytes, _ = torch.cuda.mem_get_info(runtime.device)
    return max(1, min(MAX_ROWS, free_bytes // GPU_BYTES_PER_ROW))


@lru_cache(maxsize=1)
def _load(name: str, numbers: Numbers, device: str, weights: Path | None, own: Path | None) -> Family:
    import torch

    if name == "lite":
        from musetalk_cli.models.lite import load_lite
        from musetalk_cli.weights import embedded_lite

        return load_lite(own or embedded_lite(), torch.device(device), numbers)
    if name in ("v15", "v1"):
        from musetalk_cli.models.published import load_published
        from musetalk_cli.weights import folder

        return load_published(name, folder(weights), torch.device(device), numbers, unet=own)
    raise UsageError(f"{name}: no such model", "choose lite, v15 or v1")

"""Which family of weights, loaded once. In: ModelConfig, Runtime. Out: a Family. The families know nothing of stages."""

from functools import lru_cache
from pathlib import Path

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.errors import UsageError
from musetalk_cli.models.family import Family, Numbers

ROWS_ON_CPU = 8
GPU_BYTES_PER_ROW = 600 << 20  # U-Net activations of a row in fp16, measured high; the batch halves if it is not enough
MAX_ROWS = 64


def load_family(config: ModelConfig, runtime: Runtime) -> Family:
    """The model that config names, on runtime's device; loaded once for a process. Raises MissingError without its files."""
    numbers = Numbers(config.precision, config.exact)
    return _load(config.name, numbers, runtime.device, runtime.weights, runtime.model)


def free_batch(runtime: Runtime) -> int:
    """Rows that surely fit: from free memory on a GPU, a few on a CPU, where more rows are no faster."""
    if not runtime.device.startswith("cuda"):
        return ROWS_ON_CPU
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

"""Random weights by a seed, for networks whose published files tests cannot have; the same numbers on every machine."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def made_weights(shapes: Mapping[str, torch.Size], seed: int = 0) -> dict[str, Tensor]:
    """{name: float32 tensor}: kernels by He's rule, batch norms that do something. num_batches_tracked is left out."""
    rng = np.random.default_rng(seed)
    return {name: _made(name, tuple(shape), rng) for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def _made(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    drawn = rng.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return torch.from_numpy(drawn * np.float32((2 / np.prod(shape[1:])) ** 0.5))
    if name.endswith("running_var"):
        return torch.from_numpy(1 + 0.2 * np.abs(drawn))
    return torch.from_numpy((1.0 if name.endswith(".weight") else 0.0) + 0.1 * drawn)

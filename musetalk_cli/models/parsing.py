"""Which pixel is skin, which is nose. In: face crops. Out: labels, and from labels a mask. Knows nothing of frames or feathering.

    crop (S, S, 3) RGB -> 512x512 -> BiSeNet -> labels (512, 512), 19 classes                        FaceParser.parse
    labels -> 255 where a new mouth may show, in one of three modes: jaw, raw, neck -> (512, 512)    mask_of

Net: BiSeNet (Yu et al. 2018) on a ResNet-18, as trained for CelebAMask-HQ by zllrunning; rules: the released v1.5 face parsing.
"""

import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli import weights
from musetalk_cli.config import MaskMode, Runtime
from musetalk_cli.models.loading import fill, read_tensors

PARSE_PX = 512  # side of the square that BiSeNet sees
CLASSES = 19
SKIN, NOSE, MOUTH, UPPER_LIP, LOWER_LIP, NECK = 1, 10, 11, 12, 13, 14
LIPS = (MOUTH, UPPER_LIP, LOWER_LIP)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROPS_AT_ONCE = 8  # on a GPU


def mask_of(labels: NDArray[np.uint8], mode: MaskMode, cheek: int = 90) -> NDArray[np.uint8]:
    """(512, 512) labels -> (512, 512) uint8, 255 where a generated face may show, else 0.

    raw: skin, mouth and lips. neck: these and the neck. jaw: skin grown, mostly upwards and a little down past the chin, so that
    the jaw can move; in the cheeks, further than `cheek` px from the middle, worn down sideways again; without the nose, with the
    lips. Source: the released v1.5 FaceParsing; `cheek` 90 is its command line's default.
    """
    if mode == "jaw":
        shown = (_grown_skin(labels, cheek) & (labels != NOSE)) | np.isin(labels, LIPS)
    else:
        shown = np.isin(labels, (SKIN, *LIPS, NECK) if mode == "neck" else (SKIN, *LIPS))
    return np.where(shown, np.uint8(255), np.uint8(0))


def _grown_skin(labels: NDArray[np.uint8], cheek: int) -> NDArray[np.bool_]:
    """The skin dilated; outside the strip |x - 256| < cheek that again eroded."""
    skin = (labels == SKIN).astype(np.uint8)
    grown = cv2.dilate(skin, jaw_kernel())
    worn = cv2.erode(grown, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (35, 3)), iterations=2)
    column = np.abs(np.arange(labels.shape[1]) - PARSE_PX // 2)
    return np.where(column < cheek, grown, worn).astype(bool)


@lru_cache(maxsize=1)
def jaw_kernel() -> NDArray[np.uint8]:
    """(33, 33) of 0 and 1, anchor in the middle: rows 10 to 20 a triangle 1, 3, ..., 21 wide, rows 21 to 32 a block 21 wide.

    Dilating with it grows a shape up to 16 px upwards, 10 px sideways and 6 px downwards.
    """
    kernel = np.zeros((33, 33), np.uint8)
    for row in range(10, 33):
        half = min(row - 10, 10)
        kernel[row, 16 - half : 17 + half] = 1
    return kernel


@dataclass(frozen=True, slots=True)
class FaceParser:
    """A loaded BiSeNet. On the CPU crops go through one by one: the same crop must give the same labels in any batch."""

    net: "BiSeNet"
    device: torch.device

    def parse(self, crops_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, S, S, 3) RGB, any S -> (N, 512, 512) labels, 0 to 18."""
        labels = np.empty((len(crops_rgb), PARSE_PX, PARSE_PX), np.uint8)
        size = 1 if self.device.type == "cpu" else CROPS_AT_ONCE
        for start in range(0, len(crops_rgb), size):
            images = np.stack([_resized(crop) for crop in crops_rgb[start : start + size]])
            labels[start : start + size] = self._labels(torch.from_numpy(images).to(self.device)).cpu().numpy()
        return labels

    @torch.inference_mode()
    def _labels(self, images: Tensor) -> Tensor:
        """(n, 512, 512, 3) uint8 -> (n, 512, 512) uint8."""
        mean, std = (torch.tensor(values, device=images.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
        scores: Tensor = self.net(((images / 255 - mean) / std).permute(0, 3, 1, 2))
        return scores.argmax(1).to(torch.uint8)


_loading = threading.Lock()  # two threads that ask at once are given one parser


def load(runtime: Runtime) -> FaceParser:
    """The parser for this run, read once for a process. Raises MissingError without its file."""
    with _loading:
        return _load(runtime)


@lru_cache(maxsize=1)
def _load(runtime: Runtime) -> FaceParser:
    return load_parser(weights.folder(runtime.weights), torch.device(runtime.device))


def load_parser(folder: Path, device: torch.device) -> FaceParser:
    """face-parse-bisent/79999_iter.pth of the weights folder, strictly. Raises MissingError."""
    path = weights.locate(weights.PARSING, folder)
    with torch.device("meta"):
        net = BiSeNet()
    return FaceParser(fill(net, read_tensors(path), path, device, torch.float32), device)


def _resized(crop_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """PIL's bilinear, which the published pipeline uses: it averages where it shrinks."""
    return np.asarray(Image.fromarray(crop_rgb).resize((PARSE_PX, PARSE_PX), Image.Resampling.BILINEAR), np.uint8)


# The net. Names of attributes are the names in the published file.


class BiSeNet(nn.Module):
    """(N, 3, 512, 512) normalised -> (N, 19, 512, 512) scores. The two side heads only served training, but are in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256, 256)
        self.conv_out = Head(256, 256)
        self.conv_out16 = Head(128, 64)
        self.conv_out32 = Head(128, 64)

    def forward(self, images: Tensor) -> Tensor:
        fine, context = self.cp(images)  # (N, 128, 64, 64) each
        scores = self.conv_out(self.ffm(fine, context))
        return functional.interpolate(scores, images.shape[2:], mode="bilinear", align_corners=True)


class ContextPath(nn.Module):
    """Features at 1/8, and what the surroundings say about them: 1/16 and 1/32 with attention, brought up to 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvNormReLU(128, 128, 3)
        self.conv_head16 = ConvNormReLU(128, 128, 3)
        self.conv_avg = ConvNormReLU(512, 128, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        at8, at16, at32 = self.resnet(images)
        everywhere = self.conv_avg(at32.mean((2, 3), keepdim=True))  # (N, 128, 1, 1)
        context32 = self.conv_head32(_doubled(self.arm32(at32) + everywhere))
        context16 = self.conv_head16(_doubled(self.arm16(at16) + context32))
        return at8, context16


class ResNet18(nn.Module):
    """(N, 3, H, W) -> features at 1/8 (128), 1/16 (256) and 1/32 (512); He et al. 2015."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at4 = functional.max_pool2d(functional.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        at8 = self.layer2(self.layer1(at4))
        at16 = self.layer3(at8)
        return at8, at16, self.layer4(at16)


class BasicBlock(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.downsample(x))


class ConvNormReLU(nn.Module):
    def __init__(self, width_in: int, width: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, side, padding=side // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class AttentionRefinement(nn.Module):
    """Each channel weighed by what the whole picture says about it."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(width_in, width, 3)
        self.conv_atten = nn.Conv2d(width, width, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        weight = torch.sigmoid(self.bn_atten(self.conv_atten(features.mean((2, 3), keepdim=True))))
        return features * weight


class FeatureFusion(nn.Module):
    """Fine features and context as one, each channel once more beside its weighed self."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.convblk = ConvNormReLU(width_in, width, 1)
        self.conv1 = nn.Conv2d(width, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(width // 4, width, 1, bias=False)

    def forward(self, fine: Tensor, context: Tensor) -> Tensor:
        features: Tensor = self.convblk(torch.cat([fine, context], 1))
        weight = torch.sigmoid(self.conv2(functional.relu(self.conv1(features.mean((2, 3), keepdim=True)))))
        return features * weight + features


class Head(nn.Module):
    """Features -> scores of the classes, at the features' size."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(width_in, width, 3)
        self.conv_out = nn.Conv2d(width, CLASSES, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.conv_out(self.conv(features))
        return scores


def _doubled(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2, mode="nearest")

"""VGG-19 (Simonyan and Zisserman 2014) up to relu5_1. In: pictures. Out: five feature maps. Knows nothing of losses.

Loads torchvision's vgg19-dcbb9e9d.pth, whose names are features.0.weight and so on; built here, so that torchvision is not needed.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.models.loading import fill, read_tensors

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLOCKS = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512,))  # widths; the first of each is looked at
UNUSED = ("features.30.", "features.32.", "features.34.", "classifier.")  # of the file: what comes after relu5_1


class Vgg19Features(nn.Module):
    """(N, 3, H, W) in [-1, 1] -> relu1_1, relu2_1, relu3_1, relu4_1, relu5_1: (N, 64, H, W) to (N, 512, H/16, W/16).

    H and W from 16 up. remap: to [0, 1] before ImageNet's normalisation, as the net was trained; the released MuseTalk code leaves
    it out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, remap: bool = True) -> None:
        super().__init__()
        self.remap = remap
        self.features = nn.ModuleDict()
        width_in, index = 3, 0
        for widths in BLOCKS:
            for width in widths:
                self.features[str(index)] = nn.Conv2d(width_in, width, 3, padding=1)
                width_in, index = width, index + 2  # each convolution and its ReLU
            index += 1  # pooling
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = ((images + 1) / 2 if self.remap else images).sub(self.mean).div(self.std)
        convolutions, found = iter(self.features.values()), []
        for block, widths in enumerate(BLOCKS):
            x = functional.max_pool2d(x, 2) if block else x
            for place in range(len(widths)):
                x = functional.relu(next(convolutions)(x))
                if place == 0:
                    found.append(x)
        return found


def load_vgg19(path: Path, *, remap: bool = True) -> Vgg19Features:
    """The features of torchvision's file, frozen, float32, on the CPU. Raises MissingError where the file is not that."""
    tensors = {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith(UNUSED)}
    return fill(Vgg19Features(remap=remap), tensors, path, torch.device("cpu"), torch.float32)

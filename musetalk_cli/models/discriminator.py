"""Real or painted, patch by patch. In: pictures. Out: a map of scores, and the features on the way. Knows nothing of losses.

    (N, 3, H, W) -> 4 x [conv 4x4, norm, LeakyReLU, halved] -> 1x1 conv -> (N, 1, h, w)

The discriminator of the released v1.5 code (after FOMM and pix2pix), which serves for the face, 256 x 256, and for the lips, 64 high
and 128 wide. Spectral normalisation bounds the slope of each convolution, which stands for the Lipschitz constraint that a Wasserstein
critic needs; InstanceNorm, between them in the released nets, is not so bound, and takes away how strong a texture is. With it a toy
scored noise 0.1 to 0.5 above a smooth picture after 100 steps of WGAN and 0.2 of LSGAN, without it 23 and 1.0; so it can be left out.

In training mode each pass refines the estimate of the norms: real and painted pictures should go through in one batch, and in eval
mode where only the painter learns.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

KERNEL = 4
LEAK = 0.2


@dataclass(frozen=True, slots=True)
class DiscriminatorConfig:
    """Sizes. The defaults are the released ones, 2.8 million parameters."""

    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of the feature maps
    normed: bool = True  # InstanceNorm in all blocks but the first


SMALL = DiscriminatorConfig(widths=(16, 32, 64, 128))  # for a CPU: 1/16 of the work


class Judgement(NamedTuple):
    """What a discriminator says of N pictures."""

    scores: Tensor  # (N, 1, h, w), unbounded; high: real
    features: list[Tensor]  # one a block


class PatchDiscriminator(nn.Module):
    """(N, channels, H, W) in [-1, 1] -> Judgement. H and W from 64 up; 256 x 256 gives 26 x 26 scores, 64 x 128 gives 2 x 10."""

    def __init__(self, config: DiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config or DiscriminatorConfig()
        widths = (self.config.channels, *self.config.widths)
        last = len(self.config.widths) - 1
        self.blocks = nn.ModuleList(
            _Block(width_in, width, normed=self.config.normed and index > 0, halved=index < last)
            for index, (width_in, width) in enumerate(pairwise(widths))
        )
        self.score = spectral_norm(nn.Conv2d(widths[-1], 1, 1))

    def forward(self, images: Tensor) -> Judgement:
        features, x = [], images
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return Judgement(self.score(x), features)


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, *, normed: bool, halved: bool) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(width_in, width, KERNEL))
        self.norm = nn.InstanceNorm2d(width, affine=True) if normed else nn.Identity()
        self.halved = halved

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.norm(self.conv(x)), LEAK)
        return functional.avg_pool2d(x, 2) if self.halved else x

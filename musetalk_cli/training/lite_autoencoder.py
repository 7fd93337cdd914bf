"""The autoencoder of the lite family. In: samples. Out: a Trainee; afterwards, latents of unit variance.

    crop -> a piece of 128 px, perhaps mirrored or masked -> encoder -> latent + a little noise -> decoder -> l1, vgg, adv_face, small

It is convolutional throughout, so it learns on pieces: twice as many faces for the same time. `decoder_only` leaves the encoder as it
is: latents stay what the other nets know, and the decoder becomes sharper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from musetalk_cli.crop import CROP_PX, MASK_ROW
from musetalk_cli.models.discriminator import SMALL, PatchDiscriminator
from musetalk_cli.models.lite import Autoencoder
from musetalk_cli.training import losses
from musetalk_cli.training.dataset import Sample
from musetalk_cli.training.judges import Judges
from musetalk_cli.training.loop import Answer, LoopConfig, Nets, Pair
from musetalk_cli.training.losses import shifted_window
from musetalk_cli.training.report import Validation
from musetalk_cli.training.validation import Shown, held_windows, picture_metrics, strip
from musetalk_cli.training.windows import Augment, WindowRows

PIECE_PX = 128
MOUTH_SHARE = 0.5  # of pieces that show the mouth
MASKED_SHARE = 0.15  # of pieces with the mouth hidden, as the U-Net's first input is
NOISE = 0.06  # on latents, in their own spread: the decoder must bear a U-Net's small errors
SHAKE_PX = 8  # by which what the perceptual judge sees is moved, so that no grid of its strides settles
SCALED_ON = 64  # crops by which latents get their mean and variance


class AutoencoderWeights(NamedTuple):
    """The factor of each term; 0 leaves it out."""

    l1: float = 1.0
    vgg: float = 0.6
    adv_face: float = 0.0
    small: float = 1e-4


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """One training of the autoencoder."""

    weights: AutoencoderWeights = field(default_factory=AutoencoderWeights)
    decoder_only: bool = False
    adversarial_from: int = 0
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=3000, batch=12, rate=1.2e-3, final_rate=4e-5, warmup=40, clip=0.5, discriminator_rate=2e-4, precision="bf16"
        )
    )


class PieceRow(NamedTuple):
    """One piece of a face."""

    image: NDArray[np.uint8]  # (128, 128, 3) RGB
    noise: NDArray[np.float32]  # (C, 16, 16) of variance 1
    shake: NDArray[np.int64]  # (2,)


@dataclass(frozen=True, slots=True)
class PieceRows:
    """A random sample, a random frame, a random place in its crop."""

    windows: WindowRows
    channels: int

    def row(self, random: np.random.Generator) -> PieceRow:
        image = self.windows.row(random).real.rgb[0]
        if random.random() < MASKED_SHARE:
            image = image.copy()
            image[MASK_ROW:] = 0
        top, left = (int(v) for v in random.integers(0, CROP_PX - PIECE_PX + 1, 2))
        if random.random() < MOUTH_SHARE:
            top, left = int(random.integers(96, 129)), int(random.integers(48, 81))
        noise = random.standard_normal((self.channels, PIECE_PX // 8, PIECE_PX // 8), np.float32)
        piece = np.ascontiguousarray(image[top : top + PIECE_PX, left : left + PIECE_PX])
        return PieceRow(piece, noise, random.integers(0, SHAKE_PX, 2))


def piece_rows(samples: Sequence[Sample], channels: int) -> PieceRows:
    """Rows of all samples, speaking or not."""
    augment = Augment(flip=0.5, colour=0.08, turn_deg=3.0)
    return PieceRows(WindowRows(tuple(samples), 1, augment=augment, voiced=False), channels)


class AutoencoderPass(nn.Module):
    """There and back, as one net: what several processes synchronise is a call of forward."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W), (N, C, H/8, W/8) of variance 1 -> the images again, and their latents."""
        latents = self.autoencoder.encode(images)
        spoiled = latents + NOISE * latents.detach().std() * noise
        return self.autoencoder.decode(spoiled), latents


class AutoencoderTrainee:
    """The autoencoder as the loop trains it."""

    def __init__(
        self, config: AutoencoderConfig, autoencoder: Autoencoder, judges: Judges, rows: PieceRows, held: WindowRows | None
    ) -> None:
        autoencoder.requires_grad_(True)
        if config.decoder_only:
            autoencoder.encoder.requires_grad_(False)
        self.config, self.judges, self.rows = config, judges, rows
        self.networks: Nets = {"autoencoder": AutoencoderPass(autoencoder)}
        self.discriminators: Nets = {"face": PatchDiscriminator(SMALL)} if config.weights.adv_face else {}
        for net in (*self.networks.values(), *self.discriminators.values()):
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch 2.13 leaves it out of the signature
        self.held = np.concatenate([window.real.rgb for window in held_windows(held, 0)]) if held is not None else None
        self.device = torch.device("cpu")

    def weights(self, step: int) -> Mapping[str, float]:
        late = ("adv_face",) if step < self.config.adversarial_from else ()
        frozen = ("small",) if self.config.decoder_only else ()
        return {name: weight for name, weight in self.config.weights._asdict().items() if weight and name not in (*late, *frozen)}

    def to(self, device: torch.device) -> None:
        self.device = device
        self.judges.to(device)

    def generator_terms(self, networks: Nets, discriminators: Nets, batch: PieceRow, weights: Mapping[str, float]) -> Answer:
        images = _images(torch.as_tensor(batch.image))
        answer, latents = networks["autoencoder"](images, batch.noise)
        answer = answer.float()
        terms: dict[str, Tensor] = {}
        if "l1" in weights:
            terms["l1"] = losses.l1(answer, images)
        if "vgg" in weights:
            terms["vgg"] = self.judges.vgg(*(_shaken(side, torch.as_tensor(batch.shake)) for side in (answer, images)))
        if "small" in weights:
            terms["small"] = latents.float().square().mean()
        lips = torch.zeros((len(images), 4), dtype=torch.int64)
        against = self.judges.adversarial(answer, images, lips, discriminators, weights)
        return Answer({**terms, **against.terms}, against.pairs)

    def discriminator_terms(self, discriminators: Nets, pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
        return self.judges.discriminator_terms(discriminators, pairs)

    def validate(self, networks: Nets) -> Validation | None:
        """The rebuilt faces of people held out."""
        if self.held is None:
            return None
        net = networks["autoencoder"]
        assert isinstance(net, AutoencoderPass)
        shown = []
        for crop in self.held:
            image = _images(torch.from_numpy(crop[None]).to(self.device))
            rebuilt = net.autoencoder.decode(net.autoencoder.encode(image)).float()
            shown.append(Shown(image, image, rebuilt, image))
        return Validation(picture_metrics(shown), {"rebuilt": strip(shown)})


def finished(net: nn.Module, config: AutoencoderConfig, rows: PieceRows) -> Autoencoder:
    """The trained autoencoder, its latents scaled anew unless the encoder is as it was."""
    assert isinstance(net, AutoencoderPass)
    if not config.decoder_only:
        drawn = [rows.windows.row(np.random.default_rng((1, index))).real.rgb for index in range(SCALED_ON)]
        scale_latents(net.autoencoder, _images(torch.from_numpy(np.concatenate(drawn))).to(net.autoencoder.mean.device))
    return net.autoencoder


@torch.no_grad()
def scale_latents(net: Autoencoder, images: Tensor) -> None:
    """Sets mean and std, channel by channel, so that latents of these faces have mean 0 and variance 1."""
    raw = torch.cat([net.encoder(images[i : i + 8]) for i in range(0, len(images), 8)])
    net.mean.copy_(raw.mean((0, 2, 3)).view(-1, 1, 1))
    net.std.copy_(raw.std((0, 2, 3)).view(-1, 1, 1))


def _images(crops_rgb: Tensor) -> Tensor:
    return crops_rgb.permute(0, 3, 1, 2).float() / 127.5 - 1


def _shaken(images: Tensor, shake: Tensor) -> Tensor:
    size = (PIECE_PX - SHAKE_PX, PIECE_PX - SHAKE_PX)
    places = shake.tolist()
    parts = [shifted_window(image[None], top, left, size) for image, (top, left) in zip(images, places, strict=True)]
    return torch.cat(parts)

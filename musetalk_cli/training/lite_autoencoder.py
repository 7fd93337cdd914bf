"""The autoencoder of the lite family. In: 256 px crops. Out: a trained Autoencoder with latents of unit variance.

It is convolutional throughout, so it learns on 128 px pieces: twice as many faces for the same time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from musetalk_cli.crop import MASK_ROW
from musetalk_cli.models.lite import Autoencoder, LiteConfig, from_rgb
from musetalk_cli.training.loop import LoopConfig, State, new_state, train
from musetalk_cli.training.losses import Lpips, shifted_window

PIECE_PX = 128
MOUTH_SHARE = 0.5  # of pieces that show the mouth
MASKED_SHARE = 0.15  # of pieces with the mouth hidden, as the U-Net's first input is
NOISE = 0.06  # on latents, in their own spread: the decoder must bear a U-Net's small errors
WEIGHTS = {"l1": 1.0, "lpips": 0.6, "small": 1e-4}


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Data and length of a run."""

    folders: tuple[Path, ...]
    lpips: Path
    out: Path
    loop: LoopConfig
    batch: int = 12
    seed: int = 0


def train_autoencoder(config: AutoencoderConfig, sizes: LiteConfig) -> Autoencoder:
    """Trains or goes on; returns the moving average with its latents scaled, and saves it as `autoencoder.pt`."""
    torch.manual_seed(config.seed)
    state = new_state(Autoencoder(sizes), config.loop)
    checkpoint = config.out / "autoencoder.checkpoint.pt"
    terms = _Terms(Lpips(config.lpips), pieces(crop_files(config.folders), config.batch, config.seed))
    train(state, terms, WEIGHTS, config.loop, checkpoint)
    return finish(state, config)


def finish(state: State, config: AutoencoderConfig) -> Autoencoder:
    """The moving average, its latents scaled, saved."""
    net = state.average
    assert isinstance(net, Autoencoder)
    batches = pieces(crop_files(config.folders), 64, config.seed + 1, side_px=256, masked=0.0)
    scale_latents(net, from_rgb(next(batches)))
    torch.save(net.state_dict(), config.out / "autoencoder.pt")
    return net


class _Terms:
    """The loss of one batch."""

    def __init__(self, lpips: Lpips, batches: Iterator[NDArray[np.uint8]]) -> None:
        self.lpips, self.batches = lpips, batches

    def __call__(self, net: nn.Module, step: int) -> dict[str, Tensor]:
        assert isinstance(net, Autoencoder)
        images = from_rgb(next(self.batches))
        latents = net.encode(images)
        answer = net.decode(latents + NOISE * latents.detach().std() * torch.randn_like(latents))
        top, left = step % 8, (step // 8) % 8  # so that no grid of AlexNet's stride settles
        size = (PIECE_PX - 8, PIECE_PX - 8)
        seen = self.lpips(shifted_window(answer, top, left, size), shifted_window(images, top, left, size))
        return {"l1": (answer.float() - images).abs().mean(), "lpips": seen, "small": latents.float().square().mean()}


def crop_files(folders: tuple[Path, ...]) -> list[Path]:
    """The crops of all prepared clips."""
    return sorted(path for folder in folders for path in folder.glob("*.crops.npy") if not path.name.startswith("part."))


def pieces(
    files: list[Path], batch: int, seed: int, *, side_px: int = PIECE_PX, masked: float = MASKED_SHARE
) -> Iterator[NDArray[np.uint8]]:
    """Endless batches (batch, side, side, 3): a random clip, a random frame, a random place, perhaps mirrored or masked.

    A clip counts by the square root of its length: many short clips of many people matter more than one long one.
    """
    random = np.random.default_rng(seed)
    crops: list[NDArray[np.uint8]] = [np.load(path, mmap_mode="r") for path in files]
    chance = np.sqrt([len(clip) for clip in crops])
    chance /= chance.sum()
    while True:
        yield np.stack([_piece(crops[i], random, side_px, masked) for i in random.choice(len(crops), batch, p=chance)])


def _piece(clip: NDArray[np.uint8], random: np.random.Generator, side_px: int, masked: float) -> NDArray[np.uint8]:
    image = np.array(clip[random.integers(len(clip))])
    if random.random() < masked:
        image[MASK_ROW:] = 0
    if random.random() < 0.5:
        image = image[:, ::-1]
    room = 256 - side_px
    top, left = (int(v) for v in random.integers(0, room + 1, 2))
    if room and random.random() < MOUTH_SHARE:
        top, left = int(random.integers(96, 129)), int(random.integers(48, 81))
    return image[top : top + side_px, left : left + side_px]


@torch.no_grad()
def scale_latents(net: Autoencoder, images: Tensor) -> None:
    """Sets mean and std, channel by channel, so that latents of these faces have mean 0 and variance 1."""
    raw = torch.cat([net.encoder(images[i : i + 8]) for i in range(0, len(images), 8)])
    net.mean.copy_(raw.mean((0, 2, 3)).view(-1, 1, 1))
    net.std.copy_(raw.std((0, 2, 3)).view(-1, 1, 1))

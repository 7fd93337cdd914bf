"""The U-Net of the lite family, stage 1. In: prepared clips, a trained autoencoder and lip mover. Out: a trained LipUNet.

    frame, another frame of the clip -> the frame with the other's lips, a mixture; latents of both       bank
    mixture, the frame's own lip code -> lips moved (frozen) -> reference
    masked frame, reference, code -> U-Net -> latent, against the frame's: L1
                                           -> lower half of the picture, against the frame's: L1, LPIPS of the mouth

The lip code is that of the picture itself, not of the voice: a picture loss alone teaches a U-Net little about sound (MuseTalk
needs SyncNet and 250,000 steps for it), while lips that are told the truth are obeyed. The voice's own codes come in at work.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.crop import hide_mouth
from musetalk_cli.models.lite import Autoencoder, LipMover, LipUNet, LiteConfig, from_rgb, move_lips
from musetalk_cli.training.data import CodeBasis, FaceClip, ahead, face_clips
from musetalk_cli.training.lite_mover import encoded
from musetalk_cli.training.loop import LoopConfig, State, new_state, train
from musetalk_cli.training.losses import Lpips, weighted_l1

JUDGED_FROM_PX = 120  # picture row; a little above the mask, so that the seam counts
CODE_NOISE = 0.1
DECODED_FROM = 12  # latent row; the decoder need not see the upper half to paint the lower
WEIGHTS = {"latent": 0.3, "l1": 1.0, "lpips": 0.7}
LIPS_PX = (112, 144)  # height and width of what LPIPS sees around the mouth


@dataclass(frozen=True, slots=True)
class UnetConfig:
    """Data and length of a run."""

    folders: tuple[Path, ...]
    lpips: Path
    out: Path
    loop: LoopConfig
    batch: int = 8
    shards: int = 10
    shard_rows: int = 1200
    seed: int = 0


class Bank(NamedTuple):
    """Frames and their mixtures, M of each, made once. Arrays on disk, float16 but for the numbers of the frame."""

    masked: NDArray[np.float16]  # (M, 16, 32, 32) of the frame
    real: NDArray[np.float16]  # (M, 16, 32, 32) of the frame
    mixed: NDArray[np.float16]  # (M, 16, 32, 32) of the mixture
    codes: NDArray[np.float16]  # (M, 2, code) of the frame and of the mixture
    mouths: NDArray[np.float16]  # (M, 2, 4) centre and half size of the mouth, x y x y, of the frame and of the mixture
    where: NDArray[np.int32]  # (M, 2) clip and row of the frame


class Batch(NamedTuple):
    """What the U-Net is given and what it should say. N rows."""

    masked: Tensor  # (N, 16, 32, 32)
    reference: Tensor  # (N, 16, 32, 32)
    codes: Tensor  # (N, code)
    latents: Tensor  # (N, 16, 32, 32)
    mouths: Tensor  # (N, 4)
    images: Tensor  # (N, 3, 256, 256) in [-1, 1]


def train_unet(config: UnetConfig, sizes: LiteConfig, autoencoder: Autoencoder, mover: LipMover, basis: CodeBasis) -> LipUNet:
    """Trains or goes on; returns the moving average, saved as `unet.pt`."""
    torch.manual_seed(config.seed)
    clips = face_clips(list(config.folders), basis)
    bank = whole_bank(clips, autoencoder, config)
    state = new_state(LipUNet(sizes), config.loop)
    terms = _Terms(autoencoder, mover, Lpips(config.lpips), ahead(drawn(bank, clips, config.batch, config.seed)))
    return finish(train(state, terms, WEIGHTS, config.loop, config.out / "unet.checkpoint.pt"), config)


def whole_bank(clips: list[FaceClip], autoencoder: Autoencoder, config: UnetConfig) -> Bank:
    """The bank in shards, made where they are missing; a second process may make other shards meanwhile."""
    parts = [bank_shard(clips, autoencoder, config, shard) for shard in range(config.shards)]
    return Bank(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def bank_shard(clips: list[FaceClip], autoencoder: Autoencoder, config: UnetConfig, shard: int) -> Bank:
    """One shard, made where it is missing."""
    path = config.out / "bank" / f"{shard:02}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"part.{path.name}")
        np.savez(beside, **_mixtures(clips, autoencoder, config.shard_rows, config.seed + shard)._asdict())
        os.replace(beside, path)
    with np.load(path) as file:
        return Bank(*(file[name] for name in Bank._fields))


def _mixtures(clips: list[FaceClip], autoencoder: Autoencoder, rows: int, seed: int) -> Bank:
    random = np.random.default_rng(seed)
    chance = np.sqrt([clip.rows for clip in clips])
    where = [(int(c), int(random.integers(clips[c].rows))) for c in random.choice(len(clips), rows, p=chance / chance.sum())]
    latents, codes, mouths = [], [], []
    for c, row in where:
        clip = clips[c]
        other = clip.reference(row, random)
        mixture, points = clip.with_lips_of(other, row)
        real = np.array(clip.crops[row])
        latents.append(encoded(autoencoder, np.stack([hide_mouth(real), real, mixture])))
        codes.append(clip.codes[[row, other]])
        mouths.append([mouth_of(clip.points[row]), mouth_of(points)])
    masked, whole, mixed = np.stack(latents, 1)
    return Bank(masked, whole, mixed, np.array(codes, np.float16), np.array(mouths, np.float16), np.array(where, np.int32))


def drawn(bank: Bank, clips: list[FaceClip], batch: int, seed: int) -> Iterator[Batch]:
    """Endless batches of the bank."""
    random = np.random.default_rng(seed)
    while True:
        rows = random.integers(0, len(bank.where), batch)
        yield Batch(
            masked=_tensor(bank.masked[rows]),
            reference=_tensor(bank.mixed[rows]),
            codes=_tensor(bank.codes[rows, 0]),
            latents=_tensor(bank.real[rows]),
            mouths=_tensor(bank.mouths[rows, 0]),
            images=from_rgb(np.stack([clips[c].crops[row] for c, row in bank.where[rows]])),
        )


def finish(state: State, config: UnetConfig) -> LipUNet:
    """The moving average, saved."""
    net = state.average
    assert isinstance(net, LipUNet)
    torch.save(net.state_dict(), config.out / "unet.pt")
    return net


class _Terms:
    """The loss of one batch; mover and autoencoder are frozen but the gradient goes through the decoder."""

    def __init__(self, autoencoder: Autoencoder, mover: LipMover, lpips: Lpips, batches: Iterator[Batch]) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch 2.13 leaves it out of the signature
        self.mover = mover.eval().requires_grad_(False)
        self.lpips, self.batches = lpips, batches

    def __call__(self, net: nn.Module, step: int) -> dict[str, Tensor]:
        batch = next(self.batches)
        with torch.no_grad():
            moves = self.mover(batch.reference, batch.codes)
            moved = move_lips(self.autoencoder, batch.reference, moves)
        answer = net(batch.masked, moved, moves.maps, batch.codes + CODE_NOISE * torch.randn_like(batch.codes))
        lower = answer[:, :, DECODED_FROM:].contiguous(memory_format=torch.channels_last)
        painted = self.autoencoder.decode(lower).float()[:, :, JUDGED_FROM_PX - 8 * DECODED_FROM :]
        target = batch.images[:, :, JUDGED_FROM_PX:]
        places = lip_windows(batch.mouths, step)
        return {
            "latent": ((answer - batch.latents).abs() * functional.avg_pool2d(cell_weight(batch.mouths), 2)).mean(),
            "l1": weighted_l1(painted, target, pixel_weight(batch.mouths)),
            "lpips": self.lpips(cut_out(painted, places), cut_out(target, places)),
        }


def cell_weight(mouths: Tensor) -> Tensor:
    """(N, 4) -> (N, 1, 64, 64): 0.2 far away, 1.2 about mouth and chin."""
    cells = torch.arange(64) * 4 + 1.5
    x, y, half_x, half_y = (part.view(-1, 1, 1, 1) for part in mouths.float().unbind(1))
    rows, columns = (cells.view(1, 1, -1, 1) - y - 10) / (half_y + 25), (cells.view(1, 1, 1, -1) - x) / (half_x + 16)
    return 0.2 + torch.exp(-(rows**2) - columns**2)


def lip_windows(mouths: Tensor, step: int) -> list[tuple[int, int]]:
    """Top and left of a window of LIPS_PX about each mouth, in the judged rows; moved a little each step against grids."""
    height, width = LIPS_PX
    centre = mouths[:, :2].round().int().tolist()
    tops = [min(max(y - JUDGED_FROM_PX - height // 2 + step % 8 - 4, 0), 256 - JUDGED_FROM_PX - height) for _, y in centre]
    lefts = [min(max(x - width // 2 + (step // 8) % 8 - 4, 0), 256 - width) for x, _ in centre]
    return list(zip(tops, lefts, strict=True))


def cut_out(images: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """(N, 3, H, W) -> (N, 3, *LIPS_PX), each from its own place."""
    height, width = LIPS_PX
    parts = [image[:, top : top + height, left : left + width] for image, (top, left) in zip(images, places, strict=True)]
    return torch.stack(parts).contiguous(memory_format=torch.channels_last)


def pixel_weight(mouths: Tensor) -> Tensor:
    """(N, 4) -> (N, 1, 256 - JUDGED_FROM_PX, 256): 1 far away, 5 on the mouth, then scaled to mean 1."""
    rows = torch.arange(JUDGED_FROM_PX, 256).view(1, 1, -1, 1)
    columns = torch.arange(256).view(1, 1, 1, -1)
    x, y, half_x, half_y = (part.view(-1, 1, 1, 1) for part in mouths.float().unbind(1))
    weight = 1 + 4 * torch.exp(-(((rows - y) / (half_y + 12)) ** 2) - ((columns - x) / (half_x + 8)) ** 2)
    return weight / weight.mean((2, 3), keepdim=True)


def mouth_of(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(68, 2) -> (4,): centre and half size of the lips."""
    low, high = points[48:68].min(0), points[48:68].max(0)
    return np.concatenate([(low + high) / 2, (high - low) / 2])


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))

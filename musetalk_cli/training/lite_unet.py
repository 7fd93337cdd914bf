"""The U-Net of the lite family, stage 1. In: prepared clips, a trained autoencoder. Out: a trained LipUNet.

    frame, another frame of the clip -> the frame with the other's lips, a mixture; landmarks and latents of both      bank
    masked frame, mixture, the frame's own lip code -> U-Net -> flow, against that between the landmarks of both
                                                             -> painted latent, against the frame's
                                          both together -> lower half of the picture, against the frame's: L1, LPIPS
    and for the flow the other way round: the frame as the reference, as it is at work

The lip code is that of the picture itself, not of the voice: a picture loss alone teaches a U-Net little about sound (MuseTalk
needs SyncNet and 250,000 steps for it), while lips that are told the truth are obeyed. The voice's own codes come in at work.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.crop import hide_mouth
from musetalk_cli.models.lite import PAINTED_FROM, Answer, Autoencoder, LipUNet, LiteConfig, from_rgb, paint_face
from musetalk_cli.training.data import CodeBasis, FaceClip, ahead, face_clips, lip_flow
from musetalk_cli.training.loop import LoopConfig, State, new_state, train
from musetalk_cli.training.losses import Lpips, weighted_l1

JUDGED_FROM_PX = 120  # picture row; a little above the mask, so that the seam counts
CODE_NOISE = 0.1
WEIGHTS = {"flow": 1.0, "latent": 0.3, "l1": 2.0, "lpips": 0.7}
LIPS_PX = (112, 144)  # height and width of what LPIPS sees around the mouth


@dataclass(frozen=True, slots=True)
class UnetConfig:
    """Data and length of a run."""

    folders: tuple[Path, ...]
    lpips: Path
    out: Path
    loop: LoopConfig
    picture_loop: LoopConfig
    batch: int = 32
    picture_batch: int = 8
    shards: int = 10
    shard_rows: int = 1200
    seed: int = 0


class Bank(NamedTuple):
    """Frames and their mixtures, M of each, made once. Arrays on disk, float16 but for the numbers of the frame."""

    masked: NDArray[np.float16]  # (M, 16, 32, 32) of the frame
    real: NDArray[np.float16]  # (M, 16, 32, 32) of the frame
    mixed: NDArray[np.float16]  # (M, 16, 32, 32) of the mixture
    codes: NDArray[np.float16]  # (M, 2, code) of the frame and of the mixture
    flows: NDArray[np.float16]  # (M, 2, 2, 64, 64) px, from the frame to the mixture and from the mixture to the frame
    mouths: NDArray[np.float16]  # (M, 2, 4) centre and half size of the mouth, x y x y, of the frame and of the mixture
    where: NDArray[np.int32]  # (M, 2) clip and row of the frame


class Batch(NamedTuple):
    """What the U-Net is given and what it should say. N rows."""

    masked: Tensor  # (N, 16, 32, 32)
    reference: Tensor  # (N, 16, 32, 32)
    codes: Tensor  # (N, code)
    latents: Tensor  # (N, 16, 32, 32)
    flows: Tensor  # (N, 2, 64, 64)
    mouths: Tensor  # (N, 4)
    images: Tensor  # (N, 3, 256, 256) in [-1, 1]; no rows where no picture is judged


def train_unet(config: UnetConfig, sizes: LiteConfig, autoencoder: Autoencoder, basis: CodeBasis) -> LipUNet:
    """Trains or goes on, first on flow and latents, then on pictures too; returns the moving average, saved as `unet.pt`."""
    torch.manual_seed(config.seed)
    clips = face_clips(list(config.folders), basis)
    bank = whole_bank(clips, autoencoder, config)
    state = new_state(LipUNet(sizes), config.loop)
    terms = _Terms(autoencoder, Lpips(config.lpips))
    for loop, batch, picture in ((config.loop, config.batch, False), (config.picture_loop, config.picture_batch, True)):
        batches = ahead(drawn(bank, clips, batch, config.seed + picture, picture=picture))
        state = train(
            fresh(state, loop),
            partial(terms, batches),
            WEIGHTS,
            loop,
            config.out / f"unet{'-2' if picture else ''}.checkpoint.pt",
        )
    return finish(state, config)


def fresh(state: State, loop: LoopConfig) -> State:
    """A new run that begins with the moving average of the one before."""
    net = deepcopy(state.average).requires_grad_(True)
    return new_state(net, loop)


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
    latents, codes, flows, mouths = [], [], [], []
    for c, row in where:
        clip = clips[c]
        other = clip.reference(row, random)
        mixture, points = clip.with_lips_of(other, row)
        real = np.array(clip.crops[row])
        latents.append(_encoded(autoencoder, np.stack([hide_mouth(real), real, mixture])))
        codes.append(clip.codes[[row, other]])
        flows.append([lip_flow(clip.points[row], points), lip_flow(points, clip.points[row])])
        mouths.append([mouth_of(clip.points[row]), mouth_of(points)])
    masked, whole, mixed = np.stack(latents, 1)
    half = [np.array(values, np.float16) for values in (codes, flows, mouths)]
    return Bank(masked, whole, mixed, *half, np.array(where, np.int32))


@torch.no_grad()
def _encoded(autoencoder: Autoencoder, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(from_rgb(crops))
    found: NDArray[np.float16] = latents.to(torch.float16).contiguous().numpy()
    return found


def drawn(bank: Bank, clips: list[FaceClip], batch: int, seed: int, *, picture: bool) -> Iterator[Batch]:
    """Endless batches of the bank; the second half of each goes from frame to mixture, unless pictures are judged."""
    random = np.random.default_rng(seed)
    while True:
        rows = random.integers(0, len(bank.where), batch)
        back = (np.arange(batch) >= batch // 2) & (not picture)
        side = back.astype(np.intp)
        turned = back[:, None, None, None]
        real, mixed = bank.real[rows], bank.mixed[rows]
        images = [clips[c].crops[row] for c, row in bank.where[rows]] if picture else []
        yield Batch(
            masked=_tensor(bank.masked[rows]),
            reference=_tensor(np.where(turned, real, mixed)),
            codes=_tensor(bank.codes[rows, side]),
            latents=_tensor(np.where(turned, mixed, real)),
            flows=_tensor(bank.flows[rows, side]),
            mouths=_tensor(bank.mouths[rows, side]),
            images=from_rgb(np.stack(images)) if images else torch.zeros(0, 3, 256, 256),
        )


def finish(state: State, config: UnetConfig) -> LipUNet:
    """The moving average, saved."""
    net = state.average
    assert isinstance(net, LipUNet)
    torch.save(net.state_dict(), config.out / "unet.pt")
    return net


class _Terms:
    """The loss of one batch; the autoencoder is frozen but the gradient goes through its decoder."""

    def __init__(self, autoencoder: Autoencoder, lpips: Lpips) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.lpips = lpips

    def __call__(self, batches: Iterator[Batch], net: nn.Module, step: int) -> dict[str, Tensor]:
        batch = next(batches)
        answer = net(batch.masked, batch.reference, batch.codes + CODE_NOISE * torch.randn_like(batch.codes))
        near = cell_weight(batch.mouths)
        found = {
            "flow": ((answer.flow - batch.flows).abs() * near).mean() / 4,
            "latent": ((answer.paint - batch.latents).abs() * functional.avg_pool2d(near, 2)).mean(),
        }
        return found | self._picture(batch, answer, step) if len(batch.images) else found

    def _picture(self, batch: Batch, answer: Answer, step: int) -> dict[str, Tensor]:
        painted = paint_face(self.autoencoder, batch.reference, answer)[:, :, JUDGED_FROM_PX - 8 * PAINTED_FROM :]
        target = batch.images[:, :, JUDGED_FROM_PX:]
        places = lip_windows(batch.mouths, step)
        return {
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

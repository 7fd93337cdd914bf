"""The U-Net of the lite family, stage 1. In: prepared clips, a trained autoencoder. Out: a trained LipUNet.

    frame -> masked latent; the frame with the lips of another -> reference latent; the frame's own lips -> lip code
    U-Net -> flow, against that between the landmarks of both
          -> painted latent, against the frame's: L1
          -> both together -> lower half of the picture, against the frame's: L1, LPIPS of the mouth

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
from musetalk_cli.models.lite import PAINTED_FROM, Answer, Autoencoder, LipUNet, LiteConfig, from_rgb, paint_face
from musetalk_cli.training.data import CodeBasis, FaceClip, face_clips, lip_flow
from musetalk_cli.training.loop import LoopConfig, State, new_state, train
from musetalk_cli.training.losses import Lpips, weighted_l1

JUDGED_FROM_PX = 120  # picture row; a little above the mask, so that the seam counts
CODE_NOISE = 0.1
WEIGHTS = {"flow": 1.0, "latent": 0.3, "l1": 2.0, "lpips": 0.7}
PICTURE_EVERY = 2  # steps; the picture costs as much as the U-Net, flow and latent come free
LIPS_PX = (112, 144)  # height and width of what LPIPS sees around the mouth


@dataclass(frozen=True, slots=True)
class UnetConfig:
    """Data and length of a run."""

    folders: tuple[Path, ...]
    lpips: Path
    out: Path
    loop: LoopConfig
    batch: int = 8
    seed: int = 0


class Pairs(NamedTuple):
    """A batch: what the U-Net is given and what it should paint."""

    masked: Tensor  # (N, 16, 32, 32)
    references: Tensor  # (N, 3, 256, 256) in [-1, 1]
    codes: Tensor  # (N, code)
    latents: Tensor  # (N, 16, 32, 32)
    images: Tensor  # (N, 3, 256, 256) in [-1, 1]
    flows: Tensor  # (N, 2, 64, 64) px, from the frame to the reference
    mouths: Tensor  # (N, 4) centre and half size of the mouth, x y x y, in the crop


def train_unet(config: UnetConfig, sizes: LiteConfig, autoencoder: Autoencoder, basis: CodeBasis) -> LipUNet:
    """Trains or goes on; returns the moving average and saves it as `unet.pt`."""
    torch.manual_seed(config.seed)
    clips = face_clips(list(config.folders), basis)
    latents = [clip_latents(clip, autoencoder, config.out / "latents") for clip in clips]
    print(f"{len(clips)} clips, {sum(clip.rows for clip in clips)} faces", flush=True)
    state = new_state(LipUNet(sizes), config.loop)
    terms = _Terms(autoencoder, Lpips(config.lpips), pairs(clips, latents, config.batch, config.seed))
    train(state, terms, WEIGHTS, config.loop, config.out / "unet.checkpoint.pt")
    return finish(state, config)


def finish(state: State, config: UnetConfig) -> LipUNet:
    """The moving average, saved."""
    net = state.average
    assert isinstance(net, LipUNet)
    torch.save(net.state_dict(), config.out / "unet.pt")
    return net


class _Terms:
    """The loss of one batch; the autoencoder is frozen but the gradient goes through its decoder."""

    def __init__(self, autoencoder: Autoencoder, lpips: Lpips, batches: Iterator[Pairs]) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.lpips, self.batches = lpips, batches

    def __call__(self, net: nn.Module, step: int) -> dict[str, Tensor]:
        batch = next(self.batches)
        with torch.no_grad():
            reference = self.autoencoder.encode(batch.references).float()
        codes = batch.codes + CODE_NOISE * torch.randn_like(batch.codes)
        answer = net(batch.masked, reference, codes)
        near = cell_weight(batch.mouths)
        found = {
            "flow": ((answer.flow - batch.flows).abs() * near).mean() / 4,
            "latent": ((answer.paint - batch.latents).abs() * functional.avg_pool2d(near, 2)).mean(),
        }
        return found if step % PICTURE_EVERY else found | self._picture(batch, reference, answer, step)

    def _picture(self, batch: Pairs, reference: Tensor, answer: Answer, step: int) -> dict[str, Tensor]:
        painted = paint_face(self.autoencoder, reference, answer)[:, :, JUDGED_FROM_PX - 8 * PAINTED_FROM :]
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


def pairs(clips: list[FaceClip], latents: list[NDArray[np.float16]], batch: int, seed: int) -> Iterator[Pairs]:
    """Endless batches: a clip by the square root of its length, a frame, and a frame to refer to."""
    random = np.random.default_rng(seed)
    chance = np.sqrt([clip.rows for clip in clips])
    chance /= chance.sum()
    while True:
        drawn = [(int(c), int(random.integers(clips[c].rows))) for c in random.choice(len(clips), batch, p=chance)]
        refers = [clips[c].with_lips_of(clips[c].reference(row, random), row) for c, row in drawn]
        yield Pairs(
            masked=_stacked([latents[c][row, 0] for c, row in drawn]),
            references=from_rgb(np.stack([image for image, _ in refers])),
            flows=_stacked([lip_flow(clips[c].points[row], found) for (c, row), (_, found) in zip(drawn, refers, strict=True)]),
            codes=_stacked([clips[c].codes[row] for c, row in drawn]),
            latents=_stacked([latents[c][row, 1] for c, row in drawn]),
            images=from_rgb(np.stack([clips[c].crops[row] for c, row in drawn])),
            mouths=_stacked([mouth_of(clips[c].points[row]) for c, row in drawn]),
        )


def clip_latents(clip: FaceClip, autoencoder: Autoencoder, folder: Path) -> NDArray[np.float16]:
    """(K, 2, 16, 32, 32): masked and whole latents of each crop, computed once."""
    path = folder / f"{clip.name}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"part.{path.name}")
        np.save(beside, _encode_clip(clip.crops, autoencoder))
        os.replace(beside, path)
    found: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return found


@torch.no_grad()
def _encode_clip(crops: NDArray[np.uint8], autoencoder: Autoencoder) -> NDArray[np.float16]:
    both = []
    with torch.autocast("cpu", torch.bfloat16):
        for begin in range(0, len(crops), 16):
            part = np.array(crops[begin : begin + 16])
            whole = [autoencoder.encode(from_rgb(images)) for images in (hide_mouth(part), part)]
            both.append(torch.stack(whole, 1).to(torch.float16).contiguous().numpy())
    return np.concatenate(both)


def _stacked(arrays: list[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))

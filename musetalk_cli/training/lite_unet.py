"""The U-Net of the lite family, stage 1. In: prepared clips, a trained autoencoder. Out: a trained LipUNet.

    frame -> masked latent; another frame of the clip -> reference latent; the frame's own lips -> lip code
    U-Net -> latent -> lower half of the picture, against the frame's: L1, LPIPS around the mouth, L1 of latents

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

from musetalk_cli.crop import hide_mouth
from musetalk_cli.models.lite import Autoencoder, LipUNet, LiteConfig, from_rgb
from musetalk_cli.training.data import CodeBasis, FaceClip, face_clips
from musetalk_cli.training.loop import LoopConfig, State, new_state, train
from musetalk_cli.training.losses import Lpips, shifted_window, weighted_l1

DECODED_FROM = 12  # latent row; the decoder need not see the upper half to paint the lower
JUDGED_FROM_PX = 120  # picture row; a little above the mask, so that the seam counts
CODE_NOISE = 0.1
WEIGHTS = {"l1": 1.0, "lpips": 0.5, "latent": 0.1}


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
    reference: Tensor  # (N, 16, 32, 32)
    codes: Tensor  # (N, code)
    latents: Tensor  # (N, 16, 32, 32)
    images: Tensor  # (N, 3, 256, 256) in [-1, 1]


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
        self.weight = pixel_weight()

    def __call__(self, net: nn.Module, step: int) -> dict[str, Tensor]:
        batch = next(self.batches)
        answer = net(batch.masked, batch.reference, batch.codes + CODE_NOISE * torch.randn_like(batch.codes)).float()
        lower = self.autoencoder.decode(answer[:, :, DECODED_FROM:].contiguous(memory_format=torch.channels_last))
        painted = lower[:, :, JUDGED_FROM_PX - 8 * DECODED_FROM :].float()
        target = batch.images[:, :, JUDGED_FROM_PX:]
        top, left = step % 8, 44 + (step // 8) % 16
        size = (256 - JUDGED_FROM_PX - 8, 152)
        seen = self.lpips(shifted_window(painted, top, left, size), shifted_window(target, top, left, size))
        return {
            "l1": weighted_l1(painted, target, self.weight),
            "lpips": seen,
            "latent": (answer - batch.latents).abs().mean(),
        }


def pixel_weight() -> Tensor:
    """(256 - JUDGED_FROM_PX, 256): 1 at the edge, 3 about the mouth, mean 1."""
    rows = torch.arange(JUDGED_FROM_PX, 256).float()[:, None]
    columns = torch.arange(256).float()[None]
    near = torch.exp(-(((rows - 195) / 40) ** 2 + ((columns - 128) / 56) ** 2))
    weight = 1 + 2 * near
    return weight / weight.mean()


def pairs(clips: list[FaceClip], latents: list[NDArray[np.float16]], batch: int, seed: int) -> Iterator[Pairs]:
    """Endless batches: a clip by the square root of its length, a frame, and a frame to refer to."""
    random = np.random.default_rng(seed)
    chance = np.sqrt([clip.rows for clip in clips])
    chance /= chance.sum()
    while True:
        drawn = [(int(c), int(random.integers(clips[c].rows))) for c in random.choice(len(clips), batch, p=chance)]
        refers = [clips[c].reference(row, random) for c, row in drawn]
        yield Pairs(
            masked=_stacked([latents[c][row, 0] for c, row in drawn]),
            reference=_stacked([latents[c][ref, 1] for (c, _), ref in zip(drawn, refers, strict=True)]),
            codes=_stacked([clips[c].codes[row] for c, row in drawn]),
            latents=_stacked([latents[c][row, 1] for c, row in drawn]),
            images=from_rgb(np.stack([clips[c].crops[row] for c, row in drawn])),
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

"""The lip mover of the lite family. In: crops' latents with their landmarks, the basis of lip codes. Out: a Trainee of the loop.

Only the finder of landmarks learns; the geometry comes from the basis.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from musetalk_cli.crop import hide_mouth
from musetalk_cli.models.lip_codes import CodeBasis
from musetalk_cli.models.lite import Autoencoder, LipMover, from_rgb
from musetalk_cli.training.data import FaceClip
from musetalk_cli.training.loop import Answer, LoopConfig, Nets, Pair
from musetalk_cli.training.report import Validation

NOISE = 0.2  # on latents of unit variance
LIPS_SHARE = 3.0  # how much more a point of the mouth or nose counts than one of the brows


@dataclass(frozen=True, slots=True)
class MoverConfig:
    """One training of the mover."""

    fit_basis: bool = (
        False  # a basis of lip codes from these samples; it makes lips.safetensors speak of other numbers: `lips` next
    )
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=3000, batch=48, rate=1.5e-3, final_rate=5e-5, weight_decay=0.02, log_every=200)
    )


class FaceRow(NamedTuple):
    """One face."""

    latent: NDArray[np.float32]  # (C, 32, 32)
    points: NDArray[np.float32]  # (68, 2) px in the crop
    spoil: NDArray[np.float32]  # () how much of NOISE


@dataclass(frozen=True, slots=True)
class FaceRows:
    """A random frame of all that there are."""

    clips: Sequence[FaceClip]
    latents: Sequence[NDArray[np.float16]]  # (K, 2, C, 32, 32) of each, masked and whole
    ends: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", np.cumsum([clip.rows for clip in self.clips]))

    def row(self, random: np.random.Generator) -> FaceRow:
        drawn = int(random.integers(self.ends[-1]))
        clip = int(np.searchsorted(self.ends, drawn, "right"))
        frame = drawn - int(self.ends[clip]) + self.clips[clip].rows
        latent = self.latents[clip][frame, 1].astype(np.float32)
        return FaceRow(latent, self.clips[clip].points[frame], np.array(random.random(), np.float32))


class FinderPass(nn.Module):
    """The finder as one net: what several processes synchronise is a call of forward."""

    def __init__(self, mover: LipMover) -> None:
        super().__init__()
        self.mover = mover

    def forward(self, latents: Tensor) -> Tensor:
        """(N, C, 32, 32) -> (N, 68, 2) px."""
        return self.mover.landmarks(latents)


class MoverTrainee:
    """The mover as the loop trains it."""

    def __init__(self, mover: LipMover, rows: FaceRows) -> None:
        self.networks: Nets = {"mover": FinderPass(mover.requires_grad_(True))}
        self.discriminators: Nets = {}
        self.rows = rows

    def weights(self, step: int) -> Mapping[str, float]:
        return {"px": 1.0}

    def to(self, device: torch.device) -> None:
        pass

    def generator_terms(self, networks: Nets, discriminators: Nets, batch: FaceRow, weights: Mapping[str, float]) -> Answer:
        seen, points = torch.as_tensor(batch.latent), torch.as_tensor(batch.points)
        spoiled = seen + NOISE * torch.randn_like(seen) * torch.as_tensor(batch.spoil).view(-1, 1, 1, 1)
        weight = torch.ones(68, 1, device=seen.device)
        weight[27:] = LIPS_SHARE
        return Answer({"px": ((networks["mover"](spoiled) - points).abs() * weight).mean() / weight.mean()})

    def discriminator_terms(self, discriminators: Nets, pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
        return {}

    def validate(self, networks: Nets) -> Validation | None:
        return None


def set_geometry(mover: LipMover, clips: Sequence[FaceClip], basis: CodeBasis) -> None:
    """The mean face in the crop, and the basis of lip codes."""
    mover.mean.copy_(torch.from_numpy(np.mean([clip.points.mean(0) for clip in clips], 0)))
    for name in ("template", "slope", "shapes", "spread"):
        getattr(mover, name).copy_(torch.from_numpy(getattr(basis, name)))


def basis_of(mover: LipMover) -> CodeBasis:
    """The basis of lip codes that a mover was given."""
    return CodeBasis(*(getattr(mover, name).numpy().copy() for name in ("template", "slope", "shapes", "spread")))


def clip_latents(clip: FaceClip, autoencoder: Autoencoder, folder: Path) -> NDArray[np.float16]:
    """(K, 2, C, 32, 32): masked and whole latents of each crop, computed once."""
    path = folder / f"{clip.name}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"part.{os.getpid()}.{path.name}")
        parts = [np.array(clip.crops[begin : begin + 16]) for begin in range(0, clip.rows, 16)]
        whole = [np.stack([encoded(autoencoder, images) for images in (hide_mouth(part), part)], 1) for part in parts]
        np.save(beside, np.concatenate(whole))
        os.replace(beside, path)
    found: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return found


@torch.no_grad()
def encoded(autoencoder: Autoencoder, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
    """(N, 256, 256, 3) -> (N, C, 32, 32) in bfloat16, which is twice as fast and enough to learn from."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(from_rgb(crops))
    found: NDArray[np.float16] = latents.to(torch.float16).contiguous().numpy()
    return found

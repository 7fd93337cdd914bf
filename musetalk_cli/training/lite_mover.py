"""The lip mover of the lite family. In: crops' latents with their landmarks, the basis of lip codes. Out: a LipMover."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from musetalk_cli.crop import hide_mouth
from musetalk_cli.models.lite import Autoencoder, LipMover, LiteConfig, from_rgb
from musetalk_cli.training.data import CodeBasis, FaceClip
from musetalk_cli.training.loop import LoopConfig, new_state, train

NOISE = 0.2  # on latents of unit variance
LIPS_SHARE = 3.0  # how much more a point of the mouth or nose counts than one of the brows


def train_mover(
    clips: list[FaceClip], latents: list[NDArray[np.float16]], basis: CodeBasis, sizes: LiteConfig, out: Path, loop: LoopConfig
) -> LipMover:
    """Trains the finder of landmarks; the geometry comes from the basis. Saved as `mover.pt`."""
    net = LipMover(sizes)
    net.mean.copy_(torch.from_numpy(np.mean([clip.points.mean(0) for clip in clips], 0)))
    for name in ("template", "slope", "shapes", "spread"):
        getattr(net, name).copy_(torch.from_numpy(getattr(basis, name)))
    batches = faces(clips, latents, 48, seed=0)
    weight = torch.ones(68, 1)
    weight[27:] = LIPS_SHARE

    def terms(net: nn.Module, step: int) -> dict[str, Tensor]:
        assert isinstance(net, LipMover)
        seen, points = next(batches)
        found = net.landmarks(seen + NOISE * torch.randn_like(seen) * torch.rand(len(seen), 1, 1, 1))
        return {"px": ((found - points).abs() * weight).mean() / weight.mean()}

    state = train(new_state(net, loop), terms, {"px": 1.0}, loop, out / "mover.checkpoint.pt")
    assert isinstance(state.average, LipMover)
    beside = out / "part.mover.pt"
    torch.save(state.average.state_dict(), beside)
    os.replace(beside, out / "mover.pt")
    return state.average


def clip_latents(clip: FaceClip, autoencoder: Autoencoder, folder: Path) -> NDArray[np.float16]:
    """(K, 2, 16, 32, 32): masked and whole latents of each crop, computed once."""
    path = folder / f"{clip.name}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"part.{path.name}")
        parts = [np.array(clip.crops[begin : begin + 16]) for begin in range(0, clip.rows, 16)]
        whole = [np.stack([encoded(autoencoder, images) for images in (hide_mouth(part), part)], 1) for part in parts]
        np.save(beside, np.concatenate(whole))
        os.replace(beside, path)
    found: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return found


@torch.no_grad()
def encoded(autoencoder: Autoencoder, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
    """(N, 256, 256, 3) -> (N, 16, 32, 32) in bfloat16, which is twice as fast and enough to learn from."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(from_rgb(crops))
    found: NDArray[np.float16] = latents.to(torch.float16).contiguous().numpy()
    return found


def faces(clips: list[FaceClip], latents: list[NDArray[np.float16]], batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of whole latents (N, 16, 32, 32) and their landmarks (N, 68, 2) in the crop."""
    random = np.random.default_rng(seed)
    rows = np.array([(c, row) for c, clip in enumerate(clips) for row in range(clip.rows)])
    while True:
        drawn = rows[random.integers(0, len(rows), batch)]
        seen = np.stack([latents[c][row, 1] for c, row in drawn]).astype(np.float32)
        points = np.stack([clips[c].points[row] for c, row in drawn])
        yield torch.from_numpy(seen), torch.from_numpy(points)

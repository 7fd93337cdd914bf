"""Trains the lip judge that comes along, on a CPU core in minutes. In: sets that `musetalk prepare` made. Out: a folder for LipJudge.

    musetalk prepare CLIPS SET                          once for each folder of clips
    python examples/train_judge.py OUT SET [SET ...]    then try it: LipJudge(Path("OUT"))

One net for each fold of people, on everybody else; what it says of people whom it has not seen tells how good it is, and which clips
are out of step: those are moved or left out before the second round. Hears the sound alone: no network that `lite` uses or was
trained by. Figures go to OUT/figures.json.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.metrics.lips import correlation
from musetalk_cli.metrics.lse import REACH
from musetalk_cli.metrics.sync import MOMENTS_PER_SECOND, WINDOW, Asked, LipSync, judge_lips, seen_lips
from musetalk_cli.models.lip_judge import HALF, RATE_HZ, JudgeConfig, JudgeNet, levelled, mel_blocks, save_judge
from musetalk_cli.models.syncnet import MELS, MELS_PER_SECOND
from musetalk_cli.training.dataset import FPS, Sample, read_samples

IMPORTANCE = torch.tensor([3.0, 1.0, 1.0, 1.5])
LEAST_FRAMES = WINDOW + REACH + MOMENTS_PER_SECOND
MOST_SHIFT_S = 4 / MOMENTS_PER_SECOND  # by which a clip is moved; further off it is left out
LEAST_CONFIDENCE = 0.05


@dataclass(frozen=True, slots=True)
class Clip:
    """Lips and sound of F frames."""

    sample: Sample
    columns: NDArray[np.float32]  # (C, 80) levelled, HALF more at both ends
    lips: NDArray[np.float32]  # (F, NUMBERS)
    shift_s: float = 0.0  # by which the lips come after the voice

    def centres(self) -> NDArray[np.int64]:
        """(F,) the first of the columns that are heard for each frame."""
        column = (np.arange(len(self.lips)) / FPS - self.shift_s) * MELS_PER_SECOND
        return np.clip(np.round(column), 0, len(self.columns) - 2 * HALF - 1).astype(np.int64)


def main() -> None:
    """Parse, train, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    clips = [clip_of(sample) for sample in read_samples(given.sets) if sample.frames >= LEAST_FRAMES and len(sample.speech())]
    config = JudgeConfig()
    nets = nn.ModuleList(JudgeNet(config) for _ in range(config.nets))
    fold_of = folds_of(clips, config.nets)
    for turn in range(given.rounds):
        folds = [fold_of[clip.sample.identity] for clip in clips]
        for fold in range(config.nets):
            others = [clip for clip, own in zip(clips, folds, strict=True) if own != fold]
            nets[fold] = fitted(JudgeNet(config), others, given.epochs, fold)
        answers = [answer(nets[fold : fold + 1], clip) for clip, fold in zip(clips, folds, strict=True)]
        print(f"round {turn + 1}: {len(clips)} clips; unseen people, median r {agreement(clips, answers)}", flush=True)
        figures = {
            "clips": len(clips),
            "minutes": sum(len(clip.lips) for clip in clips) / FPS / 60,
            "r": agreement(clips, answers),
        }
        if turn + 1 < given.rounds:
            clips = in_step(clips, answers)
    spread = np.concatenate([answer(nets, clip) for clip in clips]).std(0)
    save_judge(given.out, config, nets, spread)
    (given.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def clip_of(sample: Sample) -> Clip:
    """A sample as the judge hears and sees it."""
    lips, _ = seen_lips(sample.landmarks, np.arange(sample.frames) / FPS)
    columns = np.concatenate(list(levelled(mel_blocks([sample.speech()]))))
    return Clip(sample, np.pad(columns, ((HALF, HALF), (0, 0)), mode="edge"), lips.astype(np.float32))


def folds_of(clips: Sequence[Clip], folds: int) -> dict[str, int]:
    """A fold for each identity, all about equally long."""
    length: dict[str, int] = {}
    for clip in clips:
        length[clip.sample.identity] = length.get(clip.sample.identity, 0) + len(clip.lips)
    chosen, filled = {}, [0] * folds
    for identity in sorted(length, key=lambda name: (-length[name], name)):
        chosen[identity] = int(np.argmin(filled))
        filled[chosen[identity]] += length[identity]
    return chosen


def fitted(net: JudgeNet, clips: Sequence[Clip], epochs: int, seed: int) -> JudgeNet:
    """The net after `epochs` over all frames."""
    torch.manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.Conv1d):
            layer.reset_parameters()
    begins = np.cumsum([0, *(len(clip.columns) for clip in clips)])
    columns = torch.from_numpy(np.concatenate([clip.columns for clip in clips]))
    first = torch.from_numpy(np.concatenate([begin + clip.centres() for begin, clip in zip(begins, clips, strict=False)]))
    lips = torch.from_numpy(np.concatenate([clip.lips for clip in clips]))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    batches = list(_batches(len(first), epochs))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=len(batches), pct_start=0.1)
    net.train()
    for rows in batches:
        heard = heard_elsewhere(columns[first[rows, None] + torch.arange(2 * HALF + 1)])
        error = functional.smooth_l1_loss(net(heard.transpose(1, 2))[..., 0], lips[rows], reduction="none")
        optimiser.zero_grad()
        (error * IMPORTANCE).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return net.eval()


def _batches(frames: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.split(torch.randperm(frames), 256)


def heard_elsewhere(windows: Tensor) -> Tensor:
    """(N, T, 80): louder or softer, duller or brighter, noisier, and by a higher or lower voice."""
    few = (len(windows), 1, 1)
    tilt = 0.3 * torch.randn(few) + 0.3 * torch.randn(few) * torch.linspace(-1, 1, MELS)
    band = (torch.arange(MELS) + torch.randint(-3, 4, (1,))).clamp(0, MELS - 1)
    return windows[..., band] + tilt + 0.15 * torch.randn(windows.shape)


@torch.no_grad()
def answer(nets: nn.ModuleList, clip: Clip) -> NDArray[np.float32]:
    """(T, NUMBERS), 40 a second."""
    heard = torch.from_numpy(clip.columns.T[None].copy())
    found: NDArray[np.float32] = torch.stack([net(heard) for net in nets]).mean(0)[0].T.numpy()
    return found


def agreement(clips: Sequence[Clip], answers: Sequence[NDArray[np.float32]]) -> list[float]:
    """Median over clips of each number's correlation."""
    found = []
    for clip, told in zip(clips, answers, strict=True):
        rows = np.clip(np.round((np.arange(len(clip.lips)) / FPS - clip.shift_s) * RATE_HZ), 0, len(told) - 1).astype(int)
        found.append([correlation(told[rows, number], clip.lips[:, number]) for number in range(clip.lips.shape[1])])
    return [round(float(value), 3) for value in np.median(found, 0)]


def in_step(clips: Sequence[Clip], answers: Sequence[NDArray[np.float32]]) -> list[Clip]:
    """Clips whose lips follow the voice, each moved to where they do best; about the middle of all, so that nothing drifts."""
    spread = np.concatenate(answers).std(0)
    judged = [judged_clip(clip, told / spread) for clip, told in zip(clips, answers, strict=True)]
    middle = float(np.median([sync.offset_s for sync in judged if sync is not None]))
    kept = [
        replace(clip, shift_s=sync.offset_s - middle)
        for clip, sync in zip(clips, judged, strict=True)
        if sync is not None and sync.confidence > LEAST_CONFIDENCE and abs(sync.offset_s - middle) <= MOST_SHIFT_S
    ]
    print(f"in step: {len(kept)} of {len(clips)}, the middle {1000 * middle:.0f} ms", flush=True)
    return kept


def judged_clip(clip: Clip, told: NDArray[np.float32]) -> LipSync | None:
    """The clip with its own sound."""
    asked = Asked(told, np.ones(len(told), np.float32), RATE_HZ)
    return judge_lips(clip.sample.landmarks, np.arange(clip.sample.frames) / FPS, asked)


if __name__ == "__main__":
    main()

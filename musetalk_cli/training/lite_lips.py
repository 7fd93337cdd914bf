"""The lip encoder of the lite family. In: samples with speech, a basis of lip codes. Out: a LipEncoder from whisper windows to lip codes.

    1. one net for each fold of people, on all other people; the fold it has not seen tells when to stop
    2. what the nets say of people they have not seen shows which clips are out of step: those are shifted or left out
    3. the nets once more on the better clips
    4. knots: the spread of the answers carried over to the spread of real lips

Targets are in units of each speaker's own habit, so that the nets learn speech and not faces.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from musetalk_cli.metrics.lips import correlation, shifted_correlation
from musetalk_cli.models.lip_codes import CodeBasis, lip_codes
from musetalk_cli.models.lite import HEARD_LAYER, WINDOW_TOKENS, LipEncoder, LipNet, LiteConfig
from musetalk_cli.models.whisper import hidden_states
from musetalk_cli.models.whisper_encoder import SAMPLE_RATE_HZ
from musetalk_cli.training.dataset import Sample

if TYPE_CHECKING:
    from musetalk_cli.models.whisper_encoder import WhisperEncoder

MAX_SHIFT = 4  # frames by which a clip's sound may be off and is put right
FAR_SHIFT = 20
LEAST_AGREEMENT = 0.15  # of lips and voice; below that a clip teaches noise
MIRROR_GAIN = 1.5  # most that the knots may stretch a number


@dataclass(frozen=True, slots=True)
class LipsConfig:
    """Length and strength of the fit."""

    fit_basis: bool = False  # a basis of lip codes from these samples first; the U-Net was told of other numbers: `stage1` next
    epochs: int = 8
    batch: int = 256
    rate: float = 1e-3
    weight_decay: float = 0.05
    noise: float = 0.3  # on tokens of unit variance
    dropout: float = 0.4
    silence_share: float = 0.04  # of each batch: silence, lips closed
    seed: int = 0
    rounds: int = 2


@dataclass(frozen=True, slots=True)
class VoiceClip:
    """Lips and voice of one clip, F frames at 25 a second."""

    name: str
    identity: str
    tokens: NDArray[np.float16]  # (T, 384), the heard layer
    codes: NDArray[np.float32]  # (F, code), NaN where there is no face
    shift: int = 0  # frames by which the sound is late

    def habits(self) -> NDArray[np.float32]:
        """(F, code): the opening in units of its own spread, the shapes about their own median likewise."""
        spread = np.clip(np.nanstd(self.codes, 0), 0.35, 3.0)
        middle = np.nanmedian(self.codes, 0)
        middle[0] = 0.0
        return np.asarray(np.clip((self.codes - middle) / spread, -4, 4), np.float32)

    def padded(self) -> NDArray[np.float16]:
        """(2 F + 10, 384) tokens, the shift put right: the window of frame i is [2 i, 2 i + 10); zeros outside the voice."""
        index = np.arange(2 * len(self.codes) + WINDOW_TOKENS) - 4 + 2 * self.shift
        inside = (index >= 0) & (index < len(self.tokens))
        return np.where(inside[:, None], self.tokens[np.clip(index, 0, len(self.tokens) - 1)], np.float16(0))


def voice_clips(samples: Sequence[Sample], basis: CodeBasis) -> list[VoiceClip]:
    """The samples that have a voice and a face most of the time."""
    found = []
    for sample in samples:
        codes, features = lip_codes(sample.landmarks, basis), sample.features()
        if len(features) and np.mean(~np.isnan(codes[:, 0])) > 0.7:
            found.append(VoiceClip(sample.name, sample.identity, features[:, HEARD_LAYER], codes))
    return found


def silent_tokens(encoder: "WhisperEncoder", seed: int = 0) -> NDArray[np.float16]:
    """(T, 5, 384): what whisper-tiny hears in silence and in faint noise."""
    random = np.random.default_rng(seed)
    noises = [(level * random.standard_normal(6 * SAMPLE_RATE_HZ)).astype(np.float32) for level in (0.0, 1e-4, 1e-3, 4e-3)]
    return np.concatenate([hidden_states(encoder, noise) for noise in noises])


def fit_lips(clips: list[VoiceClip], silence: NDArray[np.float16], sizes: LiteConfig, config: LipsConfig) -> LipEncoder:
    """The fitted encoder; silence: (T, 384) tokens of whisper hearing nothing."""
    torch.manual_seed(config.seed)
    encoder = LipEncoder(sizes)
    tokens = torch.from_numpy(np.concatenate([clip.tokens for clip in clips]).astype(np.float32))
    encoder.token_mean.copy_(tokens.mean(0))
    encoder.token_std.copy_(tokens.std(0) + 1e-3)
    for attempt in range(config.rounds):
        folds = fold_of(clips, sizes.lip_nets)
        for index in range(sizes.lip_nets):
            seen = [clip for clip, fold in zip(clips, folds, strict=True) if fold != index]
            unseen = [clip for clip, fold in zip(clips, folds, strict=True) if fold == index]
            encoder.nets[index] = _fit_net(encoder, seen, unseen, silence, sizes, config, config.seed + index)
        answers = [_answer(encoder, fold, clip) for clip, fold in zip(clips, folds, strict=True)]
        scores = [correlation(a[:, 0], clip.codes[:, 0]) for a, clip in zip(answers, clips, strict=True)]
        print(f"round {attempt}: {len(clips)} clips, median r of unseen people {np.median(scores):.3f}", flush=True)
        if attempt + 1 < config.rounds:
            clips = in_step(clips, answers)
    set_knots(encoder, np.concatenate(answers), np.concatenate([clip.codes for clip in clips]))
    return encoder.eval()


def fold_of(clips: list[VoiceClip], folds: int) -> list[int]:
    """A fold for each clip; all clips of a person in the same one, folds of about equal length."""
    length: dict[str, int] = {}
    for clip in clips:
        length[clip.identity] = length.get(clip.identity, 0) + len(clip.codes)
    filled, chosen = [0] * folds, {}
    for identity in sorted(length, key=lambda name: (-length[name], name)):
        fold = int(np.argmin(filled))
        chosen[identity], filled[fold] = fold, filled[fold] + length[identity]
    return [chosen[clip.identity] for clip in clips]


def in_step(clips: list[VoiceClip], answers: list[NDArray[np.float32]]) -> list[VoiceClip]:
    """Clips whose lips agree with what was heard, each shifted to where they agree best; the others are left out."""
    kept = []
    for clip, answer in zip(clips, answers, strict=True):
        scores = {s: shifted_correlation(answer[:, 0], clip.codes[:, 0], s) for s in range(-FAR_SHIFT, FAR_SHIFT + 1)}
        near = max(range(-MAX_SHIFT, MAX_SHIFT + 1), key=lambda s: scores[s] - 0.01 * abs(s))
        if scores[near] >= LEAST_AGREEMENT and scores[near] >= max(scores.values()) - 0.1:
            kept.append(replace(clip, shift=clip.shift - near))
    print(f"in step: {len(kept)} of {len(clips)}", flush=True)
    return kept


def set_knots(encoder: LipEncoder, heard: NDArray[np.float32], real: NDArray[np.float32]) -> None:
    """Carries the quantiles of the answers over to those of real lips; a number that is hardly heard is not stretched far."""
    valid = ~np.isnan(real[:, 0])
    levels = np.linspace(0.005, 0.995, encoder.knots_heard.shape[1])
    for column in range(heard.shape[1]):
        xs, ys = np.quantile(heard[valid, column], levels), np.quantile(real[valid, column], levels)
        if column > 0:
            agreement = max(correlation(heard[valid, column], real[valid, column]), 0.0)
            ys = (ys - np.median(ys)) * min(1.0, MIRROR_GAIN * agreement)
        encoder.knots_heard[column] = torch.from_numpy(np.maximum.accumulate(xs + 1e-5 * np.arange(len(xs))))
        encoder.knots_real[column] = torch.from_numpy(ys)


class _Bank:
    """The frames of many clips, ready to be drawn: standardised tokens in one piece, and where each frame's window begins."""

    def __init__(self, encoder: LipEncoder, clips: list[VoiceClip], silence: NDArray[np.float16]) -> None:
        parts = [clip.padded() for clip in clips]
        starts = np.cumsum([0, *(len(part) for part in parts)])
        whole = np.concatenate([*parts, silence, np.zeros_like(silence[:1])]).astype(np.float32)
        self.tokens = encoder.standardised(torch.from_numpy(whole))
        voiced = [np.flatnonzero(~np.isnan(clip.codes[:, 0])) for clip in clips]
        spoken = [start + 2 * rows for start, rows in zip(starts, voiced, strict=False)]
        self.start = torch.from_numpy(np.concatenate(spoken))
        self.habits = torch.from_numpy(np.concatenate([clip.habits()[rows] for clip, rows in zip(clips, voiced, strict=True)]))
        self.quiet = torch.arange(int(starts[-1]), int(starts[-1]) + len(silence) - WINDOW_TOKENS)

    def batches(self, config: LipsConfig, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """(N, 10, 384), (N, code): every frame once in random order, and some silence with lips closed in each batch."""
        order = torch.randperm(len(self.start), generator=random)
        quiet = int(config.batch * config.silence_share)
        for rows in torch.split(order, config.batch):
            still = self.quiet[torch.randint(len(self.quiet), (quiet,), generator=random)]
            window = torch.cat([self.start[rows], still])[:, None] + torch.arange(WINDOW_TOKENS)
            window[len(rows) : len(rows) + quiet // 4] = len(self.tokens) - 1  # outside the voice: zeros
            closed = torch.zeros(quiet, self.habits.shape[1])
            yield self.tokens[window], torch.cat([self.habits[rows], closed])


def _fit_net(
    encoder: LipEncoder,
    seen: list[VoiceClip],
    unseen: list[VoiceClip],
    silence: NDArray[np.float16],
    sizes: LiteConfig,
    config: LipsConfig,
    seed: int,
) -> LipNet:
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    net, bank = LipNet(sizes, config.dropout), _Bank(encoder, seen, silence)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs)
    best, best_score, scores = deepcopy(net), -1.0, []
    for _ in range(config.epochs):
        net.train()
        for tokens, habits in bank.batches(config, random):
            error = functional.smooth_l1_loss(net(tokens + config.noise * torch.randn_like(tokens)), habits, reduction="none")
            loss = (error * _IMPORTANCE[: error.shape[1]]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
        net.eval()
        scores.append(float(np.median([correlation(_net_answer(encoder, net, clip)[:, 0], clip.codes[:, 0]) for clip in unseen])))
        if scores[-1] > best_score:
            best, best_score = deepcopy(net), scores[-1]
    print(f"  net {seed}: r of unseen people by epoch {' '.join(f'{score:.3f}' for score in scores)}", flush=True)
    return best.eval()


_IMPORTANCE = torch.tensor([3.0] + [1.0] * 31)  # the opening counts most


@torch.no_grad()
def _net_answer(encoder: LipEncoder, net: LipNet, clip: VoiceClip) -> NDArray[np.float32]:
    padded = encoder.standardised(torch.from_numpy(clip.padded().astype(np.float32)))
    windows = padded[2 * torch.arange(len(clip.codes))[:, None] + torch.arange(WINDOW_TOKENS)]
    answer: NDArray[np.float32] = net(windows).numpy()
    return answer


def _answer(encoder: LipEncoder, fold: int, clip: VoiceClip) -> NDArray[np.float32]:
    net = encoder.nets[fold]
    assert isinstance(net, LipNet)
    return _net_answer(encoder, net, clip)

"""SyncNet, the expert of the sync term. In: samples with voices. Out: a Trainee of the loop, and how well it tells.

    16 frames of a face -> lower halves --.
    what was heard meanwhile -------------|- SyncNet -> cosines -> nce or bce
    what was heard 2 to 25 frames off ----'                           other voices: those of the batch

`nce` asks which of many voices belongs to the face: other people's, and the same one's a little earlier or later. `bce` asks yes or
no of one pair, as LatentSync and Wav2Lip do. Validation: accuracy and area under the curve for both kinds of wrong voice, and how
often the offset is found to a frame. Of several processes each has its own batch's voices for wrong ones.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from musetalk_cli.crop import CROP_PX, MASK_ROW, crop_face
from musetalk_cli.errors import InputError
from musetalk_cli.models.syncnet import FRAMES, SyncNet, SyncNetConfig
from musetalk_cli.training import losses
from musetalk_cli.training.dataset import INFERENCE_MARGIN, Sample, iterate_frames
from musetalk_cli.training.loop import Answer, LoopConfig, Nets, Pair
from musetalk_cli.training.report import Validation
from musetalk_cli.training.validation import area_under_curve
from musetalk_cli.training.windows import Hear, hearing

SHIFTS = (2, 25)  # frames by which a voice of the same clip is off; nearer ones are hardly wrong
RADIUS = 15  # frames either way in which an offset is looked for, as SyncNet's evaluation does
VAL_WINDOWS = 96
OFFSET_CLIPS = 24
CACHE = "lower_halves"


class SyncWeights(NamedTuple):
    """The factor of each term; 0 leaves it out."""

    nce: float = 1.0
    bce: float = 0.0


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """One training of a SyncNet."""

    size: Literal["small", "published"] = "small"
    audio: Literal["whisper", "mel"] = "whisper"  # the published one hears mels
    weights: SyncWeights = field(default_factory=SyncWeights)
    shifted: int = 3  # voices of the same clip, off by SHIFTS, beside each right one
    colour: float = 0.15  # standard deviation of a window's brightness and contrast
    noise: float = 0.1  # on what is heard, in its own spread
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=6000, batch=32, rate=5e-4, final_rate=1e-5, weight_decay=0.05, ema=0.99, precision="bf16", validate_every=500
        )
    )

    def sizes(self) -> SyncNetConfig:
        return SyncNetConfig.published() if self.size == "published" else SyncNetConfig.small(self.audio)


class SyncRow(NamedTuple):
    """A window and the voices it is compared with."""

    lower: NDArray[np.uint8]  # (16, h, w, 3) RGB, 128 x 256 shrunk by the net's own pooling
    sounds: NDArray[np.float32]  # (1 + shifted, ...): the right one, then those of the same clip at other times
    gain: NDArray[np.float32]  # (2,) contrast and lift
    place: NDArray[np.int64]  # (2,) sample, first frame


@dataclass(frozen=True, slots=True)
class SyncRows:
    """Windows of samples that speak. Pictures are cut and shrunk once and kept in `cache`."""

    samples: tuple[Sample, ...]
    cache: Path
    config: SyncConfig
    shrink: int  # the net's pooling: pictures are kept at that size
    hear: Hear
    chance: NDArray[np.float64] = field(init=False)
    pictures: dict[int, NDArray[np.uint8]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.samples:
            raise InputError("no sample of 16 frames and more has a voice", "prepare films in which people speak")
        chance = np.sqrt([sample.frames for sample in self.samples])
        object.__setattr__(self, "chance", chance / chance.sum())

    def row(self, random: np.random.Generator) -> SyncRow:
        index = int(random.choice(len(self.samples), p=self.chance))
        start = int(random.integers(self.samples[index].frames - FRAMES + 1))
        return self.at(index, start, random, varied=True)

    def at(self, index: int, start: int, random: np.random.Generator, *, varied: bool = False) -> SyncRow:
        """A window; varied: mirrored by chance, with other light and noise on what is heard."""
        sample, config = self.samples[index], self.config
        lower = np.array(self.lower(index)[start : start + FRAMES])
        starts = [start, *(start + shift for shift in _shifts(config.shifted, start, sample.frames, random))]
        sounds = np.stack([self.hear(sample, first) for first in starts])
        gain = np.zeros(2, np.float32)
        if varied:
            lower = lower[:, :, ::-1].copy() if random.random() < 0.5 else lower
            gain = (config.colour * random.standard_normal(2)).astype(np.float32)
            sounds += (config.noise * sounds.std() * random.standard_normal(sounds.shape, np.float32)).astype(np.float32)
        return SyncRow(lower, sounds, gain, np.array([index, start]))

    def lower(self, index: int) -> NDArray[np.uint8]:
        """(F, h, w, 3) lower halves of a sample's crops, mapped."""
        if index not in self.pictures:
            self.pictures[index] = lower_halves(self.samples[index], self.cache, self.shrink)
        return self.pictures[index]


def sync_rows(samples: Sequence[Sample], cache: Path, config: SyncConfig) -> SyncRows:
    """Rows of samples that have 16 frames and more, and a voice."""
    sizes = config.sizes()
    return SyncRows(tuple(samples), cache / CACHE, config, sizes.pool, hearing(sizes.audio))


def lower_halves(sample: Sample, cache: Path, shrink: int) -> NDArray[np.uint8]:
    """(F, 128 / shrink, 256 / shrink, 3) RGB of every frame's crop, mapped; made once and kept in `cache`."""
    path = cache / f"{sample.folder.parent.parent.name}.{sample.name}.{shrink}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        boxes, size = sample.boxes(INFERENCE_MARGIN), (CROP_PX // shrink, MASK_ROW // shrink)
        crops = (crop_face(frame, box)[MASK_ROW:] for frame, box in zip(iterate_frames(sample), boxes, strict=True))
        beside = path.with_name(f"part.{os.getpid()}.{path.name}")
        np.save(beside, np.stack([cv2.resize(crop, size, interpolation=cv2.INTER_AREA) for crop in crops]))
        os.replace(beside, path)
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


class SyncTrainee:
    """A SyncNet as the loop trains it."""

    def __init__(self, config: SyncConfig, net: SyncNet, rows: SyncRows, held: SyncRows | None) -> None:
        self.config, self.rows, self.held = config, rows, held
        self.discriminators: Nets = {}
        self.networks: Nets = {"syncnet": net.requires_grad_(True)}
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch 2.13 leaves it out of the signature
        self.device = torch.device("cpu")

    def weights(self, step: int) -> Mapping[str, float]:
        return {name: weight for name, weight in self.config.weights._asdict().items() if weight}

    def to(self, device: torch.device) -> None:
        self.device = device

    def generator_terms(self, networks: Nets, discriminators: Nets, batch: SyncRow, weights: Mapping[str, float]) -> Answer:
        gain, place, sounds = (torch.as_tensor(part) for part in (batch.gain, batch.place, batch.sounds))
        images = frames_of(torch.as_tensor(batch.lower), self.rows.shrink)
        images = images * (1 + gain[:, 0]).view(-1, 1, 1, 1) + gain[:, 1].view(-1, 1, 1, 1)
        faces, voices = networks["syncnet"](images.clamp(-1, 1), sounds.flatten(0, 1))
        heard = voices.view(*sounds.shape[:2], -1)  # (N, 1 + shifted, D)
        terms = {}
        if "nce" in weights:
            terms["nce"] = shifted_nce(faces, heard, near(place))
        if "bce" in weights:
            terms["bce"] = _yes_or_no(faces, heard)
        return Answer(terms)

    def discriminator_terms(self, discriminators: Nets, pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
        return {}

    def validate(self, networks: Nets) -> Validation | None:
        """Right voice against one of the same clip, and against another person's; offsets found to a frame."""
        if self.held is None:
            return None
        net = networks["syncnet"]
        assert isinstance(net, SyncNet)
        right, shifted, other = self._cosines(net, self.held)
        halfway = (np.median(right) + np.median(np.concatenate([shifted, other]))) / 2
        accuracy = ((right > halfway).mean() + (np.concatenate([shifted, other]) <= halfway).mean()) / 2
        metrics = {
            "accuracy": float(accuracy),
            "auc_shifted": area_under_curve(right, shifted),
            "auc_other": area_under_curve(right, other),
            "cosine": float(right.mean()),
            "cosine_wrong": float(np.concatenate([shifted, other]).mean()),
        }
        offsets = np.array([abs(offset_of(net, self.held, index)) for index in range(min(len(self.held.samples), OFFSET_CLIPS))])
        return Validation(
            {**metrics, "offset_within_1": float((offsets <= 1).mean()), "offset_median": float(np.median(offsets))}
        )

    def _cosines(self, net: SyncNet, rows: SyncRows) -> tuple[NDArray[np.float32], ...]:
        """(W,) right, (W * shifted,) of the same clip at other times, (W,) of other people as far as there are."""
        random = np.random.default_rng(0)
        faces, voices, places = [], [], []
        for _ in range(VAL_WINDOWS):
            index = int(random.choice(len(rows.samples), p=rows.chance))
            start = int(random.integers(rows.samples[index].frames - FRAMES + 1))
            row = rows.at(index, start, random)
            face, voice = net(
                frames_of(torch.from_numpy(row.lower[None]).to(self.device), rows.shrink),
                torch.from_numpy(row.sounds).to(self.device),
            )
            faces.append(face[0].float())
            voices.append(voice.float())
            places.append(rows.samples[index].identity)
        heard, people = torch.stack(voices), np.array(places)
        cosine = torch.einsum("nd,nsd->ns", torch.stack(faces), heard).float().cpu().numpy()
        across = (torch.stack(faces) @ heard[:, 0].T).float().cpu().numpy()
        return cosine[:, 0], cosine[:, 1:].ravel(), across[people[:, None] != people[None]]


def frames_of(lower: Tensor, shrink: int) -> Tensor:
    """(N, 16, h, w, 3) uint8 -> (N, 48, 128, 256) in [-1, 1]; what was shrunk by averaging is the same after the net's own average."""
    images = lower.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 127.5 - 1
    return functional.interpolate(images, scale_factor=shrink, mode="nearest") if shrink > 1 else images


def near(place: Tensor) -> Tensor:
    """(N, 2) sample and first frame -> (N, N): windows of the same sample that overlap, oneself left out; no wrong pairs."""
    same = place[:, None, 0] == place[None, :, 0]
    close = (place[:, None, 1] - place[None, :, 1]).abs() < FRAMES
    return same & close & ~torch.eye(len(place), dtype=torch.bool, device=place.device)


def shifted_nce(faces: Tensor, heard: Tensor, left_out: Tensor, temperature: float = losses.TEMPERATURE) -> Tensor:
    """Which voice belongs to a face, of all right ones in the batch and its own shifted ones; and which face to a voice.

    faces: (N, D), heard: (N, 1 + S, D), the right voice first; left_out: (N, N) pairs that are not to be told apart.
    van den Oord et al. 2018; Chung, Chung and Kang 2019 (perfect match) for the shifted ones.
    """
    faces, heard = functional.normalize(faces.float(), dim=1), functional.normalize(heard.float(), dim=2)
    across = (faces @ heard[:, 0].T / temperature).masked_fill(left_out, -torch.inf)
    shifted = torch.einsum("nd,nsd->ns", faces, heard[:, 1:]) / temperature
    own = torch.arange(len(faces), device=faces.device)
    return (functional.cross_entropy(torch.cat([across, shifted], 1), own) + functional.cross_entropy(across.T, own)) / 2


def offset_of(net: SyncNet, rows: SyncRows, index: int, every: int = 8) -> int:
    """Frames by which a sample's voice is late, as the net sees it: where the mean cosine over windows is highest."""
    sample = rows.samples[index]
    device = next(net.parameters()).device
    starts = list(range(0, sample.frames - FRAMES + 1, every))
    stacks = np.stack([rows.lower(index)[start : start + FRAMES] for start in starts])
    faces = net.embed_frames(frames_of(torch.from_numpy(stacks).to(device), rows.shrink)).float()
    firsts = range(-RADIUS, starts[-1] + RADIUS + 1)
    voices = net.embed_audio(torch.from_numpy(np.stack([rows.hear(sample, first) for first in firsts])).to(device)).float()
    means = [float((faces * voices[[start + shift for start in starts]]).sum(1).mean()) for shift in range(2 * RADIUS + 1)]
    return int(np.argmax(means)) - RADIUS


def _yes_or_no(faces: Tensor, heard: Tensor) -> Tensor:
    """BCE of right pairs, and of as many wrong ones: half of another row, half shifted where there are shifted ones."""
    wrong = heard[:, 0].roll(1, 0)
    if heard.shape[1] > 1:
        half = len(wrong) // 2
        wrong = torch.cat([heard[:half, 1], wrong[half:]])
    told = torch.cat([torch.ones(len(faces)), torch.zeros(len(faces))]).to(faces.device)
    with torch.autocast(faces.device.type, enabled=False):  # CUDA's autocast refuses this entropy in half precision
        return losses.sync_pairs(torch.cat([faces, faces]), torch.cat([heard[:, 0], wrong]), told)


def _shifts(count: int, start: int, frames: int, random: np.random.Generator) -> list[int]:
    """How far off the wrong voices of the same clip begin; beyond the clip's end they would be silence, which is too easy."""
    low, high = SHIFTS
    allowed = [shift for size in range(low, high + 1) for shift in (-size, size) if 0 <= start + shift <= frames - FRAMES]
    drawn = random.choice(allowed or [low, -low], count)
    return [int(shift) for shift in drawn]

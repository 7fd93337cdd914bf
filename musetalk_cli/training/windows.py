"""Windows of a face as the stages train on them. In: samples, a random generator. Out: crops to paint, crops to refer to, what is heard.

    a sample -> F consecutive frames -> a reference frame for each (Informative Frame Sampling)
             -> margins for both, apart (Dynamic Margin Sampling) -> 256 px crops, whisper windows, sound

Everything random about a window comes from the generator that is handed in. Knows nothing of nets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.crop import crop_face, face_box
from musetalk_cli.errors import InputError
from musetalk_cli.landmarks import MIRRORED, in_crop
from musetalk_cli.models.family import WINDOW, windows_at
from musetalk_cli.models.syncnet import CONTEXT_TOKENS, WINDOW_TOKENS, windows_of_features, windows_of_speech
from musetalk_cli.models.whisper import STATES
from musetalk_cli.models.whisper_encoder import WIDTH
from musetalk_cli.training.config import MarginConfig, ReferenceConfig
from musetalk_cli.training.dataset import FEATURES, FPS, Sample, read_frames
from musetalk_cli.training.sampling import draw_margins, draw_references

Hear = Callable[[Sample, int], NDArray[np.float32]]  # a sample and a first frame -> what a SyncNet hears of the window


class ReferenceRule(Protocol):
    """Which frame each target refers to: (M,) targets, (K, 68, 2) points of the clip in box coordinates -> (M,) frames."""

    def __call__(
        self, targets: NDArray[np.int64], points: NDArray[np.float32], generator: np.random.Generator
    ) -> NDArray[np.int64]: ...


class Crops(NamedTuple):
    """F faces."""

    rgb: NDArray[np.uint8]  # (F, 256, 256, 3)
    points: NDArray[np.float32]  # (F, 68, 2) px in them


class Window(NamedTuple):
    """F consecutive frames of one face."""

    real: Crops  # what to paint
    references: tuple[Crops, ...]  # a reference for each frame, by each rule
    heard: NDArray[np.float16]  # (F, 10, 5, 384) whisper windows
    sound: NDArray[np.float32]  # what a SyncNet hears of the window; (0,) where none listens
    sample: int  # which one
    frames: NDArray[np.int64]  # (F,) of it


@dataclass(frozen=True, slots=True)
class Augment:
    """How a window is varied, source and reference alike. Zeros leave it as it is."""

    flip: float = 0.0  # share of windows that are mirrored
    colour: float = 0.0  # standard deviation of brightness, contrast and each colour's gain
    turn_deg: float = 0.0  # standard deviation of a turn about the face's middle
    noise: float = 0.0  # standard deviation on whisper's numbers, in units of their spread


@dataclass(frozen=True, slots=True)
class WindowRows:
    """Draws windows from samples. Raises InputError where no sample is long enough."""

    samples: tuple[Sample, ...]
    frames: int
    rules: tuple[ReferenceRule, ...] = ()  # none: no references
    margin: MarginConfig = field(default_factory=MarginConfig)
    hear: Hear | None = None
    augment: Augment = Augment()
    voiced: bool = True  # only samples with speech
    chance: NDArray[np.float64] = field(init=False)  # of each sample
    voices: dict[int, NDArray[np.float16]] = field(init=False, default_factory=dict)  # features, mapped once they are needed

    def __post_init__(self) -> None:
        """A sample counts by the square root of its length: many people matter more than one long clip."""
        usable = [self._usable(sample) for sample in self.samples]
        if not any(usable):
            fact = f"none of {len(self.samples)} samples has {self.frames} frames{' and a voice' if self.voiced else ''}"
            raise InputError(fact, "prepare more or longer films, or choose fewer frames")
        chance = np.sqrt([sample.frames for sample in self.samples]) * usable
        object.__setattr__(self, "chance", chance / chance.sum())

    def row(self, random: np.random.Generator) -> Window:
        """Any window of any sample."""
        index = int(random.choice(len(self.samples), p=self.chance))
        start = int(random.integers(self.samples[index].frames - self.frames + 1))
        return self.window(index, start, random)

    def window(self, index: int, start: int, random: np.random.Generator) -> Window:
        """That window of that sample; references, margins and changes are drawn."""
        sample = self.samples[index]
        targets = start + np.arange(self.frames)
        points = in_crop(sample.landmarks, sample.box)
        chosen = [rule(targets, points, random) for rule in self.rules]
        margins = self._margins(random)
        change = _drawn_change(self.augment, random)
        pictures = read_frames(sample, np.concatenate([targets, *chosen]))
        parts = np.split(pictures, len(chosen) + 1)
        real, *references = (_crops(sample, *part, change) for part in zip((targets, *chosen), parts, margins, strict=True))
        heard = self._heard(index, targets, random)
        return Window(real, tuple(references), heard, self._sound(sample, start), index, targets)

    def _margins(self, random: np.random.Generator) -> list[NDArray[np.int64]]:
        """(F,) for the real frames, all alike, and for the references of each rule."""
        config, rules = self.margin, len(self.rules)
        drawn = draw_margins(
            1,
            random,
            references=self.frames * rules,
            mean_px=config.mean_px,
            std_px=config.std_px,
            shared=config.shared,
            rule=config.rule,
        )
        return [np.repeat(drawn.source, self.frames), *np.split(drawn.reference[0], max(rules, 1))[:rules]]

    def _usable(self, sample: Sample) -> bool:
        return sample.frames >= self.frames and (not self.voiced or (sample.folder / FEATURES).exists())

    def _heard(self, index: int, targets: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float16]:
        if not self.voiced:
            return np.zeros((self.frames, WINDOW, STATES, WIDTH), np.float16)
        if index not in self.voices:
            self.voices[index] = np.load(self.samples[index].folder / FEATURES, mmap_mode="r", allow_pickle=False)
        windows: NDArray[np.float16] = windows_at(self.voices[index], [Fraction(int(frame), FPS) for frame in targets])
        if not self.augment.noise:
            return windows
        spread = windows.astype(np.float32).std() * self.augment.noise
        return np.asarray(windows + spread * random.standard_normal(windows.shape, np.float32), np.float16)

    def _sound(self, sample: Sample, start: int) -> NDArray[np.float32]:
        return np.zeros(0, np.float32) if self.hear is None else self.hear(sample, start)


def hear_speech(sample: Sample, start: int) -> NDArray[np.float32]:
    """(1, 80, 52): what a SyncNet on mels hears from frame `start` on."""
    return windows_of_speech(sample.speech(), [start])[0].numpy()


def hear_features(sample: Sample, start: int) -> NDArray[np.float32]:
    """(40, 384): what a SyncNet on whisper's states hears from frame `start` on. Only what is near is read from disk."""
    features = np.load(sample.folder / FEATURES, mmap_mode="r", allow_pickle=False)
    first = max(start - CONTEXT_TOKENS, 0)  # a frame is two tokens
    near = np.array(features[2 * first : 2 * start + WINDOW_TOKENS])
    return windows_of_features(near, [start - first])[0].numpy()


def hearing(audio: Literal["mel", "whisper"]) -> Hear:
    """What a SyncNet of that kind hears."""
    return hear_speech if audio == "mel" else hear_features


def sampled_reference(config: ReferenceConfig) -> ReferenceRule:
    """The rule that a stage's config names."""

    def rule(targets: NDArray[np.int64], points: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.int64]:
        return draw_references(targets, points, generator, rule=config.rule, share=config.share)

    return rule


class _Change(NamedTuple):
    """One way to vary all crops of a window."""

    flip: bool
    gain: NDArray[np.float32]  # (3,)
    lift: float  # levels of 255
    turn_deg: float


def _drawn_change(augment: Augment, random: np.random.Generator) -> _Change:
    contrast, lift, *colours = augment.colour * random.standard_normal(5)
    gain = np.exp(contrast + 0.4 * np.array(colours))
    return _Change(
        random.random() < augment.flip, gain.astype(np.float32), 40 * float(lift), augment.turn_deg * random.standard_normal()
    )


def _crops(
    sample: Sample,
    frames: NDArray[np.int64],
    pictures: NDArray[np.uint8],
    margins: NDArray[np.int64],
    change: _Change,
) -> Crops:
    """The faces of those frames."""
    landmarks = sample.landmarks[frames]
    boxes = np.stack([sample.boxes(int(margin))[frame] for frame, margin in zip(frames, margins, strict=True)])
    if change.turn_deg:
        pictures, landmarks, boxes = _turned(pictures, landmarks, boxes, margins, change.turn_deg)
    crops = np.stack([crop_face(picture, box) for picture, box in zip(pictures, boxes, strict=True)])
    points = in_crop(landmarks, boxes)
    if change.flip:
        crops, points = crops[:, :, ::-1], points[:, MIRRORED] * np.array([-1, 1], np.float32) + np.array([256, 0], np.float32)
    if change.lift or (change.gain != 1).any():
        crops = np.clip(crops * change.gain + change.lift, 0, 255).astype(np.uint8)
    return Crops(np.ascontiguousarray(crops), points.astype(np.float32))


def _turned(
    pictures: NDArray[np.uint8],
    landmarks: NDArray[np.float32],
    boxes: NDArray[np.int32],
    margins: NDArray[np.int64],
    turn_deg: float,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]:
    """All of it turned about the middle of each box; boxes as the turned landmarks ask for."""
    size = (pictures.shape[2], pictures.shape[1])
    turned: list[NDArray[np.uint8]] = []
    points: list[NDArray[np.float32]] = []
    found: list[NDArray[np.int32]] = []
    for picture, face, box, margin in zip(pictures, landmarks, boxes, margins, strict=True):
        middle = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
        matrix = cv2.getRotationMatrix2D(middle, turn_deg, 1.0)
        moved = (face @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        new = face_box(moved, size, margin=int(margin))
        if new is None:  # turned out of the window
            new, moved, seen = box, face, picture
        else:
            seen = np.asarray(cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)
        turned.append(seen)
        points.append(moved)
        found.append(new)
    return np.stack(turned), np.stack(points), np.stack(found)

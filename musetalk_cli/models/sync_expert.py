"""The published SyncNet (Chung and Zisserman 2016): embeddings of lips and of sound. In: a face's frames, speech. Out: metrics.lse's inputs.

    boxes (M, 4) -- median over 13 -- crops (M, 224, 224, 3) BGR, 5 frames at a time -- 1024 numbers    lips
    speech 16 kHz -- 13 MFCCs, 100 a second -- 20 of them a moment -- 1024 numbers                      sound

Weights: syncnet_v2.model of joonson/syncnet_python, by its names. Everything is computed as its run_pipeline.py and
SyncNetInstance.evaluate do, which Wav2Lip's LSE-C and LSE-D use too, but for the faces' boxes, which there come from S3FD, and for the
frames, which there pass through JPEG and MPEG-4. 25 frames a second. Knows nothing of films.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import cv2
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.signal import medfilt
from torch import Tensor, nn

from musetalk_cli.models.loading import fill, read_tensors

FPS = 25
RATE_HZ = 16_000
SAMPLES_PER_FRAME = RATE_HZ // FPS  # 640
SIDE_PX = 224
FRAMES = 5  # that the lips' half sees at once
MFCCS_PER_FRAME = 4
MFCCS = 20  # that the sound's half sees at once: the same 0.2 s
EMBEDDING = 1024
AT_ONCE = 20  # windows through a net, as published

# run_pipeline.py: the crop
CROP_SCALE = 0.4
BORDER = 110  # grey beyond the picture
SMOOTHED = 13  # frames of the median over the boxes

# python_speech_features 0.6: mfcc with its defaults
FRAME = 400  # samples, 25 ms
STEP = 160
POINTS = 512  # of the transform
FILTERS = 26
COEFFICIENTS = 13
PREEMPHASIS = 0.97
LIFTER = 22
EPSILON = float(np.finfo(np.float64).eps)


class Embeddings(NamedTuple):
    """The same M moments: the lips of 5 frames from each on, and the sound of the same 0.2 s. What metrics.lse.offsets takes."""

    lips: NDArray[np.float32]  # (M, 1024)
    sound: NDArray[np.float32]  # (M, 1024)


class SyncNet(nn.Module):
    """Two halves with a space in common; names as published."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_layer2d(1, 64, 3, padding=1),
            nn.MaxPool2d(1, 1),
            *_layer2d(64, 192, 3, padding=1),
            nn.MaxPool2d(3, (1, 2)),
            *_layer2d(192, 384, 3, padding=1),
            *_layer2d(384, 256, 3, padding=1),
            *_layer2d(256, 256, 3, padding=1),
            nn.MaxPool2d(3, 2),
            *_layer2d(256, 512, (5, 4)),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_layer3d(3, 96, (5, 7, 7), stride=2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer3d(96, 256, (1, 5, 5), stride=2, padding=1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_layer3d(256, 256, (1, 3, 3), padding=1),
            *_layer3d(256, 256, (1, 3, 3), padding=1),
            *_layer3d(256, 256, (1, 3, 3), padding=1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer3d(256, 512, (1, 6, 6)),
        )

    def lips(self, frames: Tensor) -> Tensor:
        """(N, 3, 5, 224, 224) BGR, 0..255 -> (N, 1024)."""
        found: Tensor = self.netfclip(self.netcnnlip(frames).flatten(1))
        return found

    def sound(self, mfccs: Tensor) -> Tensor:
        """(N, 1, 13, 20) -> (N, 1024)."""
        found: Tensor = self.netfcaud(self.netcnnaud(mfccs).flatten(1))
        return found


class SyncExpert(NamedTuple):
    """SyncNet, loaded."""

    net: SyncNet

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Self:
        """syncnet_v2.model, float32, frozen. Raises MissingError where the file is not that."""
        with torch.device("meta"):
            net = SyncNet()
        return cls(fill(net, read_tensors(path), path, device, torch.float32))

    def embed(self, crops_bgr: Iterable[NDArray[np.uint8]], speech: NDArray[np.float32]) -> Embeddings:
        """Crops (224, 224, 3), 25 a second, and (S,) mono 16 kHz, -1..1, that begins with them -> M = the shorter one's frames - 5,
        at least 0. Crops are taken one by one: memory does not grow with the clip.
        """
        lips = self._through(self.net.lips, _lip_windows(islice(crops_bgr, len(speech) // SAMPLES_PER_FRAME)))
        lips = lips[:-1]  # of M + 5 frames the published code looks at M windows, not M + 1
        sound = self._through(self.net.sound, _sound_windows(mfcc(speech), len(lips)))
        return Embeddings(lips, sound)

    def _through(self, half: Callable[[Tensor], Tensor], windows: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
        device = next(self.net.parameters()).device
        found = [np.zeros((0, EMBEDDING), np.float32)]
        with torch.inference_mode():
            while batch := list(islice(windows, AT_ONCE)):
                found.append(half(torch.from_numpy(np.stack(batch)).to(device)).cpu().numpy())
        return np.concatenate(found)


def face_crops(frames_rgb: Iterable[NDArray[np.uint8]], boxes: NDArray[np.floating]) -> Iterator[NDArray[np.uint8]]:
    """Frames (H, W, 3) of one face, 25 a second, and its boxes (M, 4) x1 y1 x2 y2 -> crops (224, 224, 3) BGR, as run_pipeline.py cuts.

    1.4 box sides wide, from half a side above the middle to 0.9 below it; middle and side are medians over 13 frames, with zeros beyond
    the ends as there. Raises ValueError where there are not as many boxes as frames.
    """
    sides = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]]).max(0) / 2
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    steady = (medfilt(np.asarray(part, np.float64), SMOOTHED) for part in (sides, *middles.T))
    for rgb, half, x, y in zip(frames_rgb, *steady, strict=True):
        yield _crop(rgb[..., ::-1], float(half), float(x), float(y))


def mfcc(speech: NDArray[np.float32]) -> NDArray[np.float64]:
    """(S,) mono 16 kHz, -1..1 -> (T, 13), 100 a second, T = ceil((S - 400) / 160) + 1 and at least 1: python_speech_features.mfcc of the
    same as 16-bit integers, with the energy for the first coefficient.
    """
    samples = np.clip(np.round(np.asarray(speech, np.float64) * 32768), -32768, 32767)
    emphasised = np.concatenate([samples[:1], samples[1:] - PREEMPHASIS * samples[:-1]])
    count = max(-(-(len(samples) - FRAME) // STEP), 0) + 1
    padded = np.pad(emphasised, (0, (count - 1) * STEP + FRAME - len(samples)))
    power = np.abs(np.fft.rfft(sliding_window_view(padded, FRAME)[::STEP], POINTS)) ** 2 / POINTS
    energy, bands = power.sum(1), power @ _filters().T
    cepstrum = dct(np.log(np.where(bands == 0, EPSILON, bands)), type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    cepstrum *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    cepstrum[:, 0] = np.log(np.where(energy == 0, EPSILON, energy))
    return np.asarray(cepstrum, np.float64)


@lru_cache(maxsize=1)
def _filters() -> NDArray[np.float64]:
    """(26, 257) triangles, evenly spaced in mels, their corners on whole bins."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), FILTERS + 2)
    corners = np.floor((POINTS + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE_HZ)
    bins = np.arange(POINTS // 2 + 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising = np.where((bins >= low) & (bins < middle), (bins - low) / np.maximum(middle - low, 1), 0)
    falling = np.where((bins >= middle) & (bins < high), (high - bins) / np.maximum(high - middle, 1), 0)
    return np.asarray(rising + falling, np.float64)


def _lip_windows(crops_bgr: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
    """Crops -> (3, 5, 224, 224), one from each crop on that has four more after it."""
    seen: deque[NDArray[np.float32]] = deque(maxlen=FRAMES)
    for crop in crops_bgr:
        seen.append(crop.transpose(2, 0, 1).astype(np.float32))
        if len(seen) == FRAMES:
            yield np.stack(seen, 1)


def _sound_windows(heard: NDArray[np.float64], count: int) -> Iterator[NDArray[np.float32]]:
    """(T, 13) -> (1, 13, 20), `count` of them, one a frame."""
    for start in range(0, count * MFCCS_PER_FRAME, MFCCS_PER_FRAME):
        yield heard[start : start + MFCCS].T[None].astype(np.float32)


def _crop(bgr: NDArray[np.uint8], half: float, x: float, y: float) -> NDArray[np.uint8]:
    border = int(half * (1 + 2 * CROP_SCALE))
    wide = np.pad(bgr, ((border, border), (border, border), (0, 0)), constant_values=BORDER)
    x, y = x + border, y + border
    rows = slice(int(y - half), int(y + half * (1 + 2 * CROP_SCALE)))
    columns = slice(int(x - half * (1 + CROP_SCALE)), int(x + half * (1 + CROP_SCALE)))
    return np.asarray(cv2.resize(wide[rows, columns], (SIDE_PX, SIDE_PX)), np.uint8)


def _layer2d(wide_in: int, wide: int, size: int | tuple[int, int], padding: int = 0) -> tuple[nn.Module, ...]:
    return nn.Conv2d(wide_in, wide, size, padding=padding), nn.BatchNorm2d(wide), nn.ReLU()


def _layer3d(wide_in: int, wide: int, size: tuple[int, int, int], stride: int = 1, padding: int = 0) -> tuple[nn.Module, ...]:
    """stride, padding: of height and width; time goes frame by frame."""
    convolution = nn.Conv3d(wide_in, wide, size, (1, stride, stride), (0, padding, padding))
    return convolution, nn.BatchNorm3d(wide), nn.ReLU()


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING))

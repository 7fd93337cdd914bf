"""Whether a voice belongs to a face, and how late it comes. In: a face over time and what was heard. Out: offset, confidence.

    face at frame i, voice at frame i + o, o = -R..R -> expert -> distances (F', 2 R + 1) -> mean over time -> offset, confidence

As SyncNet's evaluation has it (Chung and Zisserman, "Out of time", section 3): the offset is where the mean distance is least,
the confidence the median of the means less the least. Two experts: lips that the shipped lite model expects against lips that are
seen, which needs no pictures; and a SyncNet. Knows nothing of files of a set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.crop import MASK_ROW
from musetalk_cli.errors import UsageError
from musetalk_cli.metrics.lips import opening

RADIUS = 15  # frames either way, as SyncNet's evaluation
LIP_CONFIDENCE = (
    0.4  # least; of 90 unfiltered tracks 84 % reach it with an offset below 7 frames, of 261 pairs with a foreign voice 6.5 %
)
SYNCNET_CONFIDENCE = 3.0 / 15  # of cosine distance
SURE_FRAMES = 100  # a shorter clip agrees more by chance, and must agree more
TREND_FRAMES = 25.0  # what changes over more than this is pose and mood, not speech


class Pairing(NamedTuple):
    """A face and a voice that may belong together: F frames at 25 a second."""

    landmarks: NDArray[np.float32]  # (F, 68, 2) any pixels
    features: NDArray[np.float16]  # (T, 5, 384) whisper states, 50 a second
    speech: NDArray[np.float32]  # (S,) 16 kHz
    lead: int = 0  # frames of sound before frame 0, in both
    crops: Callable[[Sequence[int]], NDArray[np.uint8]] | None = None  # frame numbers -> (K, 256, 256, 3) RGB face crops


class SyncExpert(Protocol):
    """What judges a pairing."""

    @property
    def sees(self) -> bool:
        """Whether it looks at pictures, Pairing.crops."""
        ...

    @property
    def min_confidence(self) -> float:
        """Below it a pair does not belong together."""
        ...

    def scores(self, pairing: Pairing) -> NDArray[np.float32]:
        """(F', 2 R + 1): how far the face at each of F' times is from the voice that comes -R .. R frames later."""
        ...


class Sync(NamedTuple):
    """How face and voice lie in time."""

    offset: int  # frames by which the sound is late; -3: it comes 3 frames early
    confidence: float


def offset_and_confidence(distances: NDArray[np.floating]) -> Sync:
    """(F', 2 R + 1) distances -> offset in -R..R and median less least of the means; of equal offsets the one nearest to 0."""
    means = np.asarray(distances, np.float64).mean(0)
    radius = len(means) // 2
    best = min(range(len(means)), key=lambda i: (means[i], abs(i - radius)))
    return Sync(best - radius, float(np.median(means) - means[best]))


def least_confidence(min_confidence: float, frames: int) -> float:
    """What a clip of this many frames must reach: a short one agrees with any voice by chance, as 1 / sqrt(frames)."""
    return min_confidence * max(1.0, float(np.sqrt(SURE_FRAMES / max(frames, 1))))


def sync_reason(sync: Sync, frames: int, min_confidence: float, max_offset: int) -> str:
    """Why a track is dropped; "" where it is kept."""
    least = least_confidence(min_confidence, frames)
    if sync.confidence < least:
        return f"sync confidence {sync.confidence:.2f}, needs {least:.2f}"
    if abs(sync.offset) > max_offset:
        return f"sound is {abs(sync.offset)} frames {'late' if sync.offset > 0 else 'early'}, at most {max_offset}"
    return ""


@dataclass(frozen=True, slots=True)
class LipExpert:
    """The lite model's lip encoder expects lips from the voice; landmarks show them. Distance: 1 - r, so that confidence is r's rise
    over its median."""

    lips: Any  # models.lite.LipEncoder
    radius: int = RADIUS
    min_confidence: float = LIP_CONFIDENCE
    sees: bool = field(default=False, init=False)

    def scores(self, pairing: Pairing) -> NDArray[np.float32]:
        seen = standardised(opening(pairing.landmarks)[:, None])  # (F, 1)
        heard = self._expected(pairing, len(seen) + 2 * self.radius)
        around = np.lib.stride_tricks.sliding_window_view(heard, len(seen), axis=0)  # (2 R + 1, 1, F)
        return lip_distances(seen[:, 0], around[:, 0])

    def _expected(self, pairing: Pairing, frames: int) -> NDArray[np.float32]:
        """(frames, 1): the opening that the voice asks for, from R frames before the first on."""
        import torch

        from musetalk_cli.models.family import LEAD, WINDOW

        first = 2 * (np.arange(frames) + pairing.lead - self.radius) - LEAD
        token = first[:, None] + np.arange(WINDOW)
        inside = (token >= 0) & (token < len(pairing.features))
        windows = np.zeros((*token.shape, *pairing.features.shape[1:]), np.float32)
        windows[inside] = pairing.features[token[inside]]
        with torch.inference_mode():
            habits: NDArray[np.float32] = self.lips.habits(torch.from_numpy(windows)).numpy()
        return habits[:, :1]


def lip_distances(seen: NDArray[np.float32], heard: NDArray[np.float32]) -> NDArray[np.float32]:
    """(F,) opening seen and (O, F) openings heard at O offsets -> (F, O) distances whose mean over F is 1 - r of each offset."""
    rows = np.stack([standardised(row[:, None])[:, 0] for row in heard], 1)  # (F, O)
    return np.asarray(1 - standardised(seen[:, None]) * rows, np.float32)


def standardised(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """(F, D) -> each column without its slow trend, mean 0 and variance 1; zeros where nothing moves."""
    from scipy.ndimage import gaussian_filter1d

    fast = rows - gaussian_filter1d(rows.astype(np.float64), TREND_FRAMES, axis=0, mode="nearest")
    fast = fast - fast.mean(0)
    spread = fast.std(0)
    return np.asarray(np.where(spread > 1e-6, fast / np.maximum(spread, 1e-6), 0), np.float32)


FACES = 16  # pictures a SyncNet sees at once


@dataclass(frozen=True, slots=True)
class SyncNetExpert:
    """A SyncNet over 16 frames: the lower halves of the crops and the sound beneath them; distance 1 - cosine."""

    net: Any  # models.syncnet.SyncNet: embed_frames((N, 48, 128, 256)) and embed_audio, both (N, D) of length 1
    hear: Callable[[Pairing, Sequence[int]], Any]  # first frames -> what embed_audio takes for each
    radius: int = RADIUS
    every: int = 4  # frames between two looks
    batch: int = 8
    min_confidence: float = SYNCNET_CONFIDENCE
    sees: bool = field(default=True, init=False)

    def scores(self, pairing: Pairing) -> NDArray[np.float32]:
        starts = list(range(0, max(len(pairing.landmarks) - FACES, 0) + 1, self.every))
        first, last = starts[0] - self.radius, starts[-1] + self.radius
        faces = self._by_batch(starts, lambda rows: self.net.embed_frames(self._stacks(pairing, rows)))
        voices = self._by_batch(
            range(first, last + 1),
            lambda rows: self.net.embed_audio(self.hear(pairing, [row + pairing.lead for row in rows])),
        )
        index = np.array(starts)[:, None] + np.arange(2 * self.radius + 1)  # voice i + o stands in row i + o + R
        return np.asarray(1 - np.einsum("fd,fod->fo", faces, voices[index]), np.float32)

    def _by_batch(self, rows: Sequence[int], embed: Callable[[Sequence[int]], Any]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            parts = [embed(rows[i : i + self.batch]).cpu().numpy() for i in range(0, len(rows), self.batch)]
        return np.concatenate(parts)

    def _stacks(self, pairing: Pairing, starts: Sequence[int]) -> Any:
        """(N, 48, 128, 256) in [-1, 1]: lower halves of 16 crops, the three colours of each in a row."""
        import torch

        if pairing.crops is None:
            raise UsageError("this sync expert looks at pictures", "hand over Pairing.crops")
        last = len(pairing.landmarks) - 1
        stacks = [pairing.crops([min(start + i, last) for i in range(FACES)])[:, MASK_ROW:] for start in starts]
        lower = torch.from_numpy(np.stack(stacks)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1  # (N, 16, 3, 128, 256)
        return lower.flatten(1, 2)


def open_expert(name: str, radius: int = RADIUS) -> SyncExpert | None:
    """embedded | none | the path of a SyncNet's weights. Raises UsageError for a path that is not there, MissingError for weights
    that are no SyncNet's."""
    if name == "none":
        return None
    if name == "embedded":
        return LipExpert(embedded_lips(), radius)
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--sync {name}: there is no such file", "choose embedded, none, or a SyncNet's weights")
    from musetalk_cli.models.syncnet import load_syncnet

    net = load_syncnet(path)
    return SyncNetExpert(net, hear_features if net.config.audio == "whisper" else hear_speech, radius)


def hear_speech(pairing: Pairing, starts: Sequence[int]) -> Any:
    """(N, 1, 80, 52): mel windows from these frames of the sound on."""
    from musetalk_cli.models.syncnet import windows_of_speech

    return windows_of_speech(pairing.speech, starts)


def hear_features(pairing: Pairing, starts: Sequence[int]) -> Any:
    """(N, 40, 384): whisper windows from these frames of the sound on."""
    from musetalk_cli.models.syncnet import windows_of_features

    return windows_of_features(pairing.features, starts)


def embedded_lips() -> Any:
    """The shipped lite model's lip encoder alone."""
    from safetensors.torch import load_file

    from musetalk_cli.models.lite import CONFIG_FILE, LIPS_FILES, LipEncoder, check_files, read_config
    from musetalk_cli.weights import embedded_lite

    folder = embedded_lite()
    check_files(folder)
    lips = LipEncoder(read_config(folder / CONFIG_FILE))
    lips.load_state_dict({key: value.float() for key, value in load_file(folder / LIPS_FILES[0]).items()})
    return lips.eval().requires_grad_(False)

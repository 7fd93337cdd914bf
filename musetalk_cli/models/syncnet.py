"""Do these lips say this? In: 16 frames of the lower face, and what was heard meanwhile. Out: two vectors, near where they belong.

    crops -> lower halves (N, 48, 128, 256) -> visual encoder -> (N, D)                                embed_frames
    speech -> log-mel (80, T) -> windows (N, 1, 80, 52)  -> audio encoder -> (N, D)                    embed_audio, "mel"
    whisper states (T, 5, 384) -> windows (N, 40, 384)   -> audio encoder -> (N, D)                    embed_audio, "whisper"

One class in two sizes: LatentSync's SyncNet, whose published file it loads, and a small one that trains on a CPU. Vectors have
length 1 and no negative number, so a cosine is between 0 and 1, as the losses on it need. Knows nothing of losses or films.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.errors import MissingError
from musetalk_cli.models.loading import VERIFY, fill, read_tensors
from musetalk_cli.models.whisper import STATES
from musetalk_cli.models.whisper_encoder import SAMPLE_RATE_HZ, WIDTH
from musetalk_cli.reading import parse_json

Factor = tuple[int, int]  # by which a block makes a map smaller: height, width

FPS = 25
FRAMES = 16  # that are seen at once, 0.64 s
MELS = 80
MEL_HOP = 200  # samples
MELS_PER_SECOND = SAMPLE_RATE_HZ // MEL_HOP  # 80
MEL_FFT = 800
MEL_COLUMNS = 52  # that are heard at once: ceil(16 / 5 * 16), 0.65 s
MEL_HZ = (55.0, 7600.0)
EMPHASIS = 0.97
FLOOR_DB, REFERENCE_DB, LIMIT = -100.0, 20.0, 4.0
TOKENS_PER_FRAME = 2
CONTEXT_TOKENS = 4  # before the first frame and after the last: whisper's states look both ways, and lips move before the sound
WINDOW_TOKENS = TOKENS_PER_FRAME * FRAMES + 2 * CONTEXT_TOKENS
HEARD_STATE = STATES - 1
SLANEY_HZ, SLANEY_MEL = (
    1000.0,
    15.0,
)  # Slaney's scale: linear below, 200/3 Hz a mel; logarithmic above, 27 mels for a factor of 6.4
SLANEY_STEP = np.log(6.4) / 27
GREY = (0.299, 0.587, 0.114)
METADATA = "syncnet"


@dataclass(frozen=True, slots=True)
class SyncNetConfig:
    """Sizes. Width and factor of each block; the last widths are the length of the vectors, and the same for eye and ear."""

    audio: Literal["mel", "whisper"]
    visual_widths: tuple[int, ...]
    visual_factors: tuple[Factor, ...]
    audio_widths: tuple[int, ...]
    audio_factors: tuple[Factor, ...]  # of whisper tokens only the second number counts: time
    groups: int = 32  # of GroupNorm
    pool: int = 1  # pictures are averaged over squares of so many pixels
    grey: bool = False  # colours say little of speech and much of the person
    stem_stride: int = 1  # of the visual encoder's first convolution
    dropout: float = 0.0

    @classmethod
    def published(cls) -> "SyncNetConfig":
        """LatentSync's latentsync_syncnet.pt: 372 million parameters, no attention, vectors of 2048."""
        return cls(
            audio="mel",
            visual_widths=(64, 128, 256, 256, 512, 1024, 2048, 2048),
            visual_factors=((1, 2), *[(2, 2)] * 7),
            audio_widths=(32, 64, 128, 256, 512, 1024, 2048),
            audio_factors=((2, 1), (2, 2), (2, 2), (1, 1), (2, 2), (2, 2), (2, 3)),
        )

    @classmethod
    def small(cls, audio: Literal["mel", "whisper"] = "whisper") -> "SyncNetConfig":
        """For a CPU and a few hours of film: 5 to 6 million parameters, 0.3 to 0.4 GFLOP a pair, vectors of 256."""
        mel = audio == "mel"
        return cls(
            audio=audio,
            visual_widths=(32, 64, 128, 192, 192, 256),
            visual_factors=((2, 2), (2, 2), (2, 2), (2, 2), (2, 2), (1, 2)),
            audio_widths=(8, 16, 32, 64, 64, 96, 256) if mel else (128, 160, 192, 256),
            audio_factors=((2, 1), (2, 2), (2, 2), (1, 1), (2, 2), (2, 2), (2, 3)) if mel else ((1, 2), (1, 2), (1, 2), (1, 1)),
            groups=8,
            pool=2,
            grey=True,
            stem_stride=2,
            dropout=0.1,
        )


class SyncNet(nn.Module):
    """The two encoders. Names of attributes are the names in LatentSync's published file."""

    def __init__(self, config: SyncNetConfig) -> None:
        super().__init__()
        self.config = config
        seen = FRAMES if config.grey else 3 * FRAMES
        self.visual_encoder = DownEncoder(seen, config.visual_widths, config.visual_factors, config, config.stem_stride)
        self.audio_encoder: nn.Module = (
            DownEncoder(1, config.audio_widths, config.audio_factors, config) if config.audio == "mel" else TokenEncoder(config)
        )

    def forward(self, frames: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Both vectors at once, as a wrapper for several GPUs wants it: see `embed_frames` and `embed_audio`."""
        return self.embed_frames(frames), self.embed_audio(audio)

    def embed_frames(self, frames: Tensor) -> Tensor:
        """(N, 48, 128, 256): lower halves of 16 crops, the R, G, B of each in a row, in [-1, 1] -> (N, D) of length 1."""
        if self.config.grey:
            weights = torch.tensor(GREY, device=frames.device, dtype=frames.dtype)
            frames = torch.einsum("nfchw,c->nfhw", frames.view(-1, FRAMES, 3, *frames.shape[2:]), weights)
        if self.config.pool > 1:
            frames = functional.avg_pool2d(frames, self.config.pool)
        return _unit(self.visual_encoder(frames))

    def embed_audio(self, audio: Tensor) -> Tensor:
        """(N, 1, 80, 52) of `windows_of_speech`, or (N, 40, 384) of `windows_of_features`, by the config -> (N, D) of length 1."""
        return _unit(self.audio_encoder(audio))


def load_syncnet(path: Path, device: torch.device | None = None, config: SyncNetConfig | None = None) -> SyncNet:
    """A SyncNet, frozen, float32: what `save_syncnet` wrote, or LatentSync's .pt, which keeps its tensors under `state_dict`.

    config: for a file that does not carry its own; else the published one. Raises MissingError where the file is not that.
    """
    own = _own_config(path) if path.suffix == ".safetensors" else None
    sizes = own or config or SyncNetConfig.published()
    tensors = read_tensors(path, key="" if path.suffix == ".safetensors" else "state_dict")
    with torch.device("meta"):
        net = SyncNet(sizes)
    return fill(net, tensors, path, device or torch.device("cpu"), torch.float32)


def save_syncnet(net: SyncNet, path: Path) -> None:
    """Weights and config in one .safetensors. Published whole."""
    beside = path.with_name(f"part.{path.name}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, beside, metadata={METADATA: json.dumps(asdict(net.config))})
    beside.replace(path)


def windows_of_speech(speech: NDArray[np.floating], frames: Sequence[int] | NDArray[np.integer]) -> Tensor:
    """(S,) mono 16 kHz, frame 0 at sample 0; first frames of N windows -> (N, 1, 80, 52) for `embed_audio`.

    Each from the column at its own frame, 80 / 25 a frame, rounded down; silence outside the speech, so a frame may be negative
    or late. Only what is asked for is computed.
    """
    starts = [MELS_PER_SECOND * int(frame) // FPS for frame in frames]
    windows = [mel_columns(speech, start, start + MEL_COLUMNS) for start in starts]
    return torch.from_numpy(np.stack(windows)[:, None])


def windows_of_features(features: NDArray[np.floating], frames: Sequence[int] | NDArray[np.integer]) -> Tensor:
    """(T, 5, 384) whisper states, 50 a second; first frames of N windows -> (N, 40, 384) for `embed_audio`: the last states.

    The 32 tokens of 16 frames and 4 to either side; zeros outside the speech.
    """
    first = TOKENS_PER_FRAME * np.asarray(frames, np.int64) - CONTEXT_TOKENS
    index = first[:, None] + np.arange(WINDOW_TOKENS)
    inside = (index >= 0) & (index < len(features))
    heard = np.concatenate([features[:, HEARD_STATE], np.zeros((1, WIDTH))]).astype(np.float32)
    return torch.from_numpy(heard[np.where(inside, index, len(features))])


# The mel spectrogram of Wav2Lip, which SyncNets hear: librosa's, in numpy.


def mel_spectrogram(speech: NDArray[np.floating]) -> NDArray[np.float32]:
    """(S,) mono 16 kHz in [-1, 1] -> (80, S // 200 + 1), 80 columns a second, in [-4, 4]; column c is about sample 200 c."""
    return mel_columns(speech, 0, len(speech) // MEL_HOP + 1)


def mel_columns(speech: NDArray[np.floating], first: int, stop: int) -> NDArray[np.float32]:
    """(80, stop - first): these columns of `mel_spectrogram`, and silence, -4, outside of it.

    Emphasis 0.97, Hann windows of 800 samples every 200, zeros beyond both ends, magnitudes, 80 Slaney filters of equal area from
    55 to 7600 Hz, decibels from -100 up less 20, of which [-100, 0] is mapped to [-4, 4]. Source: Wav2Lip's audio.py, as LatentSync
    and MuseTalk have it.
    """
    inside = slice(max(first, 0), max(min(stop, len(speech) // MEL_HOP + 1), 0))
    columns = np.full((MELS, stop - first), -LIMIT, np.float32)
    if inside.start < inside.stop:
        columns[:, inside.start - first : inside.stop - first] = _log_mel(speech, inside.start, inside.stop)
    return columns


def _log_mel(speech: NDArray[np.floating], first: int, stop: int) -> NDArray[np.float32]:
    start, end = first * MEL_HOP - MEL_FFT // 2, (stop - 1) * MEL_HOP + MEL_FFT // 2
    known = speech[max(start - 1, 0) : end].astype(np.float64)  # one before, for the emphasis
    emphasised = np.diff(known, prepend=0.0) + (1 - EMPHASIS) * np.concatenate([[0.0], known[:-1]])
    emphasised = emphasised[1:] if start > 0 else emphasised
    padded = np.pad(emphasised, (max(-start, 0), end - max(start, 0) - len(emphasised)))
    windows = sliding_window_view(padded, MEL_FFT)[::MEL_HOP] * _hann()
    magnitudes = np.abs(np.fft.rfft(windows))  # (columns, 401)
    decibels = 20 * np.log10(np.maximum(10 ** (FLOOR_DB / 20), mel_filters() @ magnitudes.T)) - REFERENCE_DB
    return np.clip(2 * LIMIT * (decibels - FLOOR_DB) / -FLOOR_DB - LIMIT, -LIMIT, LIMIT).astype(np.float32)


def _hann() -> NDArray[np.float64]:
    """Periodic."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(MEL_FFT) / MEL_FFT))


@lru_cache(maxsize=1)
def mel_filters() -> NDArray[np.float64]:
    """(80, 401): triangles between points evenly spaced in mels, each of area 1 in Hz; Slaney's mels, as librosa's default."""
    low, high = (_mels(np.array(hz)) for hz in MEL_HZ)
    points = _hertz(np.linspace(low, high, MELS + 2))
    bins = np.linspace(0, SAMPLE_RATE_HZ / 2, MEL_FFT // 2 + 1)
    rising = (bins - points[:-2, None]) / np.diff(points)[:-1, None]
    falling = (points[2:, None] - bins) / np.diff(points)[1:, None]
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * 2 / (points[2:] - points[:-2])[:, None])


def _mels(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = SLANEY_MEL + np.log(np.maximum(hertz, SLANEY_HZ) / SLANEY_HZ) / SLANEY_STEP
    return np.asarray(np.where(hertz < SLANEY_HZ, hertz * SLANEY_MEL / SLANEY_HZ, above))


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    above = SLANEY_HZ * np.exp(SLANEY_STEP * (np.maximum(mels, SLANEY_MEL) - SLANEY_MEL))
    return np.asarray(np.where(mels < SLANEY_MEL, mels * SLANEY_HZ / SLANEY_MEL, above))


# The nets.


class DownEncoder(nn.Module):
    """(N, C, H, W) -> (N, D, 1, 1), no negative number: a convolution, blocks that make it smaller, GroupNorm and ReLU."""

    def __init__(
        self, channels: int, widths: Sequence[int], factors: Sequence[Factor], config: SyncNetConfig, stem_stride: int = 1
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, stride=stem_stride, padding=1)
        widths_in = (widths[0], *widths[:-1])
        self.down_blocks = nn.ModuleList(
            DownBlock(width_in, width, factor, config) for width_in, width, factor in zip(widths_in, widths, factors, strict=True)
        )
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return functional.relu(self.norm_out(x))


class DownBlock(nn.Module):
    """A residual block, then a convolution with stride `factor`; (1, 1): none."""

    def __init__(self, width_in: int, width: int, factor: Factor, config: SyncNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, width_in, eps=1e-6)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(config.groups, width, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()
        self.downsample_conv = nn.Conv2d(width, width, 3, stride=factor) if factor != (1, 1) else nn.Identity()
        (top, bottom), (left, right) = (((1, 1) if step == 1 else (0, 1)) for step in factor)
        self.pad = (left, right, top, bottom) if factor != (1, 1) else (0, 0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)))
        inner = self.conv2(self.dropout(functional.silu(self.norm2(inner))))
        smaller: Tensor = self.downsample_conv(functional.pad(inner + self.conv_shortcut(x), self.pad))
        return smaller


class TokenEncoder(nn.Module):
    """(N, 40, 384) -> (N, D, 1), no negative number. Where in the window a token is counts to the end: the steps are not averaged."""

    def __init__(self, config: SyncNetConfig) -> None:
        super().__init__()
        widths = config.audio_widths
        self.norm_in = nn.LayerNorm(WIDTH)
        self.proj_in = nn.Linear(WIDTH, widths[0])
        widths_in = (widths[0], *widths[:-1])
        steps = [factor[1] for factor in config.audio_factors]
        self.down_blocks = nn.ModuleList(
            _TokenBlock(width_in, width, step, config) for width_in, width, step in zip(widths_in, widths, steps, strict=True)
        )
        left = WINDOW_TOKENS
        for step in steps:
            left = -(-left // step)
        self.proj_out = nn.Conv1d(widths[-1], widths[-1], left)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.proj_in(self.norm_in(tokens)).transpose(1, 2)  # (N, C, 40)
        for block in self.down_blocks:
            x = block(x)
        return functional.relu(self.norm_out(self.proj_out(x)))


class _TokenBlock(nn.Module):
    def __init__(self, width_in: int, width: int, step: int, config: SyncNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, width_in, eps=1e-6)
        self.conv1 = nn.Conv1d(width_in, width, 3, stride=step, padding=1)
        self.norm2 = nn.GroupNorm(config.groups, width, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)
        same = width_in == width and step == 1
        self.conv_shortcut = nn.Identity() if same else nn.Conv1d(width_in, width, 1, stride=step)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)))
        inner = self.conv2(self.dropout(functional.silu(self.norm2(inner))))
        answer: Tensor = inner + self.conv_shortcut(x)
        return answer


def _unit(features: Tensor) -> Tensor:
    """(N, D, ...) -> (N, D) float32 of length 1; what is left of a map must be a point."""
    return functional.normalize(features.float().reshape(len(features), features.shape[1], -1).squeeze(-1), dim=1)


def _own_config(path: Path) -> SyncNetConfig | None:
    """The config that `save_syncnet` wrote; None for a file without one."""
    read_tensors(path)  # tells a damaged file from one that carries none
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if METADATA not in metadata:
        return None
    try:
        values: dict[str, Any] = parse_json(metadata[METADATA])
        return SyncNetConfig(**{name: _tuples(value) for name, value in values.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise MissingError(f"{path}: it says nothing sound of its own layers", VERIFY) from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value

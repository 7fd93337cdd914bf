"""whisper-tiny's encoder and what it sees, written out. In: log-mel or a waveform. Out: hidden states. Source: Radford et al. 2022.

    (S,) 16 kHz, up to 30 s -> log-mel (1, 80, 3000) -> two convolutions -> (1, 1500, 384) + positions -> four layers -> LayerNorm

Parameters have the names of the published files. Equal to transformers' WhisperEncoder and WhisperFeatureExtractor to the last bit
on a CPU; written out because importing those takes 2.2 s, and a dub of ten seconds of film 15. Knows nothing of films or windows.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE_HZ = 16_000
BLOCK_SAMPLES = 30 * SAMPLE_RATE_HZ
WIDTH, LAYERS, HEADS = 384, 4, 6
MELS, POSITIONS = 80, 1500
WINDOW_SAMPLES, HOP_SAMPLES = 400, 160
TOP_HZ = 8000
LINEAR_TO_HZ = 1000.0  # the mel scale of Slaney's Auditory Toolbox: linear up to here, 3 mels each 200 Hz, logarithmic above
MELS_A_HZ = 3 / 200
MELS_A_LOG = 27 / math.log(6.4)


class WhisperEncoder(nn.Module):
    """(1, 80, 3000) log-mel -> five hidden states of (1, 1500, 384): behind the convolutions, three layers, the last and its norm."""

    def __init__(self, inner: int = 4 * WIDTH) -> None:
        """inner: width between the two layers behind each attention."""
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(POSITIONS, WIDTH)
        self.layers = nn.ModuleList(Layer(inner) for _ in range(LAYERS))
        self.layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, mel: Tensor) -> list[Tensor]:
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel)))).permute(0, 2, 1)
        states = [x + self.embed_positions.weight]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return [*states[:-1], self.layer_norm(states[-1])]


class Layer(nn.Module):
    """(1, 1500, 384) -> the same: attention, then two layers with GELU between."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.self_attn_layer_norm, self.self_attn = nn.LayerNorm(WIDTH), Attention()
        self.final_layer_norm = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, inner), nn.Linear(inner, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        x = x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))
        if x.dtype == torch.float16:
            most = torch.finfo(x.dtype).max - 1000
            x = x.clamp(-most, most)
        return x


class Attention(nn.Module):
    """Every token to every other, six heads; queries are scaled before they meet keys, as whisper was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj, self.out_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query = self.q_proj(x) * (WIDTH // HEADS) ** -0.5
        query, key, value = (_heads(made) for made in (query, self.k_proj(x), self.v_proj(x)))
        found = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        out: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return out


def _heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2).contiguous()


def sinusoids() -> Tensor:
    """(1500, 384): the positions that whisper was trained with."""
    step = math.log(10_000) / (WIDTH // 2 - 1)
    scales = torch.exp(-step * torch.arange(WIDTH // 2))
    angles = torch.arange(POSITIONS).view(-1, 1) * scales.view(1, -1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def log_mel(block: NDArray[np.float32]) -> Tensor:
    """(S,) [-1, 1], up to 30 s -> (1, 80, 3000), silence behind it; 8 decades below its own maximum, about [-1, 1.5]."""
    samples = torch.zeros(1, BLOCK_SAMPLES)
    samples[0, : len(block)] = torch.from_numpy(np.array(block, np.float32))
    window = torch.hann_window(WINDOW_SAMPLES)
    spectrum = torch.stft(samples, WINDOW_SAMPLES, HOP_SAMPLES, window=window, return_complex=True)
    power = (spectrum[..., :-1].abs() ** 2).contiguous()
    decades = (_mel_filters().T @ power).clamp(min=1e-10).log10()
    decades = torch.maximum(decades, decades.amax(dim=(1, 2), keepdim=True) - 8.0)
    return (decades + 4.0) / 4.0


@lru_cache(maxsize=1)
def _mel_filters() -> Tensor:
    """(201, 80) float32: triangles between neighbouring mels, each of the same area."""
    corners = _hz(np.linspace(_mel(0.0), _mel(float(TOP_HZ)), MELS + 2))
    bins = np.linspace(0, SAMPLE_RATE_HZ // 2, WINDOW_SAMPLES // 2 + 1)
    slopes = corners[None] - bins[:, None]
    apart = np.diff(corners)
    triangles = np.maximum(0, np.minimum(-slopes[:, :-2] / apart[:-1], slopes[:, 2:] / apart[1:]))
    triangles *= 2.0 / (corners[2:] - corners[:-2])
    return torch.from_numpy(triangles).to(torch.float32)


def _mel(hz: float) -> float:
    return hz * MELS_A_HZ if hz < LINEAR_TO_HZ else LINEAR_TO_HZ * MELS_A_HZ + math.log(hz / LINEAR_TO_HZ) * MELS_A_LOG


def _hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = LINEAR_TO_HZ * MELS_A_HZ
    hz: NDArray[np.float64] = np.where(mels < linear, mels / MELS_A_HZ, LINEAR_TO_HZ * np.exp((mels - linear) / MELS_A_LOG))
    return hz

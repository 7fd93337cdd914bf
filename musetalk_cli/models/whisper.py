"""whisper-tiny's encoder. In: a voice. Out: its five hidden states, 50 a second. Knows nothing of windows, frames or lips.

    (S,) float32 16 kHz -> blocks of 30 s -> log-mel (80, 3000), each by its own maximum -> encoder -> (1500, 5, 384) a block

State 0 is the convolutional stem with positions, 1 to 3 follow the first three layers, 4 the last one and the final LayerNorm.
Source: spec of the released v1.5 audio path.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from musetalk_cli.errors import MissingError
from musetalk_cli.models.loading import VERIFY, fill, read_config, read_tensors
from musetalk_cli.models.whisper_encoder import BLOCK_SAMPLES, LAYERS, POSITIONS, SAMPLE_RATE_HZ, WIDTH, WhisperEncoder, log_mel

SAMPLES_PER_TOKEN = SAMPLE_RATE_HZ // 50
STATES = LAYERS + 1
SIZES = {"d_model": WIDTH, "encoder_layers": LAYERS, "max_source_positions": POSITIONS}


def load_whisper(config: Path, weights: Path, device: torch.device, dtype: torch.dtype) -> WhisperEncoder:
    """config.json and model.safetensors | pytorch_model.bin of whisper-tiny -> its encoder, strictly. Raises MissingError."""
    sizes = read_config(config)
    if any(sizes.get(name, size) != size for name, size in SIZES.items()):
        raise MissingError(f"{config}: not whisper-tiny: {sizes.get('encoder_layers')} layers of {sizes.get('d_model')}", VERIFY)
    with torch.device("meta"):
        encoder = WhisperEncoder(int(sizes.get("encoder_ffn_dim", 4 * WIDTH)))
    return fill(encoder, _encoder_part(read_tensors(weights)), weights, device, dtype)


def hidden_states(encoder: WhisperEncoder, speech: NDArray[np.float32]) -> NDArray[np.float16]:
    """(S,) mono 16 kHz, [-1, 1] -> (T, 5, 384), T = floor(S / 320).

    Blocks of 30 s are heard alone, one at a time, so memory beyond the result is bounded; a long voice may also be handed over
    block by block. Within a block silence is padded in the waveform, so the last tokens of a voice have heard it.
    """
    states = np.empty((len(speech) // SAMPLES_PER_TOKEN, STATES, WIDTH), np.float16)
    for first in range(0, len(speech), BLOCK_SAMPLES):
        token = first // SAMPLES_PER_TOKEN
        kept = states[token : token + BLOCK_SAMPLES // SAMPLES_PER_TOKEN]
        if len(kept):  # fewer samples than a token: nothing to hear
            kept[:] = _heard(encoder, speech[first : first + BLOCK_SAMPLES])[: len(kept)]
    return states


def _encoder_part(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Files of the whole model name it `model.encoder.` or `encoder.`; the decoder is not needed."""
    named = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {name.removeprefix("encoder."): tensor for name, tensor in named.items() if name.startswith("encoder.")}


def _heard(encoder: WhisperEncoder, block: NDArray[np.float32]) -> NDArray[np.float16]:
    """Up to 30 s -> (1500, 5, 384)."""
    weight = encoder.conv1.weight
    with torch.inference_mode():
        states = torch.stack(encoder(log_mel(block).to(weight.device, weight.dtype)), dim=2)[0]
    out: NDArray[np.float16] = states.to(torch.float16).cpu().numpy()
    return out

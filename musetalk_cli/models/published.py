"""The published families, v1.5 and v1.0. In: speech and face crops. Out: new mouths. Knows nothing of films, boxes or stages.

    speech (S,) -> whisper-tiny -> (T, 5, 384)                                                        listen
    crop (256, 256, 3) -> sd-vae -> masked, reference (4, 32, 32) each                                encode
    window (10, 5, 384) -> 50 tokens + positions; [masked, reference] -> U-Net -> latent (4, 32, 32)  infer
    latent -> sd-vae -> (256, 256, 3)                                                                 decode

Both run through one path, as they do in the official repository today. v1.0 as it was first released heard differently: OpenAI's
whisper with the mel's maximum taken over the whole file, short blocks padded in the mel, state 4 without the final LayerNorm, and
windows that repeat the voice's edges instead of zeros.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from musetalk_cli import weights
from musetalk_cli.config import Precision
from musetalk_cli.crop import CROP_PX, hide_mouth
from musetalk_cli.errors import UsageError
from musetalk_cli.models import vae as autoencoder
from musetalk_cli.models import whisper as ear
from musetalk_cli.models.family import FULL, Lent, Numbers, Plan
from musetalk_cli.models.unet import load_unet, one_step, positional_encoding

LATENT_CHANNELS = 4
LATENT_PX = 32
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CROPS_AT_ONCE = 8  # through the VAE on a GPU: its first layers hold 34 MB a crop and layer in fp32
UNETS = {
    "v15": (weights.UNET_V15_CONFIG, weights.UNET_V15),
    "v1": (weights.UNET_V1_CONFIG, weights.UNET_V1),
}


class PublishedNets(NamedTuple):
    """The three nets, on one device, in one precision."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    whisper: WhisperEncoder


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """v15 or v1 behind the interface that all families share.

    On the CPU rows go through one by one: kernels differ with the batch, and the same row must give the same pixels.
    Raises MemoryError where a GPU has no room for what it was given.
    """

    name: str
    nets: PublishedNets
    positions: Tensor  # (50, 384)
    latent_channels: int = LATENT_CHANNELS

    def listen(self, speech: NDArray[np.float32]) -> NDArray[np.float16]:
        """(S,) mono 16 kHz -> (T, 5, 384), T = floor(S / 320)."""
        with _memory():
            return ear.hidden_states(self.nets.whisper, speech)

    def encode(self, crops_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """(N, 256, 256, 3) -> masked and reference latents, (N, 4, 32, 32) each, scaled; masked has rows 128 and below at -1."""
        return self._encode(hide_mouth(crops_rgb)), self._encode(crops_rgb)

    def plan(self, points: NDArray[np.float32], windows: NDArray[np.float16], track: NDArray[np.integer]) -> Plan:
        """Each row refers to itself, and where its lips should be the network knows alone."""
        return Plan(points, np.arange(len(points)))

    def infer(
        self,
        masked: NDArray[np.float16],
        reference: NDArray[np.float16],
        windows: NDArray[np.float16],
        lent: Lent | None = None,
        *,
        fp32: bool = False,
    ) -> NDArray[np.float16]:
        """One U-Net step at timestep 0. windows: (N, 10, 5, 384) -> (N, 4, 32, 32), scaled; may hold NaN in half precision.

        lent: not looked at. fp32: in full precision, whatever the model is loaded in.
        """
        unet = self.nets.unet
        with _memory(), _precision(unet, torch.float32 if fp32 else unet.dtype):
            mask, ref, heard = (
                torch.from_numpy(np.array(array)).to(unet.device, unet.dtype) for array in (masked, reference, windows)
            )
            positions = self.positions.to(unet.device, unet.dtype)
            splits = _splits(len(mask), unet.device, at_once=len(mask))
            return _on_cpu([one_step(unet, mask[rows], ref[rows], heard[rows], positions) for rows in splits])

    def decode(self, latents: NDArray[np.float16]) -> NDArray[np.uint8]:
        """(N, 4, 32, 32) scaled -> (N, 256, 256, 3) RGB."""
        vae = self.nets.vae
        pixels = np.empty((len(latents), CROP_PX, CROP_PX, 3), np.uint8)
        with _memory():
            for rows in _splits(len(latents), vae.device, CROPS_AT_ONCE):
                pixels[rows] = autoencoder.to_rgb(_finite(autoencoder.decode, vae, torch.from_numpy(np.array(latents[rows]))))
        return pixels

    def _encode(self, crops_rgb: NDArray[np.uint8]) -> NDArray[np.float16]:
        vae = self.nets.vae
        with _memory():
            splits = _splits(len(crops_rgb), vae.device, CROPS_AT_ONCE)
            return _on_cpu([_finite(autoencoder.encode, vae, torch.from_numpy(crops_rgb[rows])) for rows in splits])


def load_published(
    name: str, folder: Path, device: torch.device, numbers: Numbers = FULL, *, unet: Path | None = None
) -> PublishedModel:
    """v15 or v1 from a folder in MuseTalk's layout; the U-Net from another such folder where `unet` names one.

    Raises MissingError where a file is missing or is not what it should be.
    """
    if numbers.precision == "fp16" and device.type == "cpu":
        raise UsageError("fp16 on the CPU", "choose bf16 or fp32: a CPU is not faster with half precision")
    dtype = DTYPES[numbers.precision]
    unet_config, unet_file = (weights.locate(need, unet or folder) for need in UNETS[name])
    vae_config, vae, whisper_config, whisper = (weights.locate(need, folder) for need in weights.AROUND_UNET[:4])
    nets = PublishedNets(
        load_unet(unet_config, unet_file, device, dtype),
        autoencoder.load_vae(vae_config, vae, device, dtype),
        ear.load_whisper(whisper_config, whisper, device, dtype),
    )
    return PublishedModel(name, nets, positional_encoding())


def _splits(rows: int, device: torch.device, at_once: int) -> list[slice]:
    size = 1 if device.type == "cpu" else max(1, at_once)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _on_cpu(parts: list[Tensor]) -> NDArray[np.float16]:
    """Latents in parts -> one array (N, 4, 32, 32)."""
    none = torch.zeros((0, LATENT_CHANNELS, LATENT_PX, LATENT_PX), dtype=torch.float16)
    out: NDArray[np.float16] = torch.cat([none, *(part.to("cpu", torch.float16) for part in parts)]).numpy()
    return out


def _finite(run: Callable[[AutoencoderKL, Tensor], Tensor], vae: AutoencoderKL, given: Tensor) -> Tensor:
    """run(vae, given), and once more in full precision where half precision overflowed."""
    on_device = given.to(vae.device)
    answer = run(vae, on_device)
    if torch.isfinite(answer).all():
        return answer
    with _precision(vae, torch.float32):
        return run(vae, on_device)


@contextmanager
def _precision(net: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """`net` in another precision for a moment; half to full and back loses nothing."""
    before = next(net.parameters()).dtype
    _convert(net, dtype)
    try:
        yield
    finally:
        _convert(net, before)


def _convert(net: nn.Module, dtype: torch.dtype) -> None:
    """Weight by weight, so that no more than one is there twice."""
    for weight in net.parameters():
        weight.data = weight.data.to(dtype)


@contextmanager
def _memory() -> Iterator[None]:
    """torch's out-of-memory as Python's own, which callers can catch without torch."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(str(error).splitlines()[0]) from error

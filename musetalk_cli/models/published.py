"""The published families, v1.5 and v1.0. In: speech and face crops. Out: new mouths. Knows nothing of films, boxes or stages.

    speech (S,) -> whisper-tiny -> (T, 5, 384)                                                        listen
    crop (256, 256, 3) -> sd-vae -> masked, reference (4, 32, 32) each                                encode
    window (10, 5, 384) -> 50 tokens + positions; [masked, reference] -> U-Net -> latent (4, 32, 32)  infer
    latent -> sd-vae -> (256, 256, 3)                                                                 decode

Exact, the nets run as diffusers wrote them, so that the same row gives the same bits in any batch; else as models/fast.py writes them,
in half precision where it is chosen. Whatever overflows there is done again by the first way in full precision.

Both run through one path, as they do in the official repository today. v1.0 as it was first released heard differently: OpenAI's
whisper with the mel's maximum taken over the whole file, short blocks padded in the mel, state 4 without the final LayerNorm, and
windows that repeat the voice's edges instead of zeros.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from musetalk_cli import weights
from musetalk_cli.config import Precision
from musetalk_cli.crop import CROP_PX, hide_mouth
from musetalk_cli.errors import InternalError, UsageError
from musetalk_cli.models import vae as autoencoder
from musetalk_cli.models import whisper as ear
from musetalk_cli.models.compiled import COMPILE_AFTER, Compiled
from musetalk_cli.models.family import FULL, Lent, Numbers, Plan
from musetalk_cli.models.fast import LAST, FastDecoder, FastEncoder, FastUnet
from musetalk_cli.models.feed import Made, answers, as_memory_error, filled, splits_of
from musetalk_cli.models.unet import load_unet, one_step, positional_encoding
from musetalk_cli.models.whisper_encoder import WhisperEncoder

LATENT_CHANNELS = 4
LATENT_PX = 32
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CROPS_AT_ONCE = 8  # through the VAE on a GPU: its first layers hold 34 MB a crop and layer in fp32
EXACT_ROWS = 8  # at once on a GPU, always: kernels differ with the batch, so what lacks is filled up
UNET_ROWS_ON_GPU = 16  # one size for all films, so that kernels are chosen and compiled once
UNET_ROWS_ON_CPU = 8  # weights are 1.7 GB in bf16: alone, a row takes 0.93 s on a core, of eight together each 0.47
UNETS = {
    "v15": (weights.UNET_V15_CONFIG, weights.UNET_V15),
    "v1": (weights.UNET_V1_CONFIG, weights.UNET_V1),
}


class PublishedNets(NamedTuple):
    """The three nets, on one device, in one precision."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    whisper: WhisperEncoder


class FastNets:
    """The same nets as models/fast.py writes them, from what the stages hold to what they keep, all on the device."""

    def __init__(self, nets: PublishedNets, positions: Tensor) -> None:
        device, dtype = nets.unet.device, nets.unet.dtype
        self._dtype, self._positions = dtype, positions.to(device, dtype)
        after = COMPILE_AFTER if device.type == "cuda" else None  # on a CPU most of the work is in oneDNN either way
        self._unet = Compiled(FastUnet(nets.unet), after)
        self._encoder, self._decoder = Compiled(FastEncoder(nets.vae), after), Compiled(FastDecoder(nets.vae), after)

    def answer(self, masked: Tensor, reference: Tensor, windows: Tensor) -> Made:
        """(N, 4, 32, 32) twice, (N, 10, 5, 384) -> (N, 4, 32, 32) fp16, scaled."""
        tokens = windows.to(self._dtype).flatten(1, 2) + self._positions
        return _checked(self._unet(torch.cat([masked, reference], 1).to(self._dtype), tokens).to(torch.float16))

    def latents(self, crops_rgb: Tensor) -> Made:
        """(N, 256, 256, 3) uint8 -> (N, 4, 32, 32) fp16, scaled."""
        images = (crops_rgb.permute(0, 3, 1, 2).float() / 127.5 - 1).to(self._dtype)
        return _checked((self._encoder(images).float() * autoencoder.LATENT_SCALE).to(torch.float16))

    def pixels(self, latents: Tensor) -> Made:
        """(N, 4, 32, 32) scaled -> (N, 256, 256, 3) uint8 RGB; finite: before it was rounded."""
        images = self._decoder((latents.float() / autoencoder.LATENT_SCALE).to(self._dtype))
        levels = (images.permute(0, 2, 3, 1).float() * 127.5 + 127.5).round_()
        return Made(levels.clamp_(0, 255).to(torch.uint8), torch.isfinite(images).all())


@dataclass(frozen=True, slots=True, eq=False)
class PublishedModel:
    """v15 or v1 behind the interface that all families share.

    Exact, rows go through one by one on a CPU and always eight at a time on a GPU: kernels differ with the batch, and the same row
    must give the same pixels. One thread at a time: a net that takes another precision for a moment takes it for all, and one call
    keeps a GPU busy. Raises MemoryError where a GPU has no room for what it was given.
    """

    name: str
    nets: PublishedNets
    positions: Tensor  # (50, 384)
    latent_channels: int = LATENT_CHANNELS
    fast: FastNets | None = None  # None: exact
    _alone: RLock = field(default_factory=RLock)

    def listen(self, speech: NDArray[np.float32]) -> NDArray[np.float16]:
        """(S,) mono 16 kHz -> (T, 5, 384), T = floor(S / 320)."""
        with self._alone, as_memory_error():
            return ear.hidden_states(self.nets.whisper, speech)

    def encode(self, crops_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """(N, 256, 256, 3) -> masked and reference latents, (N, 4, 32, 32) each, scaled; masked has rows 128 and below at -1."""
        with self._alone:
            both = self._encode(np.concatenate([hide_mouth(crops_rgb), crops_rgb]))
        return both[: len(crops_rgb)], both[len(crops_rgb) :]

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
        given = [torch.from_numpy(np.array(array)) for array in (masked, reference, windows)]
        with self._alone, as_memory_error():
            return _together(self._answers_fast(given) if self.fast and not fp32 else self._answers_exact(given, fp32=fp32))

    def decode(self, latents: NDArray[np.float16]) -> NDArray[np.uint8]:
        """(N, 4, 32, 32) scaled -> (N, 256, 256, 3) RGB."""
        with self._alone:
            return self._decode(latents)

    def _decode(self, latents: NDArray[np.float16]) -> NDArray[np.uint8]:
        pixels = np.empty((len(latents), CROP_PX, CROP_PX, 3), np.uint8)
        given = torch.from_numpy(np.array(latents))
        if self.fast is None:
            for rows, part in self._parts(given):
                pixels[rows] = self._decoded(part)[: rows.stop - rows.start]
            return pixels
        with as_memory_error():
            for rows, image, finite in answers(self.fast.pixels, [given], self.device, self._rows_at_once(CROPS_AT_ONCE)):
                pixels[rows] = image.numpy() if finite else self._decoded(given[rows])
        return pixels

    @property
    def device(self) -> torch.device:
        """Where the nets are."""
        return torch.device(self.nets.vae.device)

    def _answers_fast(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Non-finite ones are the caller's to ask for again."""
        assert self.fast is not None
        at_once = UNET_ROWS_ON_CPU if self.device.type == "cpu" else UNET_ROWS_ON_GPU
        return [part for _, part, _ in answers(self.fast.answer, given, self.device, at_once)]

    def _answers_exact(self, given: Sequence[Tensor], *, fp32: bool) -> list[Tensor]:
        unet, made = self.nets.unet, list[Tensor]()
        with _precision(unet, torch.float32 if fp32 else unet.dtype):
            positions = self.positions.to(unet.device, unet.dtype)
            at_once = self._rows_at_once(EXACT_ROWS)
            for rows in splits_of(len(given[0]), at_once):
                mask, ref, heard = (filled(array[rows], at_once).to(unet.device, unet.dtype) for array in given)
                made.append(one_step(unet, mask, ref, heard, positions)[: rows.stop - rows.start])
        return made

    def _encode(self, crops_rgb: NDArray[np.uint8]) -> NDArray[np.float16]:
        given = torch.from_numpy(crops_rgb)
        if self.fast is None:
            return _together([self._encoded(part)[: rows.stop - rows.start] for rows, part in self._parts(given)])
        with as_memory_error():
            made = answers(self.fast.latents, [given], self.device, self._rows_at_once(CROPS_AT_ONCE))
            return _together([part if finite else self._encoded(given[rows]) for rows, part, finite in made])

    def _encoded(self, crops_rgb: Tensor) -> Tensor:
        with as_memory_error():
            return _finite(autoencoder.encode, self.nets.vae, crops_rgb)

    def _decoded(self, latents: Tensor) -> NDArray[np.uint8]:
        with as_memory_error():
            return autoencoder.to_rgb(_finite(autoencoder.decode, self.nets.vae, latents))

    def _parts(self, given: Tensor) -> Iterator[tuple[slice, Tensor]]:
        at_once = self._rows_at_once(EXACT_ROWS)
        for rows in splits_of(len(given), at_once):
            yield rows, filled(given[rows], at_once)

    def _rows_at_once(self, on_gpu: int) -> int:
        return 1 if self.device.type == "cpu" else on_gpu


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
    return PublishedModel(name, nets, positional_encoding(), fast=_ready(nets, device, numbers))


def _ready(nets: PublishedNets, device: torch.device, numbers: Numbers) -> FastNets | None:
    """None where results are to be exact. On a GPU this settles for the process how its kernels are chosen."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = numbers.exact, not numbers.exact
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not numbers.exact
    if numbers.exact:
        return None
    if device.type == "cuda":  # the order that both ways of running share, so that no weight is there twice
        nets.unet.to(memory_format=LAST)
        nets.vae.to(memory_format=LAST)
    with torch.inference_mode():
        return FastNets(nets, positional_encoding())


def _checked(rows: Tensor) -> Made:
    return Made(rows, torch.isfinite(rows).all())


def _together(parts: Sequence[Tensor]) -> NDArray[np.float16]:
    """Latents in parts -> one array (N, 4, 32, 32)."""
    none = torch.zeros((0, LATENT_CHANNELS, LATENT_PX, LATENT_PX), dtype=torch.float16)
    out: NDArray[np.float16] = torch.cat([none, *(part.to("cpu", torch.float16) for part in parts)]).numpy()
    return out


def _finite(run: Callable[[AutoencoderKL, Tensor], Tensor], vae: AutoencoderKL, given: Tensor) -> Tensor:
    """run(vae, given), and once more in full precision where half precision overflowed. Raises InternalError where that helps not."""
    on_device = given.to(vae.device)
    answer = run(vae, on_device)
    if torch.isfinite(answer).all():
        return answer
    with _precision(vae, torch.float32):
        answer = run(vae, on_device)
    if torch.isfinite(answer).all():
        return answer
    raise InternalError(f"{run.__name__} of {len(given)} crops: NaN in full precision", "run `musetalk weights verify`")


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

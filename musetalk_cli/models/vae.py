"""The published autoencoder, sd-vae-ft-mse. In: crops or latents. Out: latents or crops. Knows nothing of masks or U-Nets.

crop (N, 256, 256, 3) uint8 RGB -> [-1, 1] -> encoder, mode of the posterior, * 0.18215 -> (N, 4, 32, 32)
(N, 4, 32, 32) / 0.18215 -> decoder -> x / 2 + 0.5, clamped -> (N, 256, 256, 3) uint8 RGB
"""

import re
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from musetalk_cli.models.loading import fill, read_config, read_tensors

LATENT_SCALE = 0.18215  # variance of SD's latents; the published config names none, this is the library's default
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.15


def load_vae(config: Path, weights: Path, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """config.json and diffusion_pytorch_model.safetensors | .bin -> the net, strictly. Raises MissingError.

    Both styles of attention names are known: the published .bin is from before diffusers 0.15.
    """
    wanted = read_config(config)
    with torch.device("meta"):
        vae: AutoencoderKL = AutoencoderKL.from_config(wanted)
    return fill(vae, rename_attention(read_tensors(weights)), weights, device, dtype)


def rename_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mid-block's attention in today's names and shapes; some old files keep its matrices as 1x1 convolutions."""
    renamed = {}
    for name, tensor in tensors.items():
        if ".attentions." in name:
            name = re.sub(r"\.(query|key|value|proj_attn)\.", lambda found: f".{OLD_ATTENTION[found[1]]}.", name)
            tensor = tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
        renamed[name] = tensor
    return renamed


@torch.inference_mode()
def encode(vae: AutoencoderKL, crops_rgb: Tensor) -> Tensor:
    """(N, 256, 256, 3) uint8 -> (N, 4, 32, 32), scaled.

    The mode of the posterior: the published scripts draw an unseeded sample and differ from run to run.
    """
    images = crops_rgb.permute(0, 3, 1, 2).contiguous().to(vae.dtype) / 255  # one layout, or the last bits differ
    latents: Tensor = vae.encode((images - 0.5) / 0.5).latent_dist.mode()
    return latents * LATENT_SCALE


@torch.inference_mode()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """(N, 4, 32, 32) scaled -> (N, 3, 256, 256) images around [-1, 1], as the decoder gives them."""
    images: Tensor = vae.decode(latents.to(vae.dtype) / LATENT_SCALE, return_dict=False)[0]
    return images


def to_rgb(images: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) around [-1, 1] -> (N, H, W, 3) uint8."""
    levels = (images.float() / 2 + 0.5).clamp(0, 1) * 255
    out: NDArray[np.uint8] = levels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return out

"""The published U-Net. In: masked and reference latents, audio tokens. Out: the latents of the answer. Knows nothing of pixels.

    [masked, reference] (N, 8, 32, 32) --.
    tokens (N, 50, 384) + positions -----|-- UNet2DConditionModel, timestep 0 -> (N, 4, 32, 32)

Source: paper section 3.1; Stable Diffusion 1's U-Net with cross-attention of width 384, as musetalk.json has it.
"""

from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from musetalk_cli.errors import MissingError
from musetalk_cli.models.loading import VERIFY, fill, read_config, read_tensors

AUDIO_TOKENS = 50  # ten tokens of five layers each; token index = 5 * time + layer
AUDIO_WIDTH = 384


def load_unet(config: Path, weights: Path, device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """musetalk.json and unet.pth | pytorch_model.bin | .safetensors -> the net, strictly. Raises MissingError."""
    wanted = read_config(config)
    with torch.device("meta"):
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(wanted)
    if (unet.config["in_channels"], unet.config["out_channels"]) != (8, 4) or unet.config["cross_attention_dim"] != AUDIO_WIDTH:
        raise MissingError(
            f"{config}: not MuseTalk's U-Net: needs 8 channels in, 4 out, cross-attention of {AUDIO_WIDTH}", VERIFY
        )
    return fill(unet, read_tensors(weights), weights, device, dtype)


def positional_encoding(tokens: int = AUDIO_TOKENS, width: int = AUDIO_WIDTH) -> Tensor:
    """(tokens, width) float32: column 2k is sin(p / 10000^(2k / width)), column 2k + 1 the cosine. Source: Vaswani et al. 2017.

    The released training script never adds it, every inference script does; the published weights are used with it.
    """
    position = torch.arange(tokens, dtype=torch.float32)[:, None]
    even = torch.arange(0, width, 2, dtype=torch.float32)
    angle = position * torch.exp(even * (-torch.log(torch.tensor(10000.0)) / width))  # (tokens, width / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=2).reshape(tokens, width)


@torch.inference_mode()
def one_step(unet: UNet2DConditionModel, masked: Tensor, reference: Tensor, windows: Tensor, positions: Tensor) -> Tensor:
    """(N, 4, 32, 32) twice, (N, 10, 5, 384), (50, 384) -> (N, 4, 32, 32): no noise and no schedule, the answer itself."""
    tokens = windows.flatten(1, 2) + positions  # (N, 50, 384), time-major
    step = torch.zeros(1, dtype=torch.int64, device=masked.device)
    answer: Tensor = unet(torch.cat([masked, reference], dim=1), step, tokens, return_dict=False)[0]
    return answer

"""The published architecture without its weights. In: a seed. Out: a folder laid out as `weights pull v15` does, filled with noise.

What the numbers are changes no network's speed, so a machine without the weights can be measured; mouths look like noise. The files are
read as the published ones are, and go when the block ends. Sizes: the published musetalk.json, sd-vae-ft-mse, whisper-tiny, BiSeNet.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 384,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 8,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
}
POOL = 1 << 22  # random numbers of which every matrix takes what it needs: 850 million would take half a minute
SKIN = 1  # BiSeNet's class, which it always answers here: a mask of the whole lower face, as a real one has


@contextmanager
def random_v15(seed: int = 0) -> Iterator[Path]:
    """A weights folder for as long as the block lasts: 2 GB, the large nets in bfloat16, which loading turns into what is asked for."""
    with TemporaryDirectory(prefix="musetalk-random-") as name:
        folder = Path(name)
        _write_unet(folder / "musetalkV15", seed)
        _write_vae(folder / "sd-vae", seed)
        _write_whisper(folder / "whisper", seed)
        _write_bisenet(folder / "face-parse-bisent", seed)
        yield folder


@lru_cache(maxsize=1)
def published_nets() -> tuple[Any, Any]:
    """The U-Net and the autoencoder on torch's meta device: their shapes, no numbers."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel.from_config(UNET), AutoencoderKL.from_config(VAE)


def _write_unet(folder: Path, seed: int) -> None:
    import torch

    _save(folder / "unet.safetensors", drawn(published_nets()[0].state_dict(), seed, torch.bfloat16))
    (folder / "musetalk.json").write_text(json.dumps(UNET))


def _write_vae(folder: Path, seed: int) -> None:
    import torch

    _save(folder / "diffusion_pytorch_model.safetensors", drawn(published_nets()[1].state_dict(), seed, torch.bfloat16))
    (folder / "config.json").write_text(json.dumps(VAE))


def _write_whisper(folder: Path, seed: int) -> None:
    import torch

    from musetalk_cli.models.whisper_encoder import WhisperEncoder

    with torch.device("meta"):
        net = WhisperEncoder()
    tensors = drawn(net.state_dict(), seed, torch.float32)
    _save(folder / "model.safetensors", {f"encoder.{name}": tensor for name, tensor in tensors.items()})
    (folder / "config.json").write_text(json.dumps(WHISPER))


def _write_bisenet(folder: Path, seed: int) -> None:
    import torch

    from musetalk_cli.models.parsing import BiSeNet

    with torch.device("meta"):
        net = BiSeNet()
    tensors = drawn(net.state_dict(), seed, torch.float32)
    head = tensors["conv_out.conv_out.weight"]  # (19, C, 1, 1) after a ReLU: the class of positive weights wins
    head.copy_(-head.abs())
    head[SKIN] = head[SKIN].abs()
    folder.mkdir()
    torch.save(tensors, folder / "79999_iter.pth")


def drawn(shapes: Mapping[str, "torch.Tensor"], seed: int, dtype: "torch.dtype") -> dict[str, "torch.Tensor"]:
    """A tensor for each name: kernels by their fan-in, so that activations stay of one size; scales 1, shifts 0."""
    import torch

    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(seed))
    made: dict[str, torch.Tensor] = {}
    for name, given in shapes.items():
        if not given.is_floating_point():  # BatchNorm also counts
            made[name] = torch.zeros(given.shape, dtype=given.dtype)
        elif given.dim() < 2:
            of_one = name.endswith(("weight", "running_var"))
            made[name] = torch.full(given.shape, float(of_one), dtype=dtype)
        else:
            scaled = (pool / (given[0].numel() ** 0.5)).to(dtype)
            made[name] = scaled.repeat(-(-given.numel() // POOL))[: given.numel()].reshape(given.shape).clone()
    return made


def _save(path: Path, tensors: "dict[str, torch.Tensor]") -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)

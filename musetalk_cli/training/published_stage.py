"""Stages 1 and 2 of the published architecture. In: samples, sd-vae, where the U-Net begins, judges. Out: a Trainee of the loop.

    crop, its lower half hidden -> sd-vae encoder, mode of the posterior --.
    reference crop -> the same --------------------------------------------|- U-Net, timestep 0 -> latent
    whisper window (10, 5, 384) -> 50 tokens + positions ------------------'       -> sd-vae decoder -> l1, vgg, adv_*, fm, sync

The VAE is frozen, its decoder in the graph; whisper's states come from the set. Positions are added to the tokens, as at inference;
the released training script left them out, so its weights met them first at work (`positions=false` does as it did). Source: paper
sections 3.2 to 3.4; the released train.py for what it does not say.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from musetalk_cli.crop import MASK_ROW
from musetalk_cli.errors import MissingError, UsageError
from musetalk_cli.models.discriminator import DiscriminatorConfig
from musetalk_cli.models.loading import read_config, read_tensors
from musetalk_cli.models.unet import AUDIO_TOKENS, AUDIO_WIDTH, positional_encoding
from musetalk_cli.models.vae import LATENT_SCALE
from musetalk_cli.training import losses
from musetalk_cli.training.config import StageConfig
from musetalk_cli.training.dataset import Sample
from musetalk_cli.training.judges import Judges, stage_discriminators, stage_weights
from musetalk_cli.training.loop import Answer, Nets, Pair
from musetalk_cli.training.report import Validation
from musetalk_cli.training.sampling import lip_region, released_lip_region
from musetalk_cli.training.validation import Shown, held_windows, picture_metrics, strip
from musetalk_cli.training.windows import Hear, Window, WindowRows, sampled_reference

UNET_CONFIG = {  # musetalk.json: Stable Diffusion 1's U-Net with 8 channels in and cross-attention of width 384
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": AUDIO_WIDTH,
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
UNET_FOLDER, CONFIG_NAME, WEIGHTS_NAME = "musetalkV15", "musetalk.json", "unet.safetensors"
SHOWN_AT_ONCE = 4  # frames through the nets in a validation


@dataclass(frozen=True, slots=True)
class PublishedOptions:
    """What the published architecture has beside the settings of a stage."""

    positions: bool = True  # added to the audio tokens, as every inference script does
    gradient_checkpointing: bool = True  # a third more time for a fraction of the memory
    config: str = ""  # a musetalk.json with other sizes; "": the one beside the weights, else the published sizes
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


class PublishedRow(NamedTuple):
    """F consecutive frames."""

    real: NDArray[np.uint8]  # (F, 256, 256, 3) RGB
    reference: NDArray[np.uint8]  # (F, 256, 256, 3) RGB
    heard: NDArray[np.float16]  # (F, 10, 5, 384)
    lips: NDArray[np.int64]  # (F, 4) what the lip discriminator looks at
    sound: NDArray[np.float32]  # what a SyncNet hears


class PublishedBatch(NamedTuple):
    """N rows of F frames, stacked."""

    real: Tensor  # (N, F, 256, 256, 3) uint8
    reference: Tensor
    heard: Tensor  # (N, F, 10, 5, 384) float16
    lips: Tensor  # (N, F, 4)
    sound: Tensor  # (N, ...)


@dataclass(frozen=True, slots=True)
class PublishedRows:
    """Windows as the published architecture sees them."""

    windows: WindowRows
    released_lips: bool = False

    def row(self, random: np.random.Generator) -> PublishedRow:
        return self.of(self.windows.row(random))

    def of(self, window: Window) -> PublishedRow:
        lips = (released_lip_region if self.released_lips else lip_region)(window.real.points)
        return PublishedRow(window.real.rgb, window.references[0].rgb, window.heard, lips, window.sound)


def published_rows(samples: Sequence[Sample], config: StageConfig, hear: Hear | None) -> PublishedRows:
    """Rows of the samples that have a voice; one reference a frame, margins drawn for both sides."""
    rule = sampled_reference(config.reference)
    return PublishedRows(WindowRows(tuple(samples), config.frames, (rule,), config.margin, hear), config.lip == "released")


class PublishedStage:
    """A stage of the published architecture as the loop trains it."""

    def __init__(
        self,
        config: StageConfig,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        judges: Judges,
        rows: PublishedRows,
        held: PublishedRows | None,
        options: PublishedOptions,
    ) -> None:
        self.config, self.judges, self.rows = config, judges, rows
        self.vae = vae.eval().requires_grad_(False)
        self.networks: Nets = {"unet": unet.requires_grad_(True)}
        self.discriminators: Nets = stage_discriminators(config, options.discriminator)
        self.positions = positional_encoding() if options.positions else torch.zeros(AUDIO_TOKENS, AUDIO_WIDTH)
        if options.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            vae.enable_gradient_checkpointing()
        self.held = [held.of(window) for window in held_windows(held.windows, config.seed)] if held is not None else []

    def weights(self, step: int) -> Mapping[str, float]:
        return stage_weights(self.config, step)

    def to(self, device: torch.device) -> None:
        self.vae.to(device)
        self.positions = self.positions.to(device)
        self.judges.to(device)

    def generator_terms(
        self, networks: Nets, discriminators: Nets, batch: PublishedBatch, weights: Mapping[str, float]
    ) -> Answer:
        real = to_images(batch.real.flatten(0, 1))
        latents = self.infer(networks, real, to_images(batch.reference.flatten(0, 1)), batch.heard.flatten(0, 1))
        painted = self.decode(latents)
        terms: dict[str, Tensor] = {}
        if "l1" in weights:
            terms["l1"] = losses.l1(painted, real)
        if "latent" in weights:
            terms["latent"] = losses.l1(latents, self.encode(real))
        if "vgg" in weights:
            terms["vgg"] = self.judges.vgg(painted, real)
        if "sync" in weights:
            terms["sync"] = self.judges.sync(painted, batch.sound)
        against = self.judges.adversarial(painted, real, batch.lips.flatten(0, 1), discriminators, weights)
        return Answer({**terms, **against.terms}, against.pairs)

    def discriminator_terms(self, discriminators: Nets, pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
        return self.judges.discriminator_terms(discriminators, pairs)

    def infer(self, networks: Nets, real: Tensor, reference: Tensor, heard: Tensor) -> Tensor:
        """(M, 3, 256, 256) twice, (M, 10, 5, 384) -> (M, 4, 32, 32), scaled: one step, as at work."""
        inputs = torch.cat([self.encode(hidden(real)), self.encode(reference)], 1)
        tokens = heard.flatten(1, 2).float() + self.positions
        step = torch.zeros(1, dtype=torch.int64, device=real.device)
        answer: Tensor = networks["unet"](inputs, step, tokens, return_dict=False)[0]
        return answer.float()

    def decode(self, latents: Tensor) -> Tensor:
        """(M, 4, 32, 32) scaled -> (M, 3, 256, 256) around [-1, 1], with its gradient."""
        images: Tensor = self.vae.decode(latents / LATENT_SCALE, return_dict=False)[0]
        return images.float()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(M, 3, 256, 256) -> (M, 4, 32, 32), scaled; the mode of the posterior."""
        latents: Tensor = self.vae.encode(images).latent_dist.mode()
        return latents.float() * LATENT_SCALE

    def validate(self, networks: Nets) -> Validation | None:
        """People held out, their own voice; `ceiling` is the VAE alone."""
        if not self.held:
            return None
        shown, ceiling, cosines = [], [], []
        for row in self.held:
            batch = PublishedBatch(*(torch.as_tensor(part).to(self.positions.device) for part in row))
            real, reference = to_images(batch.real), to_images(batch.reference)
            painted, rebuilt = self._in_parts(networks, real, reference, batch.heard)
            shown.append(Shown(hidden(real), reference, painted, real))
            ceiling.append(Shown(hidden(real), reference, rebuilt, real))
            if self.judges.syncnet is not None:
                cosines += [self.judges.embedded(images, batch.sound[None]) for images in (painted, real)]
        metrics = picture_metrics(shown)
        metrics |= {f"ceiling_{name}": value for name, value in picture_metrics(ceiling).items()}
        if cosines:
            agreed = [float((face * voice).sum()) for face, voice in cosines]
            metrics |= {"sync": float(np.mean(agreed[::2])), "sync_real": float(np.mean(agreed[1::2]))}
        return Validation(metrics, {"held_out": strip(shown)})

    def _in_parts(self, networks: Nets, real: Tensor, reference: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """Painted and merely rebuilt pictures, a few frames at a time."""
        parts = [slice(first, first + SHOWN_AT_ONCE) for first in range(0, len(real), SHOWN_AT_ONCE)]
        painted = [self.decode(self.infer(networks, real[rows], reference[rows], heard[rows])) for rows in parts]
        rebuilt = [self.decode(self.encode(real[rows])) for rows in parts]
        return torch.cat(painted), torch.cat(rebuilt)


def to_images(crops_rgb: Tensor) -> Tensor:
    """(M, 256, 256, 3) uint8 -> (M, 3, 256, 256) in [-1, 1]."""
    return crops_rgb.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def hidden(images: Tensor) -> Tensor:
    """The same with the mask's rows at -1."""
    masked = images.clone()
    masked[:, :, MASK_ROW:] = -1
    return masked


def open_unet(init: str, config: str = "") -> UNet2DConditionModel:
    """The U-Net where training begins, float32.

    init: "" for scratch; a folder with musetalk.json and unet.safetensors | unet.pth | pytorch_model.bin, or one that holds it as
    musetalkV15/ or musetalk/; or a file of MuseTalk's U-Net or of Stable Diffusion 1's. Of the latter all is taken that has the
    same shape; its first convolution serves both halves of the input, at half strength each; what listens to 768 numbers of text
    begins anew. Raises MissingError for a file that is neither.
    """
    weights = _unet_file(Path(init)) if init else None
    beside = weights.parent / CONFIG_NAME if weights is not None else None
    sizes: dict[str, Any] = dict(UNET_CONFIG)
    if config or (beside is not None and beside.exists()):
        sizes = read_config(Path(config) if config else beside or Path())
    unet: UNet2DConditionModel = UNet2DConditionModel.from_config(sizes)
    if weights is not None:
        _fill_unet(unet, read_tensors(weights), weights)
    return unet


def write_unet(unet: nn.Module, folder: Path) -> None:
    """musetalkV15/musetalk.json and unet.safetensors: with sd-vae and whisper beside, what `dub --weights` loads as v15."""
    assert isinstance(unet, UNet2DConditionModel)
    inside = folder / UNET_FOLDER
    inside.mkdir(parents=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in unet.state_dict().items()}
    save_file(tensors, inside / WEIGHTS_NAME, metadata={"format": "pt"})
    sizes = {name: value for name, value in dict(unet.config).items() if not name.startswith("_")}
    (inside / CONFIG_NAME).write_text(json.dumps({"_class_name": "UNet2DConditionModel", **sizes}, indent=2, default=list) + "\n")


def _unet_file(init: Path) -> Path:
    if init.is_file():
        return init
    for folder in (init, init / UNET_FOLDER, init / "musetalk"):
        for name in (WEIGHTS_NAME, "unet.pth", "pytorch_model.safetensors", "pytorch_model.bin"):
            if (folder / name).is_file():
                return folder / name
    raise MissingError(f"{init}: holds no U-Net", f"give a file, or a folder with {CONFIG_NAME} and {WEIGHTS_NAME}")


def _fill_unet(unet: UNet2DConditionModel, tensors: dict[str, Tensor], path: Path) -> None:
    wanted = unet.state_dict()
    given = {name: value.float() for name, value in tensors.items() if name in wanted}
    first = given.get("conv_in.weight")
    if first is None or len(given) < len(wanted):
        raise MissingError(
            f"{path}: {len(wanted) - len(given)} of the U-Net's tensors are not in it", "give a U-Net of MuseTalk or SD 1"
        )
    if first.shape[1] * 2 == wanted["conv_in.weight"].shape[1]:
        given["conv_in.weight"] = torch.cat([first, first], 1) / 2
    fitting = {name: value for name, value in given.items() if value.shape == wanted[name].shape}
    other = [name for name in wanted if name not in fitting and ".attn2." not in name]
    if other:
        raise UsageError(f"{path}: of other sizes, e.g. {other[0]}", "give its config beside it, or --set config=PATH")
    unet.load_state_dict(fitting, strict=False)

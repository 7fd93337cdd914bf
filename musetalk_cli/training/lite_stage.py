"""Stages 1 and 2 of the lite family. In: samples, a lite model to begin with, judges. Out: a Trainee of the loop.

    frame, a frame with other lips -> the frame with those lips, a mixture            its own picture, as a film has it at work
    a frame elsewhere in the clip with like lips                                      who lends its mouth, as at work
    mixture, lender, the frame's own lip code -> lend_lips (frozen) -> lent
    masked frame, lent, code -> U-Net -> latent, against the frame's                               latent
                                      -> decoder -> lower half of the picture, against the frame's    l1, vgg, adv_*, fm, sync

The lip code is that of the picture itself, not of the voice: a picture loss alone teaches a U-Net little about sound (MuseTalk
needs SyncNet and 250,000 steps for it), while lips that are told the truth are obeyed. The voice's own codes come in at work.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from musetalk_cli.crop import CROP_PX, MASK_ROW
from musetalk_cli.landmarks import JAW_SHARES, MOUTH, STILL
from musetalk_cli.models.discriminator import SMALL, DiscriminatorConfig
from musetalk_cli.models.lenders import cheapest_path, lending_costs
from musetalk_cli.models.lip_codes import CodeBasis, lip_codes
from musetalk_cli.models.lite import MOVED_FROM, Autoencoder, LipUNet, lend_lips
from musetalk_cli.training.config import LossWeights, MarginConfig, PerceptualConfig, ReferenceConfig, StageConfig, Stages
from musetalk_cli.training.data import lower_face, similarity
from musetalk_cli.training.dataset import Sample
from musetalk_cli.training.judges import Judges, stage_discriminators, stage_weights
from musetalk_cli.training.loop import Answer, Nets, Pair
from musetalk_cli.training.losses import weighted_l1
from musetalk_cli.training.report import Validation
from musetalk_cli.training.sampling import lip_region, released_lip_region
from musetalk_cli.training.validation import Shown, held_windows, picture_metrics, strip
from musetalk_cli.training.windows import Augment, Crops, Hear, Window, WindowRows, sampled_reference

JUDGED_FROM_PX = 120  # picture row; a little above the mask, so that the seam counts
DECODED_FROM = 12  # latent row; the decoder need not see the upper half to paint the lower
CODE_NOISE = 0.1
FAR_FRAMES = 12  # that a lender is away in time: its neighbours are the frame itself
LENDER_SPREAD = 0.5  # of the logarithm by which costs of lending are varied
LIPS_PX = (112, 144)  # height and width of what the perceptual judge sees around the mouth
SHAKE_PX = 4  # by which that window is moved, so that no grid settles
AUGMENT = Augment(flip=0.5, colour=0.12, turn_deg=4.0)
FACE_SHRINK = 2  # a quarter of the face discriminator's work; a CPU spends it on the lips

_LPIPS = PerceptualConfig(kind="lpips-alex")
_MARGIN = MarginConfig(mean_px=10, std_px=10)
_NEAR = ReferenceConfig(share=0.25)  # half the paper's: too few steps to learn to turn heads

# What two CPU cores do in an hour or two; rates are forty times the paper's because the net is a hundred times smaller.
LITE = Stages(
    StageConfig(
        name="stage1",
        weights=LossWeights(l1=1.0, vgg=0.7, latent=0.3),
        steps=20_000,
        batch=8,
        frames=1,
        rate=5e-4,
        warmup=30,
        schedule="cosine",
        betas=(0.9, 0.99),
        ema=0.998,
        checkpoint_every=500,
        validate_every=500,
        keep=3,
        reference=_NEAR,
        margin=_MARGIN,
        perceptual=_LPIPS,
    ),
    StageConfig(
        name="stage2",
        weights=LossWeights(l1=1.0, vgg=0.7, adv_face=0.01, adv_lip=0.02, fm=0.0, sync=0.05, latent=0.3),
        steps=5_000,
        batch=1,
        frames=16,
        rate=1e-4,
        warmup=30,
        schedule="cosine",
        betas=(0.5, 0.99),
        ema=0.998,
        checkpoint_every=250,
        validate_every=250,
        keep=3,
        gan="lsgan",
        discriminator_rate=2e-4,
        discriminator_final_rate=2e-5,
        reference=_NEAR,
        margin=_MARGIN,
        perceptual=_LPIPS,
    ),
)


class LiteRow(NamedTuple):
    """F consecutive frames as the lite nets train on them."""

    real: NDArray[np.uint8]  # (F, 256, 256, 3) RGB
    own: NDArray[np.uint8]  # (F, 256, 256, 3) the same frames with other lips
    points: NDArray[np.float32]  # (F, 68, 2) in the real frames: where lips are wanted
    own_points: NDArray[np.float32]  # (F, 68, 2)
    lender: NDArray[np.uint8]  # (F, 256, 256, 3) frames with like lips
    lending: NDArray[np.float32]  # (F, 68, 2) in them
    codes: NDArray[np.float32]  # (F, code) of the real lips
    noise: NDArray[np.float32]  # (F, code) of variance 1
    mouths: NDArray[np.float32]  # (F, 4) centre and half size of the mouth, x y x y
    lips: NDArray[np.int64]  # (F, 4) what the lip discriminator looks at
    shake: NDArray[np.int64]  # (2,) by which the perceptual judge's window is moved
    sound: NDArray[np.float32]  # what a SyncNet hears


FRAME_PARTS = (
    "real",
    "own",
    "points",
    "own_points",
    "lender",
    "lending",
    "codes",
    "noise",
    "mouths",
    "lips",
)  # of a row: what each frame has of its own


class LiteBatch(NamedTuple):
    """N rows of F frames, stacked; M = N * F."""

    real: Tensor  # (N, F, 256, 256, 3) uint8
    own: Tensor
    points: Tensor  # (N, F, 68, 2)
    own_points: Tensor
    lender: Tensor
    lending: Tensor
    codes: Tensor  # (N, F, code)
    noise: Tensor
    mouths: Tensor  # (N, F, 4)
    lips: Tensor  # (N, F, 4)
    shake: Tensor  # (N, 2)
    sound: Tensor  # (N, ...)


@dataclass(frozen=True, slots=True)
class LiteRows:
    """Windows with mixtures for references, and what their lips do."""

    windows: WindowRows
    codes: tuple[NDArray[np.float32], ...]  # (F, code) of each sample
    released_lips: bool = False

    def row(self, random: np.random.Generator) -> LiteRow:
        return self.of(self.windows.row(random), random)

    def of(self, window: Window, random: np.random.Generator) -> LiteRow:
        """A window as the lite nets see it."""
        real, (other, lender) = window.real, window.references
        mixed = [with_lips_of(*four) for four in zip(*real, *other, strict=True)]
        codes = self.codes[window.sample][window.frames]
        return LiteRow(
            real.rgb,
            np.stack([mixture.rgb for mixture in mixed]),
            real.points,
            np.stack([mixture.points for mixture in mixed]),
            lender.rgb,
            lender.points,
            codes,
            random.standard_normal(codes.shape, np.float32),
            np.stack([mouth_of(points) for points in real.points]),
            (released_lip_region if self.released_lips else lip_region)(real.points),
            random.integers(-SHAKE_PX, SHAKE_PX + 1, 2),
            window.sound,
        )


def lite_rows(
    samples: Sequence[Sample], basis: CodeBasis, config: StageConfig, hear: Hear | None, augment: Augment | None = None
) -> LiteRows:
    """Rows of the samples whose lips can be told; `hear` is what the sync term's expert hears, None without one."""
    codes = [lip_codes(sample.landmarks, basis) for sample in samples]
    seen = [index for index, rows in enumerate(codes) if not np.isnan(rows).any()]
    windows = WindowRows(
        tuple(samples[index] for index in seen),
        config.frames,
        (sampled_reference(config.reference), like_lips),
        config.margin,
        hear,
        augment or Augment(),
        voiced=hear is not None,
    )
    return LiteRows(windows, tuple(codes[index] for index in seen), config.lip == "released")


def like_lips(targets: NDArray[np.int64], points: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.int64]:
    """Frames that lend their mouths, as `choose_lenders` finds them at work, but never from within half a second of the target.

    How good a lender a film has differs, so costs are multiplied by what is drawn for each frame.
    """
    faces = points[targets]
    costs = lending_costs(points, faces, faces) * np.exp(LENDER_SPREAD * generator.standard_normal(len(points)))
    away = np.abs(targets[:, None] - np.arange(len(points)))
    far = np.where(away > FAR_FRAMES, costs, np.inf)
    others = np.where(away > 0, costs, np.inf) if len(points) > 1 else costs
    usable = np.isfinite(far).any(1).all()
    return np.asarray(cheapest_path(far if usable else others), np.int64)


class Painted(NamedTuple):
    """What the nets made of a batch; M frames."""

    latents: Tensor  # (M, C, 32, 32)
    images: Tensor  # (M, 3, 256, 256) in [-1, 1]: painted from row JUDGED_FROM_PX down, real above
    lent: Tensor  # (M, 3, 176, 256) what the U-Net paints over, from row 80 down


class LiteStage:
    """A stage of lite as the loop trains it: the U-Net, and the decoder where `decoder` says so."""

    def __init__(
        self,
        config: StageConfig,
        nets: "LiteTrainable",
        judges: Judges,
        rows: LiteRows,
        held: LiteRows | None,
        *,
        decoder: bool,
        discriminator: DiscriminatorConfig = SMALL,
    ) -> None:
        self.config, self.judges, self.rows = config, judges, rows
        self.autoencoder = nets.autoencoder.eval().requires_grad_(False)
        self.networks: Nets = {"unet": nets.unet}
        if decoder:
            self.networks = {"unet": nets.unet, "decoder": nets.autoencoder.decoder.requires_grad_(True)}
        self.discriminators: Nets = stage_discriminators(config, discriminator)
        for net in (self.autoencoder, nets.unet, *self.discriminators.values()):
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch 2.13 leaves it out of the signature
        windows = held_windows(held.windows, config.seed) if held is not None else []
        self.held = [held.of(window, np.random.default_rng(config.seed)) for window in windows] if held is not None else []

    def weights(self, step: int) -> Mapping[str, float]:
        return stage_weights(self.config, step)

    def to(self, device: torch.device) -> None:
        self.autoencoder.to(device)
        self.judges.to(device)

    def generator_terms(self, networks: Nets, discriminators: Nets, batch: LiteBatch, weights: Mapping[str, float]) -> Answer:
        flat = batch._replace(**{name: getattr(batch, name).flatten(0, 1) for name in FRAME_PARTS})  # (M, ...) frames
        real = to_images(flat.real)
        made = self.paint(networks, flat, real)
        below, truth = made.images[:, :, JUDGED_FROM_PX:], real[:, :, JUDGED_FROM_PX:]
        terms: dict[str, Tensor] = {}
        if "l1" in weights:
            terms["l1"] = weighted_l1(below, truth, pixel_weight(flat.mouths))
        if "latent" in weights:
            terms["latent"] = self._latent_term(made.latents, real, flat.mouths)
        if "vgg" in weights:
            places = lip_windows(flat.mouths, batch.shake.repeat_interleave(batch.real.shape[1], 0))
            terms["vgg"] = self.judges.vgg(cut_out(below, places), cut_out(truth, places))
        if "sync" in weights:
            terms["sync"] = self.judges.sync(made.images, batch.sound)
        against = self.judges.adversarial(made.images, real, flat.lips, discriminators, weights)
        return Answer({**terms, **against.terms}, against.pairs)

    def discriminator_terms(self, discriminators: Nets, pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
        return self.judges.discriminator_terms(discriminators, pairs)

    def paint(self, networks: Nets, flat: LiteBatch, real: Tensor) -> Painted:
        """The nets at work on M frames; everything before the U-Net is frozen."""
        with torch.no_grad():
            autoencoder = with_decoder(self.autoencoder, networks)
            masked, own, lender = (
                self.autoencoder.encode(images).float() for images in (hidden(real), to_images(flat.own), to_images(flat.lender))
            )
            lent = lend_lips(autoencoder, own, lender, flat.own_points, flat.lending, flat.points)
        answer = networks["unet"](masked, lent.latents, lent.maps, flat.codes + CODE_NOISE * flat.noise)
        lower = answer[:, :, DECODED_FROM:] * self.autoencoder.std + self.autoencoder.mean
        decoder = networks.get("decoder", self.autoencoder.decoder)
        painted = decoder(lower.contiguous(memory_format=torch.channels_last)).float()
        below = painted[:, :, JUDGED_FROM_PX - 8 * DECODED_FROM :]  # the rows before are wrong for want of what is above them
        return Painted(answer, torch.cat([real[:, :, :JUDGED_FROM_PX], below], 2), lent.picture)

    def validate(self, networks: Nets) -> Validation | None:
        """Self-reconstruction with lips told, codes without noise; `lent` is what is painted over, `ceiling` the autoencoder alone."""
        if not self.held:
            return None
        device = self.autoencoder.mean.device
        shown, unpainted, ceiling, cosines = [], [], [], []
        for row in self.held:
            batch = LiteBatch(*(torch.as_tensor(part).to(device) for part in row))
            batch = batch._replace(noise=torch.zeros_like(batch.codes))
            real = to_images(batch.real)
            made = self.paint(networks, batch, real)
            rebuilt = with_decoder(self.autoencoder, networks).decode(self.autoencoder.encode(real)).float()
            lent = torch.cat([real[:, :, : 8 * MOVED_FROM], made.lent], 2)
            shown.append(Shown(hidden(real), lent, made.images, real))
            unpainted.append(Shown(hidden(real), lent, lent, real))
            ceiling.append(Shown(hidden(real), lent, rebuilt, real))
            if self.judges.syncnet is not None:
                cosines += [self._cosine(images, batch.sound[None]) for images in (made.images, real)]
        metrics = picture_metrics(shown)
        for name, others in (("lent", unpainted), ("ceiling", ceiling)):
            metrics |= {f"{name}_{key}": value for key, value in picture_metrics(others).items()}
        if cosines:
            metrics |= {"sync": float(np.mean(cosines[::2])), "sync_real": float(np.mean(cosines[1::2]))}
        return Validation(metrics, {"held_out": strip(shown)})

    def _latent_term(self, answer: Tensor, real: Tensor, mouths: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.autoencoder.encode(real).float()
        return ((answer - wanted).abs() * functional.avg_pool2d(cell_weight(mouths), 2)).mean()

    def _cosine(self, images: Tensor, sound: Tensor) -> float:
        face, voice = self.judges.embedded(images, sound)
        return float((face * voice).sum())


class LiteTrainable(NamedTuple):
    """The nets of a lite model that a stage needs."""

    autoencoder: Autoencoder
    unet: LipUNet


def with_decoder(autoencoder: Autoencoder, networks: Nets) -> Autoencoder:
    """The autoencoder with the decoder that is being trained, or its average; the rest is shared."""
    if "decoder" not in networks:
        return autoencoder
    other = copy(autoencoder)
    decoder = getattr(networks["decoder"], "module", networks["decoder"])  # out of the wrapper of several processes
    other._modules = {**autoencoder._modules, "decoder": decoder}
    return other


def to_images(crops_rgb: Tensor) -> Tensor:
    """(M, 256, 256, 3) uint8 -> (M, 3, 256, 256) in [-1, 1], channels last."""
    return crops_rgb.permute(0, 3, 1, 2).float() / 127.5 - 1


def hidden(images: Tensor) -> Tensor:
    """The same with the mask's rows at -1."""
    masked = images.clone()
    masked[:, :, MASK_ROW:] = -1
    return masked


def with_lips_of(
    crop: NDArray[np.uint8], points: NDArray[np.float32], other: NDArray[np.uint8], other_points: NDArray[np.float32]
) -> Crops:
    """A crop (256, 256, 3) with the mouth and chin of another, as if the same frame had said something else; and its points (68, 2).

    So that the net learns lips and nothing but lips: two frames of a clip differ in pose and light too, and those differences are
    most of the loss (0.1 of L1 for the nearest pair of an ordinary clip, hardly less with the pair aligned).
    """
    onto = similarity(other_points[STILL], points[STILL])
    said = cv2.warpAffine(other, onto, (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved = other_points @ onto[:, :2].T + onto[:, 2]
    alpha = lower_face(points, moved)[96:, :, None]
    light = (crop[64:128, 64:192].mean((0, 1)) - said[64:128, 64:192].mean((0, 1))).astype(np.float32)
    mixed, speaking = crop.copy(), points.copy()
    lower = mixed[96:] * (1 - alpha) + (said[96:] + light) * alpha
    mixed[96:] = np.clip(np.rint(lower), 0, 255).astype(np.uint8)
    changed = [*JAW_SHARES, *MOUTH]
    speaking[changed] = moved[changed]
    return Crops(mixed, speaking)


def cell_weight(mouths: Tensor) -> Tensor:
    """(M, 4) -> (M, 1, 64, 64): 0.2 far away, 1.2 about mouth and chin."""
    cells = torch.arange(64, device=mouths.device) * 4 + 1.5
    x, y, half_x, half_y = (part.view(-1, 1, 1, 1) for part in mouths.float().unbind(1))
    rows, columns = (cells.view(1, 1, -1, 1) - y - 10) / (half_y + 25), (cells.view(1, 1, 1, -1) - x) / (half_x + 16)
    return 0.2 + torch.exp(-(rows**2) - columns**2)


def lip_windows(mouths: Tensor, shake: Tensor) -> list[tuple[int, int]]:
    """(M, 4), (M, 2) -> top and left of a window of LIPS_PX about each mouth, in the judged rows."""
    height, width = LIPS_PX
    centre = (mouths[:, :2].round().int() + shake).tolist()
    tops = [min(max(y - JUDGED_FROM_PX - height // 2, 0), CROP_PX - JUDGED_FROM_PX - height) for _, y in centre]
    lefts = [min(max(x - width // 2, 0), CROP_PX - width) for x, _ in centre]
    return list(zip(tops, lefts, strict=True))


def cut_out(images: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """(M, 3, H, W) -> (M, 3, *LIPS_PX), each from its own place."""
    height, width = LIPS_PX
    parts = [image[:, top : top + height, left : left + width] for image, (top, left) in zip(images, places, strict=True)]
    return torch.stack(parts).contiguous(memory_format=torch.channels_last)


def pixel_weight(mouths: Tensor) -> Tensor:
    """(M, 4) -> (M, 1, 256 - JUDGED_FROM_PX, 256): 1 far away, 5 on the mouth, then scaled to mean 1."""
    rows = torch.arange(JUDGED_FROM_PX, CROP_PX, device=mouths.device).view(1, 1, -1, 1)
    columns = torch.arange(CROP_PX, device=mouths.device).view(1, 1, 1, -1)
    x, y, half_x, half_y = (part.view(-1, 1, 1, 1) for part in mouths.float().unbind(1))
    weight = 1 + 4 * torch.exp(-(((rows - y) / (half_y + 12)) ** 2) - ((columns - x) / (half_x + 8)) ** 2)
    return weight / weight.mean((2, 3), keepdim=True)


def mouth_of(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(68, 2) -> (4,): centre and half size of the lips."""
    low, high = points[48:68].min(0), points[48:68].max(0)
    return np.concatenate([(low + high) / 2, (high - low) / 2])

"""Who judges a painted face, and how. In: painted and real pictures, what was heard. Out: named loss terms.

    painted, real (M, 3, 256, 256) -> features (VGG or AlexNet)              vgg
                                   -> discriminators of face and lips        adv_face, adv_lip, fm
    16 frames' lower halves, sound -> SyncNet                                sync

One for all families of nets. The judges that do not learn are frozen; the discriminators belong to the loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from musetalk_cli.crop import CROP_PX, MASK_ROW
from musetalk_cli.errors import UsageError
from musetalk_cli.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from musetalk_cli.models.syncnet import FRAMES, SyncNet
from musetalk_cli.training import losses
from musetalk_cli.training.config import Gan, LipRule, StageConfig
from musetalk_cli.training.loop import Answer, Nets, Pair
from musetalk_cli.training.losses import Perceptual

TERM_OF = {"face": "adv_face", "lip": "adv_lip"}  # discriminator -> the term that it gives


@dataclass(frozen=True, slots=True)
class Judges:
    """The frozen judges of a stage, and the rules of its adversaries."""

    gan: Gan
    lip: LipRule
    perceptual: Perceptual | None = None
    syncnet: SyncNet | None = None
    face_shrink: int = 1  # the face discriminator sees every n-th pixel, averaged: 2 is a quarter of the work

    def to(self, device: torch.device) -> None:
        for net in (self.perceptual, self.syncnet):
            if net is not None:
                net.requires_grad_(False).eval().to(device)

    def vgg(self, painted: Tensor, real: Tensor) -> Tensor:
        """Distance of two pictures by their features."""
        assert self.perceptual is not None
        distance: Tensor = self.perceptual(painted, real)
        return distance

    def sync(self, painted: Tensor, sound: Tensor) -> Tensor:
        """(N * 16, 3, 256, 256) and what was heard of N windows -> -log cos, mean."""
        return losses.sync(*self.embedded(painted, sound))

    def embedded(self, painted: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """The same -> (N, D) twice, of length 1."""
        assert self.syncnet is not None
        return self.syncnet.embed_frames(lower_stacks(painted)), self.syncnet.embed_audio(sound)

    def adversarial(
        self, painted: Tensor, real: Tensor, lips: Tensor, discriminators: Nets, weights: Mapping[str, float]
    ) -> Answer:
        """Terms adv_face, adv_lip and fm as far as `weights` has them, and the pairs for the discriminators' own step.

        lips: (M, 4) where the lips are, x1 y1 x2 y2. A discriminator learns from the step on from which its term counts.
        """
        shown = {
            name: self._pair(name, painted, real, lips) for name in discriminators if "fm" in weights or TERM_OF[name] in weights
        }
        terms, matching = {}, []
        for name, pair in shown.items():
            judged = discriminators[name](pair.fake)
            if TERM_OF[name] in weights:
                terms[TERM_OF[name]] = losses.adversarial_generator(judged.scores, self.gan)
            if "fm" in weights:
                with torch.no_grad():
                    wanted = discriminators[name](pair.real).features
                matching.append(losses.feature_matching(wanted, judged.features))
        if matching:
            terms["fm"] = torch.stack(matching).sum()
        return Answer(terms, {name: pair for name, pair in shown.items() if TERM_OF[name] in weights})

    def discriminator_terms(self, discriminators: Nets, pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
        """What each discriminator minimises; real and painted pictures go through in one batch."""
        terms = {}
        for name, pair in pairs.items():
            fake, real = discriminators[name](torch.cat([pair.fake, pair.real])).scores.chunk(2)
            terms[f"d_{name}"] = losses.adversarial_discriminator(real, fake, self.gan)
        return terms

    def _pair(self, name: str, painted: Tensor, real: Tensor, lips: Tensor) -> Pair:
        if name == "lip":
            return Pair(cut_lips(painted, lips, self.lip), cut_lips(real, lips, self.lip))
        return Pair(*(functional.avg_pool2d(images, self.face_shrink) for images in (painted, real)))


def stage_weights(config: StageConfig, step: int) -> dict[str, float]:
    """{term: factor} at a step: adversarial terms from `gan_from` on, feature matching only where there is a discriminator."""
    weights = config.weights.active()
    late = [*TERM_OF.values()] if step < config.gan_from else []
    if not config.adversarial:
        late.append("fm")
    return {name: weight for name, weight in weights.items() if name not in late}


def stage_discriminators(config: StageConfig, sizes: DiscriminatorConfig) -> dict[str, PatchDiscriminator]:
    """One for each adversarial term that has a weight."""
    wanted = {"face": config.weights.adv_face, "lip": config.weights.adv_lip}
    sizes = replace(sizes, normed=config.discriminator_normed)
    return {name: PatchDiscriminator(sizes) for name, weight in wanted.items() if weight}


def check_sync(config: StageConfig, syncnet: SyncNet | None) -> None:
    """Raises UsageError where a sync term has no expert, or windows have not the frames that it sees."""
    if not config.weights.sync:
        return
    if syncnet is None:
        raise UsageError(
            f"{config.name}: weight {config.weights.sync} on sync without an expert", "give --syncnet PATH, or weights.sync=0"
        )
    if config.frames != FRAMES:
        raise UsageError(f"{config.name}: windows of {config.frames} frames, SyncNet sees {FRAMES}", f"set frames={FRAMES}")


def lower_stacks(images: Tensor) -> Tensor:
    """(N * 16, 3, 256, 256) -> (N, 48, 128, 256): what SyncNet sees of N windows."""
    return images[:, :, MASK_ROW:].reshape(-1, 3 * FRAMES, CROP_PX - MASK_ROW, CROP_PX)


def cut_lips(images: Tensor, boxes: Tensor, rule: LipRule) -> Tensor:
    """(M, 3, 256, 256), (M, 4) -> (M, 3, 64, 128) by the paper's rule; by the released one any box, resized to 256 x 256.

    The released code's discriminators see 256 px in their own step and 224 px in the generator's; here both are 256.
    """
    parts = [image[:, y1:y2, x1:x2] for image, (x1, y1, x2, y2) in zip(images, boxes.tolist(), strict=True)]
    if rule == "released":
        size = (CROP_PX, CROP_PX)
        parts = [functional.interpolate(part[None], size, mode="bilinear", align_corners=False)[0] for part in parts]
    return torch.stack(parts)

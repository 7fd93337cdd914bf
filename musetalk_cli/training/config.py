"""Every number of the two training stages. In: nothing. Out: frozen settings, and PRESETS: what the paper says, what its code does.

A stage is a table of weights: stage 1 is stage 2 with a weight of zero on what it leaves out, so one loop serves both.
Steps, here and everywhere in training, are updates of the optimiser; the released code counts micro-batches instead, so its numbers
are divided by its accumulation here. Imports no torch. Knows nothing of files or nets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from musetalk_cli.errors import UsageError

Gan = Literal["wgan", "lsgan"]
Schedule = Literal["constant", "linear", "cosine"]
ReferenceRule = Literal["informative", "random", "released"]
MarginRule = Literal["truncated", "clipped"]
LipRule = Literal["expand", "released"]
PerceptualKind = Literal["vgg19", "lpips-alex", "none"]
Distance = Literal["l1", "l2"]

IFS_SHARES = (0.25, 0.5, 0.75)  # the rows of the paper's Table 3; 0.5 is its best


class LossWeights(NamedTuple):
    """The factor of each term in the generator's loss; 0 leaves the term out and its net unloaded."""

    l1: float = 1.0
    vgg: float = 0.0
    adv_face: float = 0.0
    adv_lip: float = 0.0
    fm: float = 0.0  # of each discriminator that is in use; not scaled by its adversarial weight, nor delayed by gan_from
    sync: float = 0.0
    latent: float = 0.0  # L1 of the answer's latent: v1.0's second term, and lite's; neither preset has it

    def active(self) -> dict[str, float]:
        """{term: factor} of the terms that count."""
        return {name: weight for name, weight in self._asdict().items() if weight}


@dataclass(frozen=True, slots=True)
class ReferenceConfig:
    """How the reference frame is chosen (section 3.3)."""

    rule: ReferenceRule = "informative"
    share: float = 0.5  # of the clip's frames, in the pose-aligned and in the lip-dissimilar set

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"share of frames is {self.share}", "give a share over 0 and up to 1, 0.5 in the paper")


@dataclass(frozen=True, slots=True)
class MarginConfig:
    """How much is seen below the chin, in source pixels (section 3.4)."""

    mean_px: float = 10.0
    std_px: float = 10.0
    shared: bool = False  # one margin for source and reference: a row of the paper's Table 4, worse than two
    rule: MarginRule = "truncated"  # within one standard deviation: drawn again outside of it (paper) or clipped to it (released)

    def __post_init__(self) -> None:
        if self.std_px < 0 or self.mean_px < self.std_px:
            fact = f"a margin of {self.mean_px} +- {self.std_px} px would cut into the chin"
            raise UsageError(fact, "give a mean of at least the standard deviation, and that of at least 0")


@dataclass(frozen=True, slots=True)
class PerceptualConfig:
    """Which features judge the picture, and how."""

    kind: PerceptualKind = "vgg19"
    distance: Distance = "l2"
    pyramid: tuple[float, ...] = (1.0,)  # scales of the picture that are looked at
    remap: bool = True  # [-1, 1] to [0, 1] before ImageNet's normalisation; the released code leaves it out
    side_px: int | None = None  # what the picture is resized to first; None: not at all

    def __post_init__(self) -> None:
        if self.kind == "lpips-alex" and (self.distance, self.pyramid) != ("l2", (1.0,)):
            fact = f"lpips-alex with {self.distance} at scales {self.pyramid}: it has a distance of its own, and needs 64 px"
            raise UsageError(fact, "choose l2 at the scale 1 for it, or vgg19")


@dataclass(frozen=True, slots=True)
class StageConfig:
    """One stage of training. Where the paper is silent, `paper` has the released code's number."""

    name: str
    weights: LossWeights
    steps: int  # updates
    batch: int  # windows of `frames` frames a process and micro-batch
    frames: int  # consecutive frames in a window; SyncNet listens to 16
    rate: float
    warmup: int = 1000  # updates
    schedule: Schedule = "linear"  # after the warm-up, to 0 at `steps`
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.01
    accumulate: int = 1  # micro-batches an update
    clip: float = 1.0  # norm of the gradient, of each net on its own
    ema: float = 0.9999  # share kept an update by the weights' moving average, 0: none. Ours: neither paper nor code has one
    checkpoint_every: int = 2000
    validate_every: int = 2000
    keep: int = 10  # checkpoints
    seed: int = 41
    gan: Gan = "wgan"
    gan_from: int = 0  # update from which the adversarial terms count
    discriminator_rate: float = 5e-6  # same betas, weight decay and clip as the generator
    discriminator_final_rate: float = 1e-6  # reached by a cosine at `steps`
    discriminator_normed: bool = False  # the released nets have InstanceNorm; it hides the sharpness that they should judge
    lip: LipRule = "expand"
    reference: ReferenceConfig = ReferenceConfig()
    margin: MarginConfig = MarginConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    min_face_px: int = 0  # width of the face box in the source below which a sample is left out

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.frames, self.accumulate) < 1:
            fact = f"{self.name}: steps {self.steps}, batch {self.batch}, frames {self.frames}, accumulate {self.accumulate}"
            raise UsageError(fact, "give each at least 1")
        if not 0 <= self.ema < 1:
            raise UsageError(f"{self.name}: a moving average that keeps {self.ema}", "give a share from 0 up to but not 1")
        if self.weights.vgg and self.perceptual.kind == "none":
            raise UsageError(f"{self.name}: weight {self.weights.vgg} on no perceptual features", "choose features, or weight 0")

    @property
    def adversarial(self) -> bool:
        """Whether there are discriminators at all."""
        return bool(self.weights.adv_face or self.weights.adv_lip)


class Stages(NamedTuple):
    """The two stages of one preset."""

    stage1: StageConfig
    stage2: StageConfig


FIXED_MARGIN = MarginConfig(mean_px=10, std_px=0, shared=True)  # as in dubbing: margins are sampled in stage 2 (abstract)

# The paper and its supplement: L1 + 0.01 VGG, then + 0.1 adversarial (face and lips alike) + 0.05 sync.
PAPER = Stages(
    StageConfig(
        name="stage1",
        weights=LossWeights(l1=1.0, vgg=0.01),
        steps=200_000,
        batch=32,
        frames=1,
        rate=2e-5,
        checkpoint_every=10_000,
        margin=FIXED_MARGIN,
    ),
    StageConfig(
        name="stage2",
        weights=LossWeights(l1=1.0, vgg=0.01, adv_face=0.1, adv_lip=0.1, sync=0.05),
        steps=20_000,
        batch=2,
        frames=16,
        rate=5e-6,
    ),
)

# The released code: configs/training/stage1.yaml and stage2.yaml as its train.py reads them. Left out on purpose: its learning rate
# never comes down, as the schedule's end is multiplied by the accumulation and its count is not.
_RELEASED_ACCUMULATE = 8  # in stage 2, whose counters all run in micro-batches; only the warm-up counts updates
_RELEASED_REFERENCE = ReferenceConfig(rule="released", share=0.51)
_RELEASED_MARGIN = MarginConfig(rule="clipped")
_RELEASED_PERCEPTUAL = PerceptualConfig(distance="l1", pyramid=(1.0, 0.5, 0.25, 0.125), remap=False, side_px=224)

RELEASED = Stages(
    StageConfig(
        name="stage1",
        weights=LossWeights(l1=1.0, vgg=0.01),  # fm is 1 in its file, but computed only where there is a discriminator
        steps=250_000,
        batch=32,
        frames=1,
        rate=2e-5,
        ema=0.0,
        checkpoint_every=10_000,
        gan="lsgan",
        discriminator_normed=True,
        gan_from=1000,
        lip="released",
        reference=_RELEASED_REFERENCE,
        margin=MarginConfig(mean_px=0, std_px=0, shared=True),  # crop_type crop_resize: the face's own bounds
        perceptual=_RELEASED_PERCEPTUAL,
        min_face_px=150,
    ),
    StageConfig(
        name="stage2",
        weights=LossWeights(l1=1.0, vgg=0.01, adv_face=0.01, adv_lip=0.01, fm=1.0, sync=0.05),
        steps=250_000 // _RELEASED_ACCUMULATE,
        batch=2,
        frames=16,
        rate=5e-6,
        accumulate=_RELEASED_ACCUMULATE,
        ema=0.0,
        checkpoint_every=2000 // _RELEASED_ACCUMULATE,
        validate_every=2000 // _RELEASED_ACCUMULATE,
        gan="lsgan",
        discriminator_normed=True,
        gan_from=1000 // _RELEASED_ACCUMULATE,
        lip="released",
        reference=_RELEASED_REFERENCE,
        margin=_RELEASED_MARGIN,
        perceptual=_RELEASED_PERCEPTUAL,
        min_face_px=200,
    ),
)

PRESETS: Mapping[str, Stages] = {"paper": PAPER, "released": RELEASED}


def stage_of(preset: str, stage: str) -> StageConfig:
    """A stage by its names. Raises UsageError where there is none."""
    if preset not in PRESETS:
        raise UsageError(f"{preset}: no such preset", f"choose one of {', '.join(PRESETS)}")
    if stage not in Stages._fields:
        raise UsageError(f"{stage}: no such stage", f"choose one of {', '.join(Stages._fields)}")
    found: StageConfig = getattr(PRESETS[preset], stage)
    return found

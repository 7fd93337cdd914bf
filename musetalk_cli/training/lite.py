"""How well a lite model follows voices it never heard: python -m musetalk_cli.training.lite MODEL SET. Training is `musetalk train`.

    musetalk train autoencoder RUN SET...    crops -> autoencoder                                 20 min on two cores
    musetalk train mover RUN SET...          latents, landmarks -> mover, the basis of lip codes     3 min
    musetalk train lips RUN SET...           whisper's states -> lip codes                           5 min
    musetalk train stage1 RUN SET...         all of it -> U-Net
    musetalk train syncnet RUN SET...        the expert of stage 2
    musetalk train stage2 RUN SET...         U-Net and decoder, sharper and in step

Each takes a model folder (--init, by default the embedded one) and leaves another in RUN/model.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from musetalk_cli.models.lite import load_lite

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def evaluate(model: Path, data: Path, voice: Annotated[list[str], typer.Option(help="Clips whose voice drives.")]) -> None:
    """Drives each face of DATA with other people's voices; prints how well the lips follow."""
    from musetalk_cli.models.analysis import EmbeddedAnalyser
    from musetalk_cli.training.evaluate import evaluate_all

    with EmbeddedAnalyser() as analyser:
        evaluate_all(load_lite(model, torch.device("cpu")), analyser, data, voice)


if __name__ == "__main__":
    app()

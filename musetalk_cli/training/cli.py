"""The commands of training: parse, build a config, call one function, print. Imports nothing heavy at module level."""

import json
from pathlib import Path
from typing import Annotated

import typer

from musetalk_cli.errors import InputError, PartialError
from musetalk_cli.reading import read_text

app = typer.Typer(rich_markup_mode=None)

Raw = Annotated[Path, typer.Argument(metavar="RAW", exists=True, help="A folder of videos of any format, or one film.")]
Set = Annotated[Path, typer.Argument(metavar="SET", help="The training set; made, or gone on with.")]
Identity = Annotated[
    str,
    typer.Option(
        "--identity",
        metavar="PATTERN|NAME",
        help="Who is in a video: a regular expression with a group, searched in its path without the suffix, or one name for all."
        " Default: the file's name up to the first _.",
    ),
]
ValShare = Annotated[
    float, typer.Option("--val-share", min=0, max=1, help="Share of identities held out, by a hash of the name.")
]
ValList = Annotated[
    Path | None,
    typer.Option("--val-list", exists=True, metavar="FILE", help="Identities held out, one a line, instead of a share."),
]
Speech = Annotated[bool, typer.Option("--speech/--no-speech", help="--no-speech: faces only, the sound is not read.")]
Judge = Annotated[
    str,
    typer.Option("--sync", metavar="embedded|PATH|none", help="Who judges voice and lips: the embedded model, or a SyncNet."),
]
Confidence = Annotated[
    float | None, typer.Option("--min-confidence", help="Least sync confidence. Default: as the judge was measured to need.")
]
MaxOffset = Annotated[int, typer.Option("--max-offset", min=0, max=15, help="Frames of 40 ms by which the sound may be off.")]
Correct = Annotated[
    bool,
    typer.Option("--correct-offset/--no-correct-offset", help="Shift the sound by the measured offset, from two frames on."),
]
MinSeconds = Annotated[float, typer.Option("--min-seconds", min=0.2, help="Shortest sample.")]
MinFace = Annotated[int, typer.Option("--min-face", min=16, help="Least width of a face in pixels of the film.")]
Whisper = Annotated[
    Path | None,
    typer.Option("--whisper", metavar="DIR", exists=True, help="whisper-tiny, transformers' layout. Default: the embedded one."),
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes. 0: one a core.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]


@app.command()
def prepare(
    raw: Raw,
    out: Set,
    identity: Identity = "",
    val_share: ValShare = 0.05,
    val_list: ValList = None,
    speech: Speech = True,
    sync: Judge = "embedded",
    min_confidence: Confidence = None,
    max_offset: MaxOffset = 6,
    correct_offset: Correct = True,
    min_seconds: MinSeconds = 1.0,
    min_face: MinFace = 80,
    whisper: Whisper = None,
    workers: Workers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Videos to a training set: 25 fps, shots, one face a sample, sync filtering.

    Run again, it goes on. Exits 8 where some videos could not be read.
    """
    from musetalk_cli.signals import stop_on_signals
    from musetalk_cli.training.prepare import prepare as prepare_set
    from musetalk_cli.training.prepare_video import IDENTITY, PrepareConfig

    config = PrepareConfig(
        identity=identity or IDENTITY,
        val_share=val_share,
        val_identities=() if val_list is None else _names_in(val_list),
        speech=speech,
        sync=sync if speech else "none",
        min_confidence=min_confidence,
        max_offset=max_offset,
        correct_offset=correct_offset,
        min_seconds=min_seconds,
        min_face=min_face,
        whisper="" if whisper is None else str(whisper.resolve()),
    )
    say = None if quiet else _say
    with stop_on_signals(quiet=quiet) as stop:
        found = prepare_set(raw, out, config, workers=workers, stop=stop, say=say)
    typer.echo(json.dumps(found.as_json(), ensure_ascii=False) if as_json else "\n".join(found.lines()))
    if found.unreadable:
        raise typer.Exit(PartialError.exit_code)


def _names_in(val_list: Path) -> tuple[str, ...]:
    try:
        return tuple(read_text(val_list).split())
    except (OSError, ValueError) as error:
        raise InputError(f"{val_list}: cannot be read ({error})", "give a text file, an identity a line") from error


def _say(line: str) -> None:
    typer.echo(line, err=True)

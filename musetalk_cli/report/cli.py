"""The commands that look: `report` and `preview`. Parse, build a plan, call one function, print. Imports nothing heavy at module level."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from musetalk_cli.errors import QualityGateError, UsageError

app = typer.Typer(rich_markup_mode=None)

CLOCK = "give seconds, or M:SS, or H:MM:SS"


def _path(text: str) -> Path:
    if not isinstance(text, str):  # in a settings file there are numbers, too
        raise typer.BadParameter("is no path")
    if not text:
        raise typer.BadParameter("is empty")
    return Path(text)


Film = Annotated[Path, typer.Argument(metavar="FILM", parser=_path, help="The film as it was.")]
Result = Annotated[Path, typer.Argument(metavar="RESULT", parser=_path, help="What was made of it, frame for frame.")]
Folder = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder of the report. Default: beside RESULT.")
]
Measure = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", min=1.0, help="Of faces that are measured, spread over the film. Default: all."),
]
FailUnder = Annotated[
    float | None,
    typer.Option("--fail-under", metavar="SCORE", min=0.0, max=100.0, help="Exit 7 where the score, 0 to 100, is lower."),
]
Overwrite = Annotated[bool, typer.Option("-y", "--overwrite", help="Replace what is there.")]
WorkDir = Annotated[
    Path | None, typer.Option("--work-dir", metavar="DIR", help="Where intermediates lie. Default: the user's cache.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="DIR", envvar="MUSETALK_WEIGHTS", help="Folder of model files.")
]
Progress = Annotated[Literal["auto", "rich", "plain", "jsonl", "none"], typer.Option("--progress", help="On stderr.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Every step, and tracebacks.")]

Audio = Annotated[list[str] | None, typer.Option("--audio", metavar="[LANG=]PATH", help="The new voice; with --cast NAME=PATH.")]
Cast = Annotated[Path | None, typer.Option("--cast", metavar="CAST", parser=_path, help="A cast map, as for dub.")]
From = Annotated[
    str, typer.Option("--from", metavar="TIME", help="Where it begins. Default: at the first mouth that is generated.")
]
To = Annotated[str, typer.Option("--to", metavar="TIME", help="Where it ends. Default: 8 s later.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="OUT", parser=_path, help="A film, or a folder. Default: {stem}.preview.mp4 beside the film."
    ),
]
Stills = Annotated[
    bool,
    typer.Option("--stills", help="Only the page and the sheet: one still a shot, of the whole film where no range is given."),
]
Model = Annotated[str, typer.Option("--model", metavar="NAME|DIR", help="auto, lite, v15, v1, or a folder that `train` made.")]
Face = Annotated[str, typer.Option("--face", metavar="largest|all|PICTURE", help="Who is dubbed, as for dub.")]
Chunk = Annotated[float, typer.Option("--chunk", min=1.0, metavar="S", help="Longest piece worked on at once, as for dub.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


@app.command()
def report(
    film: Film,
    result: Result,
    output: Folder = None,
    seconds: Measure = None,
    fail_under: FailUnder = None,
    weights: Weights = None,
    chunk: Chunk = 10.0,
    overwrite: Overwrite = False,
    work_dir: WorkDir = None,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """How good RESULT is beside FILM: sync, jitter, sharpness, seams, shot by shot, as one HTML page and JSON.

    `dub` writes the same beside its result. The last line of stdout is the page.
    """
    from musetalk_cli.report.command import Reports, report_film
    from musetalk_cli.report.files import as_json as told
    from musetalk_cli.session import Place, Voice
    from musetalk_cli.settings import Choices

    choices = Choices(weights=weights, chunk=chunk)
    made = report_film(
        film, result, output, choices, Place(work_dir), Voice(progress, quiet, verbose), seconds=seconds, overwrite=overwrite
    )
    lines = [*(f"{one.kind}: {one.text}" for one in made.report.findings), f"score {made.report.score:g}", str(made.html)]
    typer.echo(told(made.report).rstrip() if as_json else "\n".join(lines))
    if fail_under is None:
        return
    try:
        Reports([made]).check(fail_under)
    except QualityGateError as error:
        if not as_json:
            raise
        raise typer.Exit(error.exit_code) from error  # stdout has had its object


@app.command()
def preview(
    film: Film,
    audio: Audio = None,
    cast: Cast = None,
    start: From = "",
    stop: To = "",
    stills: Stills = False,
    output: Output = None,
    model: Model = "auto",
    weights: Weights = None,
    face: Face = "largest",
    chunk: Chunk = 10.0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    work_dir: WorkDir = None,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A few seconds of FILM beside their dub, close-up and mask, a page to wipe over stills, and a sheet of them.

    Works in the folder of `dub`: neither does again what the other has done. The last lines of stdout are the files.
    """
    from musetalk_cli.jobs import Parts
    from musetalk_cli.preview.make import Range, preview_film
    from musetalk_cli.session import Place, Voice
    from musetalk_cli.settings import Choices

    choices = Choices(model=model, weights=weights, face=face, chunk=chunk, device=device)
    span = Range(_second("--from", start), _second("--to", stop))
    made = preview_film(
        film,
        audio or [],
        span,
        output,
        choices,
        Place(work_dir),
        Voice(progress, quiet, verbose),
        parts=Parts(cast),
        stills=stills,
        overwrite=overwrite,
    )
    told: dict[str, Any] = made.as_json()
    typer.echo(json.dumps(told, ensure_ascii=False) if as_json else "\n".join(map(str, told["outputs"][::-1])))


def _second(flag: str, text: str) -> Fraction | None:
    """An empty text -> None; "12.5", "1:02.5", "0:01:02.5" -> seconds."""
    if not text:
        return None
    parts = text.split(":")
    try:
        numbers = [Fraction(part) for part in parts]
    except (ValueError, ZeroDivisionError):
        numbers = []
    if (
        not 1 <= len(numbers) <= 3
        or "/" in text
        or any(number < 0 for number in numbers)
        or any(number >= 60 for number in numbers[1:])
    ):
        raise UsageError(f"{text!r} is no time", CLOCK, thing=flag)
    return sum((number * 60**place for place, number in enumerate(reversed(numbers))), Fraction(0))

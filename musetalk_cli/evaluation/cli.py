"""The command of evaluation: parse, build a plan, call one function, print. Imports nothing heavy at module level."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from musetalk_cli.errors import PartialError

app = typer.Typer(rich_markup_mode=None)

Films = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILM...", help="Films, folders of films, or manifests (.csv, .jsonl) of films and voices."),
]
Out = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Results, figures and all that is needed to go on.")]
Voices = Annotated[
    list[Path] | None,
    typer.Option(
        "--voices", metavar="PATH", exists=True, help="Voices to draw from, files or folders. Default: the other films'."
    ),
]
Own = Annotated[bool, typer.Option("--own", help="Each film with its own voice: self-reconstruction, with PSNR, SSIM and LPIPS.")]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        "--compare",
        metavar="[NAME=]DIR",
        help="A system's results, named {film}__{voice}, or the OUT of another evaluation. More than one is laid side by side.",
    ),
]
Dub = Annotated[bool, typer.Option("--dub/--no-dub", help="--no-dub: only what --compare names is measured.")]
Controls = Annotated[
    bool,
    typer.Option("--controls/--no-controls", help="Also the film itself with its own voice, and untouched with the new one."),
]
Identity = Annotated[
    Literal["auto", "arcface", "dlib", "sface"],
    typer.Option("--identity", help="Who judges identity. auto: the first that is there."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the drawing.")]
Seconds = Annotated[float | None, typer.Option("--seconds", min=1.0, help="Look at so much of each result. Default: all.")]
Model = Annotated[str, typer.Option("--model", metavar="NAME|DIR", help="auto, lite, v15, v1, or a folder that `train` made.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="DIR", envvar="MUSETALK_WEIGHTS", help="Folder of model files.")
]
PerPair = Annotated[bool, typer.Option("--per-pair", help="A line for each pair, too.")]
Cited = Annotated[bool, typer.Option("--cited", help="Also the paper's Table 1, as cited figures.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Progress = Annotated[Literal["auto", "rich", "plain", "jsonl", "none"], typer.Option("--progress", help="On stderr.")]


@app.command()
def evaluate(
    films: Films = None,
    output: Out = Path("evaluation"),
    voices: Voices = None,
    own: Own = False,
    compare: Compare = None,
    dub: Dub = True,
    controls: Controls = True,
    identity: Identity = "auto",
    seed: Seed = 0,
    seconds: Seconds = None,
    model: Model = "auto",
    weights: Weights = None,
    per_pair: PerPair = False,
    cited: Cited = False,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Dub films with each other's voices and measure: FID, CSIM, LSE-C, LSE-D, offset and more, as a table, JSON and CSV in OUT.

    Run again, it goes on. Exits 8 where a film or a result could not be measured.
    """
    from musetalk_cli.evaluation.run import EvaluationPlan, evaluate_films
    from musetalk_cli.evaluation.tables import cited_lines, table
    from musetalk_cli.session import Voice, as_faults
    from musetalk_cli.settings import Choices

    plan = EvaluationPlan(
        tuple(films or ()), output, tuple(voices or ()), own, tuple(compare or ()), dub, controls, identity, seed, seconds
    )
    with as_faults():
        found = evaluate_films(plan, Choices(model=model, weights=weights), Voice(progress, quiet))
    lines = [*table(found, per_pair=per_pair), *(["", *cited_lines()] if cited else []), str(output)]
    typer.echo(json.dumps(found.as_json(), ensure_ascii=False) if as_json else "\n".join(lines))
    if any(system.missing for system in found.systems):
        raise typer.Exit(PartialError.exit_code)

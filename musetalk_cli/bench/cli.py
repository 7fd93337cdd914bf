"""The command `bench`. In: arguments. Out: figures on stdout, a plot. Imports nothing heavy at module level."""

import json
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from musetalk_cli.errors import UsageError

if TYPE_CHECKING:
    from musetalk_cli.bench.film import Footage
    from musetalk_cli.bench.measure import Bench, Options
    from musetalk_cli.settings import Choices

app = typer.Typer(rich_markup_mode=None)


def _path(text: str) -> Path:
    if not isinstance(text, str):  # in a settings file there are numbers, too
        raise typer.BadParameter("is no path")
    if not text:
        raise typer.BadParameter("its path is empty")
    return Path(text)


Film = Annotated[
    Path | None,
    typer.Argument(metavar="FILM", parser=_path, help="The film. Default: one of 1920x1080 at 25 fps with one face is made."),
]
Audio = Annotated[
    Path | None, typer.Option("--audio", metavar="PATH", parser=_path, help="A voice. Default: the film's own sound.")
]
Seconds = Annotated[float, typer.Option("--seconds", min=1.0, metavar="S", help="Length of the film that is made.")]
Model = Annotated[
    list[str],
    typer.Option(
        "--model", metavar="auto|lite|v15|v1|DIR", envvar="MUSETALK_MODEL", help="Repeat it to measure several, in turn."
    ),
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="v15's architecture filled with noise: its speed without its weights.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="DIR", envvar="MUSETALK_WEIGHTS", help="Folder of pulled weights.")
]
Device = Annotated[
    str, typer.Option("--device", envvar="MUSETALK_DEVICE", metavar="auto|cpu|cuda[:N]", help="Where the network runs.")
]
Batch = Annotated[
    str, typer.Option("--batch-size", envvar="MUSETALK_BATCH_SIZE", metavar="auto|N", help="Faces a step of the network.")
]
Precision = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"], typer.Option("--precision", envvar="MUSETALK_PRECISION", help="As for dub.")
]
Exact = Annotated[bool, typer.Option("--exact/--fast", envvar="MUSETALK_EXACT", help="As for dub.")]
Further = Annotated[bool, typer.Option("--further", help="Also a second voice over the same analysis.")]
Share = Annotated[
    bool, typer.Option("--share", help="Also what the time goes to: network, detector, codec, blending, Python, waiting.")
]
Against = Annotated[
    Path | None,
    typer.Option(
        "--against", metavar="DIR", parser=_path, help="Another checkout: whole dubs of both, in turn, and their ratio."
    ),
]
Reference = Annotated[
    bool, typer.Option("--reference", help="v15's U-Net and decoder as the published scripts run them, and ours, in turn.")
]
Runs = Annotated[int, typer.Option("--runs", min=1, metavar="N", help="Pairs of --against and --reference.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", parser=_path, help="An SVG of the stages and the kinds of work.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]


@app.command()
def bench(
    film: Film = None,
    audio: Audio = None,
    seconds: Seconds = 20.0,
    model: Model = ["auto"],  # noqa: B006 typer copies it
    random_weights: RandomWeights = False,
    weights: Weights = None,
    device: Device = "auto",
    batch_size: Batch = "auto",
    precision: Precision = "auto",
    exact: Exact = False,
    further: Further = False,
    share: Share = False,
    against: Against = None,
    reference: Reference = False,
    runs: Runs = 3,
    plot: Plot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How fast this machine dubs FILM: every stage and the whole, CPU, GPU, memory, the network beside what the machine can multiply."""
    from musetalk_cli.bench.measure import Options
    from musetalk_cli.settings import Choices

    choices = Choices(model[0], weights, device=device, batch_size=batch_size, precision=precision, exact=exact)
    if sum((against is not None, reference)) > 1:
        raise UsageError("--against and --reference measure different things", "choose one")
    if random_weights and not reference and set(model) - {"v15"}:
        raise UsageError("is v15's architecture", "add --model v15", thing="--random-weights")
    if reference:
        _answer(_reference(choices, runs, random_weights=random_weights), as_json=as_json)
        return
    footage = _footage(film, audio, seconds, further=further)
    if against is not None:
        _answer(_against(footage, against, choices, runs, quiet=quiet), as_json=as_json)
        return
    options = Options(share, footage.other_voice if further else None, film is None, random_weights)
    found = [_measured(footage, replace(choices, model=name), options, alone=len(model) == 1, quiet=quiet) for name in model]
    if plot is not None:
        from musetalk_cli.bench.plot import write_plot

        write_plot(plot, found)
    if len(found) == 1:
        _answer(found[0], as_json=as_json)
    elif as_json:
        typer.echo(json.dumps({"models": [one.as_json() for one in found]}, ensure_ascii=False))
    else:
        typer.echo("\n\n".join("\n".join(one.lines()) for one in found))


def _answer(found: Any, *, as_json: bool) -> None:
    typer.echo(json.dumps(found.as_json(), ensure_ascii=False) if as_json else "\n".join(found.lines()))


def _footage(film: Path | None, audio: Path | None, seconds: float, *, further: bool) -> "Footage":
    from musetalk_cli.bench.film import Footage, generated

    if film is None:
        made = generated(seconds)
        return made if audio is None else made._replace(voice=audio)
    if further and audio is None:
        raise UsageError("needs a voice beside the film's own", "give --audio", thing="--further")
    return Footage(film, audio or film, film)


def _measured(footage: "Footage", choices: "Choices", options: "Options", *, alone: bool, quiet: bool) -> "Bench":
    """In a process of its own where others are measured too: memory is a process's, and stays."""
    if alone:
        return _bench(footage, choices, options, quiet)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_bench, footage, choices, options, quiet).result()


def _bench(footage: "Footage", choices: "Choices", options: "Options", quiet: bool) -> "Bench":
    from musetalk_cli.bench.measure import bench_film
    from musetalk_cli.bench.random_weights import random_v15

    with random_v15() if options.random_weights else nullcontext(choices.weights) as weights:
        return bench_film(footage.film, footage.voice, replace(choices, weights=weights), quiet=quiet, options=options)


def _against(footage: "Footage", other: Path, choices: "Choices", runs: int, *, quiet: bool) -> Any:
    from musetalk_cli.bench.against import compare

    model = [] if choices.model == "auto" else ["--model", choices.model]
    device = [] if choices.device == "auto" else ["--device", choices.device]
    return compare(footage.film, footage.voice, other, [*model, *device], runs, quiet=quiet)


def _reference(choices: "Choices", runs: int, *, random_weights: bool) -> Any:
    from musetalk_cli.bench.random_weights import random_v15
    from musetalk_cli.bench.reference import pair_nets

    with random_v15() if random_weights else nullcontext(choices.weights) as weights:
        return pair_nets(replace(choices, model="v15", weights=weights), runs, random_weights=random_weights)

"""The commands: parse, build a config, call one function, print. In: arguments. Out: data on stdout, an exit code.

The only place that exits. Imports nothing heavy at module level, so that `musetalk --help` is instant.
"""

import atexit
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from musetalk_cli import __version__, config
from musetalk_cli.bench.cli import app as bench_app
from musetalk_cli.config import MaskMode, Silence
from musetalk_cli.config_cli import app as config_app
from musetalk_cli.errors import (
    InternalError,
    InterruptedRun,
    MissingError,
    MusetalkError,
    PartialError,
    QualityGateError,
    RetryableError,
    UsageError,
)
from musetalk_cli.evaluation.cli import app as evaluation_app
from musetalk_cli.farm_cli import mount as mount_farm
from musetalk_cli.help_examples import add_examples
from musetalk_cli.offline import go_offline, guard, switch
from musetalk_cli.progress import ProgressMode
from musetalk_cli.report.cli import app as report_app
from musetalk_cli.serve.cli import app as serve_app
from musetalk_cli.store import is_url
from musetalk_cli.study.cli import study_app
from musetalk_cli.training.cli import app as training_app
from musetalk_cli.training.train_cli import train_app
from musetalk_cli.watermark_cli import app as watermark_app
from musetalk_cli.weights_cli import app as weights_app

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
app = typer.Typer(
    name="musetalk",
    help="Lip-sync for film: give a film a new voice, and its lips follow.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT,
)
app.add_typer(weights_app)
app.add_typer(training_app)
app.add_typer(report_app)
app.add_typer(evaluation_app)
app.add_typer(study_app)
app.add_typer(train_app)
app.add_typer(bench_app)
app.add_typer(serve_app)
app.add_typer(watermark_app)
app.add_typer(config_app)


def _option(*names: str, env: str = "", help: str, **more: Any) -> Any:
    return typer.Option(*names, envvar=f"MUSETALK_{env}" if env else None, help=help, **more)


def _path(text: str) -> Path:
    """A path that somebody wrote: an unset variable of a script must not mean the current folder."""
    if not isinstance(text, str):  # in a settings file there are numbers, too
        raise typer.BadParameter("is no path")
    if not text:
        raise typer.BadParameter("its path is empty")
    if is_url(text):
        raise typer.BadParameter("is a URL: films, voices and results are files here; fetch it first")
    return Path(text)


def _url(text: str) -> str:
    """A folder as a URL may be: the same for every process, wherever it runs."""
    return text if not text or is_url(text) else str(Path(text).absolute())


Film = Annotated[Path, typer.Argument(metavar="FILM", parser=_path, help="The film.")]
Model = Annotated[
    str,
    _option(
        "--model",
        env="MODEL",
        metavar="auto|lite|v15|v1|DIR",
        help="auto: v15 where its weights were pulled, else lite. DIR: what `musetalk train` made.",
    ),
]
Weights = Annotated[Path | None, _option("--weights", env="WEIGHTS", metavar="DIR", help="Folder of pulled weights.")]
Face = Annotated[str, _option("--face", env="FACE", help="Whom to dub: largest, all, or a picture of the person.")]
Parsing = Annotated[
    MaskMode | None, _option("--parsing-mode", env="PARSING_MODE", help="What of the face may change. Default: the model's own.")
]
Batch = Annotated[str, _option("--batch-size", env="BATCH_SIZE", metavar="auto|N", help="Faces a step of the network.")]
Device = Annotated[str, _option("--device", env="DEVICE", metavar="auto|cpu|cuda[:N]", help="Where the network runs.")]
Precision = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"],
    _option("--precision", env="PRECISION", help="auto: fp16 on CUDA, bf16 on a CPU that has matrix tiles, else fp32."),
]
Gpus = Annotated[
    str, _option("--gpus", env="GPUS", metavar="0,1|all", help="A process on each of these GPUs, shots shared among them.")
]
Workers = Annotated[
    int, _option("--workers", env="WORKERS", min=0, metavar="N", help="Shots shared among so many processes on one device.")
]
ExecutorName = Annotated[
    Literal["local", "ray"], _option("--executor", env="EXECUTOR", help="ray: shots shared among the machines of a Ray cluster.")
]
RayAddress = Annotated[
    str,
    _option(
        "--ray-address", env="RAY_ADDRESS", metavar="auto|local|HOST:PORT", help="auto: the cluster that this machine is part of."
    ),
]
Exact = Annotated[
    bool,
    _option("--exact/--fast", env="EXACT", help="The same bits whatever the batch, in fp32 unless --precision says otherwise."),
]
Codec = Annotated[
    Literal["auto", "libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "dnxhd", "ffv1"],
    _option("--codec", env="CODEC", help="auto: the film's own codec where the output holds it."),
]
Crf = Annotated[
    float | None, _option("--crf", env="CRF", help="Quality; lower is better, 0 is lossless. Default: visually lossless.")
]
Preset = Annotated[
    Literal["auto", "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"],
    _option(
        "--preset", env="PRESET", metavar="NAME", help="The encoder's pace, in x264's words; auto is fast and keeps files small."
    ),
]
Chunk = Annotated[
    float, _option("--chunk", env="CHUNK", min=0.1, metavar="SECONDS", help="Longest piece; memory and lost work follow it.")
]
Length = Annotated[
    config.Length,
    _option(
        "--length",
        env="LENGTH",
        help="A voice longer than the picture. keep: it goes on; trim: it ends; hold: the last frame stands; "
        "bounce: the last take runs back and forth.",
    ),
]
Audio = Annotated[
    list[str] | None,
    _option(
        "--audio",
        metavar="[LANG=|NAME=]PATH",
        help="The new voice. Repeat for more languages over one analysis; with --cast, for the persons' voices.",
    ),
]
Cast = Annotated[
    Path | None,
    _option("--cast", metavar="CAST", parser=_path, help="Who gets which voice: the cast.toml that `inspect` drafts."),
]
Mix = Annotated[
    Path | None, _option("--mix", metavar="PATH", parser=_path, help="Music and effects; the new voice is laid over them.")
]
SilencePolicy = Annotated[
    Silence,
    _option("--silence", env="SILENCE", help="The mouth in the voice's pauses. auto: shut, or the film's own where that rests."),
]
MaxYaw = Annotated[
    float, _option("--max-yaw", env="MAX_YAW", min=0, max=90, metavar="DEGREES", help="Heads turned further stay as they are.")
]
MinFace = Annotated[int, _option("--min-face", env="MIN_FACE", min=8, metavar="PX", help="Narrower faces stay as they are.")]
Occlusion = Annotated[
    float,
    _option(
        "--occlusion",
        env="OCCLUSION",
        min=0,
        max=1,
        metavar="SHARE",
        help="A mouth stays where more of the lower face is hidden.",
    ),
]
Fade = Annotated[
    float,
    _option("--fade", env="FADE", min=0, max=2, metavar="SECONDS", help="Cross-fade between the film's mouth and the new one."),
]
Steady = Annotated[
    float, _option("--steady", env="STEADY", min=0, max=3, metavar="X", help="How much mouths are steadied in time; 0 is off.")
]
Copy = Annotated[bool, _option("--copy/--no-copy", env="COPY", help="Stretches without a new mouth keep the film's own packets.")]
Watermark = Annotated[
    bool,
    _option("--watermark/--no-watermark", env="WATERMARK", help="An invisible mark in new mouths; `musetalk detect` finds it."),
]
WatermarkKey = Annotated[
    str,
    _option("--watermark-key", env="WATERMARK_KEY", metavar="TEXT", help="Of the mark; who has it can find, and make, yours."),
]
Report = Annotated[
    bool, _option("--report/--no-report", env="REPORT", help="Measure what came out: {stem}.report.html and .json beside it.")
]
FailUnder = Annotated[
    float | None,
    _option(
        "--fail-under",
        env="FAIL_UNDER",
        metavar="SCORE",
        min=0.0,
        max=100.0,
        help="Exit 7 where the report's score, 0 to 100, is lower.",
    ),
]
OriginalAudio = Annotated[
    bool,
    _option("--original-audio/--no-original-audio", env="ORIGINAL_AUDIO", help="The film's own sound stays, as further tracks."),
]
Provenance = Annotated[
    bool,
    _option(
        "--provenance/--no-provenance",
        env="PROVENANCE",
        help="A signed C2PA manifest in the film, or beside it: what was altered, when, where, and by what.",
    ),
]
SignCert = Annotated[
    Path | None,
    _option(
        "--sign-cert",
        env="SIGN_CERT",
        metavar="PEM",
        parser=_path,
        help="Certificate of who signs, with those above it. Default: one of this machine's own.",
    ),
]
SignKey = Annotated[
    Path | None, _option("--sign-key", env="SIGN_KEY", metavar="PEM", parser=_path, help="The private key of --sign-cert.")
]
Lang = Annotated[
    str, _option("--lang", help="Language of the new voice, where --audio does not say it: neither fr=PATH nor fr.wav.")
]
Output = Annotated[
    Path | None,
    _option(
        "-o",
        "--output",
        metavar="OUT",
        parser=_path,
        help="Default: {stem}.{lang}{suffix} beside the film. May hold {lang}, or be a folder.",
    ),
]
Overwrite = Annotated[bool, _option("-y", "--overwrite", env="OVERWRITE", help="Replace an output that is there.")]
Skip = Annotated[bool, _option("-n", "--skip-existing", env="SKIP_EXISTING", help="Leave an output that is there, and succeed.")]
WorkDir = Annotated[
    Path | None,
    _option(
        "--work-dir", env="WORK_DIR", metavar="DIR", help="Work folder, kept. Default: one in the cache, by the film's content."
    ),
]
StoreUrl = Annotated[
    str,
    _option(
        "--store",
        env="STORE",
        metavar="URL",
        parser=_url,
        help="Keep results there too, by fsspec (s3://BUCKET/PREFIX, gs://...): runs on other machines find them.",
    ),
]
Keep = Annotated[bool, _option("--keep", env="KEEP", help="Keep the work folder after delivery: the next language is quicker.")]
Fresh = Annotated[bool, _option("--fresh", env="FRESH", help="Forget what earlier runs finished.")]
Progress = Annotated[ProgressMode, _option("--progress", env="PROGRESS", help="What stderr shows; run.jsonl is always written.")]
Json = Annotated[bool, _option("--json", help="One JSON object on stdout, errors too.")]
Quiet = Annotated[bool, _option("-q", "--quiet", help="Errors only.")]
Verbose = Annotated[bool, _option("-v", "--verbose", help="Every step, and tracebacks.")]


DryRun = Annotated[
    bool,
    _option(
        "--dry-run",
        help="Dub a few frames alone, and tell the time and disk that all of it takes. Exits 9 where the disk is short.",
    ),
]

SIGINT_CODE = 128 + signal.SIGINT


def main() -> None:
    """The console script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # a full disk, a closed pipe: Python says so
        sys.exit(code)
    atexit._run_exitfuncs()
    os._exit(code)  # taking down every module of torch takes half a second, and nothing waits for it


def run(arguments: Sequence[str]) -> int:
    """One command; returns its exit code."""
    guard()
    try:
        code = int(app(_switched(arguments), prog_name="musetalk", standalone_mode=False) or 0)
        if code == SIGINT_CODE:  # typer's own: the signal came before the run could checkpoint on it
            raise InterruptedRun(signal.SIGINT)
        return code
    except KeyboardInterrupt:
        return _fail(InterruptedRun(signal.SIGINT), arguments)
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            typer.echo(error.format_message(), err=True)
            return UsageError.exit_code
        return _fail(_usage(error), arguments)
    except MusetalkError as error:
        return _fail(error, arguments)
    except Exception as error:  # noqa: BLE001 the last door before the shell
        from musetalk_cli.session import fault_of

        fault = fault_of(error)
        fault.__cause__ = error  # whose traceback is the one to report
        return _fail(fault, arguments)


def _switched(arguments: Sequence[str]) -> list[str]:
    """--offline is every command's, wherever it stands."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--offline" not in arguments[:end]:
        return list(arguments)
    go_offline()
    return [*(one for one in arguments[:end] if one != "--offline"), *arguments[end:]]


def _usage(error: typer.TyperException) -> UsageError:
    """What typer refused, in our words: the flag is the thing. Its classes are not public, so they are known by what they hold."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    cure = f"see `{context.command_path if context else 'musetalk'} --help`"
    if option := getattr(error, "option_name", ""):
        return UsageError(error.format_message().rstrip("."), cure, thing=option)
    if parameter is None:
        return UsageError(error.format_message().rstrip("."), cure)
    thing = (
        max(parameter.opts, key=len)
        if parameter.param_type_name == "option"
        else str(parameter.metavar or parameter.name).strip("[]")
    )
    return UsageError(error.message.removeprefix("Value error, ").rstrip(".") or "is missing", cure, thing=thing)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"musetalk {__version__}")
        raise typer.Exit


@app.callback()
def configure(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            envvar="MUSETALK_OFFLINE",
            help="No connection to another machine, whatever the command; may stand anywhere.",
        ),
    ] = False,
) -> None:
    """Lip-sync for film: give a film a new voice, and its lips follow."""
    from musetalk_cli.settings import flags_of, read_settings, settings_files

    if offline or switch():
        go_offline()

    context.default_map = read_settings(settings_files(), flags_of(context.command))


@app.command()
def dub(
    film: Film,
    audio: Audio = None,
    cast: Cast = None,
    mix: Mix = None,
    output: Output = None,
    lang: Lang = "",
    model: Model = "auto",
    weights: Weights = None,
    face: Face = "largest",
    parsing_mode: Parsing = None,
    silence: SilencePolicy = "auto",
    max_yaw: MaxYaw = 60.0,
    min_face: MinFace = 32,
    occlusion: Occlusion = 0.5,
    fade: Fade = 0.12,
    steady: Steady = 1.0,
    length: Length = "keep",
    original_audio: OriginalAudio = True,
    provenance: Provenance = True,
    sign_cert: SignCert = None,
    sign_key: SignKey = None,
    watermark: Watermark = False,
    watermark_key: WatermarkKey = config.PUBLIC_KEY,
    copy: Copy = True,
    codec: Codec = "auto",
    crf: Crf = None,
    preset: Preset = "auto",
    chunk: Chunk = 10.0,
    device: Device = "auto",
    batch_size: Batch = "auto",
    precision: Precision = "auto",
    exact: Exact = False,
    gpus: Gpus = "",
    workers: Workers = 0,
    executor: ExecutorName = "local",
    ray_address: RayAddress = "auto",
    report: Report = True,
    fail_under: FailUnder = None,
    overwrite: Overwrite = False,
    skip_existing: Skip = False,
    work_dir: WorkDir = None,
    store: StoreUrl = "",
    keep: Keep = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Give FILM a new voice; its lips follow. The last line of stdout is the output's path."""
    from musetalk_cli.api import dub_jobs
    from musetalk_cli.executor import Hands
    from musetalk_cli.jobs import Existing, Parts, plan_jobs
    from musetalk_cli.session import Place, Voice

    choices = _choices(locals())
    _check_gate(fail_under, report=report)
    place, existing = Place(work_dir, keep, fresh, store), Existing(overwrite, skip_existing)
    jobs = plan_jobs(film, audio or [], output, lang, existing, place, Parts(cast, mix))
    asked = Hands(gpus, workers, executor, ray_address)
    if dry_run:
        return _predict_jobs(jobs, choices, place, asked, existing, report=report, as_json=as_json)
    done = dub_jobs(jobs, choices, place, asked, existing, Voice(progress, quiet, verbose), report=report)
    _answer(done.as_json() if as_json else list(done.outputs))
    if fail_under is not None:
        _gate(done.check, fail_under, as_json=as_json)


mount_farm(app, dub)


@app.command()
def batch(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            parser=_path,
            help="Films, folders of films, quoted patterns ('films/**/*.mp4'), or manifests (.toml, .jsonl).",
        ),
    ],
    audio: Annotated[
        list[str] | None,
        _option(
            "--audio",
            metavar="[LANG=]PATTERN",
            help="Voices of films that no manifest names: {stem} and {folder} are the film's. Default: {stem}.LANG.wav beside it.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        _option("-o", "--output", metavar="DIR", parser=_path, help="Folder of the results. Default: beside each film."),
    ] = None,
    lang: Lang = "",
    model: Model = "auto",
    weights: Weights = None,
    face: Face = "largest",
    parsing_mode: Parsing = None,
    silence: SilencePolicy = "auto",
    max_yaw: MaxYaw = 60.0,
    min_face: MinFace = 32,
    occlusion: Occlusion = 0.5,
    fade: Fade = 0.12,
    steady: Steady = 1.0,
    length: Length = "keep",
    original_audio: OriginalAudio = True,
    provenance: Provenance = True,
    sign_cert: SignCert = None,
    sign_key: SignKey = None,
    watermark: Watermark = False,
    watermark_key: WatermarkKey = config.PUBLIC_KEY,
    copy: Copy = True,
    codec: Codec = "auto",
    crf: Crf = None,
    preset: Preset = "auto",
    chunk: Chunk = 10.0,
    device: Device = "auto",
    batch_size: Batch = "auto",
    precision: Precision = "auto",
    exact: Exact = False,
    gpus: Gpus = "",
    workers: Workers = 0,
    executor: ExecutorName = "local",
    ray_address: RayAddress = "auto",
    report: Report = True,
    fail_under: FailUnder = None,
    overwrite: Overwrite = False,
    skip_existing: Skip = False,
    work_dir: WorkDir = None,
    store: StoreUrl = "",
    keep: Keep = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Dub many films: one bad one never stops the rest, and what a receipt beside a result says is done is left alone.

    A summary ends stdout. Exits 8 where a film failed, else 75 where another run is at one, else 7 where a report's score is under
    --fail-under.
    """
    from musetalk_cli.batch import Plan, run_batch
    from musetalk_cli.executor import Hands, hired
    from musetalk_cli.jobs import Existing
    from musetalk_cli.report.command import Reports
    from musetalk_cli.session import Voice

    choices = _choices(locals())
    _check_gate(fail_under, report=report)
    reports = Reports()
    plan = Plan(tuple(paths), tuple(audio or ()), output, Existing(overwrite, skip_existing), work_dir, keep, fresh, store, lang)
    asked = Hands(gpus, workers, executor, ray_address)
    if dry_run:
        return _predict_batch(plan, choices, asked, report=report, as_json=as_json)
    told = (lambda line: None) if quiet or progress in ("none", "jsonl") else (lambda line: typer.echo(line, err=True))
    after = reports.add if report else None
    with hired(asked) as hands:
        done = run_batch(plan, choices, Voice(progress, quiet, verbose), after, told, hands)
    _answer({**done.as_json(), "reports": reports.as_json()} if as_json else done.lines())
    if done.failed or done.put_off:
        raise typer.Exit(PartialError.exit_code if done.failed else RetryableError.exit_code)
    if fail_under is not None:
        _gate(reports.check, fail_under, as_json=as_json)


@app.command()
def inspect(
    film: Film,
    output: Annotated[
        Path | None,
        _option(
            "-o",
            "--output",
            metavar="OUT",
            parser=_path,
            help="Contact sheet, a .png or a folder. Default: {stem}.faces.png beside the film.",
        ),
    ] = None,
    cast: Annotated[
        Path | None,
        _option(
            "--cast",
            metavar="CAST",
            parser=_path,
            help="Draft of the cast map, a .toml or a folder. Default: {stem}.cast.toml beside the film, with stills.",
        ),
    ] = None,
    face: Face = "largest",
    weights: Weights = None,
    chunk: Chunk = 10.0,
    overwrite: Overwrite = False,
    work_dir: WorkDir = None,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Shots, faces and persons of FILM: a contact sheet and a cast map to edit. `dub` reuses what it found."""
    from musetalk_cli.inspection import Targets, inspect_film
    from musetalk_cli.session import Place, Voice
    from musetalk_cli.settings import Choices

    choices = Choices(weights=weights, face=face, chunk=chunk)
    found = inspect_film(
        film, Targets(output, cast), choices, Place(work_dir), Voice(progress, quiet, verbose), overwrite=overwrite
    )
    _answer(found.as_json() if as_json else found.lines())


@app.command()
def verify(
    film: Film,
    dubbed: Annotated[Path, typer.Argument(metavar="DUBBED", parser=_path, help="What a dub of it made.")],
    original_audio: OriginalAudio = True,
    decode: Annotated[bool, _option("--decode/--no-decode", help="Decode the whole picture, which takes longest.")] = True,
    provenance: Annotated[
        bool, _option("--provenance/--no-provenance", help="That its manifest is there and true to the file.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Prove that DUBBED keeps FILM's frames, timestamps, untouched packets and streams, and that nobody changed it since. Exits 7 where
    it does not."""
    from musetalk_cli.session import as_faults
    from musetalk_cli.stages.s7_verify import verify_film

    with as_faults():
        found = verify_film(film, dubbed, original_audio=original_audio, decode=decode, provenance=provenance)
    _answer(found.as_json() if as_json else found.lines())
    if not found.passed:
        raise typer.Exit(QualityGateError.exit_code)


@app.command(name="provenance")
def provenance_of(
    film: Annotated[Path, typer.Argument(metavar="FILM", parser=_path, help="A film that was dubbed.")], as_json: Json = False
) -> None:
    """What FILM says of its making: who altered what, when and where. Exits 7 where it says nothing, or was changed since."""
    from musetalk_cli.provenance.read import read_provenance
    from musetalk_cli.session import as_faults
    from musetalk_cli.work import fingerprint

    with as_faults():
        fingerprint(film)  # an unreadable file is told as such
        found = read_provenance(film)
    if found is None:
        raise QualityGateError(
            f"{film}: says nothing of its making", "a film that --no-provenance made, or no dub, or copied without its .c2pa"
        )
    _answer(found.as_json() if as_json else found.lines())
    if not found.intact:
        raise typer.Exit(QualityGateError.exit_code)


@app.command()
def status(
    film: Film,
    why: Annotated[bool, _option("--why", help="What a run with these settings would find, and what make again.")] = False,
    audio: Audio = None,
    cast: Cast = None,
    mix: Mix = None,
    model: Model = "auto",
    weights: Weights = None,
    face: Face = "largest",
    parsing_mode: Parsing = None,
    silence: SilencePolicy = "auto",
    max_yaw: MaxYaw = 60.0,
    min_face: MinFace = 32,
    occlusion: Occlusion = 0.5,
    fade: Fade = 0.12,
    steady: Steady = 1.0,
    length: Length = "keep",
    original_audio: OriginalAudio = True,
    provenance: Provenance = True,
    sign_cert: SignCert = None,
    sign_key: SignKey = None,
    watermark: Watermark = False,
    watermark_key: WatermarkKey = config.PUBLIC_KEY,
    copy: Copy = True,
    codec: Codec = "auto",
    crf: Crf = None,
    preset: Preset = "auto",
    chunk: Chunk = 10.0,
    work_dir: WorkDir = None,
    as_json: Json = False,
) -> None:
    """Where the work on FILM stands; --why: what would run again."""
    from musetalk_cli.jobs import Parts, job_to_rehearse
    from musetalk_cli.session import Place
    from musetalk_cli.standing import standing

    choices = _choices(locals())
    job = job_to_rehearse(film, audio or [], Parts(cast, mix))
    found = standing(film, Place(work_dir), choices if why else None, job)
    _answer(found.as_json() if as_json else found.lines())


@app.command()
def doctor(weights: Weights = None, work_dir: WorkDir = None, as_json: Json = False) -> None:
    """What is missing, and how to mend it. Exits 4 when something that a dub needs is not there."""
    from musetalk_cli.doctor import examine
    from musetalk_cli.weights import folder

    found = examine(folder(weights), work_dir)
    _answer(found.as_json() if as_json else found.lines())
    if found.missing:
        raise typer.Exit(MissingError.exit_code)


def _choices(given: dict[str, Any]) -> Any:
    """The Choices among a command's own parameters, which bear their names."""
    from dataclasses import fields

    from musetalk_cli.settings import Choices

    return Choices(**{field.name: given[field.name] for field in fields(Choices) if field.name in given})


def _check_gate(fail_under: float | None, *, report: bool) -> None:
    if fail_under is not None and not report:
        raise UsageError("needs a report", "leave out --no-report", thing="--fail-under")


def _predict_jobs(*asked: Any, report: bool, as_json: bool) -> None:
    """`dub --dry-run`."""
    from musetalk_cli.predict import predict_jobs

    found = predict_jobs(*asked, report=report)
    _answer(found.as_json() if as_json else found.lines())


def _predict_batch(*asked: Any, report: bool, as_json: bool) -> None:
    """`batch --dry-run`."""
    from musetalk_cli.predict import predict_batch

    found = predict_batch(*asked, report=report)
    _answer(found.as_json() if as_json else found.lines())


def _gate(check: Callable[[float], None], least: float, *, as_json: bool) -> None:
    """Exit 7 where it does not hold; told on stderr, since with --json stdout has had its object."""
    try:
        check(least)
    except QualityGateError as error:
        if not as_json:
            raise
        raise typer.Exit(error.exit_code) from error


def _answer(found: object) -> None:
    """Lines as they are, anything else as one JSON object, on stdout."""
    if isinstance(found, (str, Path)):
        found = [found]
    if isinstance(found, list) and all(isinstance(line, (str, Path)) for line in found):
        for line in found:
            typer.echo(os.fsencode(_plain(line) if isinstance(line, Path) else line))
    else:
        typer.echo(json.dumps(found, ensure_ascii=False, default=str))


def _plain(path: Path) -> Path | str:
    """A path that no command takes for a flag."""
    return f"./{path}" if str(path).startswith("-") else path


def _fail(error: MusetalkError, arguments: Sequence[str]) -> int:
    """The thing, the fact, the cure, a line each on stderr; under --json one object on stdout."""
    with _heard_or_not():
        if isinstance(error, InternalError) and {"-v", "--verbose"} & set(arguments):
            traceback.print_exception(error)
        if "--json" in arguments:
            _answer({"error": {"code": error.code, "message": error.fact, "hint": error.cure}})
        elif not error.told:
            lines = [f"musetalk: {error.thing}", f"  {error.about}", *([f"  {error.cure}"] if error.cure else [])]
            typer.echo(os.fsencode("\n".join(lines)), err=True)
    return error.exit_code


@contextmanager
def _heard_or_not() -> Iterator[None]:
    """The exit code stands where nobody can be told: stderr may be a file on the very disk that is full. What could not be written is let
    go, else Python tries it once more when it ends, and exits with 120."""
    try:
        yield
    except OSError:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


add_examples(app)

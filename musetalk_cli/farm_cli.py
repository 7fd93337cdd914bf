"""The commands of a farm: `plan`, `work`, `join`. Parse, build a plan, call one function, print. Imports nothing heavy at module level."""

import inspect
import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from musetalk_cli.errors import UsageError

NOT_OF_A_PLAN = (
    "report",
    "dry_run",
    "fail_under",
    "keep",
    "gpus",
    "workers",
    "executor",
    "ray_address",
)  # flags of `dub` for when it works


def _path(text: str) -> Path:
    if not text:
        raise typer.BadParameter("its path is empty")
    return Path(text)


Folder = Annotated[Path, typer.Argument(metavar="DIR", parser=_path, help="The folder that `plan` wrote plan.json into.")]
Device = Annotated[
    str,
    typer.Option(
        "--device", envvar="MUSETALK_DEVICE", metavar="auto|cpu|cuda[:N]", help="Where the network runs on this machine."
    ),
]
Batch = Annotated[
    str, typer.Option("--batch-size", envvar="MUSETALK_BATCH_SIZE", metavar="auto|N", help="Faces a step of the network.")
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", envvar="MUSETALK_WEIGHTS", metavar="DIR", help="Folder of pulled weights on this machine."),
]
Progress = Annotated[
    Literal["auto", "rich", "plain", "jsonl", "none"],
    typer.Option("--progress", envvar="MUSETALK_PROGRESS", help="What stderr shows; journals/ in DIR always tells all."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Every step, and tracebacks.")]


def mount(app: typer.Typer, dub: Callable[..., None]) -> None:
    """Add the commands. dub: the command whose flags `plan` takes."""
    app.command("plan")(_plan_like(dub))
    app.command()(work)
    app.command()(join)


def _plan_like(dub: Callable[..., None]) -> Callable[..., None]:
    flags = [flag for name, flag in inspect.signature(dub).parameters.items() if name not in NOT_OF_A_PLAN]

    def plan(**given: Any) -> None:
        """Write DIR/plan.json: FILM analysed as far as one machine must. Then start `work` on as many machines as there are, and `join`.

        DIR is --work-dir, a folder that all machines see; with --store each may have its own, with a copy of plan.json. Takes the
        flags of `dub`; give --precision where machines differ.
        """
        _plan(given)

    plan.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    plan.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return plan


def _plan(given: dict[str, Any]) -> None:
    from musetalk_cli.jobs import Existing, Parts, plan_jobs
    from musetalk_cli.session import Place, Voice
    from musetalk_cli.settings import Choices
    from musetalk_cli.shards import plan_work

    folder = given["work_dir"]
    if folder is None:
        raise UsageError("is missing", "name a folder that all machines see", thing="--work-dir")
    existing, place = Existing(given["overwrite"], given["skip_existing"]), Place(folder, True, given["fresh"], given["store"])
    parts = Parts(given["cast"], given["mix"])
    jobs = plan_jobs(given["film"], given["audio"] or [], given["output"], given["lang"], existing, place, parts)
    choices = Choices(**{field.name: given[field.name] for field in fields(Choices)})
    made = plan_work(jobs, choices, place, Voice(given["progress"], given["quiet"], given["verbose"]))
    _answer(made.as_json(), [str(made.path)], as_json=given["as_json"])


def work(
    folder: Folder,
    shard: Annotated[
        str,
        typer.Option(
            "--shard",
            envvar="MUSETALK_SHARD",
            metavar="I/N",
            help="Which share is made first. I from 0, or from 1 to N. Default: all.",
        ),
    ] = "0/1",
    own_share_only: Annotated[
        bool, typer.Option("--own-share-only", help="Make nothing of other shares, also where nobody else does.")
    ] = False,
    device: Device = "auto",
    batch_size: Batch = "auto",
    weights: Weights = None,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a share of what DIR/plan.json asks for, then what is left of the others'. May be started any number of times, anywhere, and
    killed at any time: what is finished is found.
    """
    from musetalk_cli.session import Voice
    from musetalk_cli.shards import Machine, work_shard

    machine = Machine(device, batch_size, weights)
    done = work_shard(folder, _shard(shard), machine, Voice(progress, quiet, verbose), steal=not own_share_only)
    _answer(done.as_json(), [f"shard {done.shard.number}/{done.shard.of}: made {done.made} of {done.units}"], as_json=as_json)


def join(
    folder: Folder,
    report: Annotated[
        bool, typer.Option("--report/--no-report", envvar="MUSETALK_REPORT", help="Measure what came out, as `dub` does.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("-y", "--overwrite", help="Replace an output that is there.")] = False,
    skip_existing: Annotated[bool, typer.Option("-n", "--skip-existing", help="Leave an output that is there.")] = False,
    device: Device = "auto",
    batch_size: Batch = "auto",
    weights: Weights = None,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The films of DIR/plan.json, from what `work` made, where the plan says. Exits 75 and names it where something is missing."""
    from musetalk_cli.jobs import Existing
    from musetalk_cli.report.command import Reports
    from musetalk_cli.session import Voice
    from musetalk_cli.shards import Machine, join_shards

    reports = Reports()
    machine, existing = Machine(device, batch_size, weights), Existing(overwrite, skip_existing)
    after = reports.add if report else None
    done = join_shards(folder, machine, Voice(progress, quiet, verbose), existing, after)
    films = {
        "outputs": [str(film.output) for film in done],
        "films": [film.as_json() for film in done],
        "reports": reports.as_json(),
    }
    _answer(films, [str(film.output) for film in done], as_json=as_json)


def _shard(text: str) -> Any:
    """0/3, 1/3, 2/3 and 1/3, 2/3, 3/3 are the same three."""
    from musetalk_cli.sharing import Shard

    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(of) > 0 and int(number) <= int(of)):
        raise UsageError(f"--shard {text}: no share", "write I/N, as 0/3, 1/3, 2/3")
    return Shard(int(number) % int(of), int(of))


def _answer(found: object, lines: list[str], *, as_json: bool) -> None:
    for line in [json.dumps(found, ensure_ascii=False, default=str)] if as_json else lines:
        typer.echo(os.fsencode(line))

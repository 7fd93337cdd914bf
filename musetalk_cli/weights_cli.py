"""The commands of model files: `musetalk weights`. Parse, call one function, print. Imports nothing heavy at module level."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from musetalk_cli.errors import MissingError, UsageError
from musetalk_cli.licences import Licence, accept, unaccepted

if TYPE_CHECKING:
    from musetalk_cli.weights import FileStatus

app = typer.Typer(
    name="weights",
    help="Model files: what is here, and getting more.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _sets() -> list[str]:
    from musetalk_cli.weights import SETS

    return list(SETS)


Set = Annotated[
    str, typer.Argument(metavar="SET", help="v15, v1, parsing, face-alignment, training or eval.", autocompletion=_sets)
]
Weights = Annotated[
    Path | None, typer.Option("--weights", envvar="MUSETALK_WEIGHTS", metavar="DIR", help="Folder of pulled weights.")
]
Mirror = Annotated[
    str,
    typer.Option(
        "--mirror",
        envvar="MUSETALK_MIRROR",
        metavar="URL|DIR",
        help="Fetch from there and nowhere else: a weights folder that was pulled elsewhere, or an http(s) address under which one lies.",
    ),
]
Accept = Annotated[
    bool,
    typer.Option(
        "--accept-licence",
        envvar="MUSETALK_ACCEPT_LICENCE",
        help="Accept the licences that want it; asked on a terminal where it is not given, and remembered.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]


@app.command("list")
def list_files(weights: Weights = None, as_json: Json = False) -> None:
    """Every file of every set: size, licence, whether it is here."""
    from musetalk_cli.weights import folder, list_sets

    _print(list_sets(folder(weights)), as_json=as_json)


@app.command("pull")
def pull_set(
    name: Set,
    weights: Weights = None,
    mirror: Mirror = "",
    accept_licence: Accept = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that lie there and are not the published ones.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a set, checked by sha256; a stopped pull goes on. Shows the licences of what it fetches.

    Exits 2 where a licence wants to be accepted and nobody can be asked, 4 where a file cannot be had or is another one, 75 where the
    connection failed.
    """
    from musetalk_cli.weights import folder, pull, to_pull

    root = folder(weights)
    _settle((file.licensed for file in to_pull(name, root)), accepted=accept_licence, quiet=quiet or as_json)
    rows = pull(name, root, mirror=mirror, force=force, progress=None if quiet else _pulled)
    if as_json:
        _print(rows, as_json=True)
    else:
        typer.echo(root)


@app.command("verify")
def verify_set(name: Set, weights: Weights = None, as_json: Json = False) -> None:
    """Compare the files of a set with their published sha256. Exits 4 when one is missing or another file."""
    from musetalk_cli.weights import folder, verify

    rows = verify(name, folder(weights))
    _print(rows, as_json=as_json)
    if any(row.state != "present" for row in rows):
        flag = " --force" if any(row.state == "wrong" for row in rows) else ""
        typer.echo(f"`musetalk weights pull {name}{flag}` gets what is not there as it was published", err=True)
        raise typer.Exit(MissingError.exit_code)


@app.command("path")
def path(weights: Weights = None) -> None:
    """The folder of pulled weights."""
    from musetalk_cli.weights import folder

    typer.echo(folder(weights))


def _settle(licences: Iterable[Licence], *, accepted: bool, quiet: bool) -> None:
    """Show the licences of what is about to be fetched, and have accepted what wants to be. Raises UsageError where it is not."""
    shown = list(dict.fromkeys(licences))
    asking = unaccepted(shown)
    if not quiet:
        for one in shown:
            typer.echo(f"licence of {one.line()}", err=True)
    if asking and not accepted:
        if quiet or not (sys.stdin.isatty() and sys.stderr.isatty()):
            facts = "; ".join(one.line() for one in asking)
            raise UsageError(f"wants to be accepted: {facts}", "read it, then give --accept-licence", thing="the licence")
        if not typer.confirm("Do you accept?", err=True):
            raise UsageError("was not accepted", "nothing was fetched", thing="the licence")
    accept(asking) if asking else None


def _print(rows: "Sequence[FileStatus]", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"files": [_row(row) for row in rows]}, ensure_ascii=False))
    else:
        for line in _table(rows):
            typer.echo(line)


def _row(row: "FileStatus") -> dict[str, Any]:
    origin, licence = row.file.origin, row.file.licensed
    about = {"size": origin.size, "sha256": origin.sha256, "revision": origin.revision, "from": str(origin)}
    accepted = not unaccepted([licence]) if licence.asks else None
    return {
        "set": row.set,
        "path": row.file.path,
        "state": row.state,
        "fact": row.fact,
        **about,
        "licence": licence.text,
        "licence_accepted": accepted,  # None: it need not be
    }


def _table(rows: "Sequence[FileStatus]") -> list[str]:
    lines = []
    for row in rows:
        origin, licence = row.file.origin, row.file.licensed
        size = f"{origin.size / 1e6:,.3f} MB" if origin.size else "size unknown"
        fact = f" ({row.fact})" if row.fact else ""
        asked = "" if not licence.asks else " [to be accepted]" if unaccepted([licence]) else " [accepted]"
        lines.append(f"{row.set:15} {row.file.path:45} {size:>14}  {row.state}{fact}  {licence.text}{asked}")
    return lines


def _pulled(path: str, done: int, total: int | None) -> None:
    """One line on stderr, redrawn on a terminal; elsewhere one when a file is whole."""
    whole = f" of {total / 1e6:,.0f} MB" if total else ""
    if sys.stderr.isatty() or done == total:
        typer.echo(f"\r{path}: {done / 1e6:,.0f} MB{whole} ", err=True, nl=done == total)

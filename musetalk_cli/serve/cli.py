"""`musetalk serve`: parse, call one function. Imports nothing heavy at module level."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

if TYPE_CHECKING:
    from musetalk_cli.serve.orders import Settings

T = TypeVar("T")

app = typer.Typer(rich_markup_mode=None)


def _path(text: str) -> Path:
    if not text:
        raise typer.BadParameter("its path is empty")
    return Path(text)


Folder = Annotated[
    Path, typer.Argument(metavar="[DIR]", parser=_path, help="Holds films and voices; nothing elsewhere can be chosen.")
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="On 127.0.0.1. 0: any that is free.")]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Show the page in a browser.")]


@app.command()
def serve(context: typer.Context, folder: Folder = Path("."), port: Port = 0, show: Open = False) -> None:
    """A page in your browser: choose film and voice, see shots and faces, set the cast, dub, wipe between before and after.

    It listens on 127.0.0.1 alone, and answers whoever has the URL, the last line of stdout. What the page does not ask is as musetalk.toml
    and MUSETALK_* have it for `dub`. Ctrl-C ends it; a dub that is under way goes on where it was when it is started again.
    """
    from musetalk_cli.serve.server import run_server

    run_server(folder, port, _settings_of_dub(context), show=show, told=typer.echo)


def _settings_of_dub(context: typer.Context) -> "Settings":
    """What `musetalk dub FILM` would take here."""
    from musetalk_cli.executor import Hands
    from musetalk_cli.serve.orders import Settings
    from musetalk_cli.session import Place
    from musetalk_cli.settings import Choices

    root = context.find_root()
    known = vars(root.command)["commands"]["dub"].make_context("dub", ["FILM"], parent=root).params

    def of(kind: type[T]) -> T:
        return kind(**{one.name: known[one.name] for one in fields(cast(Any, kind)) if one.name in known})

    return Settings(of(Choices), of(Place), of(Hands))

"""`musetalk config`: what every flag would be here, and who says so. In: the commands, the environment, musetalk.toml. Out: lines or JSON."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from musetalk_cli.errors import UsageError
from musetalk_cli.settings import flags_of, read_settings, settings_files

Kind = Literal["default", "user", "project", "environment"]
FILES: tuple[Kind, ...] = ("user", "project")  # as settings_files has them
NO_SETTINGS = ("help", "install-completion", "show-completion")

app = typer.Typer(
    name="config",
    help="Settings: what they are here, and who says so.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _titles(context: typer.Context) -> list[str]:
    return list(flags_of(context.find_root().command))


Command = Annotated[
    str,
    typer.Argument(
        metavar="[COMMAND]",
        help="Of this command alone: dub, or 'weights pull'. Default: of all of them.",
        autocompletion=_titles,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a flag is where nobody gives it."""

    command: str  # "dub", "weights pull"
    key: str  # in musetalk.toml; with -- before it, the flag
    value: str | int | float | bool | list[str] | None  # None: not set
    origin: Kind
    where: str  # path of the file, name of the environment variable; "" for a default

    @property
    def told(self) -> str:
        return f"{self.origin}: {self.where}" if self.where else self.origin


@app.command()
def show(
    context: typer.Context,
    command: Command = "",
    origin: Annotated[bool, typer.Option("--origin", help="Say of each where it comes from.")] = False,
    as_json: Json = False,
) -> None:
    """Every setting with its value, as musetalk.toml would have it; what is not set stands behind a #.

    A flag wins over its environment variable, that over ./musetalk.toml, that over musetalk.toml in the user's config folder.
    """
    found = list(_settings(context.find_root(), command))
    if as_json:
        rows = [asdict(one) for one in found]
        typer.echo(json.dumps({"files": [asdict(one) for one in _files()], "settings": rows}, ensure_ascii=False))
    else:
        for line in _lines(found, origin=origin):
            typer.echo(line)


@app.command()
def path(as_json: Json = False) -> None:
    """The files that are read, the later over the earlier, and whether they are there."""
    found = _files()
    if as_json:
        typer.echo(json.dumps({"files": [asdict(one) for one in found]}, ensure_ascii=False))
    else:
        for one in found:
            typer.echo(f"{one.origin:8} {one.path}{'' if one.exists else '  (not there)'}")


@dataclass(frozen=True, slots=True)
class _File:
    origin: Kind
    path: str
    exists: bool


def _files() -> list[_File]:
    return [_File(kind, str(path.absolute()), path.is_file()) for kind, path in zip(FILES, settings_files(), strict=True)]


def _settings(root: Any, only: str) -> Iterator[Setting]:
    """Raises UsageError for no command, and what the commands raise for a value that none of them takes."""
    known = flags_of(root.command)
    if only and only not in known:
        raise UsageError("no such command with settings", f"choose from {', '.join(known)}", thing=only)
    tables = [(kind, path, read_settings([path], known)) for kind, path in zip(FILES, settings_files(), strict=True)]
    for title in [only] if only else known:
        context = _context(root, title)
        for parameter in context.command.params:
            key = max(parameter.opts, key=len).lstrip("-")
            if parameter.param_type_name != "option" or key in NO_SETTINGS:
                continue
            raw, source = parameter.consume_value(context, {})
            value = parameter.process_value(context, raw)
            yield Setting(title, key, _plain(value), *_origin(source.name, parameter, title, tables))


def _context(root: Any, title: str) -> Any:
    """Of a command as it would run without a flag."""
    context: Any = root
    for name in title.split():
        command = context.command.commands[name]
        context = command.context_class(command, info_name=name, parent=context)
    return context


def _origin(source: str, parameter: Any, title: str, tables: list[tuple[Kind, Path, dict[str, Any]]]) -> tuple[Kind, str]:
    if source == "ENVIRONMENT":
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
        return "environment", next(name for name in names if os.environ.get(name))
    if source == "DEFAULT_MAP":
        for kind, path, table in reversed(tables):
            for name in title.split():
                table = table.get(name, {})
            if parameter.name in table:
                return kind, str(path.absolute())
    return "default", ""


def _plain(value: Any) -> str | int | float | bool | list[str] | None:
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _lines(found: list[Setting], *, origin: bool) -> Iterator[str]:
    """A musetalk.toml; JSON writes numbers, words and lists as TOML reads them."""
    wide = max((len(_assigned(one)) for one in found), default=0)
    table = ""
    for one in found:
        if one.command != table:
            yield f"[{one.command.replace(' ', '.')}]" if not table else f"\n[{one.command.replace(' ', '.')}]"
            table = one.command
        yield f"{_assigned(one):{min(wide, 48)}}  # {one.told}" if origin else _assigned(one)


def _assigned(one: Setting) -> str:
    if one.value is None:
        return f"# {one.key} ="
    return f"{one.key} = {json.dumps(one.value, ensure_ascii=False)}"

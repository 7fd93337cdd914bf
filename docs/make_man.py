"""Writes docs/man/*.1 from --help: a page for musetalk and one for each command. In: the commands. Out: pages in man's own language; with
--check, an exit code: whether they are up to date."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["COLUMNS"] = "100"

from typer.main import get_command

from musetalk_cli import __version__
from musetalk_cli.cli import app
from musetalk_cli.help_examples import EXAMPLES

PAGES = Path(__file__).with_name("man")
EXIT_CODES = {
    "0": "done",
    "1": "internal error",
    "2": "usage",
    "3": "input unreadable or unsupported",
    "4": "a dependency or model file is missing",
    "5": "no usable face in the whole film",
    "6": "output exists",
    "7": "finished, but a gate was not met",
    "8": "some films of several could not be done",
    "9": "out of disk or memory, or a disk that fails",
    "75": "retryable: the folder is locked, the network failed",
    "130, 143": "SIGINT, SIGTERM: what is finished is kept",
}
ENVIRONMENT = {
    "MUSETALK_*": "what a flag would be: each flag's own variable stands beside it",
    "MUSETALK_WEIGHTS": "folder of pulled weights",
    "MUSETALK_MIRROR": "where weights pull fetches from",
    "MUSETALK_OFFLINE, HF_HUB_OFFLINE": "1: no connection to another machine",
    "NO_COLOR, FORCE_COLOR": "whether progress is coloured",
}
FILES = {
    "./musetalk.toml": "settings of the project",
    "~/.config/musetalk/musetalk.toml": "settings of the user",
    "~/.cache/musetalk": "work folders; run.jsonl in each holds every event of every run",
    "~/.local/share/musetalk": "pulled weights; licences.json, which were accepted",
}


def pages() -> dict[str, str]:
    """{file name: the whole page}"""
    return dict(_pages(get_command(app), "musetalk", None, ""))


def _pages(command: Any, name: str, parent: Any, title: str) -> Iterator[tuple[str, str]]:
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    below = getattr(command, "commands", {})
    yield f"{_file(context.command_path)}.1", _page(command, context, title, list(below))
    for name, subcommand in below.items():
        yield from _pages(subcommand, name, context, f"{title} {name}".strip())


def _page(command: Any, context: Any, title: str, below: list[str]) -> str:
    path = context.command_path
    said = [part.strip() for part in re.sub(r"\b`|`\b", "", command.help or "").split("\n\n") if part.strip()]
    first = " ".join(said[0].split()).rstrip(".") if said else path
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH {_file(path).upper()} 1 "" "musetalk {__version__}" "User Commands"',
        ".SH NAME",
        rf"{_roff(_file(path))} \- {_roff(first)}",
    ]
    lines += [".SH SYNOPSIS", rf"\fB{_roff(path)}\fR {_roff(usage)}", ".SH DESCRIPTION"]
    for part in said:
        lines += [".PP", _roff(" ".join(part.split()))]
    records = [(one.param_type_name, one.get_help_record(context)) for one in command.params]
    lines += _terms("ARGUMENTS", [record for kind, record in records if kind == "argument" and record])
    lines += _terms("OPTIONS", [record for kind, record in records if kind == "option" and record])
    lines += _terms("COMMANDS", [(name, command.commands[name].get_short_help_str(200)) for name in below])
    if title in EXAMPLES:
        lines += [".SH EXAMPLES"]
        for one in EXAMPLES[title]:
            lines += [".TP", _roff(one.task), rf"\fB{_roff(one.command)}\fR"]
    if not title:
        lines += _terms("EXIT STATUS", list(EXIT_CODES.items()))
        lines += _terms("ENVIRONMENT", list(ENVIRONMENT.items()))
        lines += _terms("FILES", list(FILES.items()))
    also = [_file(f"{path} {name}") for name in below] or ["musetalk"]
    lines += [".SH SEE ALSO", ", ".join(rf"\fB{_roff(name)}\fR(1)" for name in also if name != _file(path)) or r"\fBffmpeg\fR(1)"]
    return "\n".join(lines) + "\n"


def _terms(title: str, records: list[tuple[str, str]]) -> list[str]:
    lines = [f".SH {title}"] if records else []
    for term, text in records:
        lines += [".TP", rf"\fB{_roff(term)}\fR", _roff(" ".join(text.split()))]
    return lines


def _file(path: str) -> str:
    return path.replace(" ", "-")


def _roff(text: str) -> str:
    """What man's language would take for its own is written so that it does not."""
    escaped = (
        text.replace("\\", r"\e")
        .replace("-", r"\-")
        .replace("'", r"\(aq")
        .replace("`", r"\(ga")
        .replace("^", r"\(ha")
        .replace("~", r"\(ti")
    )
    return rf"\&{escaped}" if escaped.startswith((".", r"\(aq")) else escaped


if __name__ == "__main__":
    made = pages()
    if "--check" not in sys.argv:
        PAGES.mkdir(exist_ok=True)
        for old in PAGES.glob("*.1"):
            if old.name not in made:
                old.unlink()
        for name, text in made.items():
            (PAGES / name).write_text(text, encoding="utf-8")
    elif {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.1")} != made:
        sys.exit(f"{PAGES} is not what --help says: run python docs/make_man.py")

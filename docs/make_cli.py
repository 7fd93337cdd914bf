"""Writes docs/cli.md from --help. In: the commands. Out: the page; with --check, an exit code: whether it is up to date."""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["COLUMNS"] = "100"

from typer.main import get_command

from musetalk_cli.cli import app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# The command line

Written by `python docs/make_cli.py` from `--help`; CI checks that it is up to date.

Settings: a flag wins over its environment variable, that over `./musetalk.toml`, that over `musetalk.toml` in the user's config
folder. A file has a table for each command and a key for each flag:

```toml
[dub]
model = "v15"
batch-size = 8
```

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | internal error |
| 2 | usage |
| 3 | input unreadable or unsupported |
| 4 | a dependency or model file is missing |
| 5 | no usable face in the whole film |
| 6 | output exists |
| 7 | finished, but `--fail-under` was not met, or `verify` found a broken promise |
| 8 | some films of several could not be done |
| 9 | out of disk or memory, or a disk that fails |
| 75 | retryable: the folder is locked, the network failed |
| 130, 143 | SIGINT, SIGTERM: what is finished is kept |

Data goes to stdout, its last line the output's path, or with `--json` one object; progress and errors go to stderr. The work
folder holds `run.jsonl`, every event of every run, one JSON object a line.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_sections(get_command(app), "musetalk", None))


def _sections(command: Any, name: str, parent: Any) -> list[str]:
    """A heading and the help of a command, then of its subcommands."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    found = [f"\n## {context.command_path}\n\n```text\n{context.get_help().strip()}\n```\n"]
    for below, subcommand in getattr(command, "commands", {}).items():
        found += _sections(subcommand, below, context)
    return found


if __name__ == "__main__":
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is not what --help says: run python docs/make_cli.py")

"""Where a result may be written. In: the path, and the files that are read. Out: nothing, or the reason why not.

Asked before any work is done. Knows nothing of what is written.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from musetalk_cli.errors import OutputExistsError, UsageError


def check_folder(folder: Path) -> None:
    """Raises UsageError where no file can be made in it."""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError("not a folder that can be written", "make it, or choose another -o", thing=str(folder))


def make_folder(folder: Path) -> None:
    """With those above it. Raises UsageError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot be made ({error.strerror})", "choose another -o", thing=str(folder)) from error


def check_suffix(output: Path, suffixes: Iterable[str]) -> None:
    """Raises UsageError where the name does not end in one of them, in small or capital letters."""
    if output.suffix.lower() not in suffixes:
        fact = f"cannot write {output.suffix}" if output.suffix else "its name has no suffix, which says what to write"
        raise UsageError(fact, f"end the name after -o in {', '.join(suffixes)}", thing=str(output))


def check_apart(output: Path, inputs: Iterable[Path]) -> None:
    """Raises UsageError where the output is one of the inputs, by whatever name."""
    if output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        raise UsageError("is itself an input", "choose another -o", thing=str(output))


def check_file(output: Path) -> None:
    """Raises UsageError where a folder has that name."""
    if output.is_dir():
        raise UsageError("is a folder", "choose another -o", thing=str(output))


def exists_error(output: Path, cure: str) -> OutputExistsError:
    """That a file is there which nobody allowed to replace."""
    return OutputExistsError("is there already", cure, thing=str(output))

"""The one folder that the page sees. In: names, as a browser sends them. Out: paths of plain files in it, and of no others.

A name is looked up in the folder's own list and never joined unseen: what is elsewhere, hidden, or a link has no name here.
"""

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from musetalk_cli.cast_draft import stills_folder
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.report.files import paths as report_paths
from musetalk_cli.suffixes import FILMS, SOUNDS


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that can be chosen."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Result:
    """What was dubbed here and reported on."""

    name: str
    bytes: int
    report: str  # name of its page


@dataclass(frozen=True, slots=True)
class Listing:
    folder: str
    films: tuple[Listed, ...]
    voices: tuple[Listed, ...]
    results: tuple[Result, ...]
    unnamed: int  # files whose names are no UTF-8, which a page cannot say


class Folder:
    """root: resolved once, when the server starts."""

    def __init__(self, root: Path) -> None:
        try:
            self.root = root.resolve(strict=True)
        except OSError as error:
            raise InputError(f"{root}: {error.strerror}", "give the folder that holds film and voice") from error
        if not self.root.is_dir():
            raise UsageError("is no folder", "give the folder that holds film and voice", thing=str(root))

    def listing(self) -> Listing:
        """What can be chosen now."""
        files = sorted(self._files(self.root), key=lambda entry: entry.name)
        said = [Listed(entry.name, entry.stat(follow_symlinks=False).st_size) for entry in files if _is_sayable(entry.name)]
        names = {one.name for one in said}
        films = tuple(one for one in said if _suffix(one.name) in FILMS)
        results = tuple(
            Result(one.name, one.bytes, report)
            for one in films
            if (report := report_paths(Path(one.name).with_suffix(""))[0].name) in names
        )
        voices = tuple(one for one in said if _suffix(one.name) in SOUNDS)
        return Listing(str(self.root), films, voices, results, len(files) - len(said))

    def file(self, name: str) -> Path:
        """A plain file directly in the folder. Raises InputError for every other name."""
        return self._in(self.root, name)

    def film(self, name: str) -> Path:
        """A film, by its name. Raises InputError for every other name."""
        return self._of_kind(name, FILMS, "no film")

    def voice(self, name: str) -> Path:
        """What may hold a voice. Raises InputError for every other name."""
        return self._of_kind(name, SOUNDS | FILMS, "neither sound nor film")

    def medium(self, name: str) -> Path:
        """What is watched, heard, looked at or downloaded. Raises InputError for other files, such as scripts."""
        return self._of_kind(name, FILMS | SOUNDS | {".png", ".html"}, "neither picture, sound nor report")

    def still(self, cast: Path, name: str) -> Path:
        """A picture of a person, beside the cast map. Raises InputError for every other name."""
        stills = stills_folder(cast)
        if stills.is_symlink() or not stills.is_dir():
            raise _absent(name)
        return self._in(stills, name)

    def target(self, name: str) -> Path:
        """Where a result of that name goes, whether it is there or not. Raises UsageError for what is no plain name."""
        if not name or name != os.path.basename(name) or name.startswith(".") or not name.isprintable():
            raise UsageError(f"{name!r} is no name of a file", "give a name without folders, such as film.fr.mp4", thing="output")
        path = self.root / name
        if path.is_symlink():
            raise UsageError("is a link", "choose another name", thing=name)
        return path

    def _of_kind(self, name: str, suffixes: AbstractSet[str], lacking: str) -> Path:
        path = self.file(name)
        if path.suffix.lower() not in suffixes:
            raise InputError(f"is {lacking}", "choose one of those that are listed", thing=name)
        return path

    def _in(self, folder: Path, name: str) -> Path:
        found = next((entry for entry in self._files(folder) if entry.name == name), None)
        if found is None:
            raise _absent(name)
        return Path(found.path)

    def _files(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."))


def _absent(name: str) -> InputError:
    return InputError("there is no such file in the folder", "choose one of those that are listed", thing=repr(name))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_sayable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True

"""The cast map as the page shows and changes it. In: `cast.toml`, what the page sends. Out: records for the page, the file again.

What the page does not show (comments, ranges, keys of later versions) stays as it was. Knows nothing of who may be in a cast: `cast_map`
does, and refuses before anything is replaced.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Comment

from musetalk_cli.cast_map import CastMap, check_known, parse_cast, read_cast
from musetalk_cli.errors import UsageError
from musetalk_cli.serve.folder import Folder
from musetalk_cli.work import sync

SHOWN = ("name", "faces", "still", "voice", "channel", "silence", "consent")  # in this order at the head of an entry
SUGGESTION = "voice ="  # as a draft has it in a comment


@dataclass(frozen=True, slots=True)
class Person:
    """One entry. voice: name in the folder, "" for none; another path where a person wrote one."""

    name: str
    faces: tuple[str, ...]
    still: str  # name of the picture, "" where there is none
    voice: str
    consent: str  # where it is written that the person agreed
    notes: tuple[str, ...]  # comments: when the person is seen and speaks


@dataclass(frozen=True, slots=True)
class Cast:
    """What is shown. version: of the file's content, which a change names as what it changes."""

    file: str
    version: str
    persons: tuple[Person, ...]
    ranges: int


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one entry."""

    name: str
    voice: str
    consent: str


def shown_cast(path: Path) -> Cast:
    """Raises as read_cast."""
    cast_map, text = read_cast(path), path.read_text(encoding="utf-8")
    entries = zip(cast_map.persons, _tables(_parsed(text, path)), strict=True)
    persons = (
        Person(
            person.name,
            person.faces,
            "" if person.still is None else person.still.name,
            str(table.get("voice", "")),
            person.consent,
            tuple(note for note in _comments(table) if not note.startswith(SUGGESTION)),
        )
        for person, table in entries
    )
    return Cast(path.name, _version(text), tuple(persons), len(cast_map.ranges))


def change_cast(path: Path, version: str, changes: Sequence[Change]) -> Cast:
    """Write what the page made of it, an entry each in the file's order; entries that are given one name become one.

    Raises UsageError where the file is no longer the one that was shown, or what was written cannot be meant.
    """
    text = path.read_text(encoding="utf-8")
    document = _parsed(text, path)
    tables = _tables(document)
    if _version(text) != version or len(tables) != len(changes):
        raise UsageError("was changed by somebody else meanwhile", "load it again, and change it once more", thing=path.name)
    document["person"] = _array(_joined(_changed(table, change) for table, change in zip(tables, changes, strict=True)))
    written: str = document.as_string()
    check_known(parse_cast(written, path))
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(written, encoding="utf-8")
        sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return shown_cast(path)


def check_inside(cast_map: CastMap, folder: Folder) -> CastMap:
    """The map itself. Raises UsageError where a person wrote a voice or a picture into it that lies elsewhere."""
    pictures = [person.still for person in cast_map.persons if person.still is not None]
    for path in [voice.path for voice in cast_map.voices()] + pictures:
        if not path.resolve().is_relative_to(folder.root):
            raise UsageError(f"{path} lies outside of {folder.root}", "copy it there", thing=cast_map.path.name)
    return cast_map


def _parsed(text: str, path: Path) -> Any:
    try:
        return tomlkit.parse(text)
    except ValueError as error:  # read by tomllib, and not by tomlkit
        raise UsageError(f"{path}: {error}", "write it in a plainer way") from error


def _tables(document: Any) -> list[Any]:
    return list(document["person"])


def _version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _comments(table: Any) -> Iterator[str]:
    yield from (str(item.as_string()).strip().lstrip("# ") for _, item in table.value.body if isinstance(item, Comment))


def _changed(table: Any, change: Change) -> Any:
    """The entry, its keys before its comments."""
    values = {**table.unwrap(), "name": change.name, "voice": change.voice, "consent": change.consent}
    if change.voice != table.get("voice", ""):
        values.pop("channel", None)  # of the voice that was there
    kept = {name: value for name, value in values.items() if value != "" or name == "name"}
    entry = tomlkit.table()
    for name in sorted(kept, key=lambda name: SHOWN.index(name) if name in SHOWN else len(SHOWN)):
        entry.add(name, kept[name])
    for note in _comments(table):
        if not (change.voice and note.startswith(SUGGESTION)):
            entry.add(tomlkit.comment(note))
    return entry


def _joined(entries: Iterable[Any]) -> Iterator[Any]:
    """One for each name: the first, with the letters of all."""
    by_name: dict[str, Any] = {}
    for entry in entries:
        first = by_name.setdefault(str(entry["name"]), entry)
        if first is not entry:
            first["faces"] = [*first.get("faces", []), *entry.get("faces", [])]
    yield from by_name.values()


def _array(entries: Iterable[Any]) -> Any:
    array = tomlkit.aot()
    for entry in entries:
        array.append(entry)
    array[-1].add(tomlkit.nl())
    return array

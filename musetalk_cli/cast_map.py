"""Who gets which voice, as a person writes it: `cast.toml`. In: the file, or what the analysis found. Out: a CastMap, or the file.

    [[person]]                       a person of the film
    name = "anna"                    what `--audio anna=anna.wav` calls her
    faces = ["A", "D"]               letters of the analysis; two where one person was taken for two
    still = "film.cast/A.jpg"        a picture: finds her in a film that was not analysed for this file
    voice = "anna.wav"               where --audio does not say it; `channel = 0` takes one channel of it
    silence = "auto"                 auto | original | closed

    [[range]]                        changes that for a time; a later one wins
    person = "anna"                  without it: everyone
    from = "0:01:02.5"               on the film's clock, or seconds
    to = "0:01:04"
    pass = true                      the film's own mouth; or another `voice`, `channel` or `silence`

Paths are taken from the file's folder. Knows nothing of frames, models or sound.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from musetalk_cli.config import Silence
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.reading import parse_toml, read_text

CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")
PERSON_KEYS = frozenset({"name", "faces", "still", "voice", "channel", "silence", "consent"})
RANGE_KEYS = frozenset({"person", "from", "to", "pass", "voice", "channel", "silence"})
TOP_KEYS = frozenset({"film", "analysis", "person", "range"})
ALL_CHANNELS = -1


class VoiceFile(NamedTuple):
    """Where a voice is to be heard."""

    path: Path  # resolved, so that a file under two names is one voice, heard once
    channel: int = ALL_CHANNELS


@dataclass(frozen=True, slots=True)
class CastPerson:
    name: str
    faces: tuple[str, ...] = ()  # letters
    still: Path | None = None
    voice: VoiceFile | None = None  # None: the film's own mouth
    silence: Silence = "auto"
    consent: str = ""  # where it is written that the person agreed: told in the film's manifest


@dataclass(frozen=True, slots=True)
class CastRange:
    """From start to stop, in seconds of the film's clock, person (None: everyone) is passed through or has another voice."""

    start: Fraction
    stop: Fraction
    person: str | None = None
    passes: bool = False
    voice: VoiceFile | None = None  # None: the person's own
    silence: Silence = "auto"


@dataclass(frozen=True, slots=True)
class CastMap:
    path: Path
    analysis: str  # of the run whose letters are meant; "" where a person wrote the file
    persons: tuple[CastPerson, ...]
    ranges: tuple[CastRange, ...] = ()

    def voices(self) -> tuple[VoiceFile, ...]:
        """Every voice once, in the order of the file."""
        named = [person.voice for person in self.persons] + [stretch.voice for stretch in self.ranges]
        return tuple(dict.fromkeys(voice for voice in named if voice is not None))


def letters(number: int) -> str:
    """Persons by their number: A to Z, AA, AB, ..."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def read_cast(path: Path) -> CastMap:
    """Raises UsageError, naming the entry, for a file that says what nobody can mean; InputError where it cannot be read."""
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "give the file that `musetalk inspect` drafted") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "mend that line; `musetalk inspect` drafts a new file") from error
    return parse_cast(text, path)


def parse_cast(text: str, path: Path) -> CastMap:
    """What the file at `path` says, or is about to say. Raises UsageError as read_cast."""
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "mend that line; `musetalk inspect` drafts a new file") from error
    _check_keys(path, "the file", table, TOP_KEYS)
    persons = tuple(_person(path, entry) for entry in _entries(path, table, "person"))
    names = [person.name for person in persons]
    if not persons or len(set(names)) < len(names):
        raise UsageError(f"{path}: {'two persons of one name' if persons else 'no [[person]]'}", "give each person a name")
    taken = [face for person in persons for face in person.faces]
    if len(set(taken)) < len(taken):
        raise UsageError(f"{path}: a face belongs to two persons", "leave each letter with one of them")
    ranges = tuple(_range(path, entry, names) for entry in _entries(path, table, "range"))
    return CastMap(path, str(table.get("analysis", "")), persons, ranges)


def check_known(cast_map: CastMap) -> CastMap:
    """The map itself. Raises UsageError for a person of whom nothing says who it is, InputError for a still that is not there: both are
    told before hours of analysis."""
    for person in cast_map.persons:
        where = f"person {person.name!r}"
        if not person.faces and person.still is None:
            cure = "say who it is, by letters or a picture; see `musetalk inspect`"
            raise UsageError(f"{cast_map.path}: {where}: has neither faces nor still", cure)
        if not person.faces and person.still is not None and not _is_file(person.still):
            raise InputError(f"{person.still}: there is no such file", f"mend still of {where} in {cast_map.path}")
    return cast_map


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def with_voices(cast_map: CastMap, voices: Mapping[str, Path]) -> CastMap:
    """The voices of `--audio NAME=PATH` in place of the file's. Raises UsageError for a name that nobody has, and where in the end
    nobody has a voice."""
    known = {person.name for person in cast_map.persons}
    for name in voices:
        if name not in known:
            raise UsageError(
                f"nobody in {cast_map.path} is called {name!r}", f"choose from {', '.join(sorted(known))}", thing="--audio"
            )
    persons = tuple(
        replace(person, voice=VoiceFile(voices[person.name].resolve())) if person.name in voices else person
        for person in cast_map.persons
    )
    voiced = replace(cast_map, persons=persons)
    if not voiced.voices():
        raise UsageError(
            "nobody in the cast has a voice", "give --audio NAME=PATH, or voice = in the file", thing=str(cast_map.path)
        )
    return voiced


def parse_clock(text: str | float) -> Fraction:
    """ "1:02:03.5", "2:03.5", "3.5" or a number -> seconds. Raises ValueError."""
    found = CLOCK.fullmatch(str(text))
    if found is None:
        raise ValueError(f"{text!r} is no time")
    hours, minutes, seconds = found.groups()
    if (minutes is not None and Fraction(seconds) >= 60) or (hours is not None and int(minutes) >= 60):
        raise ValueError(f"{text!r} has 60 or more where only 59 fit")
    return Fraction(hours or 0) * 3600 + Fraction(minutes or 0) * 60 + Fraction(seconds)


def quoted(text: str) -> str:
    """As a TOML string; bytes of a file's name that are no UTF-8, which TOML cannot hold, as U+FFFD."""
    known = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    escaped = known.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _entries(path: Path, table: Mapping[str, Any], name: str) -> Sequence[dict[str, Any]]:
    entries = table.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: {name} is no list of tables", f"begin each with [[{name}]]")
    return entries


def _check_keys(path: Path, where: str, entry: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in entry:
        if key not in known:
            raise UsageError(f"{path}: {where}: no such key {key!r}", f"choose from {', '.join(sorted(known))}")


def _person(path: Path, entry: dict[str, Any]) -> CastPerson:
    name = str(entry.get("name", ""))
    where = f"person {name!r}"
    _check_keys(path, where, entry, PERSON_KEYS)
    faces = entry.get("faces", [])
    if not isinstance(entry.get("name", ""), str) or not name or "=" in name:
        raise UsageError(f"{path}: {where}: needs a name without '='", 'write name = "anna"')
    if not isinstance(faces, list) or not all(isinstance(face, str) for face in faces):
        raise UsageError(f"{path}: {where}: faces is no list of letters", 'write faces = ["A"]; see `musetalk inspect`')
    still = path.parent / str(entry["still"]) if "still" in entry else None
    consent = entry.get("consent", "")
    if not isinstance(consent, str):
        raise UsageError(f"{path}: {where}: consent is no text", 'write consent = "release form 12, 2026-03-01"')
    return CastPerson(name, tuple(faces), still, _voice(path, where, entry), _silence(path, where, entry), consent)


def _range(path: Path, entry: dict[str, Any], names: Sequence[str]) -> CastRange:
    where = f"range from {entry.get('from', '?')}"
    _check_keys(path, where, entry, RANGE_KEYS)
    try:
        start, stop = parse_clock(entry["from"]), parse_clock(entry["to"])
    except (KeyError, ValueError) as error:
        raise UsageError(f"{path}: {where}: needs from and to ({error})", 'write them as "0:01:02.5" or seconds') from error
    person = entry.get("person")
    if person is not None and person not in names:
        raise UsageError(f"{path}: {where}: nobody is called {person!r}", f"choose from {', '.join(names)}")
    passes = entry.get("pass", False)
    if stop <= start:
        raise UsageError(f"{path}: {where}: ends at {entry['to']}, before it begins", "mend from and to")
    if not isinstance(passes, bool):
        raise UsageError(f"{path}: {where}: pass is neither true nor false", "write pass = true")
    if not passes and not {"voice", "silence"} & entry.keys():
        raise UsageError(f"{path}: {where}: changes nothing", "give it pass = true, a voice, or silence")
    return CastRange(start, stop, person, passes, _voice(path, where, entry), _silence(path, where, entry))


def _voice(path: Path, where: str, entry: Mapping[str, Any]) -> VoiceFile | None:
    if "voice" not in entry:
        if "channel" in entry:
            raise UsageError(f"{path}: {where}: a channel without a voice", "add voice = PATH")
        return None
    channel = entry.get("channel", ALL_CHANNELS)
    if not isinstance(channel, int) or isinstance(channel, bool) or ("channel" in entry and channel < 0):
        raise UsageError(f"{path}: {where}: channel {channel!r}", "channels are counted from 0")
    try:
        return VoiceFile((path.parent / str(entry["voice"])).resolve(), channel)
    except (ValueError, RuntimeError) as error:  # a NUL; links that lead in a circle
        raise UsageError(f"{path}: {where}: voice {str(entry['voice'])!a}: {error}", "name a file") from error


def _silence(path: Path, where: str, entry: Mapping[str, Any]) -> Silence:
    policy = entry.get("silence", "auto")
    if policy not in get_args(Silence):
        raise UsageError(f"{path}: {where}: silence {policy!r}", f"choose from {', '.join(get_args(Silence))}")
    return cast(Silence, policy)

"""Which face gets which voice. In: films, folders or a manifest. Out: Pairs, drawn by a seed. Knows nothing of dubbing or of judges.

The paper's protocol (section 4.1) is unpaired: a film is dubbed with the voice of another, so that there is no picture to copy. A
manifest may name the voice of each film itself.
"""

import csv
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.reading import parse_json, read_text
from musetalk_cli.suffixes import FILMS

PROTOCOL = "musetalk-unpaired-1"  # what is measured on what, and how; raised when a figure would change for the same files
MANIFESTS = frozenset({".csv", ".jsonl"})
MANIFEST_CURE = "give a column or key 'film', and 'voice' where it is not to be drawn; paths are relative to the manifest"


class Wanted(NamedTuple):
    """A line of what is to be evaluated."""

    film: Path
    voice: Path | None = None  # None: drawn


class Pair(NamedTuple):
    """A film and the voice that it gets. name: of its files, unique within an evaluation."""

    name: str
    film: Path
    voice: Path

    @property
    def own(self) -> bool:
        """Whether it is the film's own voice: then its own pictures are what should come out."""
        return self.film == self.voice


def read_inputs(paths: Sequence[Path]) -> list[Wanted]:
    """Films in the order given; of a folder its films by name; of a manifest (.csv, .jsonl) its lines.

    Raises UsageError where nothing is found or a film is named twice, InputError for a manifest that cannot be read.
    """
    wanted = [line for path in paths for line in _read(path)]
    if not wanted:
        raise UsageError("no film in it", "give films, a folder of films, or a manifest", thing=", ".join(map(str, paths)))
    twice = [film for film, count in Counter(line.film for line in wanted if line.voice is None).items() if count > 1]
    if twice:
        raise UsageError(f"named {wanted.count(Wanted(twice[0]))} times", "name each film once", thing=str(twice[0]))
    return wanted


def draw(wanted: Sequence[Wanted], seed: int, voices: Sequence[Path] = ()) -> tuple[Pair, ...]:
    """The same for the same names and seed, whatever their order. A film never gets its own voice; where `voices` are given they are
    drawn from, as evenly as may be, else the other films' own. Raises UsageError for a single film without a voice."""
    undrawn = sorted((line.film for line in wanted if line.voice is None), key=str)
    pairs = [Pair(f"{line.film.stem}__{line.voice.stem}", line.film, line.voice) for line in wanted if line.voice is not None]
    pairs += [
        Pair(f"{film.stem}__{voice.stem}", film, voice)
        for film, voice in zip(undrawn, _drawn(undrawn, seed, voices), strict=True)
    ]
    return tuple(_apart(sorted(pairs)))


def own_voices(wanted: Sequence[Wanted]) -> tuple[Pair, ...]:
    """Each film with its own voice, once: self-reconstruction."""
    films = sorted({line.film for line in wanted}, key=str)
    return tuple(_apart([Pair(f"{film.stem}__own", film, film) for film in films]))


def _drawn(films: Sequence[Path], seed: int, voices: Sequence[Path]) -> list[Path]:
    rng = random.Random(f"{PROTOCOL} {seed}")
    if voices:
        given = sorted(voices, key=str)
        rng.shuffle(given)
        return [_not_his_own(film, given[number % len(given) :] + given) for number, film in enumerate(films)]
    if len(films) == 1:
        raise UsageError("a single film has no other's voice", "give more films, --voices, or --own", thing=str(films[0]))
    order = list(range(len(films)))
    rng.shuffle(order)
    follows = dict(zip(order, order[1:] + order[:1], strict=True))  # one round through all of them: nobody meets himself
    return [films[follows[number]] for number in range(len(films))]


def _not_his_own(film: Path, voices: Sequence[Path]) -> Path:
    for voice in voices:
        if voice != film:
            return voice
    raise UsageError("the only voice is its own", "give another voice, or --own", thing=str(film))


def _apart(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Films of one name in two folders: the second gets a number."""
    seen: Counter[str] = Counter()
    for pair in pairs:
        seen[pair.name] += 1
        yield pair if seen[pair.name] == 1 else pair._replace(name=f"{pair.name}-{seen[pair.name]}")


def _read(path: Path) -> Iterator[Wanted]:
    if path.is_dir():
        yield from (
            Wanted(film) for film in sorted(path.iterdir()) if film.suffix.lower() in FILMS and not film.name.startswith(".")
        )
    elif not path.exists():
        raise InputError(f"{path}: there is no such file or folder", "check the path")
    elif path.suffix.lower() in MANIFESTS:
        yield from _manifest(path)
    else:
        yield Wanted(path)


def _manifest(path: Path) -> Iterator[Wanted]:
    for number, line in enumerate(_lines(path), 1):
        film, voice = line.get("film"), line.get("voice")
        unknown = line.keys() - {"film", "voice"}
        if not isinstance(film, str) or not film or not isinstance(voice, str | None) or unknown:
            fact = f"line {number} has {', '.join(sorted(map(str, unknown)))}" if unknown else f"line {number} names no film"
            raise InputError(f"{path}: {fact}", MANIFEST_CURE)
        yield Wanted(path.parent / film, path.parent / voice if voice else None)


def _lines(path: Path) -> list[dict[str, object]]:
    try:
        text = read_text(path, encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return [dict(line) for line in csv.DictReader(text.splitlines())]
        found = [parse_json(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: no manifest ({error})", MANIFEST_CURE) from error
    if not all(isinstance(line, dict) for line in found):
        raise InputError(f"{path}: a line is no object", MANIFEST_CURE)
    return found

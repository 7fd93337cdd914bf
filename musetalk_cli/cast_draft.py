"""A draft of the cast map. In: what the analysis of a film found. Out: `cast.toml` and a still of each person, for a person to edit."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from musetalk_cli import __version__
from musetalk_cli.cast_map import letters, quoted
from musetalk_cli.crop import upright
from musetalk_cli.media.video import clock, read_frames, to_rgb
from musetalk_cli.pose import yaw_of
from musetalk_cli.targets import check_apart, check_file, check_folder, check_suffix, exists_error
from musetalk_cli.types import Faces, Source

if TYPE_CHECKING:
    from musetalk_cli.inspection import Seen

LEAST_S = 0.5  # who is seen for less is named in a comment only
STILL_PX = 384
AROUND = 2.0  # side of a still, in sides of the face's box
MOST_TIMES = 12  # stretches in a comment


class Appearance(NamedTuple):
    """From start to stop, seconds of the film's clock, somebody is seen or speaks."""

    start: Fraction
    stop: Fraction
    confidence: float = 1.0


def cast_path(film: Path, asked: Path | None) -> Path:
    """Of the cast map."""
    name = f"{film.stem}.cast.toml"
    if asked is None:
        return film.with_name(name)
    return asked / name if asked.is_dir() else asked


def stills_folder(cast: Path) -> Path:
    """Beside the map: `film.cast` for `film.cast.toml`."""
    return cast.with_suffix("")


def check_cast(cast: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Before any work. A map that is there may have been edited: only -y replaces it."""
    check_suffix(cast, (".toml",))
    check_folder(cast.parent)
    check_file(cast)
    check_apart(cast, inputs)
    folder = stills_folder(cast)
    for path in (cast, folder):
        if path.exists() and not overwrite:
            raise exists_error(path, "-y replaces it, --cast names another")


def write_cast(cast: Path, seen: "Seen", sheet: Path) -> None:
    """The map, written whole, and `A.jpg` and so on."""
    folder = stills_folder(cast)
    folder.mkdir(exist_ok=True)
    for number in _long_enough(seen):
        _write_still(_still(cast, number), seen, number)
    part = cast.with_name(f".{cast.name}.part")
    part.write_text(draft(cast, seen, sheet), encoding="utf-8")
    part.replace(cast)


def draft(cast: Path, seen: "Seen", sheet: Path) -> str:
    """What the map says."""
    lines, entered = [*_head(cast, seen, sheet)], _long_enough(seen)
    for number in entered:
        still = _still(cast, number)
        name = f"{still.parent.name}/{still.name}"
        lines += _entry(letters(number), name, _shown(seen, number), _spoken(seen, number), bool(seen.speakers))
    brief = [letters(number) for number in range(len(seen.persons.tracks)) if number not in entered]
    if brief:
        lines += ["", f"# Seen for less than {LEAST_S:g} s, and left as they are: {', '.join(brief)}"]
    return "\n".join(lines) + "\n"


def _still(cast: Path, number: int) -> Path:
    return stills_folder(cast) / f"{letters(number)}.jpg"


def _long_enough(seen: "Seen") -> list[int]:
    """Persons who are seen for long enough to be entered."""
    persons = range(len(seen.persons.tracks))
    return [number for number in persons if sum(one.stop - one.start for one in _shown(seen, number)) >= LEAST_S]


def _head(cast: Path, seen: "Seen", sheet: Path) -> Iterator[str]:
    yield f"# Cast of {_plain(seen.film.name)}, drafted by musetalk {__version__}. Give people their names; then"
    yield f"#   musetalk dub {_plain(seen.film.name)} --cast {_plain(cast.name)} --audio NAME=voice.wav --audio NAME=voice.wav"
    yield f"# Letters are those in {_plain(sheet.name)}. One person under two letters: put both under one name. Who gets no voice stays"
    yield "# as filmed. `speaks` is a guess from lips and the film's own sound, with its confidence."
    yield '# consent = "release form 12"     below a person: where it is written that he or she agreed; told in the film\'s manifest'
    yield "#"
    yield "# [[range]]                       changes for a time; a later one wins"
    yield '# person = "A"                    without it: everyone'
    yield '# from = "0:01:02.5"'
    yield '# to = "0:01:04"'
    yield '# pass = true                     the film\'s own mouth; or voice = "other.wav", channel = 0, silence = "closed"'
    yield ""
    yield f"film = {quoted(seen.film.name)}"
    yield f"analysis = {quoted(seen.analysis)}"


def _plain(name: str) -> str:
    """In a comment: nothing that could end its line."""
    return quoted(name)[1:-1]


def _entry(name: str, still: str, shown: Sequence[Appearance], spoken: Sequence[Appearance], heard: bool) -> Iterator[str]:
    yield ""
    yield "[[person]]"
    yield f'name = "{name}"'
    yield f'faces = ["{name}"]'
    yield f"still = {quoted(still)}"
    yield f"# seen    {_times(shown)}"
    if heard:
        yield f"# speaks  {_times(spoken, sure=True)}"
    yield f'# voice = "{name}.wav"'


def _times(found: Sequence[Appearance], *, sure: bool = False) -> str:
    told = [f"{clock(a.start)} to {clock(a.stop)}" + (f" ({a.confidence:.2f})" if sure else "") for a in found[:MOST_TIMES]]
    more = [f"and {len(found) - MOST_TIMES} times more"] if len(found) > MOST_TIMES else []
    return ", ".join([*told, *more]) or "never, as far as lips tell"


def _shown(seen: "Seen", person: int) -> list[Appearance]:
    """Joined where one shot follows another."""
    by_shot = {faces.shot.index: faces for faces in seen.faces}
    found: list[Appearance] = []
    for shot, track in seen.persons.tracks[person]:
        faces = by_shot[shot]
        frames = faces.frame[faces.track == track]
        start, stop = _time(seen.source, int(frames[0])), _time(seen.source, int(frames[-1]) + 1)
        if found and start <= found[-1].stop:
            start = found.pop().start
        found.append(Appearance(start, stop))
    return found


def _spoken(seen: "Seen", person: int) -> list[Appearance]:
    tracks = set(seen.persons.tracks[person])
    return [
        Appearance(_time(seen.source, one.start), _time(seen.source, one.stop), one.confidence)
        for shot in seen.speakers
        for one in shot.spoken
        if (shot.shot.index, one.track) in tracks
    ]


def _time(source: Source, frame: int) -> Fraction:
    return source.time(frame) if frame < source.frames else source.time(source.frames - 1) + 1 / source.fps


def _write_still(path: Path, seen: "Seen", person: int) -> None:
    """The largest, most frontal view of the person."""
    from PIL import Image

    by_shot = {faces.shot.index: faces for faces in seen.faces}
    views = [(*_best_view(by_shot[shot], track), by_shot[shot]) for shot, track in seen.persons.tracks[person]]
    _, row, faces = max(views, key=lambda view: view[0])
    number = int(faces.frame[row])
    (frame,) = read_frames(seen.film, seen.source, number, number + 1)
    centre, side = faces.landmarks[row].mean(0), float(np.ptp(faces.landmarks[row], axis=0).max()) * AROUND
    x1, y1 = (round(float(v)) for v in centre - side / 2)
    picture = Image.fromarray(to_rgb(frame, seen.source.colour)).crop((x1, y1, x1 + round(side), y1 + round(side)))
    seen_upright = Image.fromarray(upright(np.asarray(picture), seen.source.rotation))
    seen_upright.resize((STILL_PX, STILL_PX), Image.Resampling.LANCZOS).save(path, quality=92)


def _best_view(faces: Faces, track: int) -> tuple[float, int]:
    """(worth, row)"""
    rows = np.flatnonzero(faces.track == track)
    width = (faces.box[rows, 2] - faces.box[rows, 0]).astype(np.float64)
    worth = width * np.cos(np.radians(yaw_of(faces.landmarks[rows]))) * (1 - faces.hidden[rows])
    return float(worth.max()), int(rows[worth.argmax()])

"""Who in a shot gets which voice. In: the faces of a shot, and a rule or a cast map. Out: a ShotCast.

Rules over records; knows nothing of files or models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.cast_map import CastMap, CastPerson, letters
from musetalk_cli.config import Silence
from musetalk_cli.errors import UsageError
from musetalk_cli.people import Candidate, Persons, TrackOf, candidates, meet
from musetalk_cli.types import PASS, Casting, Faces, Part, Shot, Source

SAME_AS_PICTURE = 0.363  # cosine of SFace, OpenCV's published threshold


class Choice(NamedTuple):
    """Whether a track is dubbed, and why in a few words."""

    chosen: bool
    why: str
    similarity: float | None = None  # cosine to the picture, where one was given


Chooser = Callable[[Sequence[Candidate]], list[Choice]]


def choose_all(persons: Sequence[Candidate]) -> list[Choice]:
    """Everyone."""
    return [Choice(True, "every face") for _ in persons]


def choose_largest(persons: Sequence[Candidate]) -> list[Choice]:
    """The person with the most pixels of face over the shot, and then who is never in a frame with one already chosen.

    One mouth a frame at most, whole persons only, so that nothing flickers; and where a cut went unnoticed, the face after it is
    still dubbed.
    """
    weights = [person.weight for person in persons]
    apart = _never_together(persons, weights)
    yes = ["largest face" if weight == max(weights) else "only face while the largest is away" for weight in weights]
    return [Choice(i in apart, yes[i] if i in apart else "in the picture with a larger face") for i in range(len(persons))]


def choose_like(picture: NDArray[np.float32], similarity: float, name: str) -> Chooser:
    """Who looks like the picture, whose identity is (128,) of length 1; of two that are in one frame, the more similar."""

    def choose(persons: Sequence[Candidate]) -> list[Choice]:
        found = [-1.0 if person.identity is None else float(person.identity @ picture) for person in persons]
        alike = [i for i, value in enumerate(found) if value >= similarity]
        apart = {alike[i] for i in _never_together([persons[i] for i in alike], [found[i] for i in alike])}
        no = [
            f"in the picture with one more like {name}" if i in alike else f"not the person in {name}"
            for i in range(len(persons))
        ]
        return [Choice(i in apart, f"like {name}" if i in apart else no[i], found[i]) for i in range(len(persons))]

    return choose


def _never_together(persons: Sequence[Candidate], value: Sequence[float]) -> set[int]:
    """The most valuable person, the next that is in no frame with him, and so on."""
    taken: list[int] = []
    for i in sorted(range(len(persons)), key=lambda i: -value[i]):
        if not any(meet(persons[i], persons[other]) for other in taken):
            taken.append(i)
    return set(taken)


class ShotCast(NamedTuple):
    """What is asked of a shot."""

    casting: Casting  # its parts number their voices as `voices` lists them
    voices: tuple[int, ...]  # those of the run that the shot hears
    names: tuple[tuple[int, str], ...] = ()  # of tracks, what the cast map calls them


def cast_by_rule(faces: Faces, choose: Chooser, silence: Silence) -> ShotCast:
    """Everyone whom the rule picks follows the one voice."""
    found = candidates(faces)
    parts = [
        Part(
            one.track,
            faces.shot.start,
            faces.shot.stop,
            0 if choice.chosen else PASS,
            "" if choice.chosen else choice.why,
            silence,
        )
        for one, choice in zip(found, choose(found), strict=True)
    ]
    return ShotCast(Casting(tuple(parts)), (0,) if any(part.voice != PASS for part in parts) else ())


def cast_by_map(faces: Faces, source: Source, persons: Persons, cast: CastMap, names: Mapping[int, str]) -> ShotCast:
    """Everyone as the map says. names: what it calls each person of the film; who is not in it stays as he is."""
    parts: list[Part] = []
    called: list[tuple[int, str]] = []
    known = {person.name: person for person in cast.persons}
    for one in candidates(faces):
        name = names.get(persons.of[TrackOf(faces.shot.index, one.track)])
        person = None if name is None else known[name]
        called += [] if name is None else [(one.track, name)]
        parts.append(_whole(one.track, faces.shot, person, cast))
        parts += _ranges(one.track, faces.shot, source, person, cast)
    heard = sorted({part.voice for part in parts if part.voice != PASS})
    local = {voice: number for number, voice in enumerate(heard)}
    casting = Casting(tuple(part._replace(voice=local.get(part.voice, PASS)) for part in parts))
    return ShotCast(casting, tuple(heard), tuple(called))


def name_persons(
    persons: Persons, cast: CastMap, pictures: Mapping[str, NDArray[np.float32]], shots: Sequence[Faces]
) -> dict[int, str]:
    """What the map calls each person: by letter, else by the identity of the picture, (128,), that is most alike.

    Raises UsageError for a letter that nobody has.
    """
    names: dict[int, str] = {}
    for person in cast.persons:
        for letter in person.faces:
            number = next((n for n in range(len(persons.tracks)) if letters(n) == letter), None)
            if number is None:
                last = letters(len(persons.tracks) - 1) if persons.tracks else "none"
                raise UsageError(f"{cast.path}: {person.name}: nobody in the film is face {letter!r}", f"letters go to {last}")
            names[number] = person.name
    vectors = _vectors(persons, shots)
    for number, vector in vectors.items():
        alike = {name: float(vector @ picture) for name, picture in pictures.items()}
        best = max(alike, key=lambda name: alike[name], default="")
        if number not in names and best and alike[best] >= SAME_AS_PICTURE:
            names[number] = best
    return names


def _vectors(persons: Persons, shots: Sequence[Faces]) -> dict[int, NDArray[np.float32]]:
    """(128,) of length 1 of each person that the identity network saw."""
    by_shot = {faces.shot.index: faces for faces in shots}
    found = {}
    for number, tracks in enumerate(persons.tracks):
        seen = [by_shot[track.shot].identity[track.track] for track in tracks]
        known = [vector for vector in seen if not np.isnan(vector).any()]
        if known:
            middle = np.median(known, axis=0)
            found[number] = np.asarray(middle / max(float(np.linalg.norm(middle)), 1e-9), np.float32)
    return found


def _whole(track: int, shot: Shot, person: CastPerson | None, cast: CastMap) -> Part:
    if person is None:
        return Part(track, shot.start, shot.stop, PASS, "outside the cast")
    if person.voice is None:
        return Part(track, shot.start, shot.stop, PASS, f"{person.name} has no voice")
    return Part(track, shot.start, shot.stop, cast.voices().index(person.voice), "", person.silence)


def _ranges(track: int, shot: Shot, source: Source, person: CastPerson | None, cast: CastMap) -> Iterator[Part]:
    for stretch in cast.ranges:
        start, stop = (frame_at(source, time) for time in (stretch.start, stretch.stop))
        start, stop = max(start, shot.start), min(stop, shot.stop)
        meant = stretch.person is None or (person is not None and person.name == stretch.person)
        if start >= stop or not meant:
            continue
        voice = stretch.voice or (None if person is None else person.voice)
        if stretch.passes:
            yield Part(track, start, stop, PASS, "passed through in the cast map")
        elif voice is not None and person is not None:
            silence = stretch.silence if stretch.silence != "auto" else person.silence
            yield Part(track, start, stop, cast.voices().index(voice), "", silence)


def frame_at(source: Source, time: Fraction) -> int:
    """The first frame that is shown at `time` or later, in seconds from the film's start."""
    ticks = (time + source.start) / source.time_base
    return int(np.searchsorted(source.pts, ceil(ticks)))

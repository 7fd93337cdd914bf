"""What of a result a person should look at. In: figures of its pieces, and how its lips go with the voice. Out: Findings and a score.

Rules over records, a table in REPORTED; thresholds, each with its reason, are in ReportConfig. Knows nothing of files or pictures.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import ReportConfig
from musetalk_cli.metrics.sync import LipSync, together
from musetalk_cli.report.records import Finding, Kind
from musetalk_cli.types import Verdict


@dataclass(frozen=True, slots=True)
class Piece:
    """A second or two of one track in which the voice speaks; None: not to be told."""

    shot: int
    track: int
    start: int
    stop: int
    rows: int  # in which a mouth should be generated
    unchanged: float  # share of them whose mouth is the film's
    own: float  # share of the time in which the voice is the film's own sound
    lag_s: float | None = None  # by which that sound comes later than in the film
    lips: float = 0.0  # correlation of their opening with the film's
    movement: float | None = None  # of the lips' opening, standard deviation in eye distances
    film_movement: float | None = None
    jitter: float | None = None
    film_jitter: float | None = None
    sharpness: float | None = None  # in that of the film
    seam: float | None = None  # likewise
    stir: float | None = None  # of the mouth from frame to frame, in that of the film


@dataclass(frozen=True, slots=True)
class Heard:
    """Lips and voice of a person in frames [start, stop): of one track of a shot, or of all of them."""

    shot: int | None
    track: int | None
    start: int
    stop: int
    rows: int  # generated ones that were judged
    sync: LipSync  # of the result
    film: LipSync | None  # of the film with its own sound
    movement: float | None = None  # of the lips' opening, standard deviation in eye distances
    film_movement: float | None = None

    @property
    def offset_s(self) -> float:
        """By which the lips are later than they are in the film; a film that cannot be judged is in time."""
        return self.sync.offset_s - (self.film.offset_s if self.film is not None and is_sure(self.film) else 0.0)


class Person(NamedTuple):
    """What was heard of one person: all of it as one, told of the whole film or of each of his tracks; and each track alone."""

    whole: tuple[Heard, ...]
    parts: tuple[Heard, ...]


def by_person(heard: Sequence[Heard], persons: Sequence[int]) -> list[Person]:
    """heard: each of a track of a shot; persons: whose it is. Ten shots that say little alone may say much together."""
    found = []
    for number in sorted(set(persons)):
        parts = tuple(one for one, person in zip(heard, persons, strict=True) if person == number)
        sync, film = together([one.sync for one in parts]), together([one.film for one in parts if one.film is not None])
        whole = [] if sync is None else [replace(one, sync=sync, film=film) for one in parts]
        if len(set(persons)) == 1 and len(whole) > 1:
            start, stop = min(one.start for one in parts), max(one.stop for one in parts)
            whole = [replace(whole[0], shot=None, track=None, start=start, stop=stop, rows=sum(one.rows for one in parts))]
        found.append(Person(tuple(whole), parts))
    return found


MOST = 0.6  # of a piece: what holds for so much of it holds for it
SURE = 0.2  # of the judge's confidence: films with their own sound mostly have 0.3 to 0.5, other people's words below 0.1


def is_sure(sync: LipSync) -> bool:
    """Whether lips and voice belong together so clearly that their offset means something."""
    return sync.confidence >= SURE


def findings(
    pieces: Sequence[Piece], heard: Sequence[Person], verdicts: Iterable[tuple[int, Verdict]], config: ReportConfig
) -> tuple[Finding, ...]:
    """All of them, by time. pieces: by shot, track and time. verdicts: (shot, what was decided)."""
    found = [finding for rule in REPORTED for finding in joined(rule(piece, config) for piece in pieces)]
    off = [finding for person in heard for finding in _judged(person, config)]
    reviews = [
        Finding("needs review", shot, one.track, one.start, one.stop, None, None, f"{one.why}: look at it")
        for shot, one in verdicts
        if one.what == "needs review"
    ]
    return tuple(sorted([*found, *off, *reviews], key=lambda one: (one.start, one.kind)))


def untouched(piece: Piece, config: ReportConfig) -> bool:
    """Whether the mouth is the film's: its pixels are, or in another grade or size its lips do just what they do there."""
    moves = (piece.movement or 0.0) >= config.frozen  # what rests trembles as it likes
    return piece.unchanged >= config.unchanged or (moves and piece.lips >= config.same_lips)


def no_op(piece: Piece, config: ReportConfig) -> Finding | None:
    """There is a voice that is not the film's, and the mouth is the film's."""
    if not untouched(piece, config) or piece.own >= MOST:
        return None
    text = "the voice is another than the film's, and the mouth does what it does in the film: dub it"
    return _of(piece, "no-op", piece.unchanged, config.unchanged, text)


def moved_sound(piece: Piece, config: ReportConfig) -> Finding | None:
    """Picture and sound are the film's, and one of them is moved."""
    if not untouched(piece, config) or piece.own < MOST or piece.lag_s is None or abs(piece.lag_s) <= config.shift_s:
        return None
    return _of(piece, "shift", -piece.lag_s * 1000, config.shift_s * 1000, _shift_text(-piece.lag_s, "exactly"))


def frozen(piece: Piece, config: ReportConfig) -> Finding | None:
    """The voice speaks, and the lips hardly open or close."""
    if untouched(piece, config):
        return None
    if piece.stir is not None and piece.stir < config.stir:
        text = f"the mouth is the same picture, frame for frame, while the voice speaks ({piece.stir:.0%} of the film's movement): dub it again"
        return _of(piece, "frozen mouth", piece.stir, config.stir, text)
    if piece.movement is None:
        return None
    limit = max(config.frozen, min(config.frozen_at_most, (piece.film_movement or 0.0) * config.beside_film))
    if piece.movement >= limit:
        return None
    return _of(piece, "frozen mouth", piece.movement, limit, _frozen_text(piece.movement))


def trembling(piece: Piece, config: ReportConfig) -> Finding | None:
    """The mouth trembles more than speech does in this film."""
    if untouched(piece, config) or piece.jitter is None or piece.film_jitter is None:
        return None
    limit = config.jitter * max(piece.film_jitter, config.least_jitter)
    if piece.jitter <= limit:
        return None
    return _of(
        piece,
        "jitter",
        piece.jitter,
        limit,
        f"the mouth trembles: {piece.jitter:.0f} against {piece.film_jitter:.0f} in the film; raise --steady",
    )


def blurred(piece: Piece, config: ReportConfig) -> Finding | None:
    """The mouth is softer than the film's."""
    if untouched(piece, config) or piece.sharpness is None or piece.sharpness >= config.blurred:
        return None
    return _of(piece, "blurred", piece.sharpness, config.blurred, f"the mouth is {piece.sharpness:.0%} as sharp as in the film")


def seam(piece: Piece, config: ReportConfig) -> Finding | None:
    """The mask's edge shows."""
    if untouched(piece, config) or piece.seam is None or piece.seam <= config.seam:
        return None
    return _of(
        piece,
        "seam",
        piece.seam,
        config.seam,
        f"the colour steps at the mask's edge {piece.seam:.1f} times as much as in the film",
    )


def _of(piece: Piece, kind: Kind, value: float, limit: float, text: str) -> Finding:
    return Finding(kind, piece.shot, piece.track, piece.start, piece.stop, value, limit, text)


REPORTED: tuple[Callable[[Piece, ReportConfig], Finding | None], ...] = (no_op, moved_sound, frozen, trembling, blurred, seam)


def off_sync(one: Heard, config: ReportConfig) -> Finding | None:
    """The judge hears the voice at another time than it sees it. By the clock and beside the film's own habit: a judge that is a little
    late with a person is so in both."""
    if stiff(one, config) is not None:
        return None
    offsets = (one.sync.offset_s, one.offset_s)
    near = min(offsets, key=abs)
    if abs(near) <= config.shift_s or offsets[0] * offsets[1] <= 0 or one.sync.rise < config.shift_rise:
        return None
    text = _shift_text(near, "by the judge")
    return Finding("shift", one.shot, one.track, one.start, one.stop, near * 1000, config.shift_s * 1000, text)


def stiff(one: Heard, config: ReportConfig) -> Finding | None:
    """Lips that tremble, as those of a pasted mouth do on a head that turns, and say nothing of what the voice says."""
    if one.movement is None or one.film_movement is None or one.sync.seconds < config.weak_seconds:
        return None
    still = one.movement < config.stiff and one.movement < one.film_movement / 2
    if not still or one.sync.confidence >= config.stiff_confidence:
        return None
    return Finding(
        "frozen mouth", one.shot, one.track, one.start, one.stop, one.movement, config.stiff, _frozen_text(one.movement)
    )


def weak(one: Heard, config: ReportConfig) -> Finding | None:
    """The judge finds no time at which the lips say what the voice says. In a film that is as weak itself it says nothing."""
    film_weak = one.film is not None and not is_sure(one.film)
    short = one.sync.seconds < config.weak_seconds
    if short or film_weak or stiff(one, config) is not None or one.sync.confidence >= config.weak_confidence:
        return None
    text = f"the lips hardly go with the voice: confidence {one.sync.confidence:.2f}"
    return Finding("weak sync", one.shot, one.track, one.start, one.stop, one.sync.confidence, config.weak_confidence, text)


def _judged(person: Person, config: ReportConfig) -> list[Finding]:
    """Of all that was heard of a person together; else of the tracks that say enough alone."""
    whole = [finding for one in person.whole for rule in JUDGED if (finding := rule(one, config)) is not None]
    if whole or len(person.parts) < 2:
        return whole
    return [
        finding
        for one in person.parts
        if one.sync.seconds >= config.weak_seconds
        for rule in JUDGED
        if (finding := rule(one, config)) is not None
    ]


JUDGED: tuple[Callable[[Heard, ReportConfig], Finding | None], ...] = (off_sync, stiff, weak)


def joined(found: Iterable[Finding | None]) -> Iterator[Finding]:
    """Neighbours of one kind become one, as bad as the worst of them."""
    last: Finding | None = None
    for one in found:
        if one is not None and last is not None and _follows(last, one):
            worse = max(last, one, key=_excess)
            last = replace(worse, start=last.start, stop=one.stop)
        else:
            if last is not None:
                yield last
            last = one
    if last is not None:
        yield last


def _follows(one: Finding, other: Finding) -> bool:
    return (one.kind, one.shot, one.track) == (other.kind, other.shot, other.track)


def _excess(one: Finding) -> float:
    """How far beyond its limit, whichever way that is."""
    return 0.0 if one.value is None or one.limit is None else abs(abs(one.value) - one.limit)


def _frozen_text(movement: float) -> str:
    return f"the lips' opening moves by no more than {movement:.3f} eye distances while the voice speaks: look at it"


def _shift_text(lips_s: float, how: str) -> str:
    way = "after" if lips_s > 0 else "before"
    return f"the lips come {abs(lips_s) * 1000:.0f} ms {way} the voice, {how}: move the sound by {lips_s * 1000:+.0f} ms"


class Rows(NamedTuple):
    """Measured rows whose mouth is to be generated."""

    shot: int
    track: int
    frames: NDArray[np.int32]  # (K,)


def score(rows: Sequence[Rows], found: Sequence[Finding]) -> float:
    """0..100: the share of the rows that no finding covers but those that only ask for a look; 100 where there are no rows, 0 where
    the result could not be measured."""
    failing = [one for one in found if one.kind != "needs review"]
    if any(one.kind == "not verified" for one in failing):
        return 0.0
    total = sum(len(part.frames) for part in rows)
    bad = sum(int(_covered(part, failing).sum()) for part in rows)
    return 100.0 if not total else 100 * (1 - bad / total)


def _covered(part: Rows, found: Sequence[Finding]) -> NDArray[np.bool_]:
    covered = np.zeros(len(part.frames), np.bool_)
    for one in found:
        if one.shot in (None, part.shot) and one.track in (None, part.track):
            covered |= (part.frames >= one.start) & (part.frames < one.stop)
    return covered

"""What was measured, as rules judge it. In: Measured of a shot, its Decisions, sounds, what the voice asks. Out: Pieces, Heard, Figures.

Arrays and records; knows nothing of files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import ReportConfig
from musetalk_cli.metrics.jitter import acceleration
from musetalk_cli.metrics.lips import correlation, opening
from musetalk_cli.metrics.sync import Asked, judge_lips
from musetalk_cli.report.records import Curve, Figures
from musetalk_cli.report.rules import Heard, Piece, is_sure
from musetalk_cli.stages.s8_measure import Measured
from musetalk_cli.stages.s8_sounds import HOPS_PER_SECOND, Sounds, Wanted
from musetalk_cli.types import PASS, Voicing

PIECE_S = 2.0
LEAST_S = 1.0  # of speech in a piece, below which a mouth that rests is no frozen mouth


@dataclass(frozen=True, slots=True)
class Seen:
    """One track of a shot as it was measured, its rows in order of time."""

    shot: int
    track: int
    frame: NDArray[np.int32]  # (K,)
    film_s: NDArray[np.float64]  # (K,) seconds of the film's clock, from its beginning
    result_s: NDArray[np.float64]  # (K,) likewise of the result's
    film_landmarks: NDArray[np.float32]  # (K, 68, 2)
    landmarks: NDArray[np.float32]
    unchanged: NDArray[np.bool_]  # (K,) whether the mouth is the film's own
    change: NDArray[np.float32]
    stir: NDArray[np.float32]  # (K,) of the mouth from frame to frame
    film_stir: NDArray[np.float32]
    sharpness: NDArray[np.float32]  # (K,) in that of the film
    seam: NDArray[np.float32]
    film_seam: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.frame)

    def between(self, start: int, stop: int) -> "Seen":
        """The rows of frames [start, stop)."""
        return self.only((self.frame >= start) & (self.frame < stop))

    def only(self, rows: NDArray[np.bool_]) -> "Seen":
        """These rows."""
        arrays = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name not in ("shot", "track")}
        return replace(self, **arrays)


def seen_in(
    shot: int, measured: Measured, film_s: NDArray[np.float64], result_s: NDArray[np.float64], config: ReportConfig
) -> list[Seen]:
    """film_s, result_s: seconds of the rows."""
    unchanged = measured.change <= config.noise * (np.minimum(measured.change_above, config.most_noise) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sharpness = measured.sharpness / measured.film_sharpness
    whole = Seen(
        shot,
        -1,
        measured.frame,
        film_s,
        result_s,
        measured.film_landmarks,
        measured.landmarks,
        unchanged,
        measured.change,
        measured.stir,
        measured.film_stir,
        sharpness,
        measured.seam,
        measured.film_seam,
    )
    return [replace(whole.only(measured.track == track), track=int(track)) for track in np.unique(measured.track)]


def generated(seen: Seen, voicing: Voicing) -> NDArray[np.bool_]:
    """(K,) rows whose mouth is to be generated."""
    return np.asarray(voicing.voice(seen.frame, np.full(len(seen), seen.track)) != PASS, np.bool_)


def pieces_of(seen: Seen, voicing: Voicing, sounds: Sounds, config: ReportConfig) -> Iterator[Piece]:
    """Of each line in which a voice speaks."""
    fps = _fps(seen)
    for line in voicing.lines:
        if line.track != seen.track or line.voice < 0:
            continue
        rows = np.flatnonzero((seen.frame >= line.start) & (seen.frame < line.stop))
        runs = np.split(rows, np.flatnonzero(np.diff(seen.frame[rows]) > round(fps / 2)) + 1) if len(rows) else []
        for run in runs:
            for part in np.array_split(run, max(round(len(run) / (PIECE_S * fps)), 1)):
                yield _piece(seen, part, voicing, sounds, long=len(part) >= LEAST_S * fps)


def _piece(seen: Seen, rows: NDArray[np.intp], voicing: Voicing, sounds: Sounds, *, long: bool) -> Piece:
    faded = voicing.opacity(seen.frame[rows], np.full(len(rows), seen.track)) < 1
    whole = rows[~faded] if not faded.all() else rows
    own, lag_s = _own(seen, rows, sounds)
    return Piece(
        seen.shot,
        seen.track,
        int(seen.frame[rows[0]]),
        int(seen.frame[rows[-1]]) + 1,
        len(rows),
        float(seen.unchanged[whole].mean()),
        own,
        lag_s,
        correlation(opening(seen.landmarks[whole]), opening(seen.film_landmarks[whole])),
        _spread(seen.landmarks[whole]) if long else None,
        _spread(seen.film_landmarks[whole]) if long else None,
        _jitter(seen.frame[rows], seen.landmarks[rows]) if long else None,
        _jitter(seen.frame[rows], seen.film_landmarks[rows]) if long else None,
        _median(seen.sharpness[whole]),
        _quotient(seen.seam[whole], seen.film_seam[whole]),
        _stir(seen.stir[whole], seen.film_stir[whole]) if long else None,
    )


def _own(seen: Seen, rows: NDArray[np.intp], sounds: Sounds) -> tuple[float, float | None]:
    """The share of the time in which the voice is the film's own sound, and by how much later than its picture that is than in the film."""
    if not len(sounds.lag):
        return 0.0, None
    hops = np.clip((seen.result_s[rows] * HOPS_PER_SECOND).astype(int), 0, len(sounds.lag) - 1)
    own = sounds.likeness[hops] >= SAME_SOUND
    if not own.any():
        return 0.0, None
    picture = np.median(seen.result_s[rows] - seen.film_s[rows])
    return float(own.mean()), float(np.median(sounds.lag[hops][own]) - picture)


SAME_SOUND = 0.5  # likeness; another voice has 0.03 to 0.11, the same one coded again 0.99, at the edge of a shift 0.74


def heard_in(
    seen: Seen, voicing: Voicing, voices: Sequence[Asked], clocks: NDArray[np.float64], film: Asked | None
) -> Heard | None:
    """How a track's lips go with the voice that it has most of, there where its mouth was changed; None where they cannot be judged.

    voices: as the lines number them; clocks: (K,) seconds of the rows on their clock. film: of its own sound."""
    voice = voicing.voice(seen.frame, np.full(len(seen), seen.track))
    spoken = voice[voice >= 0]
    if not len(spoken):
        return None
    most = int(np.bincount(spoken).argmax())
    rows = (voice == most) | (voice < PASS)
    lips = np.where(rows[:, None, None], seen.landmarks, np.nan)
    sync = judge_lips(lips, clocks, voices[most])
    if sync is None:
        return None
    own = None if film is None else judge_lips(seen.film_landmarks, seen.film_s, film)
    frames = seen.frame[rows]
    moves = (_spread(part[voice == most]) for part in (seen.landmarks, seen.film_landmarks))
    return Heard(seen.shot, seen.track, int(frames[0]), int(frames[-1]) + 1, int(rows.sum()), sync, own, *moves)


def figures_of(seen: Seen, rows: int, voicing: Voicing, heard: Heard | None) -> Figures:
    """rows: of the track that are generated, measured or not."""
    within = generated(seen, voicing)
    frame, now, was = seen.frame[within], seen.landmarks[within], seen.film_landmarks[within]
    return Figures(
        rows=rows,
        seconds=round(int(within.sum()) / _fps(seen), 3),
        **_of_sync(heard),
        jitter=_jitter(frame, now),
        film_jitter=_jitter(frame, was),
        movement=_spread(now),
        film_movement=_spread(was),
        change=_median(seen.change[within]),
        sharpness=_median(seen.sharpness[within]),
        seam=_quotient(seen.seam[within], seen.film_seam[within]),
    )


def _of_sync(heard: Heard | None) -> dict[str, float | None]:
    if heard is None:
        return {}
    film = heard.film
    found: dict[str, float | None] = {
        "confidence": heard.sync.confidence,
        "distance": heard.sync.distance,
        "offset_ms": heard.offset_s * 1000,
        "lip_r": heard.sync.r,
    }
    if film is not None:
        found |= {"film_confidence": film.confidence, "film_offset_ms": film.offset_s * 1000 if is_sure(film) else None}
    return found


def _fps(seen: Seen) -> float:
    steps = np.diff(seen.film_s)[np.diff(seen.frame) == 1]
    return 1 / float(np.median(steps)) if len(steps) else 25.0


def _spread(landmarks: NDArray[np.float32]) -> float | None:
    """Standard deviation of the lips' opening, by percentiles: a frame or two that the landmarker got wrong count for nothing."""
    opened = opening(landmarks)
    opened = opened[~np.isnan(opened)]
    if len(opened) < FEWEST:
        return None
    low, high = np.percentile(opened, PERCENTILES)
    return float(high - low) / SPREADS


FEWEST = 5  # rows
PERCENTILES = (5, 95)
SPREADS = 3.29  # standard deviations of a normal distribution between these two


def _quotient(now: NDArray[np.float32], was: NDArray[np.float32]) -> float | None:
    both = np.isfinite(now) & np.isfinite(was)
    return float(now[both].mean() / max(float(was[both].mean()), LEAST_STEP)) if both.any() else None


LEAST_STEP = 1.0  # delta E: below, the film shows no edge there, and a quotient says nothing


def _stir(now: NDArray[np.float32], was: NDArray[np.float32]) -> float | None:
    """That of the result in that of the film; None where the film's mouth does not stir, or half of its frames are shown twice."""
    one, other = _median(now), _median(was)
    return None if one is None or other is None or other < LEAST_STIR else one / other


LEAST_STIR = 1.0  # of 255; a resting mouth in a clean film has less


def _median(values: NDArray[np.float32]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _jitter(frame: NDArray[np.int32], landmarks: NDArray[np.float32]) -> float | None:
    """Root mean square over the frames that have neighbours; None where none has."""
    runs = np.split(np.arange(len(frame)), np.flatnonzero(np.diff(frame) != 1) + 1)
    with np.errstate(invalid="ignore"):  # frames without landmarks are NaN, and so are their neighbours
        found = [acceleration(landmarks[run]) for run in runs if len(run) > 2 and not np.isnan(landmarks[run]).all()]
    values = np.concatenate([np.zeros(0, np.float32), *found]).astype(np.float64)
    values = values[~np.isnan(values)]
    return float(np.sqrt(np.mean(values**2))) if len(values) else None


def curve_of(seen: Seen, voicing: Voicing, voices: Sequence[Wanted], clocks: NDArray[np.float64], most: int) -> Curve:
    """A track as a plot of at most `most` frames, from its first; asked: moved and scaled to the lips of the result.

    voices, clocks: as `heard_in` takes them."""
    rows = slice(0, most)
    times = seen.film_s[rows]
    was, now = opening(seen.film_landmarks[rows]), opening(seen.landmarks[rows])
    voice = voicing.voice(seen.frame[rows], np.full(len(times), seen.track))
    asked, loud = np.full(len(times), np.nan), np.zeros(len(times))
    for number in np.unique(voice[voice >= 0]):
        own = voice == number
        asked[own] = voices[number].asked.at(clocks[rows][own])[:, 0]
        loud[own] = voices[number].loud(clocks[rows][own])
    known = np.isfinite(asked) & np.isfinite(now)
    if known.any():
        asked = (asked - asked[known].mean()) / max(float(asked[known].std()), 1e-6) * float(now[known].std()) + now[known].mean()
    loud /= max(float(loud.max(initial=0)), 1e-9)
    return Curve(
        seen.shot, seen.track, _told(times), _plotted(was), _plotted(now), _plotted(np.maximum(asked, 0)), tuple(_told(loud))
    )


def _told(values: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def _plotted(values: NDArray[np.floating]) -> tuple[float | None, ...]:
    return tuple(round(float(value), 4) if np.isfinite(value) else None for value in values)


def summed(parts: Sequence[Figures]) -> Figures:
    """Of the film: rows and seconds together, the rest as means over the seconds in which they are known."""
    names = [field.name for field in fields(Figures) if field.name not in ("rows", "seconds")]
    means: dict[str, float | None] = {}
    for name in names:
        known = [(part.seconds, value) for part in parts if (value := getattr(part, name)) is not None and part.seconds > 0]
        weight = sum(seconds for seconds, _ in known)
        means[name] = sum(seconds * value for seconds, value in known) / weight if known else None
    return Figures(sum(part.rows for part in parts), round(sum(part.seconds for part in parts), 3), **means)

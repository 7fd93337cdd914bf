"""When not to touch. In: Faces of a shot, what the cast asks, the voices. Out: Decisions: when which mouth is generated, and why not.

    casting ------ whose voice, if any --.
    landmarks ---- turned too far -------|
    appearance --- hidden mouth ---------|-- a state for each row -- no flicker -- lines with fades, verdicts for people
    voices ------- pauses ---------------'

Knows nothing of pictures or networks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import DecideConfig, Runtime, Silence
from musetalk_cli.metrics.lips import opening
from musetalk_cli.models.family import TOKENS_PER_SECOND
from musetalk_cli.pose import yaw_of
from musetalk_cli.types import (
    CLOSED,
    PASS,
    Casting,
    Decisions,
    Faces,
    Line,
    Outcome,
    Part,
    Shot,
    Source,
    Speech,
    Verdict,
    Voicing,
)
from musetalk_cli.work import stage

SPEAKS = 0.5  # of voice activity, its networks' own threshold
LIPS_MOVE = 0.05  # eye distances between the 10th and 90th percentile of opening; a resting mouth stays below 0.03
BACK = 0.9  # of the limit of yaw: a head that passed it has to come back this far
SHORTEST_PASS = 3  # rows; one or two landmarks that lie wrong are no turned head
SHORTEST_LINE = 5  # rows; less is a twitch
DOUBTFUL = 0.7  # of the limit of occlusion: a person should look
OUTSIDE = "outside the cast"
TURNED, HIDDEN, SILENT, BRIEF = "profile", "occluded mouth", "silence", "too brief between others"
CUT_OFF = "cut by the picture's edge"
LOWER_JAW = slice(4, 13)  # of the 68 points: the chin and what is beside it


class State(NamedTuple):
    """What becomes of one row."""

    voice: int  # number of a voice, CLOSED or PASS
    why: str


@dataclass(frozen=True, slots=True)
class Track:
    """The rows of one track."""

    track: int
    frame: NDArray[np.int32]  # (K,) ascending
    yaw: NDArray[np.float32]  # (K,) degrees, 0 from the front
    hidden: NDArray[np.float32]  # (K,) share of the lower face
    opening: NDArray[np.float32]  # (K,) eye distances
    outside: NDArray[np.float32]  # (K,) share of the lower jaw beyond the picture's edge
    width: float  # of the box, pixels, median


class Pauses(NamedTuple):
    """When a voice speaks: seconds [start, stop), apart and ascending."""

    spoken: tuple[tuple[Fraction, Fraction], ...]

    def speaks_at(self, time: Fraction) -> bool:
        return any(start <= time < stop for start, stop in self.spoken)


ALWAYS = Pauses(((Fraction(-(10**9)), Fraction(10**9)),))


@stage(version=3)
def decide(
    source: Source,
    faces: Faces,
    casting: Casting,
    speeches: Sequence[Speech],
    *,
    config: DecideConfig,
    runtime: Runtime,
    out: Path,
) -> Decisions:
    """Lines and verdicts of every track that has rows. casting.parts number their voices as `speeches` does."""
    return decisions_of(source, faces, casting, [pauses_of(speech.activity, config) for speech in speeches], config)


def decisions_of(source: Source, faces: Faces, casting: Casting, pauses: Sequence[Pauses], config: DecideConfig) -> Decisions:
    """The same where it is known when each voice speaks, or with ALWAYS what would come of one that never pauses."""
    lines: list[Line] = []
    verdicts: list[Verdict] = []
    for number in np.unique(faces.track):
        track = track_of(faces, int(number), source.size)
        states = _unflickered(_states(track, source, casting, pauses, config), track, faces.shot)
        lines += _lines(track, states, faces.shot, source, casting, pauses, config)
        verdicts += _verdicts(track, states, config)
    return Decisions(faces.shot, Voicing(tuple(lines)), tuple(verdicts))


def track_of(faces: Faces, track: int, size: tuple[int, int]) -> Track:
    """What its rows tell. size: (width, height) of the picture."""
    rows = np.flatnonzero(faces.track == track)
    width = float(np.median(faces.box[rows, 2] - faces.box[rows, 0]))
    points = faces.landmarks[rows]
    return Track(track, faces.frame[rows], yaw_of(points), faces.hidden[rows], opening(points), _outside(points, size), width)


def _outside(points: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(K, 68, 2) -> (K,) share of the lower jaw that lies beyond the picture's edge."""
    jaw = points[:, LOWER_JAW]
    return np.asarray(((jaw < 0) | (jaw > size)).any(2).mean(1), np.float32)


def pauses_of(activity: NDArray[np.floating], config: DecideConfig) -> Pauses:
    """(T,) 50 a second -> when lips belong to speech: pauses shorter than `config.pause` count as speech, and so does `reach` around."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], activity > SPEAKS, [False]]).astype(np.int8)))
    reach = Fraction(config.reach).limit_denominator(1000)
    spoken: list[tuple[Fraction, Fraction]] = []
    for start, stop in edges.reshape(-1, 2):
        if spoken and Fraction(int(start), TOKENS_PER_SECOND) - spoken[-1][1] + reach < config.pause:
            start = round((spoken.pop()[0] + reach) * TOKENS_PER_SECOND)
        spoken.append((Fraction(int(start), TOKENS_PER_SECOND) - reach, Fraction(int(stop), TOKENS_PER_SECOND) + reach))
    return Pauses(tuple(spoken))


def _states(track: Track, source: Source, casting: Casting, pauses: Sequence[Pauses], config: DecideConfig) -> list[State]:
    turned = _beyond(np.abs(_median(track.yaw)), config.max_yaw, config.max_yaw * BACK)
    hidden = _median(track.hidden) > config.occlusion
    outside = _beyond(_median(track.outside), config.outside, config.outside * BACK)
    states: list[State] = []
    for row, frame in enumerate(int(frame) for frame in track.frame):
        part = part_at(casting, track.track, frame)
        if part is None or part.voice == PASS:
            states.append(State(PASS, OUTSIDE if part is None else part.why or OUTSIDE))
        elif turned[row]:
            states.append(State(PASS, TURNED))
        elif outside[row]:
            states.append(State(PASS, CUT_OFF))
        elif hidden[row]:
            states.append(State(PASS, HIDDEN))
        elif pauses[part.voice].speaks_at(source.time(frame)):
            states.append(State(part.voice, ""))
        else:
            states.append(State(CLOSED, SILENT))
    return _in_silence(states, track, casting, config)


def part_at(casting: Casting, track: int, frame: int) -> Part | None:
    """What is asked of a track in a frame; a later part of the cast map wins over an earlier one."""
    for part in reversed(casting.parts):
        if part.track == track and part.start <= frame < part.stop:
            return part
    return None


def _in_silence(states: list[State], track: Track, casting: Casting, config: DecideConfig) -> list[State]:
    """Each pause by its policy: CLOSED, or the film's own mouth. One that a range cuts has two."""
    decided = list(states)
    policies = [_policy(part_at(casting, track.track, int(frame)), config) for frame in track.frame]
    for rows in _runs(track.frame, list(zip(states, policies, strict=True))):
        if states[rows.start].voice == CLOSED and _passes(policies[rows.start], track.opening[rows]):
            decided[rows] = [State(PASS, SILENT)] * (rows.stop - rows.start)
    return decided


def _policy(part: Part | None, config: DecideConfig) -> Silence:
    return config.silence if part is None or part.silence == "auto" else part.silence


def _passes(policy: Silence, opening: NDArray[np.float32]) -> bool:
    """Whether the film's own mouth is shown in a pause in which its lips open like this."""
    return policy == "original" or (policy == "auto" and not _lips_move(opening))


def _lips_move(opening: NDArray[np.float32]) -> bool:
    low, high = np.percentile(opening, (10, 90))
    return bool(high - low > LIPS_MOVE)


def _unflickered(states: list[State], track: Track, shot: Shot) -> list[State]:
    """Short runs become what is around them: first a glimpse of a profile among speech, then a word's scrap among profiles, unless it
    may go on in the neighbouring chunk of the same take."""
    steady = list(states)
    for rows in _runs(track.frame, steady):
        brief = rows.stop - rows.start < SHORTEST_PASS and steady[rows.start].why in (TURNED, CUT_OFF, HIDDEN)
        before, after = _neighbours(steady, rows, track.frame)
        if brief and before is not None and before == after and before.voice != PASS:
            steady[rows] = [before] * (rows.stop - rows.start)
    for rows in _runs(track.frame, [State(min(state.voice, 0) if state.voice == PASS else 0, "") for state in steady]):
        before, after = _neighbours(steady, rows, track.frame)
        alone = all(state is None or state.voice == PASS for state in (before, after)) and not (before is None and after is None)
        goes_on = _at_joint(int(track.frame[rows.start]), -1, shot) or _at_joint(int(track.frame[rows.stop - 1]), 1, shot)
        if steady[rows.start].voice != PASS and alone and not goes_on and rows.stop - rows.start < SHORTEST_LINE:
            steady[rows] = [State(PASS, BRIEF)] * (rows.stop - rows.start)
    return steady


def _neighbours(states: list[State], rows: slice, frame: NDArray[np.int32]) -> tuple[State | None, State | None]:
    """The states of the frames before and after a run, None where the track is not there."""
    before = states[rows.start - 1] if rows.start and frame[rows.start - 1] == frame[rows.start] - 1 else None
    after = states[rows.stop] if rows.stop < len(states) and frame[rows.stop] == frame[rows.stop - 1] + 1 else None
    return before, after


def _at_joint(frame: int, step: int, shot: Shot) -> bool:
    """Whether the next frame in this direction belongs to the neighbouring chunk of the same take."""
    return (step < 0 and frame == shot.start and shot.lead > 0) or (step > 0 and frame == shot.stop - 1 and shot.tail > 0)


def _runs(frame: NDArray[np.int32], states: Sequence[object]) -> list[slice]:
    """Rows of neighbouring frames in the same state."""
    edges = [row for row in range(1, len(states)) if states[row] != states[row - 1] or frame[row] != frame[row - 1] + 1]
    return [slice(start, stop) for start, stop in zip([0, *edges], [*edges, len(states)], strict=True)]


def _lines(
    track: Track,
    states: list[State],
    shot: Shot,
    source: Source,
    casting: Casting,
    pauses: Sequence[Pauses],
    config: DecideConfig,
) -> Iterator[Line]:
    fade = max(round(config.fade * source.fps), 1)
    voices = [state.voice for state in states]

    def passes_beside(frame: int, step: int) -> bool:
        """Whether the neighbouring chunk, as far as it can be told from here, is silent and shows the film's mouth."""
        part = part_at(casting, track.track, frame)
        if not _at_joint(frame, step, shot) or part is None or part.voice == PASS:
            return False
        return not pauses[part.voice].speaks_at(source.time(frame + step)) and _passes(_policy(part, config), track.opening)

    for rows in _runs(track.frame, voices):
        if voices[rows.start] == PASS:
            continue
        before, after = _neighbours(states, rows, track.frame)
        start, stop = int(track.frame[rows.start]), int(track.frame[rows.stop - 1]) + 1
        half = max((stop - start) // 2, 1)
        appears = (before is not None and before.voice == PASS) or passes_beside(start, -1)
        goes = (after is not None and after.voice == PASS) or passes_beside(stop - 1, 1)
        yield Line(track.track, start, stop, voices[rows.start], min(fade, half) * appears, min(fade, half) * goes)


def _verdicts(track: Track, states: list[State], config: DecideConfig) -> Iterator[Verdict]:
    told = [(PASS, state.why) if state.voice == PASS else (0, "") for state in states]
    for rows in _runs(track.frame, told):
        start, stop = int(track.frame[rows.start]), int(track.frame[rows.stop - 1]) + 1
        voice, why = told[rows.start]
        what: Outcome = "passed through"
        if voice != PASS:
            why = "; ".join(_doubts(track, rows, config))
            what = "needs review" if why else "synced"
        elif why == TURNED:
            why = f"{TURNED}: turned {np.abs(track.yaw[rows]).max():.0f} degrees, limit {config.max_yaw:.0f}"
        yield Verdict(track.track, start, stop, what, why)


def _doubts(track: Track, rows: slice, config: DecideConfig) -> Iterator[str]:
    turned, hidden = float(np.abs(track.yaw[rows]).max()), float(track.hidden[rows].max())
    if turned > config.review_yaw:
        yield f"turned {turned:.0f} degrees"
    if track.outside[rows].any():
        yield "the chin is beyond the picture's edge"
    if hidden > config.occlusion * DOUBTFUL:
        yield f"{hidden:.0%} of the lower face looks unlike itself"
    if track.width < config.review_face:
        yield f"face only {track.width:.0f} px wide"


def _beyond(values: NDArray[np.float32], limit: float, back: float) -> NDArray[np.bool_]:
    """Where values are over the limit, and on until they fall below `back`: no flicker about the limit, and the same backwards."""
    over: NDArray[np.bool_] = values > limit
    near = values > back
    for run in np.split(np.arange(len(values)), np.flatnonzero(np.diff(near)) + 1):
        if len(run) and near[run[0]] and over[run].any():
            over[run] = True
    return over


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over five rows, so that one row says nothing alone."""
    padded = np.pad(values, 2, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1), np.float32)

"""Faces over time. In: what was seen in each frame of a shot. Out: persons, their landmarks without jitter, and who cannot be dubbed.

Pure rules over records; knows nothing of films, files or models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from musetalk_cli.occlusion import hidden_share
from musetalk_cli.types import Shot

SAME_PLACE_IOU = 0.2  # of boxes in neighbouring frames; a head of 100 px may move 65 px in a frame
CUT_STEP = 0.35  # of the face's size that its landmarks move in a frame: more is a cut that nobody noticed, not a movement
CUT_SHAPE = 0.25  # the same of their shape, place and size apart: people stay below 0.11, a cut to another face is about 0.6
SAME_PERSON = 0.5  # cosine of SFace; its published 0.36 takes blurred strangers in the dark for one
SURE_ROWS, SURE_SCORE = 5, 0.8  # a track of fewer frames must be surer than this, else the detector saw a face in a curtain


class Sighting(NamedTuple):
    """One face in one frame."""

    frame: int
    box: NDArray[np.float32]  # (4,) x1 y1 x2 y2, source pixels, the detector's
    score: float
    landmarks: NDArray[np.float32] | None = None  # (68, 2) source pixels; None: too small, or turned from the landmarker
    identity: NDArray[np.float32] | None = None  # (128,) of length 1, now and then
    look: NDArray[np.uint8] | None = None  # (24, 24, 3) of occlusion.look_of; where there are landmarks of its own


@dataclass(frozen=True, slots=True)
class Person:
    """The same face through a shot: one sighting a frame at most, in order of frames."""

    sightings: tuple[Sighting, ...]
    frames: NDArray[np.int64] = field(init=False)  # (K,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", np.array([seen.frame for seen in self.sightings], np.int64))

    @property
    def score(self) -> float:
        return float(np.median([seen.score for seen in self.sightings]))

    @property
    def size_px(self) -> tuple[float, float]:
        """Width and height of the detector's box, median over frames."""
        boxes = np.array([seen.box for seen in self.sightings])
        width, height = np.median(boxes[:, 2:] - boxes[:, :2], axis=0)
        return float(width), float(height)

    @property
    def identity(self) -> NDArray[np.float32] | None:
        """(128,) of length 1: the median over frames, so that one blurred frame says little; None where none was taken."""
        seen = [sighting.identity for sighting in self.sightings if sighting.identity is not None]
        if not seen:
            return None
        middle = np.median(seen, axis=0)
        return np.asarray(middle / max(float(np.linalg.norm(middle)), 1e-9), np.float32)

    @property
    def landmarks(self) -> NDArray[np.float32]:
        """(K, 68, 2); of a person whose every sighting has them."""
        return np.array([seen.landmarks for seen in self.sightings], np.float32).reshape(-1, 68, 2)

    @property
    def hidden(self) -> NDArray[np.float32]:
        """(K,) share of the lower face that looks unlike itself, 0..1; between looks by their neighbours."""
        known = [i for i, seen in enumerate(self.sightings) if seen.look is not None]
        if not known:
            return np.zeros(len(self.sightings), np.float32)
        share = hidden_share(np.array([self.sightings[i].look for i in known], np.uint8))
        return np.asarray(np.interp(self.frames, self.frames[known], share), np.float32)


def follow(frames: Iterable[Sequence[Sighting]], *, bridge: int) -> list[Person]:
    """Sightings of each frame -> persons, in order of appearance, then from left to right.

    bridge: frames that a face may be missing and keep its name by its place alone. Two tracks that never meet in a frame and are
    alike are one person: someone who leaves and returns, or whom a whip pan tore in two.
    """
    tracks: list[list[Sighting]] = []
    live: list[list[Sighting]] = []
    for sightings in frames:
        live = [track for track in live if not sightings or sightings[0].frame - track[-1].frame <= bridge + 1]
        pairs = paired(np.array([track[-1].box for track in live]), np.array([seen.box for seen in sightings]), SAME_PLACE_IOU)
        cut = {old for old, new in pairs if _is_cut(live[old][-1], sightings[new])}
        known = {new: live[old] for old, new in pairs if old not in cut}
        for i, seen in enumerate(sightings):
            known.setdefault(i, []).append(seen)
        begun = [track for i, track in known.items() if len(track) == 1]
        live = [track for old, track in enumerate(live) if old not in cut] + begun
        tracks += begun
    persons = _rejoined([Person(tuple(track)) for track in tracks])
    return sorted(persons, key=lambda person: (person.sightings[0].frame, float(person.sightings[0].box[0])))


def paired(old: NDArray[np.floating], new: NDArray[np.floating], min_iou: float) -> list[tuple[int, int]]:
    """(N, 4) and (M, 4) boxes -> index pairs of the assignment with the largest sum of IoU, none below min_iou."""
    if not len(old) or not len(new):
        return []
    overlap = np.array([[iou(a, b) for b in new] for a in old])
    rows, columns = linear_sum_assignment(np.where(overlap >= min_iou, overlap, 0.0), maximize=True)
    return [(int(i), int(k)) for i, k in zip(rows, columns, strict=True) if overlap[i, k] >= min_iou]


def iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Shared area of two boxes x1 y1 x2 y2 over the area of both."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    both = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(shared)
    return float(np.prod(shared) / max(float(both), 1e-9))


def around(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """(68, 2) -> the smallest box x1 y1 x2 y2 that holds them."""
    return np.concatenate([landmarks.min(0), landmarks.max(0)]).astype(np.float32)


def _rejoined(persons: list[Person]) -> list[Person]:
    """The most similar pair that never meets becomes one, until no pair is similar enough."""
    while True:
        pairs = [(_likeness(a, b), i, k) for i, a in enumerate(persons) for k, b in enumerate(persons[:i])]
        best = max(pairs, default=(-1.0, 0, 0), key=lambda pair: pair[0])
        if best[0] < SAME_PERSON:
            return persons
        first, second = persons[best[2]], persons[best[1]]
        whole = Person(tuple(sorted(first.sightings + second.sightings, key=lambda seen: seen.frame)))
        persons = [person for person in persons if person is not first and person is not second] + [whole]


def _likeness(a: Person, b: Person) -> float:
    if a.identity is None or b.identity is None or meet(a, b):
        return -1.0
    return float(a.identity @ b.identity)


def meet(a: Person, b: Person) -> bool:
    """Whether two persons are ever in one frame."""
    return bool(np.isin(a.frames, b.frames, assume_unique=True).any())


def filled(person: Person, bridge: int) -> Person:
    """Landmarks for frames where the detector sees the face and the landmarker does not, in gaps of up to `bridge` frames.

    Linear between the neighbours. A frame in which nothing was detected stays without a row; what cannot be filled is left out.
    """
    known = [seen for seen in person.sightings if seen.landmarks is not None]
    complete: list[Sighting] = []
    for seen in person.sightings:
        if seen.landmarks is not None:
            complete.append(seen)
            continue
        before = next((other for other in reversed(known) if other.frame < seen.frame), None)
        after = next((other for other in known if other.frame > seen.frame), None)
        if before is not None and after is not None and after.frame - before.frame <= bridge + 1:
            complete.append(seen._replace(landmarks=_between(before, after, seen.frame)))
    return Person(tuple(complete))


def steady(person: Person, shot: Shot) -> Person:
    """Without runs of fewer than SURE_ROWS frames, a twitch of the mouth in the film; one at the shot's edge may go on."""
    runs = np.split(np.arange(len(person.frames)), np.flatnonzero(np.diff(person.frames) != 1) + 1)
    at_edge = [len(run) > 0 and (person.frames[run[0]] <= shot.start or person.frames[run[-1]] >= shot.stop - 1) for run in runs]
    kept = [i for run, edge in zip(runs, at_edge, strict=True) if edge or len(run) >= SURE_ROWS for i in run]
    return Person(tuple(person.sightings[i] for i in kept))


def _between(before: Sighting, after: Sighting, frame: int) -> NDArray[np.float32]:
    share = np.float32((frame - before.frame) / (after.frame - before.frame))
    assert before.landmarks is not None and after.landmarks is not None
    return np.asarray(before.landmarks * (1 - share) + after.landmarks * share, np.float32)


def smoothed(frames: NDArray[np.integer], landmarks: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """(K, 68, 2) landmarks of ascending frames -> the same without jitter: a Gaussian of sigma frames that looks both ways.

    Nothing is mixed over a missing frame or a cut. At the ends of a run the landmarks go on mirrored in the last point, so that
    steady movement comes out as it went in: no lag, no pull towards the middle.
    """
    if sigma <= 0 or not len(frames):
        return landmarks
    breaks = np.flatnonzero((np.diff(frames) != 1) | cuts(landmarks)) + 1
    runs = [_gaussian(run, sigma) for run in np.split(landmarks, breaks)]
    return np.concatenate(runs).astype(np.float32)


def _is_cut(a: Sighting, b: Sighting) -> bool:
    if a.landmarks is None or b.landmarks is None or b.frame != a.frame + 1:
        return False
    return bool(cuts(np.stack([a.landmarks, b.landmarks]))[0])


def cuts(landmarks: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(K, 68, 2) of neighbouring frames -> (K - 1,) whether the second is another face, or the same from elsewhere."""
    steps = np.linalg.norm(np.diff(landmarks, axis=0), axis=2).mean(1) / np.maximum(np.ptp(landmarks, axis=1).max(1)[1:], 1)
    shapes = landmarks - landmarks.mean(1, keepdims=True)
    shapes = shapes / np.maximum(np.linalg.norm(shapes, axis=(1, 2), keepdims=True), 1e-6)
    return np.asarray((steps > CUT_STEP) | (np.linalg.norm(np.diff(shapes, axis=0), axis=(1, 2)) > CUT_SHAPE), np.bool_)


def _gaussian(run: NDArray[np.float32], sigma: float) -> NDArray[np.float64]:
    reach = ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(run.astype(np.float64), ((reach, reach), (0, 0), (0, 0)), mode="reflect", reflect_type="odd")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=0)  # (K, 68, 2, 2 * reach + 1)
    return np.asarray(windows @ (weights / weights.sum()), np.float64)


def unfit(person: Person, min_face: int) -> str:
    """Why nobody can dub this person; "" for one who is real, large enough and seen by the landmarker."""
    rows = sum(seen.landmarks is not None for seen in person.sightings)
    if len(person.sightings) < SURE_ROWS and person.score < SURE_SCORE:
        return f"seen too briefly: {_frames(len(person.sightings))}, score {person.score:.2f}"
    if person.size_px[0] < min_face:
        return f"too small: {person.size_px[0]:.0f} px wide, needs {min_face}"
    if not rows or (rows < SURE_ROWS and person.score < SURE_SCORE):
        return "no landmarks: turned away, hidden or not a face"
    return ""


def _frames(count: int) -> str:
    return f"{count} frame" if count == 1 else f"{count} frames"

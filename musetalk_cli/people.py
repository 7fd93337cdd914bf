"""The same person through a film. In: the tracks of every shot. Out: persons, numbered by how much is seen of them.

Within a shot `tracks` follows a face; across shots only the identity network's vectors tell who is who. Pure rules over records;
knows nothing of films, files or voices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from musetalk_cli.types import Faces

SAME_PERSON = 0.42  # mean cosine of SFace between tracks of two groups: measured in docs/decisions.md
MOST_LINKED = 3000  # tracks that are compared with each other, the largest: 36 MB; a crowd's small ones join whom they are like
NEVER = (
    4.0  # times the square of the number of tracks: distance of two in one frame, which no mean over the other pairs outweighs
)


class TrackOf(NamedTuple):
    """A track of a shot of the film."""

    shot: int
    track: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One track, as far as it takes to tell who it is and whether to dub it."""

    track: int
    frames: NDArray[np.int32]  # (K,) in which it could be dubbed
    weight: float  # pixels of usable face over the shot
    identity: NDArray[np.float32] | None  # (128,) of length 1


@dataclass(frozen=True, slots=True)
class Persons:
    """Who is who. of: person of each track; 0 is seen most. A track without a usable row is nobody's."""

    of: dict[TrackOf, int]
    tracks: tuple[tuple[TrackOf, ...], ...] = field(init=False)  # of each person, in order of shots

    def __post_init__(self) -> None:
        groups: list[list[TrackOf]] = [[] for _ in range(max(self.of.values(), default=-1) + 1)]
        for track in sorted(self.of):
            groups[self.of[track]].append(track)
        object.__setattr__(self, "tracks", tuple(map(tuple, groups)))


def candidates(faces: Faces) -> list[Candidate]:
    """The tracks of a shot that have rows, in order of their numbers."""
    return [_candidate(faces, int(track)) for track in np.unique(faces.track)]


def find_persons(shots: Sequence[Faces], same: float = SAME_PERSON) -> Persons:
    """Groups of tracks by mean likeness, never two that are in one frame: average linkage over cosines.

    A track that the identity network never saw is a person of its own. Numbers go by pixels of face over the film, then by time,
    so that the same analysis gives the same numbers.
    """
    found = [(TrackOf(faces.shot.index, one.track), one) for faces in shots for one in candidates(faces)]
    known = sorted((i for i, (_, one) in enumerate(found) if one.identity is not None), key=lambda i: -found[i][1].weight)
    linked, crowd = known[:MOST_LINKED], known[MOST_LINKED:]
    group = np.arange(len(found)) + len(found)
    group[linked] = _grouped([found[i] for i in linked], same)
    vectors = np.array([found[i][1].identity for i in linked], np.float32)
    for i in crowd:
        beside = {int(group[k]) for k in _in_its_shot(i, found) if meet(found[k][1], found[i][1])}
        group[i] = _nearest(found[i][1], vectors, group[linked], beside, same) or 2 * len(found) + i
    weight: dict[int, float] = {}
    for number, (_, one) in zip(group, found, strict=True):
        weight[int(number)] = weight.get(int(number), 0.0) + one.weight
    order = {number: rank for rank, number in enumerate(sorted(weight, key=lambda number: -weight[number]))}
    return Persons({track: order[int(number)] for number, (track, _) in zip(group, found, strict=True)})


def meet(a: Candidate, b: Candidate) -> bool:
    """Whether two tracks of a shot are ever in one frame."""
    return bool(np.isin(a.frames, b.frames, assume_unique=True).any())


def _candidate(faces: Faces, track: int) -> Candidate:
    rows = np.flatnonzero(faces.track == track)
    sides = faces.box[rows, 2:] - faces.box[rows, :2]
    identity = faces.identity[track] if track < len(faces.identity) else np.full(1, np.nan)
    weight = float(np.prod(np.median(sides, axis=0))) * len(rows)
    return Candidate(track, faces.frame[rows], weight, None if np.isnan(identity).any() else identity)


def _in_its_shot(i: int, found: Sequence[tuple[TrackOf, Candidate]]) -> Iterator[int]:
    """The other tracks of a track's shot; `found` is in order of shots."""
    shot = found[i][0].shot
    for others in (range(i - 1, -1, -1), range(i + 1, len(found))):
        yield from takewhile(lambda k: found[k][0].shot == shot, others)


def _nearest(one: Candidate, vectors: NDArray[np.float32], group: NDArray[np.intp], beside: set[int], same: float) -> int:
    """The group, counted from 1, of the linked track (L, 128) most like this one and in no frame with it; 0: of none."""
    likeness = vectors @ np.asarray(one.identity, np.float32)
    for k in np.argsort(-likeness):
        if likeness[k] < same:
            break
        if int(group[k]) not in beside:
            return int(group[k])
    return 0


def _grouped(found: Sequence[tuple[TrackOf, Candidate]], same: float) -> NDArray[np.intp]:
    """(K,) group of each, from 1."""
    if len(found) < 2:
        return np.arange(len(found)) + 1
    vectors = np.array([one.identity for _, one in found], np.float32)
    distance = 1 - vectors @ vectors.T
    by_shot: dict[int, list[int]] = {}
    for i, (track, _) in enumerate(found):
        by_shot.setdefault(track.shot, []).append(i)
    for members in by_shot.values():
        for i in members:
            for k in members:
                if i < k and meet(found[i][1], found[k][1]):
                    distance[i, k] = distance[k, i] = NEVER * len(found) ** 2
    pairs = distance[np.triu_indices(len(found), 1)].clip(min=0)
    return np.asarray(fcluster(linkage(pairs, "average"), 1 - same, "distance"), np.intp)

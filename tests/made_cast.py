"""Made casts: heads that turn, tilt and speak; shots of several people; a clock without a film."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from made_faces import landmarks_at
from numpy.typing import NDArray

from musetalk_cli.crop import face_box
from musetalk_cli.types import Colour, Faces, Shot, Source

SIZE = (1000, 300)
WHO = np.eye(128, dtype=np.float32)  # people who are nothing like each other
ANNA, BERT, CARL = WHO[:3]
EYES = 0.44  # of a made face's width
UPPER, LOWER = (61, 62, 63), (67, 66, 65)  # of the inner lips, one above the other


def head_at(
    x: float = 100, y: float = 100, width: float = 60, *, yaw: float = 0, roll: float = 0, opening: float = 0
) -> NDArray[np.float32]:
    """(68, 2) of a head in space, turned by yaw degrees to the picture's right, then tilted by roll degrees clockwise.

    opening: distance of the inner lips, in eye distances of the face from the front.
    """
    flat = landmarks_at(0, 0, 1).astype(np.float64)
    flat[list(LOWER), 1] = flat[list(UPPER), 1] + opening * EYES
    across, down = flat.T
    deep = 0.55 * np.sqrt(np.clip(1 - (across / 0.62) ** 2 - ((down - 0.1) / 0.9) ** 2, 0, 1))  # an egg
    deep[27:36] += (0.02, 0.06, 0.12, 0.18, 0.08, 0.08, 0.08, 0.08, 0.08)  # and a nose
    a, b = np.radians([yaw, roll])
    turned = np.stack([np.cos(a) * across + np.sin(a) * deep, down], 1)
    tilted = turned @ np.array([[np.cos(b), np.sin(b)], [-np.sin(b), np.cos(b)]])
    return np.asarray(tilted * width + [x, y], np.float32)


class Seen(NamedTuple):
    """One track of a made shot. yaw, opening and hidden: one for all frames, or one for each."""

    frames: Sequence[int]
    x: float = 100
    width: float = 60
    who: NDArray[np.float32] | None = None  # (128,)
    yaw: float | Sequence[float] = 0
    opening: float | Sequence[float] = 0
    hidden: float | Sequence[float] = 0


def faces_of(shot: Shot, *tracks: Seen) -> Faces:
    """Track n is tracks[n]; one without frames is seen, and has no row."""
    rows = []
    for number, one in enumerate(tracks):
        count = len(one.frames)
        told = (np.broadcast_to(np.asarray(values, np.float64), count) for values in (one.yaw, one.opening, one.hidden))
        for frame, yaw, opening, hidden in zip(one.frames, *told, strict=True):
            rows.append((frame, number, head_at(one.x, 100, one.width, yaw=yaw, opening=opening), hidden))
    rows.sort(key=lambda row: row[:2])
    landmarks = np.array([row[2] for row in rows], np.float32).reshape(-1, 68, 2)
    unknown = np.full(128, np.nan, np.float32)
    return Faces(
        shot,
        np.array([row[0] for row in rows], np.int32),
        np.array([row[1] for row in rows], np.int16),
        np.array([face_box(points, SIZE) for points in landmarks], np.int32).reshape(-1, 4),
        landmarks,
        np.array([unknown if one.who is None else one.who for one in tracks], np.float32).reshape(-1, 128),
        hidden=np.array([row[3] for row in rows], np.float32),
    )


def clock(
    frames: int,
    *stops: int,
    fps: Fraction = Fraction(25),
    start: Fraction = Fraction(0),
    pts: Sequence[int] | None = None,
    take: bool = False,
) -> Source:
    """A Source without a film, cut into shots that end at `stops`. take: they are chunks of one take, and see each other."""
    tick = 1 / fps if pts is None else Fraction(1, 1000)
    edges = [0, *stops, frames]
    chunks = [
        Shot(i, a, b, lead=8 if take and a else 0, tail=8 if take and b < frames else 0)
        for i, (a, b) in enumerate(pairwise(edges))
    ]
    return Source(
        fps=fps,
        size=SIZE,
        time_base=tick,
        start=start,
        pts=np.array(range(frames) if pts is None else pts, np.int64) + round(start / tick),
        durations=np.zeros(frames, np.int64),
        shots=tuple(chunks),
        streams=(),
        video_stream=0,
        codec="h264",
        colour=Colour(),
    )

"""Who speaks, in the original film. In: lips of everyone in a shot, and what the original sound says lips should do. Out: stretches.

A voice over moving lips is not enough: lips and sound must move together, better than anybody else's in the picture. Source: the idea
of active speaker detection; the measure is the correlation of lip opening with the one that the embedded model reads out of the sound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.metrics.lips import correlation

WINDOW_S = 2.4  # of lips and sound compared at once; shorter ones correlate by chance
HOP_S = 0.8
SURE = 0.25  # correlation; shifted sound reaches 0.22
SPEECH = 0.5  # of voice activity
LEAST_SPEECH = 0.3  # share of a window


@dataclass(frozen=True, slots=True)
class Lips:
    """One track of a shot, row by row."""

    frame: NDArray[np.int32]  # (K,) ascending
    opening: NDArray[np.float32]  # (K,) eye distances
    wanted: NDArray[np.float32]  # (K,) what the sound asks for, any unit
    speech: NDArray[np.floating]  # (K,) voice activity 0..1


class Spoken(NamedTuple):
    """Frames [start, stop) in which a track seems to speak."""

    track: int
    start: int
    stop: int
    confidence: float  # 0..1, mean correlation


def who_speaks(lips: Mapping[int, Lips], fps: float) -> list[Spoken]:
    """Stretches of each track of a shot, by window the track that fits best and well enough; apart and ascending for each track."""
    if not lips:
        return []
    width, hop = max(round(WINDOW_S * fps), 3), max(round(HOP_S * fps), 1)
    first = min(int(one.frame[0]) for one in lips.values())
    last = max(int(one.frame[-1]) for one in lips.values()) + 1
    starts = range(first, max(last - width, first) + hop, hop)
    best = [_best(lips, start, min(start + width, last), width) for start in starts]
    marks: dict[int, dict[int, list[float]]] = {}
    for start, won in zip(starts, best, strict=True):
        if won is not None:
            for frame in range(start, min(start + width, last)):
                marks.setdefault(won[0], {}).setdefault(frame, []).append(won[1])
    return [spoken for track in sorted(marks) for spoken in _stretches(track, marks[track], lips[track])]


def _best(lips: Mapping[int, Lips], start: int, stop: int, width: int) -> tuple[int, float] | None:
    """The track whose lips go with the sound best in frames [start, stop), and how well."""
    found: list[tuple[float, int]] = []
    for track, one in lips.items():
        rows = (one.frame >= start) & (one.frame < stop)
        enough = rows.sum() >= width / 2 and (one.speech[rows] > SPEECH).mean() >= LEAST_SPEECH
        if enough:
            found.append((correlation(one.opening[rows], one.wanted[rows]), track))
    likeness, track = max(found, default=(0.0, -1))
    return (track, likeness) if likeness >= SURE else None


def _stretches(track: int, marks: Mapping[int, Sequence[float]], lips: Lips) -> list[Spoken]:
    """Runs of marked frames, cut to those in which somebody is heard."""
    spoken = {int(frame) for frame, speech in zip(lips.frame, lips.speech, strict=True) if speech > SPEECH}
    marked = sorted(marks)
    runs = np.split(np.array(marked), np.flatnonzero(np.diff(marked) > 1) + 1)
    found = []
    for run in runs:
        heard = [int(frame) for frame in run if int(frame) in spoken]
        if heard:
            confidence = float(np.mean([np.mean(marks[frame]) for frame in heard]))
            found.append(Spoken(track, heard[0], heard[-1] + 1, round(min(max(confidence, 0.0), 1.0), 2)))
    return found

"""A picture that goes on as long as the voice. In: Source, the voice's length. Out: Source with more frames at its end.

    hold     the last frame stands
    bounce   the last take runs backwards and forwards again

No pixel is made here: a frame beyond the film's own shows one of them, see `Source.shows`.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np

from musetalk_cli.config import Runtime
from musetalk_cli.media.shots import SEEN_BESIDE
from musetalk_cli.types import Shot, Source
from musetalk_cli.work import stage


@dataclass(frozen=True, slots=True)
class LengthenConfig:
    how: Literal["hold", "bounce"]
    chunk: Fraction  # seconds; no shot is longer


@stage(version=1)
def lengthen(source: Source, seconds: str, *, config: LengthenConfig, runtime: Runtime, out: Path) -> Source:
    """The film with frames at its mean rate until it lasts `seconds` (a fraction, from its start); itself where it does already."""
    extra = ceil((Fraction(seconds) - source.time(source.frames - 1)) * source.fps) - 1
    if extra <= 0:
        return source
    take = max(shot.start for shot in source.shots if shot.lead == 0)
    ticks = [round(number / source.fps / source.time_base) for number in range(1, extra + 1)]
    pts = np.concatenate([source.pts, source.pts[-1] + np.array(ticks, np.int64)])
    return replace(
        source,
        pts=pts,
        durations=np.concatenate([source.durations, np.zeros(extra, np.int64)]),
        shots=(*source.shots, *_shots(source, extra, config.chunk)),
        own=source.frames,
        turns_at=source.frames - 1 if config.how == "hold" else take,
    )


def _shots(source: Source, extra: int, chunk: Fraction) -> list[Shot]:
    """What follows on the film, in equal parts of at most a chunk that see each other's edges."""
    longest = max(1, int(chunk * source.fps))
    parts = ceil(extra / longest)
    edges = [source.frames + extra * part // parts for part in range(parts + 1)]
    return [
        Shot(len(source.shots) + number, start, stop, min(SEEN_BESIDE, start), min(SEEN_BESIDE, edges[-1] - stop))
        for number, (start, stop) in enumerate(pairwise(edges))
    ]

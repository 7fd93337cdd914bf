"""What of a film is encoded again, and what is copied packet for packet. In: when mouths are generated. Out: a Cut.

Only whole stretches between points where the film can be cut are copied; what touches a generated mouth never is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import DubConfig
from musetalk_cli.media.encoders import ENCODERS, choose_encoder
from musetalk_cli.media.splice import NoSplice, Splice, copyable_points
from musetalk_cli.stages.s6_remux import CONTAINERS
from musetalk_cli.types import Shot, Source, Stretch, Voicing


@dataclass(frozen=True, slots=True)
class Cut:
    """copied: stretches that are the film's own packets, ascending; everything else is encoded once, shot by shot."""

    frames: int
    copied: tuple[Stretch, ...]
    why: str = ""  # nothing can be copied
    reordering: int | None = None  # frames that an encoder may hold back, so that its packets fit the film's; None: any

    @property
    def frames_copied(self) -> int:
        return sum(stretch.stop - stretch.start for stretch in self.copied)

    def within(self, shot: Shot) -> list[Stretch]:
        """What of a shot is to be encoded."""
        edges = [shot.start, *(min(max(edge, shot.start), shot.stop) for stretch in self.copied for edge in stretch), shot.stop]
        return [Stretch(start, stop) for start, stop in list(pairwise(edges))[::2] if start < stop]


def cut_film(video: Path, source: Source, voicings: Sequence[Voicing], config: DubConfig) -> Cut:
    """Reads the film's packets once, unless copying is switched off."""
    if not config.cut.copy:
        return Cut(source.frames, (), "switched off")
    if source.own:
        return Cut(source.frames, (), "the picture goes on after the film's end")
    splice = _splice(video, source, config)
    if isinstance(splice, NoSplice):
        return Cut(source.frames, (), splice.why)
    shortest = max(round(config.cut.shortest * source.fps), 1)
    copied = copies(splice, touched(source.frames, voicings), shortest)
    why = "" if copied else "no stretch without a generated mouth lies between two points to cut at"
    return Cut(source.frames, copied, why, splice.reordering)


def touched(frames: int, voicings: Sequence[Voicing]) -> NDArray[np.bool_]:
    """(F,) whether a frame shows a generated mouth."""
    marked = np.zeros(frames, np.bool_)
    for voicing in voicings:
        for line in voicing.lines:
            marked[line.start : line.stop] = True
    return marked


def copies(splice: Splice, marked: NDArray[np.bool_], shortest: int) -> tuple[Stretch, ...]:
    """The longest stretch within each run of unmarked frames that can be copied, if it is not too short to be worth a joint.

    None begins with a keyframe that makes a decoder throw away what it has not shown: the segment before it would have to be
    encoded otherwise than all others, and again whenever an edit moves the joint.
    """
    abrupt = splice.abrupt[splice.abrupt > 0]
    splice = replace(splice, starts=np.setdiff1d(splice.starts, abrupt))
    edges = np.flatnonzero(np.diff(np.concatenate([[True], marked, [True]]).astype(np.int8)))
    found = [splice.copied(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
    worth = min(shortest, len(marked))  # a film that nobody touches has no joint
    return tuple(Stretch(*stretch) for stretch in found if stretch is not None and stretch.stop - stretch.start >= worth)


def _splice(video: Path, source: Source, config: DubConfig) -> Splice | NoSplice:
    encoder = choose_encoder(source, config.blend)
    if ENCODERS[encoder].codec != source.codec:
        return NoSplice(f"the film is {source.codec} and is encoded by {encoder}")
    return copyable_points(video, source, CONTAINERS[config.remux.suffix].name)

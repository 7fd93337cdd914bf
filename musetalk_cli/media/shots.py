"""Where a film cuts, and the shots that follow. In: decoded frames one by one. Out: shots. Knows nothing of files or faces."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil

import av
import numpy as np
from av.video.reformatter import Interpolation
from scenedetect.common import FrameTimecode
from scenedetect.detectors import ContentDetector

from musetalk_cli.types import Shot

WIDTH_PX = 256  # frames are this wide for the detector: cuts are as clear, and it is twenty times faster than in HD
SEEN_BESIDE = 12  # frames: the face stage detects in every 8th at least and smooths over 3
ANY_FPS = 25.0  # PySceneDetect counts in timecodes; only their frame numbers are used


class CutFinder:
    """Feed every frame in presentation order to `watch`; `cuts` are then the numbers of the frames that begin a new shot.

    PySceneDetect's ContentDetector: a cut is a jump in hue, saturation and brightness over the whole picture.
    """

    def __init__(self, threshold: float, min_shot: int) -> None:
        self._detector = ContentDetector(threshold=threshold, min_scene_len=min_shot)
        self._cuts: list[int] = []
        self.frames = 0

    def watch(self, frame: av.VideoFrame) -> None:
        height = max(2, round(frame.height * WIDTH_PX / frame.width))
        small = frame.reformat(WIDTH_PX, height, "bgr24", interpolation=Interpolation.AREA | Interpolation.BITEXACT, threads=1)
        found = self._detector.process_frame(FrameTimecode(self.frames, ANY_FPS), np.asarray(small.to_ndarray()))
        self._cuts += [cut.frame_num for cut in found]
        self.frames += 1

    def cuts(self) -> list[int]:
        """Numbers of first frames of shots, ascending, without 0."""
        last = FrameTimecode(max(self.frames - 1, 0), ANY_FPS)
        rest = [cut.frame_num for cut in self._detector.post_process(last)]
        return sorted({cut for cut in [*self._cuts, *rest] if 0 < cut < self.frames})


def shots_between(cuts: Sequence[int], frames: int, fps: Fraction, chunk: Fraction) -> tuple[Shot, ...]:
    """Shots over [0, frames), split at the cuts, and each into equal parts of at most `chunk` seconds at the mean rate.

    Parts of one take may see SEEN_BESIDE frames of each other, so that nothing steps where they meet; never over a cut.
    """
    longest = max(1, int(chunk * fps))
    shots: list[Shot] = []
    for first, last in pairwise([0, *cuts, frames]):
        parts = ceil((last - first) / longest)
        edges = [first + (last - first) * part // parts for part in range(parts + 1)]
        for start, stop in pairwise(edges):
            shots.append(Shot(len(shots), start, stop, min(SEEN_BESIDE, start - first), min(SEEN_BESIDE, last - stop)))
    return tuple(shots)

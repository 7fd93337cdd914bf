"""What a result is like beside its film. In: both, Faces and Masks of a shot, the windows to look at. Out: Measured. Knows nothing of voices.

    film ---- frame --.                  .-- 68 landmarks, measured alike in both
                      |-- Faces' boxes --|-- crops: change of the mouth and of the face above it, sharpness, colour step at the mask's edge
    result -- frame --'                  '

Both pictures are read once, frame beside frame: no more than two are in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import Runtime
from musetalk_cli.crop import CROP_PX, MASK_ROW, Placement, from_upright, upright
from musetalk_cli.landmarks import in_crop
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.metrics.seam import seam
from musetalk_cli.metrics.sharpness import sharpness
from musetalk_cli.models.analysis import EmbeddedAnalyser
from musetalk_cli.tracks import around, iou
from musetalk_cli.types import Faces, Masks, Source
from musetalk_cli.work import stage

Rgb = NDArray[np.uint8]
Grey = NDArray[np.uint8]
LIPS = slice(48, 60)  # outer lips of the 68 points
MOUTH_REACH = 1.5  # of the lips' half width: what moves with them
BROW_ROW = MASK_ROW * 3 // 4  # of the crop: above it no generated mouth shows, whatever its feather
SEAM_EVERY = 4  # frames: it takes as long as the rest together, and skin stays as it is
SAME_FACE_IOU = 0.3  # of landmarks and where Faces has the face


class Window(NamedTuple):
    """Frames [start, stop) of a track."""

    track: int
    start: int
    stop: int


class Windows(NamedTuple):
    """What is to be measured of a shot."""

    of: tuple[Window, ...]

    def rows(self, faces: Faces) -> NDArray[np.intp]:
        """Of Faces, ascending."""
        within = np.zeros(faces.rows, np.bool_)
        for window in self.of:
            within |= (faces.track == window.track) & (faces.frame >= window.start) & (faces.frame < window.stop)
        return np.flatnonzero(within)


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows of the windows, by frame and then by track. Landmarks: (M, 68, 2) float32 source pixels, NaN where there are none; in film and result
    found alike, without smoothing. The rest (M,) float32: `change` of the mouth and of the face above it, mean absolute difference of
    luma of 255; `stir`, the same of the mouth between this frame and the one before, NaN where there is none; `sharpness` and `seam` as their metrics have them, the seam
    NaN but for each SEAM_EVERY-th frame."""

    frame: NDArray[np.int32]
    track: NDArray[np.int16]
    film_landmarks: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    change: NDArray[np.float32]
    change_above: NDArray[np.float32]
    film_stir: NDArray[np.float32]
    stir: NDArray[np.float32]
    film_sharpness: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    film_seam: NDArray[np.float32]
    seam: NDArray[np.float32]


@stage(version=2)
def measure(
    video: Path,
    result: Path,
    source: Source,
    shown: Source,
    faces: Faces,
    masks: Masks,
    windows: Windows,
    *,
    config: None,
    runtime: Runtime,
    out: Path,
) -> Measured:
    """shown: of the result, with as many frames as source."""
    rows = windows.rows(faces)
    with EmbeddedAnalyser() as analyser:
        look = _Look(source, faces, masks, analyser, {})
        seen = [
            look.at(int(row), was, now)
            for frame, was, now in _frames(video, result, source, shown, faces.frame[rows])
            for row in rows[faces.frame[rows] == frame]
        ]
    of = list(zip(*seen, strict=True)) or [()] * len(_Seen._fields)
    points = (np.array(part, np.float32).reshape(-1, 68, 2) for part in of[:2])
    return Measured(faces.frame[rows], faces.track[rows], *points, *(np.array(part, np.float32) for part in of[2:]))


class _Seen(NamedTuple):
    """A row: Measured without its frame and track."""

    film_landmarks: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    change: float
    change_above: float
    film_stir: float
    stir: float
    film_sharpness: float
    sharpness: float
    film_seam: float
    seam: float


class _Face(NamedTuple):
    """A row in one of the pictures."""

    landmarks: NDArray[np.float32]
    sharpness: float
    seam: float


class _Before(NamedTuple):
    """The last look at a track: luma of both pictures, and of both crops."""

    frame: int
    pictures: tuple[Grey, Grey]
    crops: tuple[Grey, Grey]


class _Look(NamedTuple):
    """How a row is looked at."""

    source: Source
    faces: Faces
    masks: Masks
    analyser: EmbeddedAnalyser
    before: dict[int, "_Before"]  # of each track

    def at(self, row: int, was: Rgb, now: Rgb) -> _Seen:
        """was, now: (H, W, 3) of the film and of the result, as coded."""
        faces = self.faces
        place = Placement.of(faces.box[row], faces.landmarks[row], faces.roll[row])
        points = in_crop(faces.landmarks[row : row + 1], faces.box[row : row + 1], faces.roll[row : row + 1])[0]
        film, dubbed = (place.taken(rgb, (CROP_PX, CROP_PX)) for rgb in (was, now))
        change, above = _changes(film, dubbed, points)
        alpha = _over_crop(self.masks.alpha[row], self.masks.square[row], faces.box[row])
        film_stir, stir = self._stirs(
            row, _Before(int(faces.frame[row]), (_grey(was), _grey(now)), (_grey(film), _grey(dubbed))), points
        )
        due = faces.frame[row] % SEAM_EVERY == 0

        def face(rgb: Rgb, crop: Rgb) -> _Face:
            return _Face(self._landmarks(rgb, row), sharpness(crop, points), seam(crop, alpha) if due else np.nan)

        own = face(was, film)
        found = own if np.array_equal(was, now) else face(now, dubbed)
        return _Seen(
            own.landmarks, found.landmarks, change, above, film_stir, stir, own.sharpness, found.sharpness, own.seam, found.seam
        )

    def _stirs(self, row: int, now: "_Before", points: NDArray[np.floating]) -> tuple[float, float]:
        """Of film and result: how much the mouth differs from the frame before, where it was in the picture or in the face, whichever is
        less: a mouth may have been frozen in either."""
        track = int(self.faces.track[row])
        was, self.before[track] = self.before.get(track), now
        if was is None or was.frame != now.frame - 1:
            return np.nan, np.nan
        (left, top), (right, bottom) = (_edge(self.faces.landmarks[row, LIPS], self.source.size, way) for way in (-1, 1))
        place, disc = np.s_[top:bottom, left:right], _mouth(points)
        film, result = (
            min(_mean(now.pictures[n][place], was.pictures[n][place]), _mean(now.crops[n][disc], was.crops[n][disc]))
            for n in (0, 1)
        )
        return film, result

    def _landmarks(self, rgb: Rgb, row: int) -> NDArray[np.float32]:
        """(68, 2) as coded, NaN where the landmarker sees no face, or another."""
        rotation, (width, height) = self.source.rotation, self.source.size
        as_seen = (height, width) if rotation % 180 else (width, height)
        box = around(np.asarray(from_upright(self.faces.landmarks[row], -rotation, as_seen)))
        points = self.analyser.landmarks(upright(rgb, rotation), box)
        if points is None or iou(around(points), box) < SAME_FACE_IOU:
            return np.full((68, 2), np.nan, np.float32)
        return np.asarray(from_upright(points, rotation, self.source.size), np.float32)


def _frames(
    video: Path, result: Path, source: Source, shown: Source, frames: NDArray[np.integer]
) -> Iterator[tuple[int, Rgb, Rgb]]:
    """Each of these frames once, ascending, in the film and in the result."""
    wanted = np.unique(frames)
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1) if len(wanted) else []:
        start, stop = int(run[0]), int(run[-1]) + 1
        pairs = zip(read_frames(video, source, start, stop), read_frames(result, shown, start, stop), strict=True)
        for number, (was, now) in enumerate(pairs, start):
            yield number, to_rgb(was, source.colour, quick=True), to_rgb(now, shown.colour, quick=True)


def _changes(film: Rgb, dubbed: Rgb, points: NDArray[np.floating]) -> tuple[float, float]:
    """Mean absolute difference of luma around the lips, and above BROW_ROW, where only the codec is at work. points: (68, 2) in the crop."""
    difference = cv2.absdiff(_grey(film), _grey(dubbed))
    return float(difference[_mouth(points)].mean()), float(difference[:BROW_ROW].mean())


def _grey(rgb: Rgb) -> Grey:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)


def _mean(one: Grey, other: Grey) -> float:
    return float(cv2.absdiff(one, other).mean()) if one.size else np.inf


def _edge(lips: NDArray[np.floating], size: tuple[int, int], way: int) -> tuple[int, int]:
    """Left and top, or right and bottom, of a square about the lips, within the picture."""
    x, y = lips.mean(0) + way * np.ptp(lips[:, 0]) / 2 * MOUTH_REACH
    return int(np.clip(x, 0, size[0])), int(np.clip(y, 0, size[1]))


def _mouth(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """(256, 256) of the crop: a disc about the lips."""
    (x, y), half = points[LIPS].mean(0), np.ptp(points[LIPS, 0]) / 2 * MOUTH_REACH
    rows, columns = np.ogrid[:CROP_PX, :CROP_PX]
    found: NDArray[np.bool_] = (columns - x) ** 2 + (rows - y) ** 2 <= max(half, 8.0) ** 2
    found[int(np.clip(y, 0, CROP_PX - 1)), int(np.clip(x, 0, CROP_PX - 1))] = True  # a mouth beyond the crop's edge has a pixel
    return found


def _over_crop(
    alpha: NDArray[np.uint8], square: Sequence[int] | NDArray[np.integer], box: NDArray[np.integer]
) -> NDArray[np.uint8]:
    """(S, S) over the square -> (256, 256) over the box, in the picture turned as they are."""
    cells = alpha.shape[0] / float(square[2] - square[0])
    x1, y1, x2, y2 = (box - np.tile(np.asarray(square[:2]), 2)) * cells
    matrix = np.array([[(x2 - x1) / CROP_PX, 0, x1], [0, (y2 - y1) / CROP_PX, y1]])
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(alpha, matrix, (CROP_PX, CROP_PX), flags=flags), np.uint8)

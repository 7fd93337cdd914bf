"""An invisible mark in generated mouths. In: a key, a face's landmarks, a time. Out: what to add to the picture, and what to read from it.

    key -- SHAKE-256 -- signs (16, 90): each cell of a grid over the lower face is lifted or lowered for 0.08 s, then the other way
    landmarks of nose and eyes -- the grid's place: it moves, grows and turns with the face, and a resized film has the same cells

The pattern depends on key, place and time alone, not on the frames before, so that shots and chunks may be made anywhere. It flips
quickly because pictures change slowly: what stands still cancels. Strength is bounded by its noise, not by its look: `MARK_DB`.
Knows nothing of how many frames it takes to be sure.
"""

from functools import lru_cache
from hashlib import shake_256

import av
import cv2
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from musetalk_cli.landmarks import RIGID

PERIOD_S = 0.16  # a sign, then its opposite: slower, lips and light interfere; faster, H.264 at CRF 28 keeps less (0.3 for 0.6)
SLOTS = 16  # periods until the pattern begins again
COLUMNS, ROWS = 10, 9
CELL = 0.2  # eye distances; 12 px of a face of 140: half of that after a 2x downscale, which larger and smaller ones survive less well
LEFT, TOP = -1.0, 0.4  # of the grid, eye distances from the middle between the eyes
MARK_DB = 45.7  # PSNR of the mark where the mouth shows by half or more, RGB; rounding to 8 bits leaves 45.4
SHOWN = 128  # alpha from which a pixel counts as the mouth's
LEAST_STRENGTH = 0.4  # of the pattern over the mouth, usually 0.6: where it misses the mouth, it is not made up for elsewhere
SAMPLES = 5  # a cell is read as so many by so many points
MARGIN = 2  # cells around the grid that are seen with it, so that what moves in and out can be followed
NEAR_S = 0.08  # sigma of the frames from which a frame is told; slower changes are speech and light
REACH_S = 0.17  # how far they are looked for
BETWEEN = 0.3  # trust in a B frame: H.264 at CRF 28 keeps 0.1 to 0.25 of the mark in these, 0.4 to 0.65 in the others
CALM = 3.0  # of the usual restlessness, below which no point counts more
RESTLESS_POINTS, RESTLESS_FRAMES = 2.0, 1.0  # sigma over which it is seen how restless a point is at the time
AT_ONCE = 1500  # frames in memory as differences: 27 MB, twice
MIDDLE_S = 0.02  # frames of 25 a second fall between flips, not on them, however their times are rounded

# Where the RIGID landmarks lie in a face from the front: eye distances from the middle between the eyes; medians of ten people.
_FRONT = (0.06j, 0.242j, 0.325j, 0.433j, -0.18 + 0.625j, 0.667j, 0.18 + 0.625j, -0.694, -0.276 + 0.026j, 0.276 + 0.026j, 0.694)
# How much of a mouth's mask lies in each cell, medians of ten people. Half of the grid, from the face's side to its middle.
_SHARE = (
    (0.2, 0.4, 0.5, 0.4, 0.2),
    (0.4, 0.6, 0.8, 0.7, 0.6),
    (0.4, 0.7, 0.9, 0.9, 0.9),
    (0.4, 0.7, 0.9, 1.0, 1.0),
    (0.4, 0.7, 0.9, 1.0, 1.0),
    (0.2, 0.5, 0.8, 0.9, 1.0),
    (0.1, 0.2, 0.5, 0.7, 0.8),
    (0.0, 0.0, 0.2, 0.3, 0.4),
    (0.0, 0.0, 0.0, 0.0, 0.1),
)
EXPECTED = np.array([(*row, *row[::-1]) for row in _SHARE], np.float32).reshape(-1)  # strength of each cell, of 1


@lru_cache(maxsize=4096)
def signs_of(key: str) -> NDArray[np.float32]:
    """(SLOTS, ROWS * COLUMNS) of -1 and 1, as good as drawn by lot. Another key, other signs."""
    count = SLOTS * ROWS * COLUMNS
    drawn = np.frombuffer(shake_256(key.encode()).digest(-(-count // 8)), np.uint8)
    signs = np.unpackbits(drawn)[:count].reshape(SLOTS, -1).astype(np.float32) * 2 - 1
    signs.flags.writeable = False
    return signs


def slot_at(seconds: NDArray[np.floating]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Times (N,) -> slot of the pattern (N,), and 1 in the first half of its period or -1 in the second (N,)."""
    periods = (np.asarray(seconds, np.float64) + MIDDLE_S) / PERIOD_S
    whole = np.floor(periods)
    return whole.astype(np.intp) % SLOTS, np.where(periods - whole < 0.5, 1.0, -1.0)


def added(
    key: str, seconds: float, landmarks: NDArray[np.floating], alpha: NDArray[np.uint8], left: int, top: int
) -> NDArray[np.float32]:
    """What to add to R, G and B of 0..255, before it is blended by alpha: (h, w).

    landmarks: (68, 2) source pixels. alpha: (h, w) of the patch, whose first pixel is at left, top of the film. Its mean square where
    alpha is SHOWN and more, weighted by alpha as in the picture, is that of MARK_DB: less where the grid does not reach.
    """
    slot, half = slot_at(np.array([seconds]))
    cells = signs_of(key)[slot[0]].reshape(ROWS, COLUMNS) * np.float32(half[0])
    matrix = np.asarray(cv2.invertAffineTransform(_grid_to_film(landmarks, 1)), np.float64)
    matrix[:, 2] += matrix[:, :2] @ np.array([left, top])
    size = (alpha.shape[1], alpha.shape[0])
    field = np.asarray(cv2.warpAffine(cells, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.float32)
    mouth = alpha >= SHOWN
    seen = field[mouth] * (alpha[mouth] / np.float32(255))
    strength = float(np.sqrt(np.mean(np.square(seen)))) if len(seen) else 0.0
    return field * np.float32(255 * 10 ** (-MARK_DB / 20) / max(strength, LEAST_STRENGTH))


def reach(landmarks: NDArray[np.floating], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """x1 y1 x2 y2 of the part of a frame of this size (width, height) that `picture_of` looks at; None where it is outside."""
    matrix = _grid_to_film(landmarks, 1)
    low, right, bottom = -MARGIN - 1, COLUMNS + MARGIN, ROWS + MARGIN
    corners = matrix[:, :2] @ [[low, right, low, right], [low, low, bottom, bottom]] + matrix[:, 2:]
    first, last = np.floor(corners.min(1)).astype(int), np.ceil(corners.max(1)).astype(int)
    x1, y1 = (max(int(edge), 0) for edge in first)
    x2, y2 = (min(int(edge), limit) for edge, limit in zip(last, size, strict=True))
    return (x1, y1, x2, y2) if x2 - x1 > 1 and y2 - y1 > 1 else None


def picture_of(luma: NDArray[np.float32], left: int, top: int, landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The grid with its MARGIN as one picture, whatever the face's size and place. luma: (h, w), its first pixel at left, top."""
    matrix = _grid_to_film(landmarks, SAMPLES)
    matrix[:, 2] -= matrix[:, :2] @ [MARGIN * SAMPLES, MARGIN * SAMPLES] + [left, top]
    step = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))  # pixels between two points
    if step > 1:
        luma = np.asarray(cv2.GaussianBlur(luma, (0, 0), 0.5 * float(np.sqrt(step**2 - 0.5))), np.float32)
    size = ((COLUMNS + 2 * MARGIN) * SAMPLES, (ROWS + 2 * MARGIN) * SAMPLES)
    points = cv2.warpAffine(luma, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.rint(np.clip(points, 0, 255)), np.uint8)


def trust_of(frame: av.VideoFrame) -> float:
    """How much of a mark a frame can show, as it was coded: 1 or BETWEEN."""
    return BETWEEN if frame.pict_type == PictureType.B else 1.0


def quick_cells(pictures: NDArray[np.uint8], seconds: NDArray[np.float64], trust: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much brighter each cell is than the frames around make it, (N, ROWS * COLUMNS): in no unit, less where much changes.

    pictures: (N, h, w) of one face. seconds: (N,), ascending. trust: (N,), of `trust_of`. The frames around are brought into place
    by optical flow, which follows lips, light and the landmarks' own trembling.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    cells: list[NDArray[np.float64]] = []
    for rows in np.array_split(np.arange(len(pictures)), -(-len(pictures) // AT_ONCE)):
        quick = _calmed(np.stack([pictures[row] - _by_others(int(row), pictures, seconds, trust, flow) for row in rows]))
        inside = quick[:, MARGIN * SAMPLES : -MARGIN * SAMPLES, MARGIN * SAMPLES : -MARGIN * SAMPLES]
        cells.append((_tents(ROWS).T @ inside @ _tents(COLUMNS)).reshape(len(rows), -1))
    return np.concatenate(cells)


def _calmed(quick: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, h, w) over its own local variance: what flow cannot follow and what H.264 gets wrong come in places and moments."""
    across = np.stack([cv2.GaussianBlur(each, (0, 0), RESTLESS_POINTS) for each in np.square(quick)])
    in_time = cv2.GaussianBlur(across.reshape(len(quick), -1), (1, 5), RESTLESS_FRAMES)
    energy = np.asarray(in_time, np.float32).reshape(quick.shape)
    return np.asarray(quick / (energy + np.float32(CALM * max(float(np.median(energy)), 1e-6))), np.float32)


def _by_others(
    row: int,
    pictures: NDArray[np.uint8],
    seconds: NDArray[np.float64],
    trust: NDArray[np.float64],
    flow: cv2.DISOpticalFlow,
) -> NDArray[np.float32]:
    """(h, w): what the frames around show where this one shows it; itself where there is none."""
    first, stop = np.searchsorted(seconds, [seconds[row] - REACH_S, seconds[row] + REACH_S])
    total, weight = np.zeros(pictures.shape[1:], np.float32), 0.0
    for other in range(int(first), int(stop)):
        if other != row:
            share = float(trust[other] * np.exp(-0.5 * np.square((seconds[other] - seconds[row]) / NEAR_S)))
            total += np.float32(share) * _in_place(pictures[other], pictures[row], flow)
            weight += share
    return total / np.float32(weight) if weight else pictures[row].astype(np.float32)


def _in_place(picture: NDArray[np.uint8], of: NDArray[np.uint8], flow: cv2.DISOpticalFlow) -> NDArray[np.float32]:
    """(h, w): the picture with everything where `of` has it. The flow is averaged over a cell, so that it does not follow the mark."""
    moved = cv2.GaussianBlur(flow.calc(of, picture, np.zeros((*of.shape, 2), np.float32)), (0, 0), SAMPLES)
    y, x = np.mgrid[: of.shape[0], : of.shape[1]].astype(np.float32) + moved.transpose(2, 0, 1)[::-1]
    values = picture.astype(np.float32)
    return np.asarray(cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _grid_to_film(landmarks: NDArray[np.floating], samples: int) -> NDArray[np.float64]:
    """(2, 3): from numbers of points, `samples` a cell each way, to numbers of pixels; the similarity that fits nose and eyes best."""
    front, seen = np.array(_FRONT), landmarks[RIGID].astype(np.float64) @ [1, 1j]
    around = front - front.mean()
    turn = np.vdot(around, seen - seen.mean()) / np.vdot(around, around)
    step = turn * CELL / samples
    corner = turn * (LEFT + TOP * 1j - front.mean()) + seen.mean() + step * (0.5 + 0.5j) - (0.5 + 0.5j)
    return np.array([[step.real, -step.imag, corner.real], [step.imag, step.real, corner.imag]])


@lru_cache(maxsize=2)
def _tents(cells: int) -> NDArray[np.float64]:
    """(points, cells): the weights by which bilinear cells lie on points, each column scaled to give the cell back."""
    points = (np.arange(cells * SAMPLES) + 0.5) / SAMPLES - 0.5
    tents = np.maximum(0, 1 - np.abs(points[:, None] - np.arange(cells)))
    return np.asarray(tents / np.square(tents).sum(0), np.float64)

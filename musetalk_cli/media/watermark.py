"""An invisible mark in generated mouths. In: a key, a face's landmarks, a time. Out: what to add to the picture, and what to read from it.

    key -- SHAKE-256 -- signs (16, 90): each cell of a grid over the lower face is lifted or lowered for 0.08 s, then the other way
    landmarks of nose and eyes -- the grid's place: it moves, grows and turns with the face, and a resized film has the same cells

The pattern depends on key, place and time alone, not on the frames before, so that shots and chunks may be made anywhere. It flips
quickly because pictures change slowly: what stands still cancels. Strength is bounded by its noise, not by its look: `MARK_DB`.
Knows nothing of how many frames it takes to be sure.
"""

from functools import lru_cache
from hashlib import shake_256

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.landmarks import RIGID

PERIOD_S = 0.16  # a sign, then its opposite: slower, lips and light interfere; faster, H.264 at CRF 28 keeps less (0.3 for 0.6)
SLOTS = 16  # periods until the pattern begins again
COLUMNS, ROWS = 10, 9
CELL = 0.2  # eye distances; 12 px of a face of 140: half of that after a 2x downscale, which larger and smaller ones survive less well
LEFT, TOP = -1.0, 0.4  # of the grid, eye distances from the middle between the eyes
MARK_DB = 45.7  # PSNR of the mark where the mouth shows by half or more, RGB; rounding to 8 bits leaves 45.4
SHOWN = 128  # alpha from which a pixel counts as the mouth's
LEAST_STRENGTH = (
    0.4  # of the pattern over the mouth, usually 0.7 to 1: where it misses the mouth, it is not made up for elsewhere
)
SAMPLES = 3  # a cell is read as so many by so many points
MIDDLE_S = 0.02  # frames of 25 a second fall between flips, not on them, however their times are rounded

# Where the RIGID landmarks lie in a face from the front: eye distances from the middle between the eyes; medians of ten people.
_FRONT = (0.06j, 0.242j, 0.325j, 0.433j, -0.18 + 0.625j, 0.667j, 0.18 + 0.625j, -0.694, -0.276 + 0.026j, 0.276 + 0.026j, 0.694)
# Half of the grid, from the face's side to its middle. How much stronger than elsewhere: as cells are steadier (1 over the deviation
# from frame to frame, medians of ten people), most in the cheeks, least in the lips; and how much of a mouth's mask lies there.
_GAIN = (
    (1.3, 2.2, 2.2, 1.9, 2.0),
    (1.1, 1.8, 1.9, 1.7, 1.7),
    (0.9, 1.4, 1.5, 1.2, 1.1),
    (0.7, 1.1, 1.1, 0.7, 0.6),
    (0.7, 0.9, 0.9, 0.8, 0.6),
    (1.0, 0.8, 0.8, 0.9, 0.9),
    (1.0, 0.9, 0.9, 0.9, 0.9),
    (0.9, 0.9, 1.0, 1.0, 0.9),
    (0.9, 0.8, 1.0, 1.2, 1.1),
)
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
GAIN = np.array([(*row, *row[::-1]) for row in _GAIN], np.float32)  # (ROWS, COLUMNS)
EXPECTED = GAIN.reshape(-1) * np.array([(*row, *row[::-1]) for row in _SHARE], np.float32).reshape(-1)  # strength of each cell


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
    cells = signs_of(key)[slot[0]].reshape(ROWS, COLUMNS) * GAIN * np.float32(half[0])
    matrix = np.asarray(cv2.invertAffineTransform(_grid_to_film(landmarks, 1)), np.float64)
    matrix[:, 2] += matrix[:, :2] @ np.array([left, top])
    size = (alpha.shape[1], alpha.shape[0])
    field = np.asarray(cv2.warpAffine(cells, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.float32)
    mouth = alpha >= SHOWN
    seen = field[mouth] * (alpha[mouth] / np.float32(255))
    strength = float(np.sqrt(np.mean(np.square(seen)))) if len(seen) else 0.0
    return field * np.float32(255 * 10 ** (-MARK_DB / 20) / max(strength, LEAST_STRENGTH))


def reach(landmarks: NDArray[np.floating], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """x1 y1 x2 y2 of the part of a frame of this size (width, height) that `cells_of` looks at; None where it is outside."""
    matrix = _grid_to_film(landmarks, 1)
    corners = matrix[:, :2] @ [[-2, COLUMNS + 1, -2, COLUMNS + 1], [-2, -2, ROWS + 1, ROWS + 1]] + matrix[:, 2:]
    low, high = np.floor(corners.min(1)).astype(int), np.ceil(corners.max(1)).astype(int)
    x1, y1 = (max(int(edge), 0) for edge in low)
    x2, y2 = (min(int(edge), limit) for edge, limit in zip(high, size, strict=True))
    return (x1, y1, x2, y2) if x2 - x1 > 1 and y2 - y1 > 1 else None


def cells_of(luma: NDArray[np.float32], left: int, top: int, landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """How bright each cell is, (ROWS * COLUMNS,): 1 more where the mark has added 1. luma: (h, w), its first pixel at left, top."""
    matrix = _grid_to_film(landmarks, SAMPLES)
    matrix[:, 2] -= left, top
    step = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))  # pixels between two points
    if step > 1:
        luma = np.asarray(cv2.GaussianBlur(luma, (0, 0), 0.5 * float(np.sqrt(step**2 - 0.5))), np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    points = cv2.warpAffine(luma, matrix, (COLUMNS * SAMPLES, ROWS * SAMPLES), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(_tents(ROWS).T @ points @ _tents(COLUMNS), np.float64).reshape(-1)


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

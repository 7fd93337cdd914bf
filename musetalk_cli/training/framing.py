"""The window that a sample keeps of its film. In: a face's landmarks over time. Out: windows of one size that follow it, cut out.

Room of 40 % of the box at its sides and above, 30 % and at least 32 px below, so that any margin below the chin up to 30 px lies
inside; black outside the film. Pixels are the film's own, scaled down only where the face is wider than 512. Pure numpy and cv2.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from musetalk_cli.crop import NOSE_BRIDGE

ROOM, ROOM_BELOW, ROOM_BELOW_PX = 0.4, 0.3, 32
LARGEST_FACE_PX = 512
FOLLOW_SIGMA = 3.0  # frames; the window goes by whole pixels, so it need not tremble with the face


class Framing(NamedTuple):
    """Where the window lies in each of F frames."""

    corner: NDArray[np.int32]  # (F, 2) x y of its upper left, source pixels, may lie outside the film
    size: tuple[int, int]  # (width, height) in source pixels
    scale: float  # pixels of the sample for one of the source, 1 or less

    @property
    def kept_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the sample."""
        return round(self.size[0] * self.scale), round(self.size[1] * self.scale)


def framing_of(landmarks: NDArray[np.float32]) -> Framing:
    """(F, 68, 2) smoothed landmarks in source pixels -> the windows of a sample."""
    left, right = landmarks[..., 0].min(1), landmarks[..., 0].max(1)
    bottom = landmarks[..., 1].max(1)
    top = np.minimum(2 * landmarks[:, NOSE_BRIDGE, 1] - bottom, landmarks[..., 1].min(1))
    wide, high = float((right - left).max()), float((bottom - top).max())
    below = max(ROOM_BELOW * high, ROOM_BELOW_PX)
    width, height = _even((1 + 2 * ROOM) * wide), _even((1 + ROOM) * high + below)
    x = _followed((left + right) / 2) - width / 2
    y = _followed((top + bottom) / 2) - (0.5 + ROOM) * high
    x = np.clip(np.rint(x), np.ceil(right) + 1 - width, np.floor(left))
    y = np.clip(np.rint(y), np.ceil(bottom) + ROOM_BELOW_PX - height, np.floor(top))
    return Framing(np.stack([x, y], 1).astype(np.int32), (width, height), min(1.0, LARGEST_FACE_PX / wide))


def cut(rgb: NDArray[np.uint8], framing: Framing, frame: int) -> NDArray[np.uint8]:
    """(H, W, 3) film frame -> (h, w, 3) window of the framing's frame; black outside."""
    (left, top), (width, height) = (int(v) for v in framing.corner[frame]), framing.size
    window = np.zeros((height, width, 3), np.uint8)
    xs, ys = slice(max(left, 0), min(left + width, rgb.shape[1])), slice(max(top, 0), min(top + height, rgb.shape[0]))
    if xs.stop > xs.start and ys.stop > ys.start:
        window[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left] = rgb[ys, xs]
    if framing.scale < 1:
        window = np.asarray(cv2.resize(window, framing.kept_size, interpolation=cv2.INTER_AREA), np.uint8)
    return window


def points_within(points: NDArray[np.float32], framing: Framing) -> NDArray[np.float32]:
    """(F, P, 2) source pixels -> pixels of the sample."""
    return np.asarray((points - framing.corner[:, None]) * framing.scale, np.float32)


def boxes_within(boxes: NDArray[np.integer], framing: Framing) -> NDArray[np.int32]:
    """(F, 4) or (4,) x1 y1 x2 y2 in source pixels -> (F, 4) in pixels of the sample, inside the window."""
    moved = np.rint((boxes - np.tile(framing.corner, 2)) * framing.scale)
    return np.asarray(np.clip(moved, 0, np.tile(framing.kept_size, 2)), np.int32)


def _followed(path: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(gaussian_filter1d(path.astype(np.float64), FOLLOW_SIGMA, mode="nearest"))


def _even(length: float) -> int:
    return 2 * int(np.ceil(length / 2))

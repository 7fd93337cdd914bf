"""The face box and the 256 px crop. In: landmarks and frames. Out: boxes in source pixels, crops as the networks see them.

One rule for training and for dubbing, so that the network meets at work what it met at school. The box of a tilted head lies in the
picture turned by -roll about the middle of its landmarks; `Placement` is the way between there and the film:

    film -- Placement.taken --> crop -- the network -- Placement.laid --> film

Knows nothing of models or files.
"""

from math import ceil, floor
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.landmarks import set_upright

CROP_PX = 256  # side of the square that the networks see
MASK_ROW = CROP_PX // 2  # rows from here down are hidden from the masked copy
NOSE_BRIDGE = 29  # third of the four nose-bridge points of the 68; lands on MASK_ROW
TAPS = 4  # pixels that Lanczos looks to each side


def face_box(
    landmarks: NDArray[np.floating], size: tuple[int, int], *, margin: int = 10, shift: int = 0, roll: float = 0.0
) -> NDArray[np.int32] | None:
    """Box of one face from its 68 landmarks: (x1, y1, x2, y2), int32, source pixels, inside the frame, x2 and y2 exclusive.

    landmarks: (68, 2) source pixels. size: (width, height) of the frame. margin: source pixels added below the chin, as
    MuseTalk v1.5 does (v1: 0). shift: moves the nose-bridge row, as `bbox_shift` does (v1 only). The nose bridge lands at
    mid-height, unless the frame's edge cuts the box. roll: degrees clockwise by which the head is tilted; where it is not 0, the box
    lies in the turned picture, see `Placement`, and may reach over the frame's edge. None where nothing of the box lies inside the
    frame. Source: the released `get_landmark_and_bbox`.
    """
    width, height = size
    points = np.floor(set_upright(landmarks, roll)).astype(np.int64) if roll else landmarks.astype(np.int64)
    middle = int(points[NOSE_BRIDGE, 1]) + shift
    bottom = int(points[:, 1].max())
    x1, x2 = int(points[:, 0].min()), int(points[:, 0].max())
    y1, y2 = 2 * middle - bottom, bottom + margin
    if not roll:
        x1, x2, y1, y2 = max(x1, 0), min(x2, width), max(y1, 0), min(y2, height)
    box = np.array([x1, y1, x2, y2], np.int32)
    if x2 - x1 < 2 or y2 - y1 < 2:
        return None
    seen = Placement.of(box, landmarks, roll).region(size)
    return box if seen[2] - seen[0] >= 2 and seen[3] - seen[1] >= 2 else None


class Placement(NamedTuple):
    """How a box lies in the film: in the picture turned by -roll about pivot."""

    box: tuple[int, int, int, int]  # x1 y1 x2 y2
    roll: float = 0.0  # degrees clockwise, any
    pivot: tuple[float, float] = (0.0, 0.0)  # source pixels

    @classmethod
    def of(cls, box: NDArray[np.integer], landmarks: NDArray[np.floating], roll: float) -> Self:
        """A box around the face with these landmarks (68, 2), or a square around that box."""
        x1, y1, x2, y2 = (int(v) for v in box)
        x, y = landmarks.mean(0, dtype=np.float64)
        return cls((x1, y1, x2, y2), float(roll), (float(x), float(y)))

    def to_film(self, grid: tuple[int, int]) -> NDArray[np.float64]:
        """(2, 3): the affine map from a grid of width x height cells over the box to source pixels, corners to corners."""
        x1, y1, x2, y2 = self.box
        angle = np.radians(self.roll)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corner = turn @ (np.array([x1, y1]) - self.pivot) + self.pivot
        return np.column_stack([turn @ np.diag([(x2 - x1) / grid[0], (y2 - y1) / grid[1]]), corner])

    def region(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2 of the smallest rectangle that holds what lies inside a frame of this size (width, height)."""
        return self._reach(size, 0)

    def taken(
        self, picture: NDArray[Any], grid: tuple[int, int], *, left: int = 0, top: int = 0, how: int = cv2.INTER_LANCZOS4
    ) -> NDArray[Any]:
        """The box out of a picture (h, w, 3) whose first pixel is at left, top of the film -> (grid height, grid width, 3).

        Upright, as the published networks were trained: cut out and resized, not smoothed before it is made smaller. Turned: one
        affine warp, smoothed before; what lies outside the picture is as its edge.
        """
        if not self.roll:
            x1, y1, x2, y2 = self.box
            cut = picture[y1 - top : y2 - top, x1 - left : x2 - left]
            return np.asarray(cv2.resize(cut, grid, interpolation=how))
        matrix, sigma = self._shrunk(grid)
        matrix[:, 2] -= left, top
        x1, y1, x2, y2 = self._moved(-left, -top).seen((picture.shape[1], picture.shape[0]), grid)
        cut = picture[y1:y2, x1:x2]
        if sigma > 0.1:
            cut = cv2.GaussianBlur(cut, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        return _warped(cut, _of_middles(matrix, (0, 0), (x1, y1)), grid, how)

    def seen(self, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2 of the part of a frame of this size (width, height) that `taken` looks at for this grid."""
        return self._reach(size, TAPS + ceil(3 * self._shrunk(grid)[1])) if self.roll else self.region(size)

    def _shrunk(self, grid: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
        """The map from the grid to source pixels, and sigma of the blur that has to come before."""
        matrix = self.to_film(grid)
        shrinks = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))  # source pixels a cell
        return matrix, float(0.5 * np.sqrt(max(shrinks**2 - 1, 0)))  # half a pixel of blur before makes half a cell after

    def laid(self, crop: NDArray[Any], region: tuple[int, int, int, int], *, how: int = cv2.INTER_LANCZOS4) -> NDArray[Any]:
        """A picture of the box, of any size, back onto a region of the film x1 y1 x2 y2 -> (y2 - y1, x2 - x1, ...).

        Upright the region has to be the box, and the picture is resized; turned, one affine warp, and outside the box as its edge.
        """
        size = (region[2] - region[0], region[3] - region[1])
        if not self.roll:
            return np.asarray(cv2.resize(crop, size, interpolation=how))
        matrix = cv2.invertAffineTransform(self.to_film((crop.shape[1], crop.shape[0])))
        return _warped(crop, _of_middles(np.asarray(matrix), region[:2], (0, 0)), size, how)

    def _moved(self, x: int, y: int) -> "Placement":
        x1, y1, x2, y2 = self.box
        return Placement((x1 + x, y1 + y, x2 + x, y2 + y), self.roll, (self.pivot[0] + x, self.pivot[1] + y))

    def _reach(self, size: tuple[int, int], more: int) -> tuple[int, int, int, int]:
        matrix = self.to_film((1, 1))
        corners = matrix[:, :2] @ [[0, 1, 0, 1], [0, 0, 1, 1]] + matrix[:, 2:]
        (x1, y1), (x2, y2) = corners.min(1) - more, corners.max(1) + more
        nearly = 1e-6  # of a pixel: turns by a right angle come out whole
        left, right = (int(np.clip(x, 0, size[0])) for x in (floor(x1 + nearly), ceil(x2 - nearly)))
        top, bottom = (int(np.clip(y, 0, size[1])) for y in (floor(y1 + nearly), ceil(y2 - nearly)))
        return left, top, right, bottom


def _of_middles(matrix: NDArray[np.float64], corner_in: tuple[int, int], corner_out: tuple[int, int]) -> NDArray[np.float64]:
    """A map of points -> the same from pixel number to pixel number, where pictures begin at these corners."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (np.array(corner_in) + 0.5) - 0.5 - corner_out
    return moved


def _warped(picture: NDArray[Any], matrix: NDArray[np.float64], size: tuple[int, int], how: int) -> NDArray[Any]:
    flags = how | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def crop_face(frame_rgb: NDArray[np.uint8], box: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(H, W, 3) frame -> (256, 256, 3) uint8 crop of an upright head's box, as the networks see it; see `Placement.taken`."""
    x1, y1, x2, y2 = (int(v) for v in box)
    return np.asarray(Placement((x1, y1, x2, y2)).taken(frame_rgb, (CROP_PX, CROP_PX)), np.uint8)


def hide_mouth(crops_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., 256, 256, 3) -> the same with rows 128 and below black: -1 after normalisation, the mask of the published models."""
    masked = crops_rgb.copy()
    masked[..., MASK_ROW:, :, :] = 0
    return masked


def upright(rgb: NDArray[Any], rotation: int) -> NDArray[Any]:
    """(H, W, ...) as coded -> as it is to be seen: turned counterclockwise by `Source.rotation`, a multiple of 90 degrees."""
    return np.ascontiguousarray(np.rot90(rgb, rotation // 90)) if rotation % 360 else rgb


def from_upright(points: NDArray[np.floating], rotation: int, size: tuple[int, int]) -> NDArray[np.floating]:
    """(..., 2) in the picture as it is seen -> in the coded one, of this size (width, height), see `upright`."""
    width, height = size
    x, y = np.moveaxis(points, -1, 0)
    turned = {0: (x, y), 90: (width - y, x), 180: (width - x, height - y), 270: (y, height - x)}
    return np.stack(turned[rotation % 360], -1)

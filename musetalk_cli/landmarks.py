"""What the 68 landmarks are, by their numbers. Knows nothing of how they are found."""

import numpy as np
from numpy.typing import NDArray

JAW = np.arange(0, 17)
MOUTH = np.arange(48, 68)
INNER_LIPS = np.arange(60, 68)
INNER_PAIRS = ((61, 67), (62, 66), (63, 65))  # upper and lower inner lip, one above the other
RIGID = np.array([27, 28, 29, 30, 31, 33, 35, 36, 39, 42, 45])  # nose and corners of the eyes: speech does not move them
STILL = np.array([0, 1, 15, 16, *RIGID])  # the same and the sides of the face
JAW_SHARES = {4: 0.3, 5: 0.5, 6: 0.75, 7: 0.95, 8: 1.0, 9: 0.95, 10: 0.75, 11: 0.5, 12: 0.3}  # of the chin's way, beside it

MIRRORED = np.array(  # point i of a mirrored face is point MIRRORED[i] of the face
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        *range(27, 31),
        *range(35, 30, -1),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
        *(64, 63, 62, 61, 60, 67, 66, 65),
    ],
    np.intp,
)


def in_crop(points: NDArray[np.floating], boxes: NDArray[np.integer]) -> NDArray[np.float32]:
    """(N, 68, 2) source pixels, (N, 4) boxes x1 y1 x2 y2 -> the same in the 256 px crop of each box, x and y scaled apart."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return np.asarray((points - corner) / np.maximum(size, 1) * 256, np.float32)

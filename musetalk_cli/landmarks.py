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


def in_crop(points: NDArray[np.floating], boxes: NDArray[np.integer]) -> NDArray[np.float32]:
    """(N, 68, 2) source pixels, (N, 4) boxes -> the same in the 256 px crop of each box."""
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return np.asarray((points - corner) / np.maximum(size, 1) * 256, np.float32)

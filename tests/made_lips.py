"""Made lips that do what they are told. In: the four numbers of metrics.sync. Out: landmarks."""

import numpy as np
from made_faces import landmarks_at
from numpy.typing import NDArray

EYES = 0.44  # distance of the eyes of `landmarks_at`, in face widths
LOWER_INNER, LOWER_OUTER = [65, 66, 67], [55, 56, 57, 58, 59]
OPEN = 0.3  # eye distances: lips never pass each other
HABITS = np.array([0.06, 0.03, 0.01, 0.05])  # eye distances for one unit of what is asked


def face_that_does(
    numbers: NDArray[np.floating], *, width: float = 120.0, middle: tuple[float, float] = (200.0, 150.0)
) -> NDArray[np.float32]:
    """(N, 4) in units of HABITS -> (N, 68, 2); NaN rows stay NaN."""
    points = np.repeat(landmarks_at(*middle, width)[None].astype(np.float64), len(numbers), 0)
    opening, wide, height, chin = (numbers * HABITS * EYES * width).T
    opening = opening + OPEN * EYES * width
    points[:, LOWER_INNER, 1] += opening[:, None]
    points[:, LOWER_OUTER, 1] += (opening + 2 * height)[:, None]
    points[:, 48, 0] -= wide / 2
    points[:, 54, 0] += wide / 2
    points[:, 8, 1] += chin
    return points.astype(np.float32)

"""What the 68 landmarks are, by their numbers, and how the head they lie on is tilted. Knows nothing of how they are found."""

from math import ceil

import numpy as np
from numpy.typing import NDArray

JAW = np.arange(0, 17)
OUTLINE = np.array([*range(17), *range(26, 16, -1)])  # jaw from ear to ear, back over the brows
MOUTH = np.arange(48, 68)
INNER_LIPS = np.arange(60, 68)
EYES = np.array([range(36, 42), range(42, 48)])  # left and right in the picture of an upright head
MOUTH_CORNERS = np.array([48, 54])  # left and right likewise
INNER_PAIRS = ((61, 67), (62, 66), (63, 65))  # upper and lower inner lip, one above the other
RIGID = np.array([27, 28, 29, 30, 31, 33, 35, 36, 39, 42, 45])  # nose and corners of the eyes: speech does not move them
STILL = np.array([0, 1, 15, 16, *RIGID])  # the same and the sides of the face
JAW_SHARES = {4: 0.3, 5: 0.5, 6: 0.75, 7: 0.95, 8: 1.0, 9: 0.95, 10: 0.75, 11: 0.5, 12: 0.3}  # of the chin's way, beside it
TILTED = 8.0  # degrees; a head that never tilts further is shown as it is, as the published networks were trained
ROLL_SIGMA = 3.0  # frames
ROLL_STEP = 20.0  # degrees in a frame; a head tilts by less than 10, more is a cut

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


def roll_of(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """(..., 68, 2) -> (...) degrees that the head is tilted clockwise in the picture, -180 to 180; 0 is upright.

    The sum of three lines of about equal length: from eye to eye, from corner to corner of the mouth, and square to the line from the
    eyes to the mouth. From the side the first two tell little and the third is wrong by the lips' depth the other way: beyond 45
    degrees of yaw the eyes alone are 8 degrees apart among upright heads, their sum 5.
    """
    points = landmarks.astype(np.float64)
    eyes, corners = points[..., EYES, :].mean(-2), points[..., MOUTH_CORNERS, :]  # (..., 2, 2) each: left, right
    down = corners.mean(-2) - eyes.mean(-2)
    across = np.diff(eyes, axis=-2) + np.diff(corners, axis=-2)  # (..., 1, 2)
    x, y = across[..., 0, 0] + down[..., 1], across[..., 0, 1] - down[..., 0]
    return np.asarray(np.degrees(np.arctan2(y, x)), np.float64)


def rolls_of(frames: NDArray[np.integer], landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """Ascending frames (K,) and smoothed landmarks (K, 68, 2) of one track -> (K,) degrees clockwise by which each row is turned.

    All 0 where the head never tilts by more than TILTED; else its angle without jitter: a Gaussian of ROLL_SIGMA frames that looks
    both ways, over no missing frame and no cut.
    """
    rolls = roll_of(landmarks)
    steps = (np.diff(rolls) + 180) % 360 - 180
    breaks = np.flatnonzero((np.diff(frames) != 1) | (np.abs(steps) > ROLL_STEP)) + 1
    rolls = np.concatenate([_smooth(run) for run in np.split(rolls, breaks)])
    if not (np.abs(rolls) > TILTED).any():
        return np.zeros(len(rolls), np.float32)
    return rolls.astype(np.float32)


def _smooth(rolls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees of neighbouring frames; at both ends they go on mirrored in the last one, so that a steady movement stays as it is."""
    reach = ceil(3 * ROLL_SIGMA)
    if not len(rolls):
        return rolls
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / ROLL_SIGMA) ** 2)
    padded = np.pad(np.unwrap(rolls, period=360), reach, mode="reflect", reflect_type="odd")
    smooth = np.convolve(padded, weights / weights.sum(), "valid")
    return np.asarray((smooth + 180) % 360 - 180, np.float64)


def set_upright(landmarks: NDArray[np.floating], roll: NDArray[np.floating] | float) -> NDArray[np.floating]:
    """(..., 68, 2) source pixels, (...) degrees clockwise -> where they lie in the picture turned by -roll about their middle.

    Points whose roll is 0 stay as they are, to the bit.
    """
    angle = np.radians(np.asarray(roll, np.float64))[..., None]
    middle = landmarks.mean(-2, keepdims=True, dtype=np.float64)
    x, y = np.moveaxis(landmarks - middle, -1, 0)
    turned = np.stack([np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x], -1) + middle
    return np.where(angle[..., None] == 0, landmarks, turned.astype(landmarks.dtype))


def in_crop(
    points: NDArray[np.floating], boxes: NDArray[np.integer], rolls: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    """(N, 68, 2) source pixels, (N, 4) boxes x1 y1 x2 y2 -> the same in the 256 px crop of each box, x and y scaled apart.

    rolls: (N,) degrees by which the heads are tilted; the boxes then lie where `set_upright` puts the points.
    """
    upright = points if rolls is None else set_upright(points, rolls)
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return np.asarray((upright - corner) / np.maximum(size, 1) * 256, np.float32)

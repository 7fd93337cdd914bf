"""A face in small, upright, for telling whether something is before it. In: a frame and landmarks. Out: 24 x 24 pixels."""

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.occlusion import LOOK_PX

EYES_AND_NOSE = np.array([[7.5, 7.0], [16.5, 7.0], [12.0, 12.5]])  # where these lie in a look


def look_of(rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W, 3) frame and (68, 2) -> (24, 24, 3): the face, upright, eyes and nose where they always are."""
    seen = np.stack([landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[33]]).astype(np.float64)
    onto = _similarity(EYES_AND_NOSE, seen)  # look -> frame: each cell is taken from there
    scale = float(np.hypot(onto[0, 0], onto[1, 0]))
    corners = onto @ np.array([[0, LOOK_PX, 0, LOOK_PX], [0, 0, LOOK_PX, LOOK_PX], [1, 1, 1, 1]])
    x1, y1 = np.floor(corners.min(1)).astype(int).clip(0)
    x2, y2 = np.ceil(corners.max(1)).astype(int) + 1
    part = rgb[y1:y2, x1:x2]
    if not part.size:
        return np.zeros((LOOK_PX, LOOK_PX, 3), np.uint8)
    small = max(round(scale), 1)  # averaged first, so that grain and edges do not count
    averaged = cv2.resize(part, (max(part.shape[1] // small, 1), max(part.shape[0] // small, 1)), interpolation=cv2.INTER_AREA)
    onto = (onto - [[0, 0, x1], [0, 0, y1]]) / small
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(averaged, onto, (LOOK_PX, LOOK_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _similarity(template: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, 2) each -> 2x3 of the shift, turn and scale that lays the template onto what is seen, least squares."""
    a, b = (points[:, 0] + 1j * points[:, 1] for points in (template, seen))
    turn = np.vdot(a - a.mean(), b - b.mean()) / max(float((abs(a - a.mean()) ** 2).sum()), 1e-9)
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])

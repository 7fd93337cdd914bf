"""Lips in eight numbers: what they are in landmarks, and where landmarks should be for them. In and out: arrays. Knows no nets.

68 landmarks -> mouth in the face's own frame -> opening + 7 shape numbers     lip_codes
lip code -> the person's usual mouth, changed by it -> 68 landmarks            wanted_landmarks
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.landmarks import INNER_PAIRS, JAW_SHARES, MIRRORED, MOUTH, RIGID

MIRRORED_MOUTH = MIRRORED[MOUTH] - MOUTH[0]  # within MOUTH
MOUTH_NUMBERS = 2 * (len(MOUTH) + 1)  # of a mouth with its chin
SHAPES = 7
CODE_SIZE = 1 + SHAPES
CODE_LIMIT = 4.0
CLOSED = 0.03  # eye distances that landmarks of closed lips are apart at most; a person is taken to close the mouth now and then


@dataclass(frozen=True, slots=True)
class CodeBasis:
    """How landmarks become lip codes; fitted on the training clips once."""

    template: NDArray[np.float32]  # (68, 2) mean face, eyes one apart
    slope: NDArray[np.float32]  # (42,) mouth shape for one unit of opening
    shapes: NDArray[np.float32]  # (SHAPES, 42) principal components of what the opening leaves over
    spread: NDArray[np.float32]  # (CODE_SIZE,) standard deviations; codes are in these units


def lip_codes(landmarks: NDArray[np.float32], basis: CodeBasis) -> NDArray[np.float32]:
    """(F, 68, 2) of one clip -> (F, CODE_SIZE), NaN where there is no face. Number 0 is the opening, 0 where closed."""
    codes = np.full((len(landmarks), CODE_SIZE), np.nan, np.float32)
    valid = ~np.isnan(landmarks[:, 0, 0])
    if not valid.any():
        return codes
    opened = openings(landmarks[valid], basis.template)
    mouth = mouth_shapes(landmarks[valid], basis.template)
    left = mouth - np.median(mouth, 0) - (opened - np.median(opened))[:, None] * basis.slope
    raw = np.concatenate([opened[:, None], left @ basis.shapes.T], 1) / basis.spread
    codes[valid] = np.clip(raw, -CODE_LIMIT, CODE_LIMIT)
    return codes


def wanted_landmarks(
    points: NDArray[np.float32], codes: NDArray[np.float32], track: NDArray[np.integer], basis: CodeBasis
) -> NDArray[np.float32]:
    """(N, 68, 2) faces, (N, CODE_SIZE), (N,) persons -> (N, 68, 2): the same faces with those lips.

    A person's usual mouth is the median of the rows; the code says how the wanted one differs from it, as `lip_codes` told. What a
    row's own lips do is thus gone; that a head is turned, or a mouth is crooked, stays. Coordinates of any one scale.
    """
    wanted = np.array(points, np.float32)
    for person in np.unique(track):
        rows = np.flatnonzero(track == person)
        wanted[rows] = _with_lips(points[rows], codes[rows], basis)
    return wanted


def _with_lips(points: NDArray[np.float32], codes: NDArray[np.float32], basis: CodeBasis) -> NDArray[np.float32]:
    opened, mouth = openings(points, basis.template), mouth_shapes(points, basis.template)
    numbers = codes * basis.spread
    goal = np.median(mouth, 0) + (numbers[:, :1] - np.median(opened)) * basis.slope + numbers[:, 1:] @ basis.shapes
    back = np.linalg.inv(_to_template(points, basis.template)[:, :2])
    moves = (goal - mouth).reshape(-1, len(MOUTH) + 1, 2) @ back  # (N, 21, 2), the chin last
    wanted = points.copy()
    wanted[:, MOUTH] += moves[:, :-1]
    for point, share in JAW_SHARES.items():
        wanted[:, point] += share * moves[:, -1]
    return np.asarray(wanted, np.float32)


def openings(landmarks: NDArray[np.float32], template: NDArray[np.float32]) -> NDArray[np.float32]:
    """(F, 68, 2) -> (F,) inner-lip distance in eye distances, less what the clip shows where it is closed."""
    points = canonical(landmarks, template)
    gaps = [np.linalg.norm(points[:, low] - points[:, high], axis=1) for high, low in INNER_PAIRS]
    mean = np.mean(gaps, 0)
    return np.asarray(np.maximum(mean - min(float(np.percentile(mean, 5)), CLOSED), 0), np.float32)


def mouth_shapes(landmarks: NDArray[np.float32], template: NDArray[np.float32]) -> NDArray[np.float32]:
    """(F, 68, 2) -> (F, 42): mouth and chin in the face's own frame, left and right made equal: a mirrored face is the same."""
    points = canonical(landmarks, template)
    mouth, middle = points[:, MOUTH], template[RIGID, 0].mean()
    mirrored = mouth[:, MIRRORED_MOUTH] * np.array([-1, 1], np.float32) + np.array([2 * middle, 0], np.float32)
    chin = points[:, 8:9] * np.array([0, 1], np.float32)
    return np.asarray(np.concatenate([(mouth + mirrored) / 2, chin], 1).reshape(len(points), -1), np.float32)


def canonical(landmarks: NDArray[np.float32], template: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each face on the template by the affine map that fits its rigid points best: no place, size or roll, little yaw."""
    whole = np.concatenate([landmarks, np.ones((len(landmarks), 68, 1), np.float32)], 2)
    return np.asarray(whole @ _to_template(landmarks, template), np.float32)


def _to_template(landmarks: NDArray[np.float32], template: NDArray[np.float32]) -> NDArray[np.float64]:
    """(F, 68, 2) -> (F, 3, 2): the affine maps."""
    rigid = landmarks[:, RIGID]
    ones = np.ones((*rigid.shape[:2], 1), np.float32)
    return np.asarray(np.linalg.pinv(np.concatenate([rigid, ones], 2).astype(np.float64)) @ template[RIGID], np.float64)

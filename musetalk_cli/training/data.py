"""What training works out from landmarks. In: landmarks of clips. Out: a basis of lip codes, how faces lie on each other, where lips are.

Knows no files, pictures or nets.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.landmarks import JAW
from musetalk_cli.models.lip_codes import SHAPES, CodeBasis, mouth_shapes, openings


def fit_basis(landmarks: Sequence[NDArray[np.float32]]) -> CodeBasis:
    """The basis of many clips: (F, 68, 2) each, NaN where there is no face."""
    faces = [clip[~np.isnan(clip[:, 0, 0])] for clip in landmarks]
    template = _mean_face(faces)
    mouths = [mouth_shapes(face, template) for face in faces]
    opened = [openings(face, template) for face in faces]
    x, y = np.concatenate(opened), np.concatenate([mouth - np.median(mouth, 0) for mouth in mouths])
    centred = np.concatenate([clip - np.median(clip) for clip in opened])
    slope = (centred @ y) / (centred @ centred)
    left = y - centred[:, None] * slope
    left *= np.minimum(1, 0.3 / np.maximum(np.linalg.norm(left, axis=1), 1e-6))[:, None]
    _, _, rows = np.linalg.svd(left[:: max(len(left) // 20000, 1)], full_matrices=False)
    shapes = rows[:SHAPES]
    spread = np.maximum(np.concatenate([[x.std()], (left @ shapes.T).std(0)]), 1e-3)
    return CodeBasis(*(np.asarray(a, np.float32) for a in (template, slope, shapes, spread)))


def _mean_face(faces: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(68, 2): mean of all faces turned level, eyes one apart, made symmetric about x = 0."""
    total = []
    for face in faces:
        right, left = face[:, 36:42].mean(1), face[:, 42:48].mean(1)
        along = left - right
        turn = np.stack([along[:, 0], along[:, 1], -along[:, 1], along[:, 0]], 1).reshape(-1, 2, 2)
        level = np.einsum("fij,fpj->fpi", turn, face - ((left + right) / 2)[:, None]) / (along**2).sum(1)[:, None, None]
        total.append(np.median(level, 0))
    mean = np.mean(total, 0)
    return np.asarray(mean, np.float32)


def similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2, 3): shift, turn and scale that carry points onto others best."""
    a, b = one.mean(0).astype(np.float64), other.mean(0).astype(np.float64)
    z, w = (one - a) @ np.array([1, 1j]), (other - b) @ np.array([1, 1j])
    turn = (z.conj() @ w) / max((z.conj() @ z).real, 1e-9)
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.concatenate([matrix, (b - matrix @ a)[:, None]], 1)


def lower_face(points: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float32]:
    """(256, 256): 1 on mouth and chin of both faces, 0 from the nose up, on the cheeks' sides and well below; soft between."""
    top = float(points[33, 1])
    bottom = float(max(points[8, 1], others[8, 1])) + 14
    centre_x, half_x = float(points[48:60, 0].mean()), 0.42 * float(np.ptp(points[JAW, 0]))
    centre_y, half_y = (top + bottom) / 2, max((bottom - top) / 2, 8.0)
    line = np.arange(256, dtype=np.float32)
    away = np.square((line - centre_x) / half_x) + ((line - centre_y) / half_y)[:, None] ** 4
    return np.asarray(np.clip((1.2 - away) / 0.4, 0, 1), np.float32)

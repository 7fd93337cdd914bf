"""How far a mouth is open, and whether two open together. In: 68 landmarks a frame. Out: openings, their correlation."""

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.landmarks import INNER_PAIRS


def opening(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, 68, 2) -> (N,): mean distance of the inner lips in eye distances; NaN where the landmarks are NaN."""
    gaps = [np.linalg.norm(landmarks[:, low] - landmarks[:, high], axis=1) for high, low in INNER_PAIRS]
    eyes = np.linalg.norm(landmarks[:, 36:42].mean(1) - landmarks[:, 42:48].mean(1), axis=1)
    return np.asarray(np.mean(gaps, 0) / np.maximum(eyes, 1e-6), np.float32)


def correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Pearson's r over the frames that both have; 0 where there are fewer than three or nothing moves."""
    both = ~(np.isnan(one) | np.isnan(other))
    a, b = one[both].astype(np.float64), other[both].astype(np.float64)
    if len(a) < 3 or a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def shifted_correlation(one: NDArray[np.floating], other: NDArray[np.floating], shift: int) -> float:
    """r where frame i of `one` meets frame i + shift of `other`; frames without a partner are left out."""
    if shift < 0:
        return shifted_correlation(other, one, -shift)
    count = min(len(one), len(other) - shift)
    return correlation(one[: max(count, 0)], other[shift : shift + max(count, 0)])

"""How much a mouth trembles. In: 68 landmarks a frame. Out: acceleration of the mouth in the head's own frame."""

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.landmarks import MOUTH, RIGID

SPREAD = 2.0  # frames of the Gaussian over the head's pose: noise of nose and eyes is not the mouth's


def acceleration(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, 68, 2) of neighbouring frames -> (N - 2,) how far the mouth's points are, on average, from the middle between the frames
    before and after, in thousandths of the eyes' distance.

    Head movement does not count: each frame is first laid onto the first one by shift, turn and scale of nose and eye corners, steady
    over time. Frames without landmarks (NaN) have no acceleration, nor have their neighbours.
    """
    points = landmarks[..., 0] + 1j * landmarks[..., 1]  # (N, 68)
    seen = np.asarray(~np.isnan(points).any(1), np.bool_)
    still = points[:, RIGID]
    centre = still.mean(1, keepdims=True)
    first = int(seen.argmax())
    model = still[first] - centre[first]
    turn = ((still - centre).conj() * model).sum(1) / np.maximum((np.abs(still - centre) ** 2).sum(1), 1e-9)
    centre, turn = _steady(centre[:, 0], seen)[:, None], _steady(turn, seen)
    mouth = (points[:, MOUTH] - centre) * turn[:, None]
    eyes = np.abs(points[first, 36:42].mean() - points[first, 42:48].mean())
    second = mouth[2:] - 2 * mouth[1:-1] + mouth[:-2]
    return np.asarray(np.abs(second).mean(1) / 2 / max(float(eyes), 1e-6) * 1000, np.float32)


def jitter(landmarks: NDArray[np.floating]) -> float:
    """(N, 68, 2) -> root mean square of `acceleration` over the frames that have it; 0 for fewer than three frames."""
    found = acceleration(landmarks) if len(landmarks) >= 3 else np.zeros(0, np.float32)
    found = found[~np.isnan(found)]
    return float(np.sqrt(np.mean(found.astype(np.float64) ** 2))) if len(found) else 0.0


def _steady(values: NDArray[np.complexfloating], seen: NDArray[np.bool_]) -> NDArray[np.complex128]:
    """(N,) -> the same, averaged over the frames around that were seen."""
    apart = np.subtract.outer(np.arange(len(values)), np.arange(len(values)))
    weight = np.exp(-0.5 * (apart / SPREAD) ** 2) * seen
    return np.asarray(weight @ np.where(seen, values, 0) / np.maximum(weight.sum(1), 1e-9), np.complex128)

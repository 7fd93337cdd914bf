"""How sharp a mouth is, whatever its light and grain. In: a picture and 68 landmarks. Out: fine detail in that of coarse shapes.

    luma -- gradients at FINE_PX   -- structure tensor: along edges minus across -- sum F
         -- gradients at COARSE_PX -- the same                                   -- sum C        sharpness = (F / C)^(1/2)

An edge has a direction and noise has none: in the difference of the structure tensor's eigenvalues (Förstner and Gülch 1987; Bigün
1987) grain cancels, where plain high-frequency energy would take it for detail. Contrast cancels in the quotient. A step blurred by b px gives
((COARSE^2 + b^2) / (FINE^2 + b^2))^(1/4): 2.0 for a step as sharp as pixels can be, 1.4 for b = 1.5, 1 where only slopes are left. Knows
nothing of how the picture was made.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from musetalk_cli.landmarks import MOUTH

FINE_PX = 0.8
COARSE_PX = 3.2
WINDOW = 2.0  # sigma of the structure tensor, in sigmas of its gradients
MARGIN = 0.25  # around the lips, in mouth widths
LEAST_PX = 16  # of the region, so that a mouth of a few pixels has something around it
LUMA = np.array([0.299, 0.587, 0.114])
FLAT = 1e-3  # coarse gradients below this, of 255, are no shape


def sharpness(rgb: NDArray[np.uint8], points: NDArray[np.floating]) -> float:
    """(H, W, 3) and (68, 2) landmarks in its pixels -> sharpness about the lips; NaN where the mouth lies outside or all is flat."""
    left, top, right, bottom = _region(points, rgb.shape[:2])
    if right - left < LEAST_PX // 2 or bottom - top < LEAST_PX // 2:
        return float("nan")
    reach = int(4 * COARSE_PX * WINDOW)  # what the filters look at around it
    rows, columns = slice(max(top - reach, 0), bottom + reach), slice(max(left - reach, 0), right + reach)
    luma = rgb[rows, columns] @ LUMA
    inside = np.s_[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
    fine, coarse = (float(_directed(luma, sigma)[inside].mean()) for sigma in (FINE_PX, COARSE_PX))
    return float(np.sqrt(fine / coarse)) if coarse > FLAT**2 else float("nan")


def _directed(luma: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """(H, W) -> (H, W) difference of the eigenvalues of the structure tensor: squared gradient of what has one direction."""
    x, y = gaussian_filter(luma, sigma, order=(0, 1)), gaussian_filter(luma, sigma, order=(1, 0))
    apart, cross = (gaussian_filter(part, WINDOW * sigma) for part in (x * x - y * y, 2 * x * y))
    return np.asarray(np.hypot(apart, cross), np.float64)


def _region(points: NDArray[np.floating], size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the box about the lips, in the picture."""
    if np.isnan(points[MOUTH]).any():
        return 0, 0, 0, 0
    low, high = points[MOUTH].min(0), points[MOUTH].max(0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2 + MARGIN * (high[0] - low[0]), LEAST_PX / 2)
    limits = np.array([size[1], size[0]])
    (left, top), (right, bottom) = (np.clip(np.round(middle + way * half), 0, limits).astype(int) for way in (-1, 1))
    return int(left), int(top), int(right), int(bottom)

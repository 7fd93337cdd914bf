"""How like two pictures are, pixel by pixel: PSNR and SSIM (Wang et al. 2004). In: two pictures. Out: a number.

For self-reconstruction, where the film's own picture is what should come out. LPIPS needs a network: models/lpips.py.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

RANGE = 255.0
SIGMA_PX = 1.5  # of the window, Wang et al. 2004, section III-B
REACH_PX = 5  # so that it is 11 pixels wide
C1 = (0.01 * RANGE) ** 2
C2 = (0.03 * RANGE) ** 2


def psnr(film: NDArray[np.uint8], result: NDArray[np.uint8]) -> float:
    """(H, W, 3), (H, W, 3) -> dB over all channels; infinite for the same picture."""
    _check(film, result)
    error = float(np.square(film.astype(np.float64) - result).mean())
    return 10 * math.log10(RANGE**2 / error) if error else math.inf


def ssim(film: NDArray[np.uint8], result: NDArray[np.uint8]) -> float:
    """(H, W, 3), (H, W, 3) -> mean over pixels and channels, at most 1; H and W from 11 up.

    As scikit-image's structural_similarity with gaussian_weights, sigma 1.5, population covariances, a data range of 255 and the
    border left out: the definition of the paper's authors, a channel at a time.
    """
    _check(film, result)
    if min(film.shape[:2]) < 2 * REACH_PX + 1:
        raise ValueError(f"SSIM needs 11 by 11 pixels, there are {film.shape[:2]}")
    a, b = film.astype(np.float64), result.astype(np.float64)
    mean_a, mean_b = _local(a), _local(b)
    variance_a, variance_b = _local(a * a) - mean_a**2, _local(b * b) - mean_b**2
    covariance = _local(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    alike /= (mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2)
    return float(alike[REACH_PX:-REACH_PX, REACH_PX:-REACH_PX].mean())


def _local(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W, C) -> means under a Gaussian window."""
    return np.asarray(gaussian_filter(values, SIGMA_PX, radius=REACH_PX, axes=(0, 1)), np.float64)


def _check(film: NDArray[np.uint8], result: NDArray[np.uint8]) -> None:
    if film.shape != result.shape or film.dtype != np.uint8 or result.dtype != np.uint8:
        raise ValueError(f"two 8-bit pictures of one size are needed: {film.dtype} {film.shape}, {result.dtype} {result.shape}")

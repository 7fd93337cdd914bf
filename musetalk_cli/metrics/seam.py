"""Whether a pasted mouth shows at its edge. In: a picture and the mask it was pasted by. Out: the step of colour across the edge.

    mask -- outline, where it passes the half -- rings inside and outside of it -- mean CIELAB colour of each, near each point
         -- distance of the two colours, CIE 1976 delta E -- mean over the outline

Skin has shadows and jaws have edges: only beside the same place in the film does it tell of a seam. Knows nothing of networks.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

HALF = 128
GAP_PX = 1.0  # beside the outline that belongs to neither ring: a sharp edge's own pixels
RING_PX = 7.0  # how far the rings reach
NEAR_PX = 4.0  # sigma along the outline over which a ring's colour is averaged: grain is not colour
D65 = np.array([0.95047, 1.0, 1.08883])
TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
LEAST_WEIGHT = 0.02  # of a ring near a point; below, it has none there


def seam(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> float:
    """(H, W, 3) sRGB and (H, W) weights of the paste, 0..255 -> mean step in delta E; NaN for a mask without an edge.

    The jaw's own edge is in it, 7 on heads of a film: beside that a paste some 4 too bright is a third more. See `added_seam`.
    """
    return _mean(steps(rgb, alpha))


def added_seam(film_rgb: NDArray[np.uint8], result_rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> float:
    """(H, W, 3), (H, W, 3) of the same place and moment, (H, W) -> mean length of what the paste added to the step, in delta E; NaN
    for a mask without an edge. The film's own edges cancel: 0 for the film itself, 0.6 for JPEG at quality 80; 2.3 is just seen.
    """
    return _mean(steps(result_rgb, alpha) - steps(film_rgb, alpha))


def steps(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(K, 3) step in L, a, b from outside to inside at the K points of the outline that have a ring on both sides; a mask cut by the
    picture's edge has none there."""
    inside = alpha >= HALF
    if inside.all() or not inside.any():
        return np.zeros((0, 3))
    window = _around(inside, int(RING_PX + 4 * NEAR_PX))
    inside = inside[window]
    within, beyond = (distance_transform_edt(part) for part in (inside, ~inside))
    outline = inside & (within <= 1)
    lab = to_lab(rgb[window])
    here, there = (_near(lab, (depth > GAP_PX) & (depth <= RING_PX), outline) for depth in (within, beyond))
    found = here - there
    return np.asarray(found[~np.isnan(found).any(1)], np.float64)


def to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(..., 3) sRGB -> CIELAB, D65, 2 degrees: L 0..100."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)[rgb]
    share = linear @ TO_XYZ.T / D65
    curve = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(curve, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _mean(found: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found, axis=1).mean()) if len(found) else float("nan")


def _near(lab: NDArray[np.float64], ring: NDArray[np.bool_], outline: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(K, 3) mean colour of a ring near each point of the outline; NaN where it is not near."""
    weight = gaussian_filter(ring.astype(np.float64), NEAR_PX)[outline]
    colour = gaussian_filter(lab * ring[..., None], NEAR_PX, axes=(0, 1))[outline]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight[:, None] > LEAST_WEIGHT, colour / weight[:, None], np.nan)


def _around(inside: NDArray[np.bool_], reach: int) -> tuple[slice, slice]:
    """The mask's box and what lies near it."""
    found = [np.flatnonzero(inside.any(axis)) for axis in (1, 0)]
    rows, columns = (slice(max(int(part[0]) - reach, 0), int(part[-1]) + 1 + reach) for part in found)
    return rows, columns

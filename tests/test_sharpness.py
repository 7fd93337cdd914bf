"""Sharpness of a mouth: falls with blur as the formula says; grain and contrast change little."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from musetalk_cli.metrics.sharpness import COARSE_PX, FINE_PX, sharpness

POINTS = np.full((68, 2), 100.0)
POINTS[48:68] = np.stack([100 + 40 * np.cos(np.arange(20)), 100 + 18 * np.sin(np.arange(20))], 1)


def mouth(blur: float = 0.0, contrast: float = 1.0, grain: float = 0.0) -> NDArray[np.uint8]:
    """Dark bars on skin about the lips, drawn four times as large and averaged, so that edges fall between pixels too."""
    y, x = np.mgrid[:800, :800] / 4
    shape = ((np.abs(y - 100 + 0.1 * (x - 100)) < 5) | (np.abs(y - 112 - 0.05 * (x - 100)) < 2)) & (np.abs(x - 100) < 45)
    drawn = (150 - 70 * contrast * shape).reshape(200, 4, 200, 4).mean((1, 3))
    drawn = gaussian_filter(drawn, blur) if blur else drawn
    noise = np.random.default_rng(0).normal(0, 1, drawn.shape) * grain
    return np.repeat(np.clip(np.round(drawn + noise), 0, 255).astype(np.uint8)[..., None], 3, 2)


def test_sharpness_falls_with_blur() -> None:
    found = [sharpness(mouth(blur), POINTS) for blur in (0, 0.5, 1, 1.5, 2, 3)]
    assert all(a > b for a, b in pairwise(found))
    assert found[0] / found[4] > 1.25


def test_a_step_gives_what_the_formula_says() -> None:
    y = np.arange(200.0)[:, None]
    for blur in (1.0, 2.0):
        step = gaussian_filter(np.where(y < 100, 60.0, 180.0) * np.ones((1, 200)), blur)
        picture = np.repeat(np.round(step).astype(np.uint8)[..., None], 3, 2)
        wanted = ((COARSE_PX**2 + blur**2) / (FINE_PX**2 + blur**2)) ** 0.25
        assert sharpness(picture, POINTS) == pytest.approx(wanted, rel=0.03)


def test_grain_is_not_detail() -> None:
    """Plain high-frequency energy takes such grain on a blurred mouth for a sharp one."""
    for blur in (0, 2):
        clean = sharpness(mouth(blur), POINTS)
        assert sharpness(mouth(blur, grain=4), POINTS) == pytest.approx(clean, rel=0.12)
    assert sharpness(mouth(2, grain=4), POINTS) < sharpness(mouth(0.5), POINTS)


def test_light_does_not_count() -> None:
    assert sharpness(mouth(1, contrast=0.4), POINTS) == pytest.approx(sharpness(mouth(1), POINTS), rel=0.03)


@pytest.mark.parametrize("points", [POINTS + 500, np.full((68, 2), np.nan), POINTS - 500], ids=["outside", "none", "before"])
def test_no_mouth_in_the_picture_has_no_sharpness(points: NDArray[np.float64]) -> None:
    assert np.isnan(sharpness(mouth(), points))


def test_a_flat_picture_has_no_sharpness() -> None:
    assert np.isnan(sharpness(np.full((200, 200, 3), 128, np.uint8), POINTS))


def test_what_is_far_from_the_mouth_does_not_count() -> None:
    changed = mouth()
    changed[:20] = 0
    changed[::2, :10] = 255
    assert sharpness(changed, POINTS) == pytest.approx(sharpness(mouth(), POINTS), rel=1e-6)

"""The step of colour across a mask's edge."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from musetalk_cli.metrics.seam import added_seam, seam, steps, to_lab

Y, X = np.mgrid[:128, :128]
DISC = np.where((X - 64) ** 2 + (Y - 70) ** 2 < 30**2, 255, 0).astype(np.uint8)
SOFT = gaussian_filter(DISC.astype(np.float64), 3).astype(np.uint8)
SKIN = np.stack([190 + 0 * X, 150 + 0 * X, 130 + 0 * X], -1).astype(np.uint8)


def pasted(change: tuple[int, int, int], alpha: NDArray[np.uint8], under: NDArray[np.uint8] = SKIN) -> NDArray[np.uint8]:
    share = alpha[..., None] / 255
    return np.clip(np.round(under + share * np.array(change)), 0, 255).astype(np.uint8)


def test_colours_are_those_of_scikit_image() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    np.testing.assert_allclose(to_lab(rgb), rgb2lab(rgb), atol=0.02)


def test_a_hard_paste_steps_by_the_distance_of_the_two_colours() -> None:
    made = pasted((12, 12, 12), DISC)
    wanted = float(np.linalg.norm(to_lab(made[70, 64]) - to_lab(made[2, 2])))
    assert wanted > 4
    assert seam(made, DISC) == pytest.approx(wanted, rel=0.01)


def test_an_even_face_has_no_seam() -> None:
    assert seam(SKIN, DISC) == pytest.approx(0, abs=1e-9)


def test_a_feathered_paste_shows_less_but_shows() -> None:
    soft, hard = seam(pasted((12, 12, 12), SOFT), SOFT), seam(pasted((12, 12, 12), DISC), DISC)
    assert 0.5 * hard < soft < hard


def test_colour_counts_as_light_does() -> None:
    assert seam(pasted((10, -6, 0), DISC), DISC) > 3


def test_grain_is_no_seam() -> None:
    noise = np.random.default_rng(0).normal(0, 5, (*DISC.shape, 3))
    grainy = np.clip(SKIN + noise, 0, 255).astype(np.uint8)
    assert seam(grainy, DISC) < 0.8


def test_shading_steps_in_film_and_paste_alike() -> None:
    shaded = np.clip(SKIN * (0.6 + 0.4 * X / 128)[..., None], 0, 255).astype(np.uint8)
    film, paste = seam(shaded, DISC), seam(pasted((10, 10, 10), DISC, shaded), DISC)
    assert paste > 1.5 * film > 0


@pytest.mark.parametrize("alpha", [np.zeros((128, 128), np.uint8), np.full((128, 128), 255, np.uint8)])
def test_a_mask_without_an_edge_has_no_seam(alpha: NDArray[np.uint8]) -> None:
    assert np.isnan(seam(SKIN, alpha))
    assert len(steps(SKIN, alpha)) == 0


def test_a_mask_cut_by_the_pictures_edge_is_judged_where_it_has_two_sides() -> None:
    low = np.where((X - 64) ** 2 + (Y - 128) ** 2 < 30**2, 255, 0).astype(np.uint8)
    assert seam(pasted((12, 12, 12), low), low) == pytest.approx(seam(pasted((12, 12, 12), DISC), DISC), rel=0.05)


def test_what_the_paste_added_does_not_depend_on_the_films_own_edges() -> None:
    """A jaw along the mask's edge: the plain step hardly grows, and shrinks where the paste is darker."""
    jaw = pasted((-60, -50, -50), 255 - DISC)
    for change in ((12, 12, 12), (-12, -12, -12), (10, -6, 0)):
        alone = seam(pasted(change, DISC), DISC)
        assert added_seam(jaw, pasted(change, DISC, jaw), DISC) == pytest.approx(alone, rel=0.1)
    assert seam(pasted((-12, -12, -12), DISC, jaw), DISC) < seam(jaw, DISC)
    assert added_seam(jaw, jaw, DISC) == 0
    assert np.isnan(added_seam(SKIN, SKIN, np.zeros_like(DISC)))

"""Cosines of identity embeddings."""

import numpy as np
import pytest

from musetalk_cli.metrics.csim import cosines, csim


def test_same_direction_is_one_opposite_is_minus_one_whatever_the_length() -> None:
    film = np.array([[1.0, 0], [0, 2], [3, 0]], np.float32)
    result = np.array([[5.0, 0], [1, 0], [-1, 0]], np.float32)
    np.testing.assert_allclose(cosines(film, result), [1, 0, -1])
    assert csim(film, result) == pytest.approx(0)


def test_moments_without_a_face_do_not_count() -> None:
    film = np.array([[1.0, 0], [np.nan, np.nan], [1, 0], [0, 0]], np.float32)
    result = np.array([[1.0, 0], [1, 0], [1, 1], [1, 0]], np.float32)
    assert csim(film, result) == pytest.approx((1 + 0.5**0.5) / 2)


def test_no_face_at_all_is_no_figure() -> None:
    assert csim(np.full((3, 4), np.nan), np.ones((3, 4))) is None
    assert csim(np.zeros((0, 4)), np.zeros((0, 4))) is None


def test_embeddings_of_different_moments_are_refused() -> None:
    with pytest.raises(ValueError, match="same moments"):
        csim(np.ones((3, 4)), np.ones((2, 4)))

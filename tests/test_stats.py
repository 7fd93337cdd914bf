"""Streamed means and covariances, and the Fréchet distance on Gaussians where it is known."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.errors import InputError
from musetalk_cli.metrics.stats import Moments, frechet_distance


def gaussian(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> Moments:
    return Moments(2, mean, covariance)


def spd(width: int, seed: int) -> NDArray[np.float64]:
    root = np.random.default_rng(seed).normal(size=(width, width))
    return np.asarray(root @ root.T / width + 0.1 * np.eye(width))


def test_batches_of_any_size_give_the_mean_and_covariance_of_all() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 6)) @ spd(6, 1)
    found = Moments.none(6)
    for batch in np.split(rows, [1, 1, 2, 50, 199]):
        found = found.append(batch)
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(rows, rowvar=False), rtol=1e-12)


def test_large_means_cost_no_digits() -> None:
    """The textbook's single pass, E[xx] - E[x]E[x], has no digit left here."""
    small = np.random.default_rng(0).normal(size=(1000, 3))
    rows = small + 1e8
    found = Moments.none(3)
    for batch in np.split(rows, 10):
        found = found.append(batch)
    two_passes = np.cov(rows, rowvar=False)
    np.testing.assert_allclose(found.covariance, two_passes, atol=1e-9)
    naive = (rows.T @ rows / 1000 - np.outer(rows.mean(0), rows.mean(0))) * 1000 / 999
    assert np.abs(naive - two_passes).max() > 0.1


def test_float32_features_are_summed_in_float64() -> None:
    rows = (np.random.default_rng(0).normal(size=(500, 4)) + 1000).astype(np.float32)
    found = Moments.none(4).append(rows)
    np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-10)


def test_two_halves_merge_into_the_whole_in_either_order() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 4))
    one, other = (Moments.none(4).append(half) for half in np.split(rows, [12]))
    for found in (one.merge(other), other.merge(one), Moments.none(4).merge(one).merge(other).merge(Moments.none(4))):
        assert found.count == 30
        np.testing.assert_allclose(found.covariance, np.cov(rows, rowvar=False), rtol=1e-12)


def test_what_is_saved_is_read_back_to_the_bit(tmp_path: Path) -> None:
    made = Moments.none(5).append(np.random.default_rng(0).normal(size=(9, 5)))
    made.save(tmp_path / "a.npz")
    found = Moments.load(tmp_path / "a.npz")
    assert found.count == 9
    np.testing.assert_array_equal(found.mean, made.mean)
    np.testing.assert_array_equal(found.scatter, made.scatter)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_file_that_is_no_statistics_is_told_by_its_name(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    Moments.none(5).save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "other":
        np.savez(path, mean=np.zeros(3))
    else:
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.npz: no statistics"):
        Moments.load(path)


@pytest.mark.parametrize("batch", [np.zeros((2, 4)), np.zeros(3), np.full((1, 3), np.nan)])
def test_rows_of_another_width_or_not_finite_are_refused(batch: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="vector"):
        Moments.none(3).append(batch)


def test_one_vector_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two vectors"):
        _ = Moments.none(3).append(np.zeros((1, 3))).covariance


def test_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    m1, m2, s1, s2 = np.array([1.0, 2, 3]), np.array([0.0, 2, 5]), np.array([1.0, 4, 0.25]), np.array([9.0, 4, 1])
    wanted = ((m1 - m2) ** 2).sum() + ((np.sqrt(s1) - np.sqrt(s2)) ** 2).sum()
    assert frechet_distance(gaussian(m1, np.diag(s1)), gaussian(m2, np.diag(s2))) == pytest.approx(wanted, rel=1e-12)


def test_distance_of_commuting_gaussians_is_that_of_their_roots() -> None:
    """Where C1 C2 = C2 C1 it is |m1 - m2|^2 + |C1^(1/2) - C2^(1/2)|^2."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    s1, s2 = np.random.default_rng(1).uniform(0.1, 3, (2, 5))
    found = frechet_distance(gaussian(np.zeros(5), turn * s1 @ turn.T), gaussian(np.ones(5), turn * s2 @ turn.T))
    assert found == pytest.approx(5 + ((np.sqrt(s1) - np.sqrt(s2)) ** 2).sum(), rel=1e-12)


def test_distance_of_two_by_two_gaussians_is_the_closed_form() -> None:
    """tr A^(1/2) = (tr A + 2 det(A)^(1/2))^(1/2) for 2 x 2 matrices, here of C1 C2, which do not commute."""
    c1, c2 = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.6], [-0.6, 3.0]])
    product = c1 @ c2
    assert np.abs(product - c2 @ c1).max() > 0.1
    overlap = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = np.trace(c1) + np.trace(c2) - 2 * overlap
    assert frechet_distance(gaussian(np.zeros(2), c1), gaussian(np.zeros(2), c2)) == pytest.approx(wanted, rel=1e-12)


def test_distance_of_general_gaussians_is_that_of_the_matrix_root() -> None:
    from scipy.linalg import sqrtm

    c1, c2 = spd(20, 0), spd(20, 1)
    wanted = np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(gaussian(np.zeros(20), c1), gaussian(np.zeros(20), c2)) == pytest.approx(wanted, rel=1e-10)


def test_fewer_vectors_than_dimensions_are_no_trouble() -> None:
    """Two lines in 40 dimensions, of one vector each: the distance is known from their angle."""
    rng = np.random.default_rng(0)
    u, v = (w / np.linalg.norm(w) for w in rng.normal(size=(2, 40)))
    found = frechet_distance(gaussian(np.zeros(40), 4 * np.outer(u, u)), gaussian(np.zeros(40), 9 * np.outer(v, v)))
    assert found == pytest.approx(4 + 9 - 2 * 6 * abs(u @ v), rel=1e-9)
    nothing = gaussian(np.zeros(40), np.zeros((40, 40)))
    assert frechet_distance(nothing, gaussian(np.ones(40), np.outer(u, u))) == pytest.approx(41)


def test_distance_to_itself_is_nothing_beside_the_traces() -> None:
    made = Moments.none(30).append(np.random.default_rng(0).normal(size=(8, 30)) * 1e3)
    assert abs(frechet_distance(made, made)) < 1e-9 * np.trace(made.covariance)

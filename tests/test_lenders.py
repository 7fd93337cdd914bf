"""Whose mouth is borrowed: the promises of the choice, on plain faces."""

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.landmarks import INNER_LIPS
from musetalk_cli.models.lenders import choose_lenders

LOWER = [56, 57, 58, 65, 66, 67]


def faces(*gaps_px: float, seed: int = 0) -> NDArray[np.float32]:
    """(N, 68, 2): one face, its lower lip as far down as said."""
    points = np.random.default_rng(seed).uniform(40, 216, (68, 2)).astype(np.float32)
    points[INNER_LIPS, 1] = 180
    found = np.repeat(points[None], len(gaps_px), 0)
    found[:, LOWER, 1] += np.float32(gaps_px)[:, None]
    return found


ONE = np.zeros(99, np.int16)


def test_each_row_borrows_the_mouth_nearest_to_the_one_wanted() -> None:
    points, wanted = faces(*np.repeat([0, 30, 60], 5)), faces(*np.repeat([60, 0, 30], 5))
    assert [row // 5 for row in choose_lenders(points, wanted, ONE[:15])] == [2] * 5 + [0] * 5 + [1] * 5


def test_who_already_says_it_lends_to_himself() -> None:
    points = faces(*np.linspace(0, 60, 13))
    assert choose_lenders(points, points, ONE[:13]).tolist() == list(range(13))


def test_size_place_and_roll_are_no_obstacle() -> None:
    points = faces(0, 0, 40)
    points[2] = 1.3 * points[2] @ np.float32([[0.8, 0.6], [-0.6, 0.8]]) + 17
    assert choose_lenders(points, faces(40, 40, 40), ONE[:3])[:2].tolist() == [2, 2]


def test_another_pose_lends_nothing() -> None:
    points = faces(0, 0, 40)
    points[2, :, 0] *= 0.5
    assert 2 not in choose_lenders(points, faces(40, 40, 0), ONE[:3])[:2]


def test_nobody_borrows_from_another_person() -> None:
    points, wanted = faces(0, 60, 0, 60), faces(60, 60, 60, 60)
    chosen = choose_lenders(points, wanted, np.int16([0, 1, 0, 1]))
    assert set(chosen[[0, 2]]) <= {0, 2} and set(chosen[[1, 3]]) <= {1, 3}


def test_small_gains_are_not_worth_a_leap() -> None:
    """A mouth that opens and closes far away, hardly better than the one at hand: the path stays in one stretch."""
    still, restless = [10.0] * 8, [10.4, 9.6] * 4
    chosen = choose_lenders(faces(*still, 99, *restless), faces(*([10.4, 9.6] * 8), 10), ONE[:17])
    assert (np.abs(np.diff(chosen)) > 1).sum() <= 1


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows: int) -> None:
    assert choose_lenders(faces(*[5.0] * rows), faces(*[9.0] * rows), ONE[:rows]).tolist() == list(range(rows))

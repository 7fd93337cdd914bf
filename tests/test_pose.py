"""Promises of the pose: how far a head is turned, and to which side, whatever else it does. The made head is not the one in the code."""

import numpy as np
import pytest
from made_cast import head_at

from musetalk_cli.pose import HEAD, POINTS, yaw_of


@pytest.mark.parametrize("yaw", range(-90, 91, 15))
def test_yaw_is_the_angle_and_positive_to_the_pictures_right(yaw: int) -> None:
    assert yaw_of(head_at(yaw=yaw)[None])[0] == pytest.approx(yaw, abs=0.5)


def test_a_nose_that_points_to_the_right_of_the_face_is_a_positive_yaw() -> None:
    """Seen without any model of a head: between the eyes it lies right of their middle."""
    points = head_at(yaw=30)
    assert points[30, 0] > points[36:48, 0].mean()
    assert yaw_of(points[None])[0] > 0


@pytest.mark.parametrize("roll", [-180, -90, -20, 5, 45, 135])
def test_a_tilted_head_is_turned_no_further(roll: int) -> None:
    assert yaw_of(np.stack([head_at(yaw=yaw, roll=roll) for yaw in (-50, 0, 70)])) == pytest.approx([-50, 0, 70], abs=0.5)


def test_place_and_size_and_speech_change_nothing() -> None:
    yaws = yaw_of(np.stack([head_at(yaw=40), head_at(900, 20, 7, yaw=40), head_at(yaw=40, opening=0.6)]))
    np.testing.assert_allclose(yaws, yaws[0], atol=0.1)


def test_nodding_is_no_turning() -> None:
    """The model's own head, pitched by 25 degrees and then turned: the nose still points where it is turned to."""
    pitch = np.radians(25)
    nod = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    for yaw in (-40, 0, 40):
        a = np.radians(yaw)
        turn = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
        points = np.zeros((1, 68, 2))
        points[0, POINTS] = (HEAD @ nod.T @ turn.T)[:, :2]
        assert yaw_of(points)[0] == pytest.approx(yaw, abs=8)


def test_landmarks_that_tremble_do_not_make_a_profile() -> None:
    noisy = head_at(width=120)[None] + np.random.default_rng(0).normal(0, 1, (50, 68, 2))
    assert np.abs(yaw_of(noisy)).max() < 15  # from the front a pixel tells most


def test_nobody_has_no_angle() -> None:
    assert yaw_of(np.zeros((0, 68, 2))).shape == (0,)

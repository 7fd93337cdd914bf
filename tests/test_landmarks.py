"""The 68 landmarks as tables: which is which on a mirrored face, how a head is tilted, where they are in a crop."""

from itertools import pairwise

import numpy as np
import pytest
from made_faces import landmarks_at, tilted

from musetalk_cli.landmarks import (
    INNER_LIPS,
    INNER_PAIRS,
    JAW,
    JAW_SHARES,
    MIRRORED,
    MOUTH,
    RIGID,
    STILL,
    in_crop,
    roll_of,
    rolls_of,
    set_upright,
)
from musetalk_cli.models.lip_codes import MIRRORED_MOUTH

FACE = landmarks_at(100, 100, 80)
MIDDLE = (100.0, 100.0)


def test_mirrored_twice_is_the_face_itself() -> None:
    np.testing.assert_array_equal(MIRRORED[MIRRORED], np.arange(68))


def test_parts_stay_themselves_in_the_mirror() -> None:
    for part in (JAW, MOUTH, INNER_LIPS, STILL, np.array(list(JAW_SHARES))):
        assert set(MIRRORED[part]) == set(part)
    assert {(MIRRORED[high], MIRRORED[low]) for high, low in INNER_PAIRS} == set(INNER_PAIRS)
    assert MIRRORED[RIGID[:4]].tolist() == RIGID[:4].tolist()  # the bridge of the nose is the middle


def test_mouth_mirrors_as_the_face_does() -> None:
    np.testing.assert_array_equal(MOUTH[MIRRORED_MOUTH], MIRRORED[MOUTH])
    assert MIRRORED_MOUTH[[0, 3, 9, 12]].tolist() == [6, 3, 9, 16]  # corners change places, the middle of each lip stays


def test_points_are_in_their_box_whatever_its_shape() -> None:
    landmarks = np.zeros((2, 68, 2), np.float32)
    landmarks[:] = (60, 45)
    boxes = np.array([[10, 20, 110, 70], [60, 45, 70, 60]])
    np.testing.assert_allclose(in_crop(landmarks, boxes)[:, 0], [[128, 128], [0, 0]])


def test_points_of_an_upright_head_are_in_their_box_to_the_bit_with_and_without_rolls() -> None:
    rows, boxes = np.stack([FACE, FACE + 3.3]), np.array([[60, 40, 140, 170], [63, 43, 143, 173]])
    np.testing.assert_array_equal(in_crop(rows, boxes, np.zeros(2)), in_crop(rows, boxes))


@pytest.mark.parametrize("degrees", [-179, -90, -31, -8, 0, 3, 45, 90, 135, 180])
def test_the_angle_of_a_head_is_found_and_undone(degrees: float) -> None:
    turned = tilted(FACE, degrees, MIDDLE)
    assert abs((roll_of(turned) - degrees + 180) % 360 - 180) < 0.01
    back = set_upright(turned, degrees)
    np.testing.assert_allclose(back, FACE + turned.mean(0) - FACE.mean(0), atol=1e-3)  # about the middle of the landmarks


def test_the_angle_is_hardly_moved_by_a_mouth_that_speaks_and_an_eye_that_winks() -> None:
    moved = FACE.copy()
    moved[55:60, 1] += 15  # lower lip
    moved[[37, 38]] += (0, 4)
    assert abs(roll_of(moved)) < 2


TILTS = {
    "upright": (range(30), np.zeros(30), np.zeros(30)),
    "a nod to the side within the limit": (range(30), np.linspace(-7.5, 7.5, 30), np.zeros(30)),
    "one row that is wrong": (range(30), np.where(np.arange(30) == 15, 15, 0), np.zeros(30)),
    "always tilted": (range(30), np.full(30, 20.0), np.full(30, 20.0)),
    "tilting steadily": (range(30), np.linspace(0, 29, 30), np.linspace(0, 29, 30)),
    "stored turned": (range(5), np.full(5, -90.0), np.full(5, -90.0)),
    "through upside down": (range(11), np.linspace(175, 185, 11), np.linspace(175, 185, 11)),
    "gone for a while": ([0, 1, 2, 9, 10, 11], [4, 4, 4, 12, 12, 12], [4, 4, 4, 12, 12, 12]),
    "from another camera": (range(6), [4, 4, 4, 40, 40, 40], [4, 4, 4, 40, 40, 40]),
    "one frame": ([7], [9.0], [9.0]),
    "nothing": ([], [], []),
}


@pytest.mark.parametrize("case", TILTS)
def test_rows_are_turned_by_this(case: str) -> None:
    frames, degrees, expected = TILTS[case]
    rows = np.array([tilted(FACE, d, MIDDLE) for d in degrees], np.float32).reshape(-1, 68, 2)
    found = rolls_of(np.array(frames, int), rows)
    assert found.dtype == np.float32 and found.shape == (len(rows),)
    assert np.abs((found - np.asarray(expected, float) + 180) % 360 - 180).max(initial=0) < 0.1


def test_rolls_do_not_jump_where_landmarks_tremble() -> None:
    degrees = 15 + np.random.default_rng(0).normal(0, 1, 200)
    found = rolls_of(np.arange(200), np.stack([tilted(FACE, d, MIDDLE) for d in degrees]))
    assert max(abs(b - a) for a, b in pairwise(found)) < 0.5 < np.abs(np.diff(degrees)).mean()

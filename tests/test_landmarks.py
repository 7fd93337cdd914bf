"""The 68 landmarks as tables: which is which on a mirrored face, where they are in a crop."""

import numpy as np

from musetalk_cli.landmarks import INNER_LIPS, INNER_PAIRS, JAW, JAW_SHARES, MIRRORED, MOUTH, RIGID, STILL, in_crop
from musetalk_cli.models.lip_codes import MIRRORED_MOUTH


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

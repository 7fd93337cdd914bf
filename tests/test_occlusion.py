"""Promises of occlusion: what is held before a mouth is seen; light, speech and a whole face that moves are not taken for it."""

from collections.abc import Callable

import numpy as np
import pytest
from made_faces import landmarks_at
from numpy.typing import NDArray

from musetalk_cli.models.looks import look_of
from musetalk_cli.occlusion import LOOK_PX, hidden_share

Look = NDArray[np.uint8]
COUNT = 20
BAD = slice(8, 11)  # in which something happens
LIMIT, DOUBT = 0.5, 0.3  # what a film is told by: a microphone above, speech below


def face() -> Look:
    """Skin with eyes and lips."""
    look = np.full((LOOK_PX, LOOK_PX, 3), (200, 150, 130), np.uint8)
    look[6:8, 6:9] = look[6:8, 15:18] = (60, 40, 40)
    look[17:19, 9:15] = (170, 80, 90)
    return look


def microphone(look: Look) -> Look:
    look[13:, 6:18] = (25, 25, 25)
    return look


def glass(look: Look) -> Look:
    look[14:22, 7:17] = (250, 250, 255)
    return look


def open_mouth(look: Look) -> Look:
    look[17:21, 10:14] = (70, 30, 30)
    return look


def shade(look: Look) -> Look:
    return np.asarray(look * 0.55, np.uint8)


def blink(look: Look) -> Look:
    look[6:8, 6:18] = (200, 150, 130)
    return look


def hat(look: Look) -> Look:
    look[:6] = (20, 20, 90)
    return look


def looks(change: Callable[[Look], Look], seed: int = 0) -> NDArray[np.uint8]:
    """A face with a little grain, changed in frames BAD."""
    grain = np.random.default_rng(seed).normal(0, 4, (COUNT, LOOK_PX, LOOK_PX, 3))
    plain = [change(face()) if BAD.start <= i < BAD.stop else face() for i in range(COUNT)]
    return np.asarray(np.clip(np.stack(plain) + grain, 0, 255), np.uint8)


@pytest.mark.parametrize(("change", "low", "high"), [(microphone, LIMIT, 1.0), (glass, LIMIT, 1.0)])
def test_what_is_held_before_the_mouth_is_seen_while_it_is_there(change: Callable[[Look], Look], low: float, high: float) -> None:
    share = hidden_share(looks(change))
    assert (share[BAD] > low).all() and (share[BAD] <= high).all()
    assert np.delete(share, range(BAD.start, BAD.stop)).max() < 0.05


@pytest.mark.parametrize("change", [open_mouth, blink, hat])
def test_speech_and_what_is_above_the_mouth_hide_nothing(change: Callable[[Look], Look]) -> None:
    assert hidden_share(looks(change)).max() < DOUBT


def test_light_that_changes_on_the_whole_face_hides_nothing() -> None:
    share = hidden_share(looks(shade))
    assert share.max() < LIMIT


def test_what_is_there_most_of_the_time_is_how_the_face_looks() -> None:
    masked = np.stack([microphone(face())] * 12 + [face()] * 4)
    assert hidden_share(masked)[:12].max() == 0


@pytest.mark.parametrize("count", [0, 1])
def test_too_little_to_compare_hides_nothing(count: int) -> None:
    assert hidden_share(looks(microphone)[:count]).tolist() == [0] * count


# a look itself: eyes and nose where they always are


def picture(points: NDArray[np.float32], size: tuple[int, int] = (300, 300)) -> NDArray[np.uint8]:
    """Grey; red about each eye, green under the nose, as far as a look resolves it."""
    rgb = np.full((size[1], size[0], 3), 128, np.uint8)
    width = float(np.ptp(points[:17, 0]))
    y, x = np.mgrid[: size[1], : size[0]]
    for point, colour in (
        (points[36:42].mean(0), (255, 0, 0)),
        (points[42:48].mean(0), (255, 0, 0)),
        (points[33], (0, 255, 0)),
    ):
        rgb[np.hypot(x - point[0], y - point[1]) < 0.06 * width] = colour
    return rgb


def turned(points: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    a = np.radians(degrees)
    middle = points.mean(0)
    return np.asarray((points - middle) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + middle, np.float32)


@pytest.mark.parametrize(("width", "degrees"), [(40, 0), (120, 0), (120, 30), (90, -75), (200, 10)])
def test_a_look_is_upright_and_of_one_size(width: float, degrees: float) -> None:
    points = turned(landmarks_at(150, 140, width), degrees)
    look = look_of(picture(points), points).astype(int)
    assert look.shape == (LOOK_PX, LOOK_PX, 3)
    red, green = (look[..., one] - look[..., other] for one, other in ((0, 1), (1, 0)))
    for column in (7.5, 16.5):
        assert red[6:9, round(column - 1.5) : round(column + 2.5)].max() > 60
    assert green[11:15, 10:15].max() > 60
    assert np.abs(red[16:]).max() < 30  # and nothing of either below


def test_a_face_at_the_edge_has_a_look_and_one_outside_a_black_one() -> None:
    rgb = np.full((80, 80, 3), 90, np.uint8)
    assert (look_of(rgb, landmarks_at(0, 40, 60)) == 90).all()
    assert not look_of(rgb, landmarks_at(500, 500, 60)).any()

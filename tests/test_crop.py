"""Boxes and crops: upright as the published networks were trained, of a tilted head as if it were upright, and back onto the film."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import run_tool
from made_faces import landmarks_at, tilted

from musetalk_cli.crop import CROP_PX, Placement, crop_face, face_box, from_upright, upright
from musetalk_cli.landmarks import OUTLINE, in_crop

SIZE = (320, 300)
MIDDLE = (160.0, 150.0)
FACE = landmarks_at(160, 130, 100)
BOX = np.array([110, 60, 210, 210])  # of the face
ROLLS = (-180.0, -120.0, -90.0, -30.0, 12.0, 45.0, 90.0, 180.0)


def picture_turned(degrees: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth picture, turned clockwise about its middle."""
    rgb = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    rgb = cv2.normalize(cv2.GaussianBlur(rgb, (0, 0), 4), None, 20, 235, cv2.NORM_MINMAX)
    matrix = cv2.getRotationMatrix2D((size[0] / 2 - 0.5, size[1] / 2 - 0.5), -degrees, 1)
    return cv2.warpAffine(rgb, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize(
    ("points", "settings", "box"),
    [
        (FACE, {}, [110, 60, 210, 210]),  # the bridge of the nose, 130, is the middle of the box without its margin
        (FACE, {"margin": 0}, [110, 60, 210, 200]),
        (FACE, {"shift": 3}, [110, 66, 210, 210]),
        (landmarks_at(20, 30, 100), {}, [0, 0, 70, 110]),  # cut by the frame
        (landmarks_at(300, 280, 100), {}, [250, 210, 320, 300]),
    ],
)
def test_an_upright_box_is_the_published_one(points: np.ndarray, settings: dict, box: list[int]) -> None:
    found = face_box(points, SIZE, **settings)
    assert found is not None and found.tolist() == box and found.dtype == np.int32


@pytest.mark.parametrize("roll", [0.0, 30.0])
def test_a_face_outside_the_frame_has_no_box(roll: float) -> None:
    assert face_box(landmarks_at(-400, 100, 100), SIZE, roll=roll) is None


def test_an_upright_crop_is_cut_out_and_resized_as_published() -> None:
    picture = picture_turned(0)
    expected = cv2.resize(picture[60:210, 110:210], (CROP_PX, CROP_PX), interpolation=cv2.INTER_LANCZOS4)
    np.testing.assert_array_equal(crop_face(picture, BOX), expected)
    np.testing.assert_array_equal(Placement.of(BOX, FACE, 0.0).taken(picture, (CROP_PX, CROP_PX)), expected)


@pytest.mark.parametrize("roll", ROLLS)
def test_a_tilted_head_gives_the_crop_of_an_upright_one(roll: float) -> None:
    plain = crop_face(picture_turned(0), BOX).astype(int)
    turned = Placement((110, 60, 210, 210), roll, MIDDLE).taken(picture_turned(roll), (CROP_PX, CROP_PX)).astype(int)
    assert np.abs(turned - plain).mean() < 0.8 and np.abs(turned - plain).max() < 8


@pytest.mark.parametrize("roll", ROLLS)
def test_a_tilted_head_has_the_box_of_an_upright_one(roll: float) -> None:
    points = tilted(FACE, roll, MIDDLE)
    box = face_box(points, SIZE, roll=roll)
    assert box is not None and np.abs(box[2:] - box[:2] - [100, 150]).max() <= 1  # landmarks are rounded down
    found = in_crop(points[None], box[None], np.array([roll]))
    assert np.abs(found - in_crop(FACE[None], BOX[None])).max() < 1.5 * CROP_PX / 100


@pytest.mark.parametrize("roll", ROLLS)
def test_what_is_taken_comes_back_where_it_was(roll: float) -> None:
    points, film = tilted(FACE, roll, MIDDLE), picture_turned(roll)
    box = face_box(points, SIZE, roll=roll)
    assert box is not None
    place = Placement.of(box, points, roll)
    x1, y1, x2, y2 = region = place.region(SIZE)
    back = place.laid(place.taken(film, (CROP_PX, CROP_PX)).astype(np.float32), region)
    inside = np.zeros(film.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.rint(points[OUTLINE]).astype(np.int32)], 1)
    error = (back - film[y1:y2, x1:x2])[inside[y1:y2, x1:x2] > 0]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 50


def test_points_go_through_the_map_as_pixels_do() -> None:
    points = tilted(FACE, 90, MIDDLE)
    place = Placement((100, 80, 200, 240), 90.0, MIDDLE)
    corners = place.to_film((50, 160)) @ np.array([[0, 50, 0, 25], [0, 0, 160, 80], [1, 1, 1, 1]])
    np.testing.assert_allclose(corners.T, [[230, 90], [230, 190], [70, 90], [150, 140]])
    middle = in_crop(points[None], BOX[None], np.array([90.0]))[0, 29] * [100 / 256, 150 / 256]
    box = Placement.of(BOX, points, 90.0)
    np.testing.assert_allclose(box.to_film((100, 150)) @ [*middle, 1], points[29], atol=1e-3)


@pytest.mark.parametrize("roll", [-100.0, 15.0, 60.0])
def test_a_turned_box_over_the_edge_sees_the_edge_go_on_and_its_region_stays_inside(roll: float) -> None:
    points = landmarks_at(20, 40, 100)
    points = tilted(points, roll, (20.0, 40.0))
    box = face_box(points, SIZE, roll=roll)
    assert box is not None
    place = Placement.of(box, points, roll)
    x1, y1, x2, y2 = place.region(SIZE)
    assert 0 == x1 < x2 <= SIZE[0] and 0 == y1 < y2 <= SIZE[1]
    crop = place.taken(np.full((SIZE[1], SIZE[0], 3), 180, np.uint8), (CROP_PX, CROP_PX))
    assert (crop == 180).all()


def test_a_picture_of_a_part_of_the_film_gives_the_same_crop() -> None:
    points, film = tilted(FACE, 25, MIDDLE), picture_turned(25)
    place = Placement.of(BOX, points, 25.0)
    x1, y1, x2, y2 = place.region(SIZE)
    whole = place.taken(film, (64, 64), how=cv2.INTER_LINEAR)
    part = place.taken(film[y1:y2, x1:x2], (64, 64), left=x1, top=y1, how=cv2.INTER_LINEAR)
    assert np.abs(whole.astype(int) - part).max() <= 1


def test_a_large_tilted_face_is_smoothed_before_it_is_made_smaller() -> None:
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    place = Placement((200, 200, 968, 968), 90.0, (600.0, 600.0))
    crop = place.taken(stripes, (CROP_PX, CROP_PX)).astype(int)
    assert np.abs(crop - 127.5).max() < 20  # 255 without: every third pixel of the stripes


@pytest.mark.parametrize(("rotation", "corner"), [(0, (1, 2)), (90, (2, 5)), (180, (5, 4)), (270, (4, 1))])
def test_an_upright_point_is_where_the_coded_picture_has_it(rotation: int, corner: tuple[int, int]) -> None:
    coded = np.zeros((7, 7, 3), np.uint8)[:, :]
    coded[2, 1] = 255
    y, x = np.argwhere(upright(coded, rotation)[..., 0])[0]
    assert (x, y) == corner
    np.testing.assert_allclose(from_upright(np.array([x + 0.5, y + 0.5]), rotation, (7, 7)), [1.5, 2.5])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_points_of_a_film_that_is_not_square_come_back(rotation: int) -> None:
    coded = np.zeros((30, 50, 3), np.uint8)
    coded[4, 33] = 255
    y, x = np.argwhere(upright(coded, rotation)[..., 0])[0]
    np.testing.assert_allclose(from_upright(np.array([[x + 0.5, y + 0.5]]), rotation, (50, 30)), [[33.5, 4.5]])


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_film_stored_turned_is_put_upright_as_ffmpeg_shows_it(rotation: int, tmp_path: Path) -> None:
    film, turned, shown = (tmp_path / name for name in ("film.mp4", "turned.mp4", "shown.mkv"))
    run_tool("-f", "lavfi", "-i", "testsrc=size=128x96:rate=5:duration=0.4", "-pix_fmt", "yuv420p", str(film))
    run_tool("-display_rotation", str(rotation), "-i", str(film), "-c", "copy", str(turned))
    run_tool("-i", str(turned), "-c:v", "ffv1", str(shown))
    ours, theirs = first_frame(turned), first_frame(shown)
    seen = upright(ours.to_ndarray(format="rgb24"), ours.rotation % 360)
    expected = theirs.to_ndarray(format="rgb24")
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected).mean() < 2


def first_frame(film: Path) -> av.VideoFrame:
    with av.open(str(film)) as opened:
        return next(opened.decode(video=0))

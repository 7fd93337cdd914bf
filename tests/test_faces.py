"""Promises of the face stage: who is in the picture has a row in every frame, in the right place, and nobody else has.

Two kinds of films: with a real face, analysed by the real networks, and with a scripted analyser that reads the frame's number.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import pytest
from conftest import number_of
from made_faces import landmarks_at, source_of
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli.casting import cast_by_rule, choose_like
from musetalk_cli.config import CastConfig, FacesConfig, Runtime
from musetalk_cli.crop import face_box
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.media.shots import shots_between
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.models.analysis import Detection, five_of
from musetalk_cli.stages import s2_faces
from musetalk_cli.stages.s2_faces import DETECT_EVERY, Tracks, faces, identity_in, pick, read_seen
from musetalk_cli.types import PASS, Faces, Part, Shot

MakeFilm = Callable[..., Path]
Rgb = NDArray[np.uint8]
SIZE = (320, 192)
FACE_AT = (112, 16)  # the portrait's corner in scikit-image's picture; the nose bridge lies about in its middle


@pytest.fixture(scope="session")
def portrait() -> Rgb:
    """(224, 224, 3): NASA's portrait of Eileen Collins, a face about 100 px wide."""
    from skimage.data import astronaut

    return np.asarray(astronaut()[16:240, 112:336], np.uint8)


def scene(portrait: Rgb, *places: tuple[int, int]) -> Rgb:
    """Portraits at (left, side) on a grey wall, side in pixels; they stand on the lower edge."""
    rgb = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    for left, side in places:
        small = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
        x1, x2 = max(left, 0), min(left + side, SIZE[0])
        rgb[SIZE[1] - side :, x1:x2] = small[:, x1 - left : x2 - left]
    return rgb


def run(film: Path, out: Path, *, stops: tuple[int, ...] = (), shot: Shot | None = None, **config: object) -> Faces:
    source = source_of(film, *stops)
    settings = replace(FacesConfig(), **config)  # type: ignore[arg-type]
    out.mkdir(exist_ok=True)
    return faces(film, source, shot or source.shots[0], config=settings, runtime=Runtime(), out=out)


def like(picture: Path, found: Faces, similarity: float = CastConfig().similarity) -> tuple[Part, ...]:
    """What `--face PICTURE` asks of the tracks."""
    return cast_by_rule(
        found, choose_like(identity_in(picture, FacesConfig(), Runtime()), similarity, picture.name), "auto"
    ).casting.parts


def nose(found: Faces) -> NDArray[np.float32]:
    return found.landmarks[:, 29]


@pytest.fixture(scope="module")
def comes_and_goes(tmp_path_factory: pytest.TempPathFactory, make_film: MakeFilm, portrait: Rgb) -> Path:
    """40 frames: a face drifts by 2 px a frame, is away in [11, 21), and comes back elsewhere."""

    def picture(n: int) -> Rgb:
        return scene(portrait) if 11 <= n < 21 else scene(portrait, (2 * n if n < 21 else 140 - 2 * (n - 21), 160))

    return make_film(tmp_path_factory.mktemp("film") / "film.mkv", frames=40, size=SIZE, picture=picture, options={"crf": "12"})


@pytest.fixture(scope="module")
def whole(comes_and_goes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Faces, Path]:
    out = tmp_path_factory.mktemp("whole")
    return run(comes_and_goes, out), out


def test_every_frame_with_the_face_has_a_row_and_no_other(whole: tuple[Faces, Path]) -> None:
    found, out = whole
    assert found.frame.tolist() == [*range(11), *range(21, 40)]
    assert read_seen(out).faceless == 10


def test_who_comes_back_is_the_same_person(whole: tuple[Faces, Path]) -> None:
    found, out = whole
    assert set(found.track.tolist()) == {0}
    (person,) = read_seen(out).tracks
    assert (person.frames, person.rows, person.unfit) == (30, 30, "")


def test_landmarks_follow_the_face_without_lag(whole: tuple[Faces, Path]) -> None:
    found, _ = whole
    there = nose(found)[:11, 0] - 2 * found.frame[:11]
    back = nose(found)[11:, 0] + 2 * (found.frame[11:] - 21) - 140
    assert np.ptp(there) < 2.0 and np.ptp(back) < 2.0
    assert abs(there.mean() - back.mean()) < 1.0
    assert 60 < there.mean() < 100  # of 160


def test_box_follows_the_rule_from_the_rows_landmarks(whole: tuple[Faces, Path]) -> None:
    found, _ = whole
    for row in range(found.rows):
        expected = face_box(found.landmarks[row], SIZE, margin=10)
        assert expected is not None
        np.testing.assert_array_equal(found.box[row], expected)


def test_chunks_of_one_take_meet_without_a_step(comes_and_goes: Path, whole: tuple[Faces, Path], tmp_path: Path) -> None:
    parts = [
        run(comes_and_goes, tmp_path / str(shot.index), shot=shot)
        for shot in shots_between([], 40, Fraction(25), Fraction(14, 25))  # [0, 13), [13, 26), [26, 40)
    ]
    joined = np.concatenate([part.landmarks for part in parts])
    np.testing.assert_array_equal(np.concatenate([part.frame for part in parts]), whole[0].frame)
    np.testing.assert_array_equal(joined, whole[0].landmarks)


def test_only_chunks_of_one_take_see_each_other() -> None:
    shots = shots_between([30], 600, Fraction(25), Fraction(10))  # [0, 30), then a take in three chunks
    assert [(shot.lead > 0, shot.tail > 0) for shot in shots] == [(False, False), (False, True), (True, True), (True, False)]


def test_shot_without_a_face_has_no_rows(tmp_path: Path, make_film: MakeFilm) -> None:
    found = run(make_film(tmp_path / "wall.mkv", frames=10, size=(128, 96)), tmp_path / "out")
    assert (found.rows, found.box.shape, found.landmarks.shape) == (0, (0, 4), (0, 68, 2))
    seen = read_seen(tmp_path / "out")
    assert (seen.faceless, seen.tracks) == (10, ())


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, make_film: MakeFilm, portrait: Rgb) -> Path:
    """12 frames: a small face on the left, a large one on the right."""
    picture = scene(portrait, (10, 100), (140, 170))
    return make_film(tmp_path_factory.mktemp("two") / "two.mkv", frames=12, size=SIZE, picture=lambda n: picture)


@pytest.fixture(scope="module")
def both(two: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Faces, Path]:
    out = tmp_path_factory.mktemp("both")
    return run(two, out), out


def test_everyone_who_could_be_dubbed_has_a_row_in_every_frame(both: tuple[Faces, Path]) -> None:
    found, out = both
    assert found.frame.tolist() == [n for n in range(12) for _ in range(2)]
    assert (nose(found)[found.track == 0, 0] < 110).all() and (nose(found)[found.track == 1, 0] > 160).all()
    told = read_seen(out).tracks
    assert [(person.rows, person.unfit) for person in told] == [(12, ""), (12, "")]
    assert all(person.still_box is not None and person.still_landmarks is not None for person in told)


def test_rows_of_the_tracks_that_are_dubbed_are_picked_and_the_others_left(both: tuple[Faces, Path], tmp_path: Path) -> None:
    whole, _ = both
    for track in (0, 1):
        found = pick(whole, Tracks((track,)), config=None, runtime=Runtime(), out=tmp_path)
        assert found.frame.tolist() == list(range(12)) and set(found.track.tolist()) == {track}
        for name in ("box", "landmarks", "roll", "hidden"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[whole.track == track])
        np.testing.assert_array_equal(found.identity, whole.identity)  # by track, not by row
    assert pick(whole, Tracks(()), config=None, runtime=Runtime(), out=tmp_path).rows == 0


def test_small_faces_are_left_alone_and_told(two: Path, tmp_path: Path) -> None:
    found = run(two, tmp_path / "out", min_face=60)
    assert set(found.track.tolist()) == {1}
    assert read_seen(tmp_path / "out").tracks[0].unfit.startswith("too small: 4")
    assert found.identity.shape == (2, 128)  # whose number is his place, rows or none


def test_the_same_person_twice_in_a_frame_is_alike_and_known(both: tuple[Faces, Path]) -> None:
    identity = both[0].identity
    np.testing.assert_allclose(np.linalg.norm(identity, axis=1), 1, atol=1e-5)
    assert identity[0] @ identity[1] > 0.6


def test_nothing_is_before_a_mouth_that_stays_as_it_is(both: tuple[Faces, Path]) -> None:
    assert both[0].hidden.max() < 0.1


def test_a_bar_before_a_mouth_is_seen_in_the_frames_that_it_is_there(tmp_path: Path, make_film: MakeFilm, portrait: Rgb) -> None:
    """In [12, 17) a red bar lies over the lower lip and the chin, where it leaves the landmarks as they are."""

    def picture(n: int) -> Rgb:
        rgb = scene(portrait, (80, 170))
        if 12 <= n < 17:
            rgb[102:118, 140:190] = (200, 20, 20)
        return rgb

    found = run(make_film(tmp_path / "film.mkv", frames=30, size=SIZE, picture=picture, options={"crf": "12"}), tmp_path / "out")
    barred = (found.frame >= 12) & (found.frame < 17)
    assert found.hidden[barred].min() > 0.2
    assert found.hidden[~barred].max() < 0.1


def test_a_picture_chooses_the_person(both: tuple[Faces, Path], tmp_path: Path, portrait: Rgb) -> None:
    Image.fromarray(portrait[:, ::-1]).rotate(90, expand=True).save(tmp_path / "her.jpg", exif=_turned())
    parts = like(tmp_path / "her.jpg", both[0])
    assert sorted(part.voice for part in parts) == [PASS, 0]  # both are her: the more similar one, in every frame
    assert next(part.why for part in parts if part.voice == PASS) == "in the picture with one more like her.jpg"
    strict = like(tmp_path / "her.jpg", both[0], similarity=0.999)
    assert [(part.voice, part.why) for part in strict] == [(PASS, "not the person in her.jpg")] * 2


def _turned() -> Image.Exif:
    """EXIF of a camera held upright: turn by 90 degrees to see it as it was."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_a_picture_that_cannot_choose_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), (90, 120, 90)).save(tmp_path / "wall.png")
    (tmp_path / "notes.jpg").write_text("her")
    for name, fact in (
        ("wall.png", "shows no face"),
        ("notes.jpg", "cannot be read as a picture"),
        ("nobody.jpg", "no such picture"),
    ):
        with pytest.raises(InputError, match=fact):
            identity_in(tmp_path / name, FacesConfig(), Runtime())


def test_unknown_analyser_is_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose embedded or face-alignment"):
        run(two, tmp_path / "out", analyser="dwpose")


class Script:
    """An analyser that knows by heart who is in which frame, counts what it is asked, and sees what it is told to."""

    def __init__(self) -> None:
        self.present: Callable[[int], bool] = lambda number: True
        self.lands: Callable[[int], NDArray[np.float32] | None] = lambda number: self.points(number)
        self.identity = np.eye(128, dtype=np.float32)[0]
        self.detected: list[int] = []
        self.landmarked: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    @staticmethod
    def points(number: int) -> NDArray[np.float32]:
        return landmarks_at(100 + number, 90, 60)

    def detect(self, frame_rgb: Rgb) -> list[Detection]:
        number = number_of(frame_rgb)
        self.detected.append(number)
        if not self.present(number):
            return []
        points = self.points(number)
        box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
        return [Detection(box, 0.9, five_of(points))]

    def landmarks(self, frame_rgb: Rgb, box: NDArray[np.floating]) -> NDArray[np.float32] | None:
        number = number_of(frame_rgb)
        self.landmarked.append(number)
        return self.lands(number)

    def embed(self, frame_rgb: Rgb, detection: Detection) -> NDArray[np.float32]:
        return self.identity


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    analyser = Script()
    monkeypatch.setattr(s2_faces, "lent_analyser", lambda: nullcontext(analyser))
    return analyser


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory, make_film: MakeFilm) -> Path:
    """41 frames that carry their number."""
    return make_film(tmp_path_factory.mktemp("numbered") / "film.mkv", frames=41, size=(240, 180), codec="ffv1", pix_fmt="bgr0")


def test_the_detector_rests_while_nothing_changes(script: Script, numbered: Path, tmp_path: Path) -> None:
    found = run(numbered, tmp_path / "out", smooth=0.0)
    assert found.frame.tolist() == list(range(41))
    assert sorted(script.detected) == list(range(0, 41, DETECT_EVERY))
    np.testing.assert_array_equal(found.landmarks[7], Script.points(7))


def test_an_empty_film_costs_one_look_in_eight(script: Script, numbered: Path, tmp_path: Path) -> None:
    script.present = lambda number: False
    assert run(numbered, tmp_path / "out").rows == 0
    assert len(script.detected) == 6 and not script.landmarked


@pytest.mark.parametrize("away", [(0, 5), (13, 30), (27, 41)])
def test_coming_and_going_is_found_to_the_frame(script: Script, numbered: Path, tmp_path: Path, away: tuple[int, int]) -> None:
    script.present = lambda number: not away[0] <= number < away[1]
    found = run(numbered, tmp_path / "out")
    assert found.frame.tolist() == [n for n in range(41) if script.present(n)]


def test_where_landmarks_fail_the_detector_decides(script: Script, numbered: Path, tmp_path: Path) -> None:
    """Between two looks that agree: in 18 the face is there and the landmarker blind, in 20 nobody is."""
    script.present = lambda number: number != 20
    script.lands = lambda number: None if number in (18, 20) else Script.points(number)
    found = run(numbered, tmp_path / "out", smooth=0.0)
    assert found.frame.tolist() == [n for n in range(41) if n != 20]
    np.testing.assert_allclose(found.landmarks[18], Script.points(18), atol=1e-3)


@pytest.mark.parametrize("apart_px", [12, 60])
def test_landmarks_that_the_detector_does_not_share_are_no_landmarks(
    script: Script, numbered: Path, tmp_path: Path, apart_px: int
) -> None:
    """MediaPipe draws a front view on a profile, or takes the neighbour; the face is 60 px wide."""
    script.lands = lambda number: Script.points(number) + np.float32(apart_px)
    assert run(numbered, tmp_path / "out").rows == 0
    assert read_seen(tmp_path / "out").tracks[0].unfit.startswith("no landmarks")


def test_a_mouth_outside_the_picture_is_not_dubbed(
    script: Script, numbered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Script, "points", staticmethod(lambda number: landmarks_at(100, 165, 60)))
    assert run(numbered, tmp_path / "out").rows == 0


def test_who_is_in_a_brief_chunk_is_known_from_the_frames_beside_it(script: Script, numbered: Path, tmp_path: Path) -> None:
    """Faces are named now and then; here last before the chunk begins."""
    found = run(numbered, tmp_path / "out", shot=Shot(1, 34, 41, lead=12))
    assert found.frame.tolist() == list(range(34, 41))
    np.testing.assert_array_equal(found.identity, script.identity[None])


def test_a_picture_tells_two_persons_apart(script: Script, numbered: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((180, 240, 3), np.uint8)).save(tmp_path / "zero.png")
    film_identity = np.eye(128, dtype=np.float32)
    script.identity = film_identity[0]
    found = run(numbered, tmp_path / "out")
    assert [part.voice for part in like(tmp_path / "zero.png", found)] == [0]
    script.identity = film_identity[1]  # of the picture alone
    assert [part.voice for part in like(tmp_path / "zero.png", found)] == [PASS]


DATA = os.environ.get("MUSETALK_TEST_DATA")


@pytest.mark.skipif(DATA is None, reason="MUSETALK_TEST_DATA names no folder of clips")
def test_real_people_are_told_apart_by_a_picture(tmp_path: Path) -> None:
    film = Path(str(DATA)) / "robust" / "two_people_interview.mp4"
    everyone = run(film, tmp_path / "all", shot=Shot(0, 0, 9))
    assert sorted(everyone.track.tolist()) == [0] * 9 + [1] * 9
    source = source_of(film)
    (frame,) = read_frames(film, source, 200, 201)
    left = to_rgb(frame, source.colour)[:, : source.size[0] // 2]
    Image.fromarray(left).save(tmp_path / "left.png")
    (chosen,) = [part.track for part in like(tmp_path / "left.png", everyone) if part.voice != PASS]
    assert (everyone.box[everyone.track == chosen, 2] < source.size[0] // 2).all()
    picture = identity_in(tmp_path / "left.png", FacesConfig(), Runtime())
    similar = (everyone.identity @ picture).tolist()
    assert max(similar) > 0.6 and min(similar) < 0.2

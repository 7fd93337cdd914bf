"""Where a generated mouth may show: inside the box, below the half line, never over the nose, and steady."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from made_faces import SIZE, faces_at, landmarks_at, make_film, source_of, tilted

from musetalk_cli.config import MaskConfig, Runtime
from musetalk_cli.errors import UsageError
from musetalk_cli.models import parsing
from musetalk_cli.stages.s3_masks import labels_from_landmarks, masks, square_around
from musetalk_cli.stages.s5_blend import alpha_over_box
from musetalk_cli.types import Faces, Masks, Shot, Source

MODES = ("jaw", "raw", "neck")
FACE = landmarks_at(96, 60, 80)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film") / "film.mkv", 6)


@pytest.fixture(scope="module")
def source(film: Path) -> Source:
    return source_of(film)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [40, 80, 120, 700])
def test_nothing_shows_above_the_half_line_or_outside_the_box(mode: str, width: int, film: Path) -> None:
    size = (width * 4, width * 4)
    alpha = shown(film, large_source(film, size), landmarks_at(width * 2, width * 2, width), mode=mode)
    assert (alpha.over_frame[: alpha.half_line] == 0).all()
    outside = np.ones(alpha.over_frame.shape, bool)
    x1, y1, x2, y2 = alpha.box
    outside[y1:y2, x1:x2] = False
    assert (alpha.over_frame[outside] == 0).all()
    assert alpha.over_frame.max() == 255


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [80, 300])
def test_the_weight_falls_to_zero_without_a_step(mode: str, width: int, film: Path) -> None:
    alpha = shown(
        film, large_source(film, (width * 4, width * 4)), landmarks_at(width * 2, width * 2, width), mode=mode
    ).over_frame.astype(int)
    steepest = max(np.abs(np.diff(alpha, axis=0)).max(), np.abs(np.diff(alpha, axis=1)).max())
    feather_px = min(0.05 * 1.5 * width, 10)  # about 5 % of the square, as configured; at the chin no more than the box's margin
    assert steepest < 255 * 3 / feather_px


@pytest.mark.parametrize("mode", MODES)
def test_the_mouth_shows_fully(mode: str, film: Path, source: Source) -> None:
    alpha = shown(film, source, FACE, mode=mode).over_frame
    mouth = np.rint(FACE[48:68]).astype(int)
    assert alpha[mouth[:, 1], mouth[:, 0]].min() >= 250


@pytest.mark.parametrize("mode", MODES)
def test_the_nose_and_what_surrounds_the_face_stay_the_films(mode: str, film: Path, source: Source) -> None:
    alpha = shown(film, source, FACE, mode=mode).over_frame
    tip = np.rint(FACE[30]).astype(int)
    assert alpha[tip[1], tip[0]] < 30
    beside = np.rint(FACE[3] - [6, 0]).astype(int)
    assert alpha[beside[1], beside[0]] < 30


def test_jaw_mode_lets_the_chin_move_down_and_keeps_the_cheeks(film: Path, source: Source) -> None:
    jaw, raw = (shown(film, source, FACE, mode=mode).over_frame for mode in ("jaw", "raw"))
    x, y = np.rint(FACE[8]).astype(int)
    assert jaw[y - 3 : y + 3, x].astype(int).sum() > raw[y - 3 : y + 3, x].astype(int).sum()
    cheek = slice(*np.rint([FACE[2, 0], FACE[2, 0] + 20]).astype(int))
    row = int(FACE[2, 1] + 8)
    assert jaw[row, cheek].astype(int).sum() < 0.9 * raw[row, cheek].astype(int).sum()


def test_neck_mode_reaches_below_the_jaw(film: Path, source: Source) -> None:
    neck, raw = (shown(film, source, FACE, mode=mode).over_frame for mode in ("neck", "raw"))
    x, y = np.rint(FACE[6] + [0, 6]).astype(int)
    assert neck[y, x] > 200 > 60 > raw[y, x]


def test_a_face_cut_by_the_frames_edge_is_not_faded_there(film: Path, source: Source) -> None:
    alpha = shown(film, source, landmarks_at(96, 110, 110), mode="neck")  # the chin is below the picture
    assert alpha.box[3] == SIZE[1]
    assert alpha.over_frame[-1, 90:102].min() >= 250


def test_a_face_cut_by_the_frames_edge_is_not_faded_by_the_black_that_a_parser_sees_there(
    film: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parser:
        def parse(self, crops: np.ndarray) -> np.ndarray:
            return (crops.max(axis=3) > 5).astype(np.uint8) * np.uint8(parsing.SKIN)

    monkeypatch.setattr(parsing, "load", lambda runtime: Parser())
    alpha = shown(film, source, landmarks_at(96, 110, 110), parser="bisenet", mode="raw")
    assert alpha.over_frame[-1, 90:102].min() >= 250


@pytest.mark.parametrize("mode", MODES)
def test_the_mouth_shows_fully_under_a_nose_that_hangs_over_it(mode: str, film: Path, source: Source) -> None:
    """A head bent forward: the nostrils come down to the upper lip."""
    bent = FACE.copy()
    bent[30:36, 1] += 0.08 * 80
    alpha = shown(film, source, bent, mode=mode).over_frame
    mouth = np.rint(bent[48:68]).astype(int)
    assert alpha[mouth[:, 1], mouth[:, 0]].min() >= 250


def test_a_wider_blur_feathers_wider(film: Path, source: Source) -> None:
    soft, sharp = (
        np.count_nonzero((a > 10) & (a < 245)) for a in (shown(film, source, FACE, blur=b).over_frame for b in (0.1, 0.05))
    )
    assert soft > 1.4 * sharp


def test_the_upper_share_moves_the_line(film: Path, source: Source) -> None:
    low = shown(film, source, FACE, upper=0.6)
    _, y1, _, y2 = square_around(low.box, 1.5)
    assert (low.over_frame[: y1 + int(0.6 * (y2 - y1))] == 0).all()


def test_square_is_the_published_one() -> None:
    assert square_around(np.array([100, 50, 181, 161]), 1.5) == (140 - 82, 105 - 82, 140 + 82, 105 + 82)
    assert square_around(np.array([100, 50, 181, 161]), 1.2) == (140 - 66, 105 - 66, 140 + 66, 105 + 66)


def test_labels_from_landmarks_are_those_of_the_parser() -> None:
    labels = labels_from_landmarks(FACE, np.array([0, 0, 192, 192]))
    assert set(np.unique(labels)) == {
        0,
        parsing.SKIN,
        parsing.NOSE,
        parsing.MOUTH,
        parsing.UPPER_LIP,
        parsing.LOWER_LIP,
        parsing.NECK,
    }
    at = np.rint(FACE * 512 / 192).astype(int)
    assert labels[at[30, 1], at[30, 0]] == parsing.NOSE
    assert labels[at[60:68, 1].mean().astype(int), at[60:68, 0].mean().astype(int)] == parsing.MOUTH
    assert labels[at[8, 1] + 20, at[8, 0]] == parsing.NECK


def test_bisenet_sees_the_square_of_each_face_black_outside_the_frame(
    film: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Parser:
        def parse(self, crops: np.ndarray) -> np.ndarray:
            seen.extend(crops)
            return np.full((len(crops), 512, 512), parsing.SKIN, np.uint8)

    monkeypatch.setattr(parsing, "load", lambda runtime: Parser())
    faces = faces_at(source.shots[0], SIZE, *[(i, 0, landmarks_at(40 + 4 * i, 60, 70)) for i in (0, 1, 3, 5)])
    made = run(film, source, faces, parser="bisenet")
    assert [crop.shape for crop in seen] == [(512, 512, 3)] * 4
    assert (seen[0][:, :20] == 0).all() and (seen[0][200:300, -20:] > 0).all()  # the square begins left of the picture
    assert made.alpha.shape == (4, 256, 256) and made.alpha[0].max() == 255


def test_a_parser_that_flickers_is_steadied_within_a_track_only(
    film: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skin seen in every second frame; a track that begins after a gap is not mixed with what was before."""
    skin = iter([1, 0, 1, 0, 1, 0, 1, 0, 0, 0])

    class Parser:
        def parse(self, crops: np.ndarray) -> np.ndarray:
            return np.stack([np.full((512, 512), next(skin), np.uint8) for _ in crops])

    monkeypatch.setattr(parsing, "load", lambda runtime: Parser())
    other = landmarks_at(150, 60, 40)
    pairs = [(i, t, points) for i in range(5) for t, points in ((0, FACE), (1, other))]
    parsed = run(film, source, faces_at(source.shots[0], SIZE, *pairs[:3], *pairs[4:6]), parser="bisenet", mode="raw").alpha
    peaks = parsed.reshape(len(parsed), -1).max(1).astype(int)  # rows: frame 0 tracks 0 1, frame 1 track 0, frame 2 tracks 0 1
    assert np.abs(np.diff(peaks[[0, 2, 3]])).max() < 128  # 255, 255, 0 without the filter
    assert peaks[1] == 0 and peaks[4] == 255  # a frame apart: each as parsed


@pytest.mark.parametrize("roll", [-90.0, -35.0, 12.0, 180.0])
def test_a_tilted_head_has_the_mask_of_an_upright_one(roll: float, film: Path, source: Source) -> None:
    """To a pixel: boxes are whole pixels."""
    size = (800, 800)
    large = large_source(film, size)
    points = landmarks_at(400, 380, 240)
    turned = tilted(points, roll, (400.0, 400.0))
    plain, found = (
        run(film, large, faces_at(Shot(0, 0, 1), size, (0, 0, shape), roll=angle), mode="neck")
        for shape, angle in ((points, 0.0), (turned, roll))
    )
    assert np.abs(found.square[0, 2:] - found.square[0, :2] - plain.square[0, 2:] + plain.square[0, :2]).max() <= 4
    assert np.abs(found.alpha[0].astype(int) - plain.alpha[0]).mean() < 2


def test_a_tilted_head_over_the_frames_edge_fades_at_its_box(film: Path, source: Source) -> None:
    points = tilted(landmarks_at(96, 130, 110), 20, (96.0, 130.0))
    faces = faces_at(Shot(0, 0, 1), SIZE, (0, 0, points), roll=20.0)
    made = run(film, source, faces, mode="neck")
    side = made.square[0, 2] - made.square[0, 0]
    left, _, right, bottom = (faces.box[0] - np.tile(made.square[0, :2], 2)) * 256 / side
    alpha = made.alpha[0]
    assert bottom < 256 and not alpha[int(bottom) :].any()
    assert not alpha[:, : int(left)].any() and not alpha[:, int(np.ceil(right)) :].any()
    assert alpha.max() == 255


def test_bisenet_sees_a_tilted_head_upright(film: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Parser:
        def parse(self, crops: np.ndarray) -> np.ndarray:
            seen.extend(crops)
            return np.full((len(crops), 512, 512), parsing.SKIN, np.uint8)

    monkeypatch.setattr(parsing, "load", lambda runtime: Parser())
    head_down = upside_down(film, tmp_path / "head_down.mkv")
    points = landmarks_at(96, 70, 60)
    turned = tilted(points, 180, (96.0, 80.0))
    run(film, source, faces_at(source.shots[0], SIZE, (0, 0, points)), parser="bisenet")
    run(head_down, source, faces_at(source.shots[0], SIZE, (0, 0, turned), roll=180.0), parser="bisenet")
    plain, upright = (crop.astype(int) for crop in seen)
    assert np.abs(upright - plain).mean() < 6 < np.abs(upright[::-1, ::-1] - plain).mean()  # of boxes that are a pixel apart


def test_a_shot_without_faces_has_no_masks_and_reads_no_frame(source: Source) -> None:
    made = run(Path("/nowhere"), source, faces_at(source.shots[0], SIZE), parser="bisenet")
    assert made.alpha.shape == (0, 256, 256)


def test_an_unknown_parser_is_a_usage_error(film: Path, source: Source) -> None:
    with pytest.raises(UsageError, match="'magic' is unknown; choose bisenet or landmarks"):
        shown(film, source, FACE, parser="magic")


def test_masks_are_the_same_in_every_run(film: Path, source: Source) -> None:
    faces = faces_at(source.shots[0], SIZE, *[(i, 0, FACE + i) for i in range(4)])
    assert run(film, source, faces).alpha.tobytes() == run(film, source, faces).alpha.tobytes()


class Shown:
    """One mask as the frame sees it."""

    def __init__(self, made: Masks, faces: Faces, size: tuple[int, int]) -> None:
        self.box = faces.box[0]
        left, top, right, bottom = made.square[0]
        whole = alpha_over_box(made.alpha[0], made.square[0], made.square[0])
        frame = np.zeros((size[1] + 2000, size[0] + 2000), np.uint8)
        frame[top + 1000 : bottom + 1000, left + 1000 : right + 1000] = whole
        self.over_frame = frame[1000 : size[1] + 1000, 1000 : size[0] + 1000]
        self.half_line = int((top + bottom) // 2)


def shown(film: Path, source: Source, points: np.ndarray, **settings: object) -> Shown:
    faces = faces_at(Shot(0, 0, 1), source.size, (0, 0, points))
    return Shown(run(film, source, faces, **settings), faces, source.size)


def run(film: Path, source: Source, faces: Faces, **settings: object) -> Masks:
    return masks(film, source, faces, config=MaskConfig(**settings), runtime=Runtime(), out=film.parent)  # type: ignore[arg-type]


def large_source(film: Path, size: tuple[int, int]) -> Source:
    return replace(source_of(film), size=size)


def upside_down(film: Path, path: Path) -> Path:
    """The film turned by 180 degrees, its pixels, not its tags."""
    with av.open(str(film)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in old.decode(video=0):
            rgb = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), 2))
            new.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")))
        new.mux(stream.encode(None))
    return path

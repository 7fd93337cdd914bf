"""The invisible mark: weak, in generated pixels alone, the same wherever it is made, found by its key after other hands, and by no other."""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from made_faces import SIZE, faces_at, landmarks_at, make_film, source_of, tilted
from test_blend import caught, dub, luma, network, put_back, weights_over_frame

from musetalk_cli import cli, watermark
from musetalk_cli.config import BlendConfig, DemuxConfig, FacesConfig, Runtime
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.media import watermark as media_watermark
from musetalk_cli.media.ffmpeg import find_ffmpeg
from musetalk_cli.media.planes import Patch, composite, layout_of
from musetalk_cli.media.video import read_frames
from musetalk_cli.media.watermark import MARK_DB, SHOWN, added, picture_of, quick_cells, signs_of
from musetalk_cli.settings import Choices, dub_config
from musetalk_cli.stages import s5_blend
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_faces import faces as find_faces
from musetalk_cli.types import Colour, Shot, Stretch
from musetalk_cli.watermark import THRESHOLD, Evidence, Found, Track, evidence_of, found_in

__all__ = ["caught", "network"]  # fixtures
KEY = "a key"
CUT = 17  # frames
EXAMPLE = Path(__file__).parents[1] / "examples" / "film.mp4"


def mouth_mask(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) uint8: a soft ellipse over the lower face."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    eyes = points[36:48].mean(0)
    width = float(np.linalg.norm(points[45] - points[36]))
    x, y = np.rint(eyes + np.array([0, 0.85 * width])).astype(int)
    cv2.ellipse(mask, (int(x), int(y)), (round(0.55 * width), round(0.5 * width)), 0, 0, 360, 255, -1)
    return cv2.GaussianBlur(mask, (0, 0), 0.04 * width)


def pictures(count: int, points: np.ndarray, key: str, size: tuple[int, int] = (200, 200)) -> Iterator[np.ndarray]:
    """Luma (h, w) of a face that trembles in light that changes, 25 a second, marked where there is a key."""
    rng = np.random.default_rng(3)
    still = cv2.GaussianBlur(rng.normal(0, 60, (size[1], size[0])).astype(np.float32), (0, 0), 4) + 120
    mask = mouth_mask(points, size)
    for number in range(count):
        shown = still + np.float32(4 * np.sin(number / 5)) + np.asarray(rng.normal(0, 2, still.shape), np.float32)
        if key:
            shown = shown + added(key, number / 25, points, mask, 0, 0) * (mask / np.float32(255))
        yield np.asarray(np.clip(np.rint(shown), 0, 255), np.uint8)


def track_of(shown: Iterator[np.ndarray], points: np.ndarray, first: int = 0) -> Track:
    faces = np.stack([picture_of(picture.astype(np.float32), 0, 0, points) for picture in shown])[first:]
    seconds, trust = np.arange(len(faces)) / 25, np.ones(len(faces))
    return Track(seconds, quick_cells(faces, seconds, trust), trust)


def evidence(shown: Iterator[np.ndarray], points: np.ndarray, first: int = 0) -> Evidence:
    return evidence_of([track_of(shown, points, first)])


def test_the_mark_is_found_by_its_key_alone() -> None:
    points = landmarks_at(100, 80, 120)
    marked, plain = (evidence(pictures(50, points, key), points) for key in (KEY, ""))
    found = found_in(marked, KEY)
    assert found.marked and found.offset_s == 0 and found.frames == 50
    assert not found_in(marked, KEY + " ").marked and not found_in(plain, KEY).marked


def test_the_mark_is_found_in_a_film_that_lost_its_beginning() -> None:
    points = landmarks_at(100, 80, 120)
    found = found_in(evidence(pictures(67, points, KEY), points, first=CUT), KEY)
    assert found.marked and found.offset_s == pytest.approx(CUT / 25, abs=0.041)


@pytest.mark.parametrize("change", ["half", "turned", "moved"])
def test_the_mark_moves_grows_and_turns_with_the_face(change: str) -> None:
    points = landmarks_at(100, 80, 120)

    def seen(picture: np.ndarray) -> np.ndarray:
        if change == "half":
            return np.asarray(cv2.resize(picture, (100, 100), interpolation=cv2.INTER_AREA))
        matrix = cv2.getRotationMatrix2D((99.5, 99.5), -30, 1) if change == "turned" else np.array([[1.0, 0, 9], [0, 1, -14]])
        return np.asarray(cv2.warpAffine(picture, matrix, (200, 200), borderMode=cv2.BORDER_REPLICATE))

    there = {"half": points / 2, "turned": tilted(points, 30, (100, 100)), "moved": points + np.array([9, -14])}[change]
    assert found_in(evidence((seen(picture) for picture in pictures(50, points, KEY)), there), KEY).marked


def test_the_mark_is_found_in_a_mouth_that_moves() -> None:
    """Every part of it by pixels of its own from frame to frame: many code values of this texture. The mark is one or two."""
    points = landmarks_at(100, 80, 120)
    mask = mouth_mask(points, (200, 200))
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.normal(0, 500, (200, 200)).astype(np.float32), (0, 0), 5) + 120
    y, x = np.mgrid[:200, :200].astype(np.float32)

    def shown(number: int) -> np.ndarray:
        by_x, by_y = (cv2.GaussianBlur(rng.normal(0, 220, (200, 200)).astype(np.float32), (0, 0), 20) for _ in range(2))
        moved = cv2.remap(texture, x + by_x, y + by_y, cv2.INTER_CUBIC)
        mark = added(KEY, number / 25, points, mask, 0, 0) * (mask / np.float32(255))
        return np.asarray(np.clip(np.rint(moved + mark), 0, 255), np.uint8)

    assert found_in(evidence((shown(number) for number in range(25)), points), KEY).marked


def test_a_score_is_a_bound_on_the_chance_of_an_unmarked_film() -> None:
    """Of random keys at most a tenth score 1, a hundredth 2: also where a picture has nothing of noise about it."""
    points = landmarks_at(100, 80, 120)
    for told in (evidence(pictures(30, points, ""), points), evidence(pictures(30, points, "another"), points)):
        scores = np.array([found_in(told, f"key {number}").score for number in range(1000)])
        assert (scores >= 1).sum() <= 100 and (scores >= 2).sum() <= 10 and (scores >= 3).sum() <= 1


@pytest.mark.parametrize("alike", [True, False])
def test_the_chance_of_a_sum_of_signs_is_bounded_and_hardly_above_what_it_is(alike: bool) -> None:
    rng = np.random.default_rng(2)
    weights = np.full(1440, 1.0) if alike else np.square(rng.exponential(size=1440))
    weights /= np.linalg.norm(weights)
    sums = rng.choice(np.array([-1, 1], np.int8), (20_000, 1440)) @ weights
    for z in (1.0, 2.0, 2.5):
        assert (sums >= z).mean() <= watermark._tail(weights, z) * 1.05 <= (sums >= z).mean() * 1.5
    # ten equal weights: one in 1024 falls on one side all together, further off is nothing
    ten = np.full(10, 10**-0.5)
    assert 1 / 1024 < watermark._tail(ten, 3.0) < 1.2 / 1024 and watermark._tail(ten, 3.5) < 1e-6


def test_frames_between_others_count_less() -> None:
    """H.264 at CRF 28 keeps little of a mark in B frames."""
    points = landmarks_at(100, 80, 120)
    seen = track_of(pictures(50, points, KEY), points)
    noise = np.random.default_rng(5).normal(0, 2 * seen.quick.std(), seen.quick.shape)
    between = np.arange(50) % 3 > 0
    quick = np.where(between[:, None], noise, seen.quick)
    weighted = seen._replace(quick=quick, trust=np.where(between, 0.3, 1.0))
    assert found_in(evidence_of([weighted]), KEY).z > found_in(evidence_of([seen._replace(quick=quick)]), KEY).z + 1


def test_a_long_shot_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their differences alone would be a gigabyte an hour; frames beside a piece still tell of those in it."""
    points = landmarks_at(100, 80, 120)
    whole = track_of(pictures(40, points, KEY), points)
    monkeypatch.setattr(media_watermark, "AT_ONCE", 15)
    pieces = track_of(pictures(40, points, KEY), points)
    assert np.corrcoef(whole.quick.ravel(), pieces.quick.ravel())[0, 1] > 0.99
    assert found_in(evidence_of([pieces]), KEY).z == pytest.approx(found_in(evidence_of([whole]), KEY).z, abs=0.5)


def test_a_film_without_faces_is_not_marked() -> None:
    assert found_in(evidence_of([]), KEY) == Found(0.0, 0.0, 0.0, 0)
    for count in (1, 5, 50):  # pictures that stand still; a few tell nothing
        grey = track_of((np.full((200, 200), 90, np.uint8) for _ in range(count)), landmarks_at(100, 80, 120))
        assert found_in(evidence_of([grey, grey]), KEY).score == 0


def test_one_marked_face_among_others_is_enough() -> None:
    points, rng = landmarks_at(100, 80, 120), np.random.default_rng(1)
    marked = track_of(pictures(30, points, KEY), points)
    others = [marked._replace(quick=rng.normal(0, marked.quick.std(), (30, 90))) for _ in range(20)]
    told = evidence_of([*others, marked])
    together = told._replace(groups=told.groups[:1])
    assert found_in(told, KEY).score > 1.5 * found_in(together, KEY).score > 0


def test_many_shots_hardly_cost_what_they_tell_together() -> None:
    """A film in forty pieces is tried as a whole and in pieces: half of the trust is for the whole."""
    points = landmarks_at(100, 80, 120)
    whole = evidence(pictures(30, points, KEY), points)
    pieces = whole._replace(groups=np.concatenate([whole.groups, np.ones((40, *whole.groups.shape[1:]))]))
    assert found_in(pieces, KEY).score > found_in(whole, KEY).score - 0.31


@pytest.mark.parametrize("width", [40, 120, 400])
def test_the_mark_costs_no_more_than_its_noise(width: int) -> None:
    points = landmarks_at(width, 0.8 * width, width)
    mask = mouth_mask(points, (2 * width, 2 * width))
    for number in range(8):
        mark = added(KEY, number * 0.08, points, mask, 0, 0) * (mask / np.float32(255))
        noise_db = 10 * np.log10(255**2 / np.square(mark[mask >= SHOWN]).mean())
        assert noise_db == pytest.approx(MARK_DB, abs=0.01)
        assert np.abs(mark).max() < 6
        assert not mark[mask == 0].any()


def test_the_signs_of_a_key_never_change() -> None:
    """Films that were marked with an older edition stay marked. SHAKE-256 of the key, first bits first."""
    assert "".join("+" if sign > 0 else "-" for sign in signs_of("musetalk")[0, :24]) == "+-++++--++--+-++-+---+++"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film") / "film.mkv", 8)


def test_marking_changes_nothing_outside_the_mask_and_is_the_same_in_any_stretch(
    film: Path, tmp_path: Path, caught: list[av.VideoFrame], network: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(film)
    points = landmarks_at(90, 60, 80)
    faces = faces_at(source.shots[0], SIZE, *[(i, 0, points) for i in range(source.frames)])
    network(film, source, faces, lambda crop, row: 255 - crop)
    made = dub(film, source, faces, tmp_path).masks

    def frames(key: str, start: int = 0) -> list[av.VideoFrame]:
        caught.clear()  # grain and tint look back at the frames before; what is compared is the mark alone
        stretch = Stretch(start, source.frames)
        put_back(film, source, faces, made, tmp_path, stretch=stretch, watermark=key, grain=0.0, sharpen=0.0)
        return list(caught)

    plain, marked = frames(""), frames(KEY)
    for row in range(source.frames):
        changed = luma(plain[row]) != luma(marked[row])
        assert changed.any() and not changed[weights_over_frame(made, faces, row) == 0].any()
    seconds: list[float] = []

    def noted(key: str, at: float, *more: Any) -> np.ndarray:
        seconds.append(at)
        return added(key, at, *more)

    monkeypatch.setattr(s5_blend, "watermark_added", noted)
    late = [luma(one).astype(int) - luma(two) for one, two in zip(frames(KEY, 3), frames("", 3), strict=True)]
    whole = [luma(one).astype(int) - luma(two) for one, two in zip(marked[3:], plain[3:], strict=True)]
    for one, two in zip(late, whole, strict=True):
        assert np.abs(one - two).max() <= 1  # where the picture beneath rounds otherwise
    assert seconds == [float(source.time(number)) for number in range(3, source.frames)]  # the film's clock, not the stretch's


def test_without_a_key_nothing_is_marked(
    film: Path, tmp_path: Path, network: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s5_blend, "watermark_added", lambda *_: pytest.fail("a mark was made for nothing"))
    assert BlendConfig().watermark == "" == dub_config(Choices(model="lite", device="cpu"), Runtime()).blend.watermark
    source = source_of(film)
    faces = faces_at(source.shots[0], SIZE, (2, 0, landmarks_at(90, 60, 80)))
    network(film, source, faces, lambda crop, row: 255 - crop)
    dub(film, source, faces, tmp_path)


def test_the_mark_of_a_film_of_ten_bits_is_finer_than_eight() -> None:
    points = landmarks_at(90, 60, 80)
    mask = mouth_mask(points, SIZE)
    colour = Colour("yuv420p10le")
    grey = np.full((SIZE[1], SIZE[0], 3), 128, np.float32)
    frame = av.VideoFrame.from_ndarray(np.full((SIZE[1] * 3 // 2, SIZE[0]), 512, np.uint16), format="yuv420p10le")
    shown = composite(frame, [Patch(grey + added(KEY, 0.0, points, mask, 0, 0)[..., None], mask, 0, 0)], colour)
    assert layout_of(shown.format.name).depth == 10
    inside = shown.to_ndarray()[: SIZE[1]][mask == 255]
    assert len(np.unique(inside % 4)) == 4 and 4 < np.ptp(inside.astype(int)) < 48


def ffmpeg(*arguments: object) -> None:
    subprocess.run([str(find_ffmpeg()), "-v", "error", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def marked_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face of 280 pixels for 1.6 seconds, marked as a dub marks its mouths, lossless."""
    folder = tmp_path_factory.mktemp("marked")
    plain = folder / "plain.mkv"
    ffmpeg("-i", EXAMPLE, "-vf", "crop=480:480:360:60", "-frames:v", 40, "-an", "-c:v", "ffv1", plain)
    source = demux(plain, config=DemuxConfig(), runtime=Runtime(), out=folder)
    shot = Shot(0, 0, source.frames)
    faces = find_faces(plain, source, shot, config=FacesConfig(), runtime=Runtime(), out=folder)
    with av.open(str(folder / "marked.mkv"), "w") as film:
        stream = film.add_stream("ffv1", rate=source.fps)
        stream.width, stream.height = source.size
        stream.pix_fmt = source.colour.pix_fmt
        for number, frame in enumerate(read_frames(plain, source, 0, shot.stop)):
            points = faces.landmarks[int(np.flatnonzero(faces.frame == number)[0])]
            mask = mouth_mask(points, source.size)
            mark = added(KEY, float(source.time(number)), points, mask, 0, 0)
            rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.float32)
            film.mux(stream.encode(composite(frame, [Patch(np.clip(rgb + mark[..., None], 0, 255), mask, 0, 0)], source.colour)))
        film.mux(stream.encode(None))
    return folder / "marked.mkv"


def test_the_mark_survives_crf_28_at_half_the_size(marked_example: Path, tmp_path: Path) -> None:
    recoded = tmp_path / "recoded.mp4"
    half = ["-vf", "scale=trunc(iw/4)*2:trunc(ih/4)*2", "-c:v", "libx264", "-crf", 28, "-preset", "medium"]
    ffmpeg("-i", marked_example, *half, recoded)
    told = evidence_of(watermark.read_tracks(recoded, Runtime()))
    assert found_in(told, KEY).marked and not found_in(told, "another key").marked


def test_the_flag_reaches_the_blend_and_no_other_stage() -> None:
    def config(**choices: Any) -> Any:
        return dub_config(Choices(model="lite", device="cpu", **choices), Runtime())

    usual, public, own = config(watermark_key="x"), config(watermark=True), config(watermark=True, watermark_key="x")
    assert (usual.blend.watermark, public.blend.watermark, own.blend.watermark) == ("", "musetalk", "x")
    assert replace(own, blend=usual.blend) == usual


@pytest.mark.parametrize(
    ("scores", "code"), [((9.0,), 0), ((9.0, 8.0), 0), ((9.0, 1.0), 7), ((None, 9.0), 3), ((None, 1.0), 3), ((2.99,), 7)]
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_codes_say_what_was_found(
    scores: tuple[float | None, ...],
    code: int,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clips = [f"{number}.mp4" for number in range(len(scores))]

    def look(clip: Path, key: str, runtime: Runtime, *, seconds: float) -> Found:
        score = scores[clips.index(str(clip))]
        if score is None:
            raise InputError(f"{clip}: is no film", "give another")
        return Found(score, 5.0, 0.0, 50)

    monkeypatch.setattr(watermark, "detect", look)
    assert cli.run(["detect", *clips, *(["--json"] if as_json else [])]) == code
    told = capsys.readouterr()
    if as_json:
        rows = json.loads(told.out)["clips"]
        assert [row.get("score") for row in rows] == list(scores)
        assert [row.get("marked") for row in rows] == [None if score is None else score >= THRESHOLD for score in scores]
    else:
        assert len(told.out.splitlines()) == sum(score is not None for score in scores)
        assert ("is no film" in told.err) == (None in scores)


def test_an_empty_key_is_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["detect", "a.mp4", "--watermark-key", ""]) == 2
    assert "--watermark-key" in capsys.readouterr().err


def test_a_clip_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["detect", str(tmp_path / "none.mp4")]) == 3
    assert "none.mp4" in capsys.readouterr().err


def test_a_mark_has_a_key() -> None:
    with pytest.raises(UsageError, match="--watermark-key"):
        dub_config(Choices(model="lite", device="cpu", watermark=True, watermark_key=""), Runtime())

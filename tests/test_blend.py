"""Mouths back onto frames: every frame once, untouched outside the masks, the film's colour inside, one clear error if any."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from made_faces import SIZE, faces_at, landmarks_at, make_film, source_of, tilted

from musetalk_cli.config import BlendConfig, MaskConfig, ModelConfig, Runtime
from musetalk_cli.crop import CROP_PX, Placement
from musetalk_cli.errors import InternalError, ResourceError
from musetalk_cli.media.grain import Detail, Look
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.stages import s5_blend
from musetalk_cli.stages.s3_masks import masks
from musetalk_cli.stages.s5_blend import FRAMES_AHEAD, Drawn, Face, Shown, Tint, blend
from musetalk_cli.types import Faces, Line, Masks, Mouths, Segment, Source, Stretch, Voicing

FRAMES = 10
ROLLS = (0.0, -35.0, 90.0, 180.0)
Effect = Callable[[np.ndarray, int], np.ndarray]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film") / "film.mkv", FRAMES)


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> list[av.VideoFrame]:
    """What goes to the encoder."""
    frames: list[av.VideoFrame] = []

    class Catcher:
        def __init__(self, path: Path, source: Source, config: BlendConfig) -> None:
            pass

        def __enter__(self) -> "Catcher":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, frame: av.VideoFrame) -> None:
            frames.append(frame)

    monkeypatch.setattr(s5_blend, "SegmentWriter", Catcher)
    return frames


def test_shot_without_face_is_copied_untouched(film: Path, tmp_path: Path, caught: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s5_blend, "load_family", lambda *_: pytest.fail("a model was loaded for nothing"))
    source = source_of(film, 4)
    dub(film, source, faces_at(source.shots[1], SIZE), tmp_path)
    assert [planes(frame) for frame in caught] == [planes(frame) for frame in read_frames(film, source, 4, FRAMES)]


@pytest.mark.parametrize("roll", ROLLS)
def test_frames_without_a_row_stay_and_the_others_change_only_in_their_mask(
    roll: float, film: Path, tmp_path: Path, caught: list, network: Any
) -> None:
    source = source_of(film)
    points = tilted(landmarks_at(90, 60, 80), roll, (90.0, 80.0))
    faces = faces_at(source.shots[0], SIZE, *[(i, 0, points) for i in (2, 3, 7)], roll=roll)
    network(film, source, faces, lambda crop, row: 255 - crop)
    made = dub(film, source, faces, tmp_path)
    for number, (shown, kept) in enumerate(zip(caught, read_frames(film, source, 0, FRAMES), strict=True)):
        if number not in (2, 3, 7):
            assert planes(shown) == planes(kept)
            continue
        weight = weights_over_frame(made.masks, faces, [2, 3, 7].index(number))
        changed = luma(shown) != luma(kept)
        assert not changed[weight == 0].any()
        assert changed[weight > 128].mean() > 0.9


@pytest.mark.parametrize("roll", ROLLS)
def test_a_perfect_mouth_changes_nothing_visible(roll: float, film: Path, tmp_path: Path, caught: list, network: Any) -> None:
    source = source_of(film)
    faces = steady_face(source, roll)
    network(film, source, faces, lambda crop, row: crop)
    made = dub(film, source, faces, tmp_path)
    for row, kept in enumerate(read_frames(film, source, 0, FRAMES)):
        inside = weights_over_frame(made.masks, faces, row) > 128
        error = to_rgb(caught[row], source.colour)[inside].astype(float) - to_rgb(kept, source.colour)[inside]
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 45


@pytest.mark.parametrize("roll", ROLLS)
def test_the_film_keeps_its_colour_where_the_network_shifts_it(
    roll: float, film: Path, tmp_path: Path, caught: list, network: Any
) -> None:
    source = source_of(film)
    faces = steady_face(source, roll)
    shift = np.array([9.0, -5.0, -9.0]) + np.linspace(-6, 6, 256)[None, :, None]
    network(film, source, faces, lambda crop, row: np.clip(crop + shift, 0, 255))
    made = dub(film, source, faces, tmp_path)
    for row, kept in enumerate(read_frames(film, source, 0, FRAMES)):
        inside = weights_over_frame(made.masks, faces, row) > 250
        left = to_rgb(caught[row], source.colour)[inside].astype(float) - to_rgb(kept, source.colour)[inside]
        assert np.abs(left.mean(axis=0)).max() < 1.0
        assert np.abs(left).mean() < 1.5


def test_a_mouth_that_moves_does_not_tint_the_skin_around_it() -> None:
    tint, film = Tint(), np.full((256, 256, 3), (190, 150, 130), np.uint8)
    mouth = np.zeros((32, 32), bool)
    mouth[18:28, 8:24] = True
    fields = []
    for dark in (0, 90, 20, 120, 0, 60):
        crop = film - np.uint8(4)
        crop[160:210, 80:180] -= np.uint8(dark)
        crop[205:230, 40:80] -= np.uint8(dark // 2)  # a shadow that speech moves, outside the mouth
        fields.append(tint.seen(film, crop, mouth))
    assert np.abs(np.array(fields) - 4).max() < 2  # of shadows of up to 120 code values
    assert np.abs(np.diff(fields, axis=0)).max() < 1


@pytest.mark.parametrize("roll", ROLLS[:2])
@pytest.mark.parametrize("size", [0.0, 0.9])
def test_a_smooth_mouth_is_as_grainy_as_the_film_around_it_from_its_first_frame(
    size: float, roll: float, film: Path, tmp_path: Path, caught: list, network: Any
) -> None:
    """Local deviation in the mask over that around it: 0.3 and less without, 0.8 to 1.2 with."""
    grainy = with_grain(film, tmp_path / "grainy.mkv", 3.0, size)
    source = source_of(grainy)
    faces = steady_face(source, roll)
    found = {}
    for share in (0, 1):
        network(grainy, source, faces, lambda crop, row: cv2.GaussianBlur(crop, (0, 0), 8))
        made = dub(grainy, source, faces, tmp_path, grain=share, sharpen=share)
        found[share] = [graininess(frame, weights_over_frame(made.masks, faces, row)) for row, frame in enumerate(caught)]
        caught.clear()
    assert max(found[0]) < 0.4
    assert min(found[1]) > 0.8 and max(found[1]) < 1.2


def test_detail_costs_a_clean_film_nothing(film: Path, tmp_path: Path, caught: list, network: Any) -> None:
    """A network that loses some of the detail of its crop, as an autoencoder does."""
    clean = with_luma(film, tmp_path / "clean.mkv", lambda luma: cv2.GaussianBlur(luma, (0, 0), 2))  # the film has steps of 4
    source = source_of(clean)
    faces = steady_face(source)
    error = {}
    for share in (0, 1):
        network(clean, source, faces, lambda crop, row: cv2.GaussianBlur(crop, (0, 0), 1.5) // 3 * 3 + 1)
        made = dub(clean, source, faces, tmp_path, grain=share, sharpen=share)
        error[share] = [
            np.mean((to_rgb(shown, source.colour).astype(float) - to_rgb(kept, source.colour))[inside] ** 2)
            for row, (shown, kept) in enumerate(zip(caught, read_frames(clean, source, 0, FRAMES), strict=True))
            for inside in [weights_over_frame(made.masks, faces, row) > 128]
        ]
        caught.clear()
    assert 10 * np.log10(np.mean(error[1]) / np.mean(error[0])) < 0.1


def test_pores_do_not_boil_not_even_in_the_first_frame(film: Path, tmp_path: Path, caught: list, network: Any) -> None:
    """A skin with a texture that stays, and a network that has lost it."""
    rng = np.random.default_rng(8)
    pores = 130 + rng.normal(0, 3, (SIZE[1], SIZE[0]))
    still = with_luma(film, tmp_path / "still.mkv", lambda luma: pores + rng.normal(0, 0.3, pores.shape))
    source = source_of(still)
    faces = steady_face(source)
    network(still, source, faces, lambda crop, row: cv2.GaussianBlur(crop, (0, 0), 8))
    made = dub(still, source, faces, tmp_path)
    assert max(graininess(frame, weights_over_frame(made.masks, faces, row)) for row, frame in enumerate(caught)) < 0.5


def test_grain_is_the_same_in_every_run(film: Path, tmp_path: Path, caught: list, network: Any) -> None:
    grainy = with_grain(film, tmp_path / "grainy.mkv", 3.0, 0.0)
    source = source_of(grainy)
    faces = steady_face(source)
    found = []
    for _ in range(2):
        network(grainy, source, faces, lambda crop, row: cv2.GaussianBlur(crop, (0, 0), 8))
        dub(grainy, source, faces, tmp_path)
        found.append([planes(frame) for frame in caught])
        caught.clear()
    assert found[0] == found[1]


def test_a_tilted_head_over_the_frames_edge_changes_only_in_its_mask(
    film: Path, tmp_path: Path, caught: list, network: Any
) -> None:
    source = source_of(film)
    points = tilted(landmarks_at(150, 110, 90), 50, (150.0, 110.0))
    faces = faces_at(source.shots[0], SIZE, *[(i, 0, points) for i in range(FRAMES)], roll=50.0)
    network(film, source, faces, lambda crop, row: 255 - crop)
    made = dub(film, source, faces, tmp_path)
    for row, kept in enumerate(read_frames(film, source, 0, FRAMES)):
        weight = weights_over_frame(made.masks, faces, row)
        changed = luma(caught[row]) != luma(kept)
        assert not changed[weight == 0].any()


def test_a_mouth_shows_as_much_as_its_line_says(film: Path, tmp_path: Path, caught: list, network: Any) -> None:
    source = source_of(film)
    faces = steady_face(source)
    network(film, source, faces, lambda crop, row: 255 - crop)
    line = Line(0, 2, 9, 0, fade_in=3, fade_out=0)
    made = dub(film, source, faces, tmp_path, voicing=Voicing((line,)), grain=0, sharpen=0)
    inside = weights_over_frame(made.masks, faces, 0) > 250
    kept = read_frames(film, source, 0, FRAMES)
    moved = [np.abs(luma(a).astype(int) - luma(b))[inside].mean() for a, b in zip(caught, kept, strict=True)]
    assert moved[0] == moved[1] == moved[9] == 0
    assert 0 < moved[2] < moved[3] < moved[4] < moved[5]
    assert np.ptp(moved[5:9]) < 0.3 * moved[5]


def test_a_mouth_of_which_nothing_shows_is_left_alone_wherever_its_detail_was_seen() -> None:
    film = np.random.default_rng(1).normal(128, 4, (60, 60, 3)).astype(np.float32)
    everywhere, detail = np.ones((60, 60), np.bool_), Detail(grain=1, sharpen=1)
    seen = [detail.seen(Look(film, cv2.blur(film, (3, 3)), everywhere, everywhere, n, (1, 1), (31, 31))) for n in range(3)]
    face = Face(2, 0, landmarks_at(31, 31, 40), Placement((0, 0, 62, 62)), (0, 0, 62, 62), np.zeros((62, 62), np.uint8))
    drawn = Drawn(face, np.zeros((62, 62, 3), np.float32), seen[-1], (slice(1, 61), slice(1, 61)))
    assert not s5_blend._finished(drawn, detail).alpha.any()


def test_a_stretch_holds_its_frames_and_their_mouths(film: Path, tmp_path: Path, caught: list, network: Any) -> None:
    source = source_of(film)
    faces = steady_face(source)
    network(film, source, faces, lambda crop, row: np.full_like(crop, 20 * row))
    segment = dub(film, source, faces, tmp_path, stretch=Stretch(4, 7), grain=0, sharpen=0).segment
    assert (segment.start, segment.stop, len(caught)) == (4, 7, 3)
    whole = [planes(frame) for frame in caught]
    for row, kept in zip((4, 5, 6), read_frames(film, source, 4, 7), strict=True):
        assert planes(kept) != whole[row - 4]


def test_two_faces_in_one_frame_are_both_dubbed(film: Path, tmp_path: Path, caught: list, network: Any) -> None:
    source = source_of(film)
    left, right = landmarks_at(50, 60, 60), landmarks_at(140, 60, 60)
    faces = faces_at(source.shots[0], SIZE, *[(i, t, p) for i in range(FRAMES) for t, p in ((0, left), (1, right))])
    network(film, source, faces, lambda crop, row: 255 - crop)
    made = dub(film, source, faces, tmp_path)
    kept = list(read_frames(film, source, 0, FRAMES))
    for row in range(faces.rows):
        inside = weights_over_frame(made.masks, faces, row) > 128
        assert (luma(caught[row // 2]) != luma(kept[row // 2]))[inside].mean() > 0.9


@pytest.mark.parametrize("stops", [(), (3, 7)])
def test_segment_has_the_shots_frames_at_the_films_times(
    film: Path, tmp_path: Path, network: Any, stops: tuple[int, ...]
) -> None:
    source = source_of(film, *stops)
    for shot in source.shots:
        faces = faces_at(shot, SIZE, *[(i, 0, landmarks_at(90, 60, 80)) for i in range(shot.start, shot.stop, 2)])
        network(film, source, faces, lambda crop, row: crop)
        segment = dub(film, source, faces, tmp_path / str(shot.index)).segment
        with av.open(str(segment.path)) as encoded:
            frames = list(encoded.decode(video=0))
        assert [frame.time for frame in frames] == [float(source.pts[i] * source.time_base) for i in range(shot.start, shot.stop)]
        assert segment.frames == shot.frames


def test_segments_are_the_same_bytes_in_every_run(film: Path, tmp_path: Path, network: Any) -> None:
    source = source_of(film)
    faces = steady_face(source)
    found = []
    for run in ("a", "b"):
        network(film, source, faces, lambda crop, row: np.clip(crop.astype(int) + 7 * (row % 3), 0, 255))
        found.append(dub(film, source, faces, tmp_path / run).segment.path.read_bytes())
    assert found[0] == found[1]


def test_batches_are_of_the_size_asked_for_and_halved_when_memory_runs_out(
    film: Path, tmp_path: Path, caught: list, network: Any
) -> None:
    source = source_of(film)
    faces = steady_face(source)
    fake = network(film, source, faces, lambda crop, row: crop, rows_that_fit=2)
    dub(film, source, faces, tmp_path, batch_size=7)
    assert fake.asked == [7, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] and len(caught) == FRAMES


def test_a_single_mouth_that_does_not_fit_is_a_resource_error(film: Path, tmp_path: Path, network: Any) -> None:
    source = source_of(film)
    faces = steady_face(source)
    network(film, source, faces, lambda crop, row: crop, rows_that_fit=0)
    with pytest.raises(ResourceError, match="out of memory for a single mouth; choose --device cpu"):
        dub(film, source, faces, tmp_path)


@pytest.mark.parametrize("place", ["read_frames", "decode", "write"])
def test_an_error_in_any_thread_ends_the_stage_with_that_error(
    place: str, film: Path, tmp_path: Path, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(film)
    faces = steady_face(source)

    def effect(crop: np.ndarray, row: int) -> np.ndarray:
        if place == "decode" and row == 5:
            raise InternalError("decode broke")
        return crop

    def broken_reader(*args: Any) -> Iterator[av.VideoFrame]:
        for number, frame in enumerate(read_frames(*args)):
            if number == 5:
                raise InternalError("read_frames broke")
            yield frame

    def broken_write(self: Any, frame: av.VideoFrame) -> None:
        raise InternalError("write broke")

    network(film, source, faces, effect)
    if place == "read_frames":
        monkeypatch.setattr(s5_blend, "read_frames", broken_reader)
    if place == "write":
        monkeypatch.setattr(s5_blend.SegmentWriter, "write", broken_write)
    threads = threading.active_count()
    with pytest.raises(InternalError, match=f"^{place} broke$"):
        dub(film, source, faces, tmp_path, batch_size=1)
    assert threading.active_count() == threads


def test_no_more_than_a_few_frames_are_in_memory_however_slow_the_encoder(
    film: Path, tmp_path: Path, caught: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(film)
    ahead, most = 0, 0

    def counted(*args: Any) -> Iterator[av.VideoFrame]:
        nonlocal ahead, most
        for _ in range(8):
            for frame in read_frames(*args):
                ahead += 1
                most = max(most, ahead)
                yield frame

    def slow(self: Any, frame: av.VideoFrame) -> None:
        nonlocal ahead
        time.sleep(0.005)
        ahead -= 1

    monkeypatch.setattr(s5_blend, "read_frames", counted)
    monkeypatch.setattr(s5_blend.SegmentWriter, "write", slow)
    with pytest.raises(InternalError, match=r"frames asked for and of the segment should be equal, are \(10, 80\)"):
        dub(film, source, faces_at(source.shots[0], SIZE), tmp_path)
    assert most <= 2 * FRAMES_AHEAD + 3


def test_reading_and_decoding_go_on_while_the_encoder_works(
    film: Path, tmp_path: Path, caught: list, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder's first frame waits here for the fourth frame and the fourth mouth, never made one after another."""
    source = source_of(film)
    faces = steady_face(source)
    fourth_frame, fourth_mouth = threading.Event(), threading.Event()

    def reader(*args: Any) -> Iterator[av.VideoFrame]:
        for number, frame in enumerate(read_frames(*args)):
            if number == 3:
                fourth_frame.set()
            yield frame

    def effect(crop: np.ndarray, row: int) -> np.ndarray:
        if row == 3:
            fourth_mouth.set()
        return crop

    network(film, source, faces, effect)
    monkeypatch.setattr(s5_blend, "read_frames", reader)
    waited = []
    monkeypatch.setattr(
        s5_blend.SegmentWriter, "write", lambda *_: waited.append(fourth_frame.wait(20) and fourth_mouth.wait(20))
    )
    dub(film, source, faces, tmp_path, batch_size=1)
    assert waited == [True] * FRAMES


def test_rows_that_do_not_agree_are_a_bug(film: Path, tmp_path: Path) -> None:
    source = source_of(film)
    faces = steady_face(source)
    made = masks(film, source, faces, config=MaskConfig(), runtime=Runtime(), out=tmp_path)
    with pytest.raises(InternalError, match="rows should be equal"):
        put_back(film, source, faces, replace(made, alpha=made.alpha[1:], square=made.square[1:]), tmp_path)


class Network:
    """A family whose answer for row i is the film's own crop, changed by an effect; a latent says which row it is."""

    def __init__(self, crops: list[np.ndarray], effect: Effect, rows_that_fit: int) -> None:
        self.crops, self.effect, self.rows_that_fit = crops, effect, rows_that_fit
        self.asked: list[int] = []

    def decode(self, latents: np.ndarray) -> np.ndarray:
        self.asked.append(len(latents))
        if len(latents) > self.rows_that_fit:
            raise MemoryError
        rows = latents[:, 0, 0, 0].astype(int)
        return np.stack([np.asarray(self.effect(self.crops[row], row), np.uint8) for row in rows])


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Network]:
    def use(film: Path, source: Source, faces: Faces, effect: Effect, rows_that_fit: int = 99) -> Network:
        shot = faces.shot
        frames = dict(enumerate(read_frames(film, source, shot.start, shot.stop), shot.start))
        crops = [
            Placement.of(box, points, roll).taken(to_rgb(frames[int(number)], source.colour), (CROP_PX, CROP_PX))
            for number, box, points, roll in zip(faces.frame, faces.box, faces.landmarks, faces.roll, strict=True)
        ]
        fake = Network(crops, effect, rows_that_fit)
        monkeypatch.setattr(s5_blend, "load_family", lambda config, runtime: fake)
        return fake

    return use


class Dubbed:
    def __init__(self, segment: Segment, masks: Masks) -> None:
        self.segment, self.masks = segment, masks


def dub(film: Path, source: Source, faces: Faces, out: Path, batch_size: int = 4, **settings: Any) -> Dubbed:
    out.mkdir(exist_ok=True)
    made = masks(film, source, faces, config=MaskConfig(), runtime=Runtime(), out=out)
    return Dubbed(put_back(film, source, faces, made, out, batch_size, **settings), made)


def put_back(
    film: Path,
    source: Source,
    faces: Faces,
    made: Masks,
    out: Path,
    batch_size: int = 4,
    voicing: Voicing | None = None,
    stretch: Stretch | None = None,
    **settings: Any,
) -> Segment:
    """All tracks speak all the time, if nothing else is said."""
    latents = np.zeros((faces.rows, 4, 32, 32), np.float16)
    latents[:, 0, 0, 0] = np.arange(faces.rows)
    shot = faces.shot
    return blend(
        film,
        source,
        faces,
        made,
        Mouths(latents),
        voicing or Voicing(tuple(Line(int(track), shot.start, shot.stop, 0) for track in np.unique(faces.track))),
        stretch or Stretch(shot.start, shot.stop),
        ModelConfig(),
        config=BlendConfig(preset="ultrafast", **settings),
        runtime=Runtime(batch_size=batch_size),
        out=out,
    )


def steady_face(source: Source, roll: float = 0.0) -> Faces:
    points = tilted(landmarks_at(90, 60, 80), roll, (90.0, 80.0))
    return faces_at(source.shots[0], SIZE, *[(i, 0, points) for i in range(source.frames)], roll=roll)


def weights_over_frame(made: Masks, faces: Faces, row: int) -> np.ndarray:
    face = Shown(faces, made, np.ones(faces.rows, np.float32)).face(row, SIZE)
    weight = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    x1, y1, x2, y2 = face.region
    weight[y1:y2, x1:x2] = face.alpha
    return weight


def with_grain(film: Path, path: Path, sigma: float, size: float) -> Path:
    """The same film with noise, new in every frame. size: sigma in pixels; 0 is white."""
    rng = np.random.default_rng(4)

    def grain(luma: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, 1, luma.shape).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), size) if size else noise
        return luma + sigma * noise / noise.std()

    return with_luma(film, path, grain)


def with_luma(film: Path, path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The same film, lossless, its luma changed. change: (H, W) float32 -> (H, W)."""
    with av.open(str(film)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in old.decode(video=0):
            samples = frame.to_ndarray()
            samples[: SIZE[1]] = np.clip(np.rint(change(samples[: SIZE[1]].astype(np.float32))), 0, 255)
            new.mux(stream.encode(av.VideoFrame.from_ndarray(samples, format="yuv420p")))
        new.mux(stream.encode(None))
    return path


def graininess(frame: av.VideoFrame, weight: np.ndarray) -> float:
    """Deviation of what is finer than 1.5 pixels where a mask shows fully, over that around it."""
    picture = luma(frame).astype(np.float32)
    fine = np.abs(picture - cv2.GaussianBlur(picture, (0, 0), 1.5))
    around = cv2.dilate(weight, np.ones((25, 25), np.uint8)) > 0
    return float(np.median(fine[weight > 250]) / np.median(fine[around & (weight == 0)]))


def luma(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


def planes(frame: av.VideoFrame) -> bytes:
    return frame.to_ndarray().tobytes()

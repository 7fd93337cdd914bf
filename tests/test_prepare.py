"""Videos to samples: time, windows and rules as tables; real small films through the whole of it."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dying
import numpy as np
import pytest
from conftest import number_of, run_tool
from made_faces import landmarks_at
from numpy.typing import NDArray

from musetalk_cli import cli
from musetalk_cli.errors import InputError, InterruptedRun, RetryableError, UsageError
from musetalk_cli.signals import Stop
from musetalk_cli.tracks import Person, Sighting, around
from musetalk_cli.training import prepare as prepare_module
from musetalk_cli.training.dataset import read_samples
from musetalk_cli.training.footage import Rate25, frames_25fps, spool_sound, upright, watch
from musetalk_cli.training.framing import boxes_within, cut, framing_of, points_within
from musetalk_cli.training.prepare import list_videos, prepare, run_all, summary
from musetalk_cli.training.prepare_video import (
    IDENTITY,
    RECORDS_DIR,
    Candidate,
    Judged,
    PrepareConfig,
    Task,
    Tools,
    TrackRecord,
    Video,
    VideoRecord,
    alone,
    best_of_each_moment,
    candidates,
    identity_of,
    loudest_db,
    prepare_video,
    split_of,
)
from musetalk_cli.training.sync import Pairing, Sync
from musetalk_cli.types import Shot

QUICK = PrepareConfig(sync="none", min_seconds=0.4, min_face=40, val_share=0.0)
FACES_ONLY = replace(QUICK, speech=False)  # its processes start without torch
FACE_FRAMES = 16
DEAF = Tools(None, None)

# time


@pytest.mark.parametrize(
    ("times", "picked"),
    [
        ([0, 40, 80, 120], [0, 1, 2, 3]),  # 25 fps
        ([500, 540, 580], [0, 1, 2]),  # wherever the film begins
        ([0, 20, 40, 60, 80, 100], [0, 2, 4]),  # 50 fps: every second
        ([0, 80, 160], [0, 1, 1, 2, 2, 2]),  # 12.5 fps: each twice; the nearest, and of two as near the later
        ([0, 33, 66, 100, 133, 166], [0, 1, 2, 4, 5]),  # 30 fps
        ([0, 40, 400, 440], [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]),  # a pause in the film
    ],
)
def test_each_25th_of_a_second_shows_the_nearest_frame(times: list[int], picked: list[int]) -> None:
    seen: list[tuple[int, int]] = []
    rate = Rate25(lambda number, frame: seen.append((number, frame.pts)))
    for time in times:
        rate.watch(SimpleNamespace(pts=time, time_base=Fraction(1, 1000), duration=0))  # type: ignore[arg-type]
    rate.finish()
    assert rate.picked == picked
    assert seen == [(number, times[i]) for number, i in enumerate(picked)]


@pytest.mark.parametrize(
    ("name", "fps", "codec", "audio"),
    [
        ("a.mp4", Fraction(30), "libx264", "aac"),
        ("a.mkv", Fraction(24000, 1001), "libx264", "flac"),
        ("a.mov", Fraction(25), "libx264", "aac"),
        ("a.webm", Fraction(50), "libvpx-vp9", "libopus"),
        ("a.avi", Fraction(25), "mjpeg", "pcm_s16le"),
    ],
)
def test_any_format_and_rate_comes_as_25_fps(
    tmp_path: Path, make_film: Callable[..., Path], name: str, fps: Fraction, codec: str, audio: str
) -> None:
    count = round(fps)  # a second
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    film = make_film(tmp_path / name, frames=count, fps=fps, codec=codec, audio=audio, pix_fmt=pix_fmt)
    numbers = [number_of(rgb) for rgb in frames_25fps(film)]
    wanted = [min(range(count), key=lambda n: (abs(n / fps - Fraction(k, 25)), -n)) for k in range(25)]
    assert numbers[:25] == wanted and len(numbers) in (25, 26)


def test_sound_begins_with_the_first_picture(tmp_path: Path, make_film: Callable[..., Path]) -> None:
    film = make_film(tmp_path / "film.mkv", frames=25, audio="flac")
    late = tmp_path / "late.mkv"
    run_tool("-i", str(film), "-itsoffset", "0.4", "-i", str(film), "-map", "0:v", "-map", "1:a", "-c", "copy", str(late))
    early = tmp_path / "early.mkv"
    run_tool("-itsoffset", "0.4", "-i", str(film), "-i", str(film), "-map", "0:v", "-map", "1:a", "-c", "copy", str(early))
    heard = {}
    for path in (film, late, early):
        footage = watch(path, lambda *_: None)
        heard[path] = np.array(spool_sound(footage, tmp_path / "pcm"), np.int32)
        assert len(heard[path]) == 640 * footage.frames
    assert np.abs(heard[late][:6300]).max() < 200 and np.abs(heard[late][6500:]).max() > 5000
    assert np.abs(heard[early][9700:]).max() < 200 and np.abs(heard[early][:9500]).max() > 5000  # 0.4 s of it were before


def test_a_turned_picture_is_put_upright() -> None:
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert upright(rgb, 0) is rgb
    assert upright(rgb, 90).shape == (4, 2, 3) and upright(rgb, 90)[0, 0].tolist() == rgb[0, -1].tolist()


def test_a_film_stored_turned_is_shown_upright(tmp_path: Path, make_film: Callable[..., Path]) -> None:
    film = make_film(tmp_path / "film.mp4", frames=3)
    turned = tmp_path / "turned.mp4"
    run_tool("-display_rotation", "90", "-i", str(film), "-c", "copy", str(turned))
    shown = tmp_path / "shown.mkv"  # as ffmpeg itself shows it
    run_tool("-i", str(turned), "-c:v", "ffv1", str(shown))
    footage = watch(turned, lambda *_: None)
    assert footage.size == (96, 128)
    for ours, theirs in zip(frames_25fps(turned), frames_25fps(shown), strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 2


# the window


@pytest.mark.parametrize("width", [60, 140, 700])
@pytest.mark.parametrize("step", [0, 9])
def test_face_with_room_and_margin_lies_in_the_window(width: int, step: int) -> None:
    faces = np.stack([landmarks_at(400 + step * i, 500 - step * i / 2, width * (1 + i / 100)) for i in range(30)])
    framing = framing_of(faces)
    w, h = framing.kept_size
    points = points_within(faces, framing)
    boxes = boxes_within(np.stack([np.concatenate([p.min(0), p.max(0)]) for p in faces]).astype(np.int32), framing)
    assert points.min() >= 0 and (points[..., 0] < w).all()
    assert (boxes[:, 3] + 30 * framing.scale <= h).all()
    assert (boxes[:, 0] > 0).all() and (boxes[:, 2] < w).all() and (boxes[:, 1] > 0).all()
    assert np.ptp(points[..., 0], axis=1).max() <= 513
    assert (framing.scale == 1) == (width < 500)


def test_window_is_cut_by_whole_pixels_and_black_outside() -> None:
    rgb = np.random.default_rng(0).integers(1, 255, (120, 160, 3)).astype(np.uint8)
    framing = framing_of(landmarks_at(20, 40, 60)[None])
    window = cut(rgb, framing, 0)
    left, top = framing.corner[0]
    assert left < 0 and window.shape[:2] == framing.kept_size[::-1]
    np.testing.assert_array_equal(window[10 - top, 10 - left], rgb[10, 10])
    assert window[:, :-left].max() == 0


# rules


def test_a_person_is_split_where_he_is_lost_and_where_he_leaves_the_picture() -> None:
    def sighting(frame: int, x: float) -> Sighting:
        points = landmarks_at(x, 60, 50)
        return Sighting(frame, around(points), 0.9, points)

    frames = [*range(20), *range(40, 60)]
    person = Person(tuple(sighting(frame, 80) for frame in frames))
    found = candidates([(Shot(3, 0, 60), person)], (160, 120), "clip")
    assert [(row.name, row.start, row.stop) for row in found] == [("clip-3-0", 0, 20), ("clip-3-1", 40, 60)]
    gone = Person(tuple(sighting(frame, 80 if frame < 10 else -60) for frame in range(20)))
    assert [(row.start, row.stop) for row in candidates([(Shot(0, 0, 20), gone)], (160, 120), "clip")] == [(0, 10)]


def test_of_faces_that_meet_the_more_confident_one_speaks() -> None:
    rows = [_judged(0, 50, 0.4), _judged(40, 90, 0.6), _judged(95, 140, 0.3), _judged(0, 90, 0.9, reason="silent")]
    assert [row.reason for row in best_of_each_moment(rows)] == ["the voice fits another face better", "", "", "silent"]


def test_without_a_judge_only_faces_alone_are_kept() -> None:
    rows = alone([_judged(0, 50), _judged(49, 90), _judged(90, 140), _judged(90, 99, reason="too short")])
    assert [bool(row.reason) for row in rows] == [True, True, False, True]


@pytest.mark.parametrize(
    ("source", "pattern", "identity"),
    [
        ("id012_3.mp4", IDENTITY, "id012"),
        ("a/b/x7.webm", IDENTITY, "x7"),
        ("a/b/x7.webm", r"^([^/]+)/", "a"),
        ("bbaf2n.mp4", "s1", "s1"),
    ],
)
def test_identity_of_a_video(source: str, pattern: str, identity: str) -> None:
    assert identity_of(source, pattern) == identity


def test_a_pattern_that_does_not_fit_is_told() -> None:
    with pytest.raises(InputError, match="finds no identity"):
        identity_of("clip.mp4", r"(\d+)")


def test_split_is_by_identity_and_stays() -> None:
    people = [f"id{n:03}" for n in range(400)]
    splits = [split_of(person, PrepareConfig(val_share=0.25)) for person in people]
    assert splits == [split_of(person, PrepareConfig(val_share=0.25)) for person in people]
    assert 70 < splits.count("val") < 130
    assert {split_of(person, PrepareConfig(val_share=0)) for person in people} == {"train"}
    assert [split_of(person, PrepareConfig(val_identities=("id001",))) for person in people[:3]] == ["train", "val", "train"]


def test_names_of_samples_are_unique_and_safe(tmp_path: Path) -> None:
    for name in ("a/clip.mp4", "b/clip.webm", "b/été 1.MKV", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    videos = list_videos(tmp_path)
    assert [video.source for video in videos] == ["a/clip.mp4", "b/clip.webm", "b/été 1.MKV"]
    assert len({video.stem for video in videos}) == 3 and videos[2].stem == "_t__1"


def test_a_folder_without_videos_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no video"):
        list_videos(tmp_path)


@pytest.mark.parametrize(("level", "db"), [(1.0, 0.0), (0.1, -20.0), (0.0, -180.0)])
def test_loudest_second(level: float, db: float) -> None:
    samples = np.zeros(48_000, np.float32)
    samples[16_000:32_000] = level
    assert loudest_db(samples) == pytest.approx(db)


def test_table_counts_hours_before_and_after() -> None:
    def line(kept: bool, reason: str = "", *, judged: bool = True, identity: str = "a", split: str = "train") -> TrackRecord:
        return TrackRecord("n", "v.mp4", kept, reason, identity, split, frames=90_000, judged=judged)

    records = [
        VideoRecord("v.mp4", 1, 7200.0, False, (line(True), line(False, "sync confidence 0.10, needs 0.30"))),
        VideoRecord("w.mp4", 1, 3600.0, False, (line(True, identity="b", split="val"),)),
        VideoRecord("x.mp4", 1, 0.0, True, (replace(line(False, "x.mp4: the file is empty", judged=False), source="x.mp4"),)),
    ]
    found = summary("clips", records)
    assert (found.hours_raw, found.hours_face, found.hours_kept) == (3.0, 3.0, 2.0)
    assert (found.samples, found.identities, found.val_samples, found.val_identities, found.unreadable) == (2, 2, 1, 1, 1)
    assert found.dropped == {"sync confidence": 1, "the file is empty": 1}
    assert found.lines()[1].split() == ["clips", "3.000", "3.000", "2.000", "2", "2"]


# whole videos


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory, make_film: Callable[..., Path]) -> Path:
    """A face that drifts, 16 frames, with a tone."""
    import cv2
    from skimage.data import astronaut

    portrait = np.asarray(cv2.resize(astronaut()[16:240, 112:336], (192, 192), interpolation=cv2.INTER_AREA), np.uint8)

    def picture(number: int) -> NDArray[np.uint8]:
        return np.roll(portrait, number // 2, axis=1)

    folder = tmp_path_factory.mktemp("raw")
    return make_film(folder / "anna_1.mp4", frames=FACE_FRAMES, size=(192, 192), audio="aac", picture=picture)


def test_a_talking_face_becomes_a_sample(tmp_path: Path, talker: Path) -> None:
    record = prepare_video(_task(talker, tmp_path))
    assert [line.kept for line in record.tracks] == [True] and not record.unreadable
    sample = read_samples([tmp_path])[0]
    assert (sample.name, sample.identity, sample.frames) == ("anna_1-0-0", "anna", FACE_FRAMES)
    assert len(sample.speech()) == 640 * FACE_FRAMES and np.abs(sample.speech()).max() > 0.1
    w, h = sample.landmarks[..., 0].mean(), sample.landmarks[..., 1].mean()
    assert 0 < w < sample.boxes()[:, 2].max() and 0 < h < sample.boxes(30)[:, 3].max()
    assert not list((tmp_path / "samples").glob("part.*")) and not list((tmp_path / "videos").glob("part.*"))


def test_a_voice_that_is_late_is_moved(tmp_path: Path, talker: Path) -> None:
    for correct in (True, False):
        out = tmp_path / str(correct)
        config = PrepareConfig(min_seconds=0.4, min_face=40, val_share=0.0, correct_offset=correct)
        prepare_video(_task(talker, out, Tools(None, _Says(Sync(3, 0.9))), config))
    moved, still = read_samples([tmp_path / "True"])[0], read_samples([tmp_path / "False"])[0]
    assert moved.offset_frames == still.offset_frames == 3 and moved.confidence == pytest.approx(0.9, abs=1e-3)
    np.testing.assert_array_equal(moved.speech()[: -3 * 640], still.speech()[3 * 640 :])
    assert np.abs(moved.speech()[-3 * 640 :]).max() == 0  # the film's sound ends


def test_an_offset_of_one_frame_is_not_trusted(tmp_path: Path, talker: Path) -> None:
    plain = Tools(None, _Says(Sync(0, 0.9))), tmp_path / "plain"
    other = Tools(None, _Says(Sync(1, 0.9))), tmp_path / "other"
    for tools, out in (plain, other):
        prepare_video(_task(talker, out, tools, PrepareConfig(min_seconds=0.4, min_face=40)))
    one, two = (read_samples([out])[0] for _, out in (plain, other))
    assert two.offset_frames == 1
    np.testing.assert_array_equal(one.speech(), two.speech())


def test_a_voice_that_does_not_belong_is_dropped_with_its_reason(tmp_path: Path, talker: Path) -> None:
    config = PrepareConfig(min_seconds=0.4, min_face=40)
    record = prepare_video(_task(talker, tmp_path, Tools(None, _Says(Sync(0, 0.01))), config))
    assert [(line.kept, line.offset_frames, line.judged) for line in record.tracks] == [(False, 0, True)]
    assert record.tracks[0].reason.startswith("sync confidence 0.01")
    assert list((tmp_path / "samples").iterdir()) == []


def test_an_expert_that_sees_is_shown_crops(tmp_path: Path, talker: Path) -> None:
    expert = _Says(Sync(0, 0.01), sees=True)
    prepare_video(_task(talker, tmp_path, Tools(None, expert), PrepareConfig(min_seconds=0.4, min_face=40)))
    assert expert.shown == (2, 256, 256, 3)
    assert list((tmp_path / "samples").iterdir()) == []  # its frames were written, and are gone


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (PrepareConfig(sync="none", min_face=40), "too short: 0.64 s, needs 1"),
        (PrepareConfig(sync="none", min_seconds=0.4, min_face=85), "too small: 79 px wide, needs 85"),
        (PrepareConfig(sync="none", min_seconds=0.4, min_face=150), "too small"),
    ],
)
def test_short_and_small_faces_are_dropped_with_their_reason(
    tmp_path: Path, talker: Path, config: PrepareConfig, reason: str
) -> None:
    record = prepare_video(_task(talker, tmp_path, config=config))
    assert [line.reason.startswith(reason) for line in record.tracks] == [True]


def test_a_video_without_a_face_and_one_without_sound_have_their_reason(
    tmp_path: Path, make_film: Callable[..., Path], talker: Path
) -> None:
    wall, mute = make_film(tmp_path / "wall.mp4", frames=8), tmp_path / "mute.mkv"
    run_tool("-i", str(talker), "-an", "-c", "copy", str(mute))
    assert prepare_video(_task(wall, tmp_path)).tracks[0].reason == "no face"
    record = prepare_video(_task(mute, tmp_path))
    assert record.unreadable and "there is no sound in it" in record.tracks[0].reason
    assert prepare_video(_task(mute, tmp_path, config=FACES_ONLY)).tracks[0].kept


def test_prepare_goes_on_after_what_is_finished_and_past_what_is_bad(tmp_path: Path, talker: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "set"
    raw.mkdir()
    (raw / "bad_1.mp4").write_bytes(b"no film at all")
    os.link(talker, raw / "anna_1.mp4")
    said: list[str] = []
    found = prepare(raw, out, FACES_ONLY, workers=1, say=said.append)
    assert (found.videos, found.samples, found.unreadable, found.identities) == (2, 1, 1, 1)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [(line["source"], line["kept"]) for line in lines] == [("anna_1.mp4", True), ("bad_1.mp4", False)]
    assert "cannot be read" in lines[1]["reason"] and any("bad_1.mp4" in line for line in said)

    before = (out / "samples" / "anna_1-0-0" / "sample.json").stat().st_mtime_ns
    (out / "samples" / "part.bob-0-0").mkdir()  # a killed run leaves such
    (out / "manifest.jsonl").unlink()
    again = prepare(raw, out, FACES_ONLY, workers=1)
    assert again == found and len((out / "manifest.jsonl").read_text().splitlines()) == 2
    assert (out / "samples" / "anna_1-0-0" / "sample.json").stat().st_mtime_ns == before
    assert not (out / "samples" / "part.bob-0-0").exists()

    with pytest.raises(UsageError, match="min_face 40 .now 41."):
        prepare(raw, out, replace(FACES_ONLY, min_face=41))


def test_a_record_that_names_a_path_is_refused_and_nothing_is_deleted(tmp_path: Path, talker: Path) -> None:
    raw, out, theirs = tmp_path / "raw", tmp_path / "set", tmp_path / "theirs"
    raw.mkdir()
    theirs.mkdir()
    os.link(talker, raw / "anna_1.mp4")
    prepare(raw, out, FACES_ONLY, workers=1)
    (record,) = (out / RECORDS_DIR).glob("*.json")
    told = json.loads(record.read_text())
    told["size"] += 1  # as though the video were another one now: its samples would be taken away
    told["tracks"][0]["name"] = "../../theirs"
    record.write_text(json.dumps(told))
    with pytest.raises(InputError, match="a sample's name is a path"):
        prepare(raw, out, FACES_ONLY, workers=1)
    assert theirs.is_dir()


def test_one_writer_at_a_time(tmp_path: Path, talker: Path) -> None:
    from filelock import FileLock

    (tmp_path / "set").mkdir()
    with FileLock(tmp_path / "set" / "lock"), pytest.raises(RetryableError, match="another"):
        prepare(talker, tmp_path / "set", FACES_ONLY)


def test_a_video_that_kills_its_process_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "_work", dying.answer)
    monkeypatch.setattr(prepare_module, "_start_worker", dying.start)
    videos: Any = [SimpleNamespace(path=tmp_path / name, source=name) for name in ("a.mp4", "deadly.mp4", "b.mp4", "c.mp4")]
    records = {record.source: record for record in run_all(videos, tmp_path, QUICK, 2, Stop())}
    assert sorted(records) == ["a.mp4", "b.mp4", "c.mp4", "deadly.mp4"]
    assert [source for source, record in records.items() if record.unreadable] == ["deadly.mp4"]
    assert "killed twice" in records["deadly.mp4"].tracks[0].reason


def test_a_stop_keeps_what_is_finished(tmp_path: Path, talker: Path) -> None:
    stop = Stop()
    stop.number = signal.SIGINT
    with pytest.raises(InterruptedRun):
        prepare(talker, tmp_path / "set", FACES_ONLY, stop=stop)
    assert (tmp_path / "set" / "manifest.jsonl").read_text() == ""


def test_the_command_prints_one_object_and_exits_8_for_a_bad_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "run_all", lambda videos, out, *_: (_bad(video) for video in videos))
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "bad.mp4").write_bytes(b"no film")
    assert cli.run(["prepare", str(raw), str(tmp_path / "set"), "--json", "-q", "--no-speech"]) == 8
    assert json.loads(capsys.readouterr().out)["unreadable"] == 1


def _bad(video: Video) -> VideoRecord:
    return VideoRecord(video.source, 7, 0.0, True, (TrackRecord("", video.source, False, "cannot be read", "x", "train"),))


class _Says:
    """A sync expert whose answer is known."""

    min_confidence = 0.1

    def __init__(self, sync: Sync, *, sees: bool = False) -> None:
        self._sync, self.sees, self.shown = sync, sees, ()

    def scores(self, pairing: Pairing) -> NDArray[np.float32]:
        if pairing.crops is not None:
            self.shown = pairing.crops([0, 5]).shape
        distances = np.ones((4, 31), np.float32)
        distances[:, 15 + self._sync.offset] -= self._sync.confidence
        return distances


def _task(path: Path, out: Path, tools: Tools = DEAF, config: PrepareConfig = QUICK) -> Task:
    (out / "samples").mkdir(parents=True, exist_ok=True)
    return Task(Video(path, path.name, path.stem), out, tools, config)


def _judged(start: int, stop: int, confidence: float = 0.5, *, reason: str = "") -> Judged:
    candidate = Candidate(
        f"c{start}", 0, start, np.zeros((stop - start, 68, 2), np.float32), np.zeros((stop - start, 4), np.int32)
    )
    return Judged(candidate, Sync(0, confidence), reason)

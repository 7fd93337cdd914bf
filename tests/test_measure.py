"""A result beside its film, from files to findings: a portrait that speaks, and what may be wrong with a dub of it.

Four seconds at 12 frames a second. The portrait's jaw follows what the lip judge asks of a voice: the film's own, or that of a dub.
"""

import os
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_film, make_speech, run_tool
from numpy.typing import NDArray

from musetalk_cli.config import DubConfig, RemuxConfig, ReportConfig, Runtime
from musetalk_cli.errors import InputError
from musetalk_cli.media.audio import read_speech
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.metrics.same_sound import moved
from musetalk_cli.models.lip_judge import LipJudge
from musetalk_cli.pipeline import Run, dub, find_faces
from musetalk_cli.progress import Events
from musetalk_cli.report.measure import report_of, report_of_dub
from musetalk_cli.report.records import Report
from musetalk_cli.session import Place, Voice, open_session
from musetalk_cli.settings import choose_model, for_job
from musetalk_cli.signals import Stop
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.types import DubJob, Faces, Source
from musetalk_cli.work import Work

FPS = 12  # few, for the time it takes: the judge compares 25 moments a second between them
FRAMES = 4 * FPS
WIDEST_PX = 8.0  # by which the jaw falls
DATA = os.environ.get("MUSETALK_TEST_DATA")

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Desk:
    """A folder with a film, voices and results; one work folder."""

    folder: Path
    portrait: Rgb

    @property
    def film(self) -> Path:
        return self.folder / "film.mp4"

    def picture(self, name: str, falls: NDArray[np.floating], *, crf: int = 12) -> Path:
        """A silent film whose jaw falls by so many shares of WIDEST_PX, frame by frame."""
        faces = [speaking(self.portrait, float(fall) * WIDEST_PX) for fall in falls]
        path = self.folder / f"{name}.silent.mp4"
        options = {"crf": str(crf), "preset": "ultrafast"}
        return make_film(path, frames=len(falls), fps=Fraction(FPS), size=(224, 224), picture=lambda n: faces[n], options=options)

    def joined(self, name: str, picture: Path, voice: Path, late_s: float = 0.0, seconds: float = 4.0) -> Path:
        """Picture as it is coded, and sound; late_s: by which the sound comes later, or earlier where negative."""
        how = f"adelay={round(late_s * 1000)}:all=1" if late_s >= 0 else f"atrim=start={-late_s},asetpts=PTS-STARTPTS"
        sound = ["-map", "1:a:0", "-af", f"{how},apad=whole_dur={seconds}", "-t", str(seconds), "-c:a", "aac"]
        path = self.folder / f"{name}.mp4"
        run_tool("-i", str(picture), "-i", str(voice), "-map", "0:v", "-c:v", "copy", *sound, str(path))
        return path

    def report(self, result: Path, film: Path | None = None) -> Report:
        film = film or self.film
        with Work.open(self.folder / f"work.{film.stem}", Events(), Stop()) as work:
            return report_of(film, result, Run(film, DubConfig(), Runtime(workers=1), work, Events()), ReportConfig())


def speaking(portrait: Rgb, falls_px: float) -> Rgb:
    """The portrait with all below the lower lip, and the lip, so much lower."""
    x, y, width = 111.0, 128.0, 42.0  # of its mouth
    rows, columns = np.mgrid[: portrait.shape[0], : portrait.shape[1]].astype(np.float32)
    below = np.maximum(rows - y, 0)
    fall = falls_px * np.exp(-(((columns - x) / (0.8 * width)) ** 2)) * np.exp(-((below / (1.2 * width)) ** 2))
    source = rows - fall * np.clip(below / (falls_px + 1e-6), 0, 1)
    return np.asarray(cv2.remap(portrait, columns, source.astype(np.float32), cv2.INTER_LINEAR), np.uint8)


def falls(voice: Path) -> NDArray[np.float64]:
    """(FRAMES,) 0..1: how far the judge wants the mouth open."""
    asked = LipJudge().asked([read_speech(voice)])
    opening = asked.at(np.arange(FRAMES) / FPS)[:, 0]
    return np.asarray(np.clip((opening - opening.min()) / max(float(np.ptp(opening)), 1e-6), 0, 1))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    from skimage.data import astronaut

    desk = Desk(tmp_path_factory.mktemp("desk"), np.asarray(astronaut()[16:240, 112:336], np.uint8))
    own, new = (make_speech(desk.folder / f"{name}.wav", seconds=4, pace=pace) for name, pace in (("own", 1.0), ("new", 1.3)))
    desk.joined("film", desk.picture("film", falls(own)), own)
    desk.picture("dub", falls(new))
    return desk


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def test_the_film_itself_has_nothing_to_report(desk: Desk) -> None:
    report = desk.report(desk.film)
    assert report.findings == () and report.score == 100
    assert report.totals.rows > 0 and report.totals.change == 0 and report.totals.sharpness == 1
    assert report.totals.offset_ms == 0 and report.totals.confidence == report.totals.film_confidence


def test_the_film_coded_again_has_nothing_to_report(desk: Desk) -> None:
    again = desk.folder / "again.mp4"
    run_tool("-i", str(desk.film), "-crf", "26", "-c:a", "aac", "-b:a", "48k", str(again))
    assert desk.report(again).score == 100


def test_another_voice_over_the_film_s_mouth_is_a_no_op(desk: Desk) -> None:
    report = desk.report(desk.joined("noop", desk.folder / "film.silent.mp4", desk.folder / "new.wav"))
    assert kinds(report) == {"no-op"} and report.score < 5


def test_the_film_s_sound_moved_is_a_shift_known_exactly(desk: Desk) -> None:
    late_s = -0.2
    (found,) = desk.report(
        desk.joined(f"moved{late_s}", desk.folder / "film.silent.mp4", desk.folder / "own.wav", late_s)
    ).findings
    assert found.kind == "shift" and found.value == pytest.approx(-late_s * 1000, abs=5)


def test_a_mouth_that_rests_while_the_voice_speaks_is_frozen(desk: Desk) -> None:
    still = desk.picture("still", np.zeros(FRAMES))
    report = desk.report(desk.joined("still", still, desk.folder / "own.wav"))
    assert "frozen mouth" in kinds(report) and report.score < 20


def test_a_mouth_that_follows_its_voice_passes(desk: Desk) -> None:
    report = desk.report(desk.joined("dub", desk.folder / "dub.silent.mp4", desk.folder / "new.wav"))
    assert report.findings == () and report.score == 100
    assert report.totals.change is not None and report.totals.change > 3
    assert report.totals.confidence is not None and report.totals.confidence > 0.2


def test_a_mouth_that_follows_its_voice_too_early_is_heard(desk: Desk) -> None:
    late_s = 0.2
    (found,) = desk.report(desk.joined(f"dub{late_s}", desk.folder / "dub.silent.mp4", desk.folder / "new.wav", late_s)).findings
    assert found.kind == "shift" and found.value == pytest.approx(-late_s * 1000, abs=60)


def test_a_report_has_what_a_page_shows(desk: Desk) -> None:
    report = desk.report(desk.folder / "dub.mp4")
    assert [(fact.role, fact.name) for fact in report.files] == [("film", "film.mp4"), ("result", "dub.mp4")]
    assert (report.frames, report.fps, report.seconds) == (FRAMES, FPS, 4.0)
    (shot,) = report.shots
    assert shot.what == "synced" and [track.person for track in shot.tracks if track.figures] == ["A"]
    (curve,) = report.curves
    assert len(curve.times_s) == len(curve.asked) > 35
    whys = [pair.why for pair in report.pairs]
    assert whys.count("random") == 4 and any(why.startswith("worst: seam") for why in whys)
    sizes = {cv2.imdecode(np.frombuffer(pair.dubbed_jpeg, np.uint8), cv2.IMREAD_COLOR).shape for pair in report.pairs}
    assert sizes == {(256, 256, 3)}
    assert report.settings["report.seconds"] == "60.0" and "decide.max_yaw" in report.settings


def test_what_was_measured_is_found_again(desk: Desk) -> None:
    results = desk.folder / "work.film"
    before = {path: path.stat().st_mtime_ns for path in results.glob("*/*/result.json")}
    again = desk.report(desk.folder / "dub.mp4")
    assert {path: path.stat().st_mtime_ns for path in results.glob("*/*/result.json")} == before
    assert again.score == 100


def test_a_result_of_another_length_is_refused(desk: Desk) -> None:
    short = desk.folder / "short.mp4"
    run_tool("-i", str(desk.film), "-frames:v", "40", "-c:v", "libx264", "-c:a", "copy", str(short))
    with pytest.raises(InputError, match="40 frames, the film has 48"):
        desk.report(short)


def test_a_result_without_sound_is_not_verified(desk: Desk) -> None:
    report = desk.report(desk.folder / "film.silent.mp4")
    assert kinds(report) == {"not verified"} and report.score == 0


@pytest.mark.parametrize("lag", [0, 1600, -800])
def test_a_moved_sound_is_known_by_how_much(lag: int) -> None:
    rng = np.random.default_rng(0)
    other = rng.normal(0, 0.1, 8000 + 2 * 2000)
    found = moved(0.3 * other[2000 - lag : 10000 - lag] + rng.normal(0, 0.002, 8000), other)
    assert found.lag == lag and found.likeness > 0.95
    assert moved(rng.normal(0, 0.1, 8000), other).likeness < 0.2
    assert moved(np.zeros(8000), other).likeness == 0


def test_after_a_dub_its_own_decisions_are_reported(desk: Desk) -> None:
    """Over a film of a second: what is decided, made and measured is all in one work folder."""
    film, output, voice = (desk.folder / name for name in ("short.mp4", "short.fr.mp4", "new.wav"))
    run_tool("-i", str(desk.film), "-frames:v", "12", "-t", "1", "-crf", "10", str(film))
    job = DubJob(film, voice, output, "fr")
    model = choose_model("lite", desk.folder)
    config = for_job(replace(DubConfig(), model=model, remux=RemuxConfig(length="trim")), job)
    with open_session(film, Place(desk.folder / "work.short"), Voice(quiet=True)) as session:
        told = dub(job, config=config, runtime=Runtime(workers=1), work=session.work, events=session.events)
        report = report_of_dub(job, Run(film, config, Runtime(workers=1), session.work, session.events), ReportConfig())
    (shot,) = report.shots
    assert [(track.what, track.start, track.stop) for track in shot.tracks] == [
        (v.what, v.start, v.stop) for v in told.decisions[0].verdicts
    ]
    assert report.totals.rows > 6 and report.totals.change is not None and report.totals.change > 1
    assert {fact.role for fact in report.files} == {"film", "voice", "result", "model"}
    assert {"faces", "inference", "blend", "measure"} <= set(report.stage_seconds)
    assert report.settings["model.name"] == "lite"
    assert not {"no-op", "not verified"} & kinds(report)


CLIPS = {"id055_1": 4.72, "id025_1": 5.0}  # of held-back people, with their seconds


@pytest.fixture(scope="module", params=CLIPS)
def clip(request: pytest.FixtureRequest) -> tuple[Path, float]:
    return Path(str(DATA), "held_back", f"{request.param}.mp4"), CLIPS[request.param]


def real_faces(desk: Desk, film: Path) -> tuple[Source, Faces]:
    with Work.open(desk.folder / f"work.{film.stem}", Events(), Stop()) as work:
        run = Run(film, DubConfig(), Runtime(workers=1), work, Events())
        source = work.do(demux, film, config=run.config.demux, runtime=run.runtime, unit="film")
        (faces,) = find_faces(source, run)
        return source.load(), faces.load()


def with_first_mouth(desk: Desk, film: Path) -> Path:
    """The film with the lower half of its first face in every frame, where the face is; without sound."""
    source, faces = real_faces(desk, film)
    frames = [to_rgb(frame, source.colour) for frame in read_frames(film, source, 0, source.frames)]
    x1, y1, x2, y2 = faces.box[0]
    mouth = frames[faces.frame[0]][(y1 + y2) // 2 : y2, x1:x2].copy()

    def picture(number: int) -> Rgb:
        rgb = frames[number].copy()
        for x1, y1, x2, y2 in faces.box[faces.frame == number]:
            middle = (y1 + y2) // 2
            rgb[middle:y2, x1:x2] = cv2.resize(mouth, (int(x2 - x1), int(y2 - middle)))
        return rgb

    path = desk.folder / f"{film.stem}.still.mp4"
    return make_film(path, frames=source.frames, fps=source.fps, size=source.size, picture=picture, options={"crf": "14"})


@pytest.mark.skipif(DATA is None, reason="MUSETALK_TEST_DATA names no folder of clips")
def test_a_real_film_passes_and_what_is_planted_in_it_is_found(desk: Desk, clip: tuple[Path, float]) -> None:
    film, seconds = clip
    voice = Path(str(DATA), "voices", "de.flac")
    plants = {
        "no-op": desk.joined("real.noop", film, voice, seconds=seconds),
        "shift": desk.joined("real.moved", film, film, 0.2, seconds),
        "frozen mouth": desk.joined("real.still", with_first_mouth(desk, film), film, seconds=seconds),
    }
    assert desk.report(film, film).score == 100
    for kind, result in plants.items():
        report = desk.report(result, film)
        assert report.score < 50 and kind in kinds(report), kind


@pytest.mark.skipif(DATA is None, reason="MUSETALK_TEST_DATA names no folder of clips")
def test_a_real_dub_passes_and_its_sound_moved_is_found(desk: Desk) -> None:
    film, seconds = Path(str(DATA), "held_back", "id055_1.mp4"), CLIPS["id055_1"]
    job = DubJob(film, Path(str(DATA), "voices", "de.flac"), desk.folder / "real.de.mp4", "de")
    model = choose_model("lite", desk.folder)
    config = for_job(replace(DubConfig(), model=model, remux=RemuxConfig(length="trim")), job)
    with open_session(film, Place(desk.folder / "work.dub"), Voice(quiet=True)) as session:
        dub(job, config=config, runtime=Runtime(workers=1), work=session.work, events=session.events)
    assert desk.report(job.output, film).score == 100
    assert "shift" in kinds(desk.report(desk.joined("real.late", job.output, job.output, 0.2, seconds), film))

"""Promises of the prediction: what a film asks for is counted from a look at it, costs are those of the film's own frames, the disk is
asked before the work."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_films import clip, portrait, wall

from musetalk_cli import cli
from musetalk_cli import predict as prediction
from musetalk_cli.bench import excerpt
from musetalk_cli.bench.excerpt import (
    Counted,
    Heard,
    Look,
    best_start,
    copied_frames,
    cut_film,
    cut_voice,
    face_frames,
    generated_frames,
    hear,
    look_at,
)
from musetalk_cli.bench.probe import Probe, Ran, StageCost
from musetalk_cli.config import DecideConfig, DemuxConfig, DubConfig, FacesConfig
from musetalk_cli.errors import NoFaceError, ResourceError, UsageError
from musetalk_cli.executor import Hands
from musetalk_cli.jobs import Existing
from musetalk_cli.predict import Asked, amount_of, check_disk, costs, disk_bytes, predict, stage_seconds, totals
from musetalk_cli.session import Place
from musetalk_cli.settings import Choices
from musetalk_cli.types import DubJob

EVERY = tuple(Counted(n + 0.5, 1) for n in range(10))
LOOK = Look("h264", (160, 160), Fraction(25), 250, 10.0, (0.0, 2.0, 4.0, 6.0, 8.0), EVERY, (), True)
DECIDE = DecideConfig()


def heard(*seconds: tuple[float, float], length: float = 10.0) -> Heard:
    """A voice that speaks in these."""
    speaks = np.zeros(round(length * 50), np.bool_)
    for start, stop in seconds:
        speaks[round(start * 50) : round(stop * 50)] = True
    return Heard(length, speaks)


def generated(voice: Heard, own: Heard | None, silence: str) -> list[int]:
    """Seconds whose middle frame gets a mouth."""
    frames = generated_frames(LOOK, voice, own, silence, DECIDE.reach, DECIDE.pause)
    return [second for second in range(10) if frames[second * 25 + 12]]


def test_a_film_is_looked_at_whole_where_it_is_short(tmp_path: Path, make_film: Callable[..., Path]) -> None:
    """A cut from a person to a wall, in the middle."""

    def picture(number: int) -> Any:
        return portrait(160, 160) if number < 20 else wall()

    film = make_film(tmp_path / "film.mp4", frames=40, size=(160, 160), picture=picture, options={"g": "10"}, audio="aac")
    look = look_at(film, FacesConfig(), DemuxConfig())
    assert (look.codec, look.size, look.fps, look.frames, look.sound) == ("h264", (160, 160), 25, 40, True)
    assert look.cuts == (20,)
    assert look.keyframes[0] == 0 and len(look.keyframes) >= 4
    shows = face_frames(look)
    assert shows[:19].all() and not shows[21:].any()
    assert look.share_with_face == pytest.approx(0.5, abs=0.05)


def test_a_long_film_is_looked_at_by_its_keyframes(
    tmp_path: Path, make_film: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpt, "SHORT_S", 0.5)
    film = make_film(
        tmp_path / "film.mp4", frames=40, size=(160, 160), picture=lambda n: portrait(160, 160), options={"g": "10", "bf": "0"}
    )
    look = look_at(film, FacesConfig(), DemuxConfig())
    assert look.cuts is None
    assert [one.faces for one in look.counted] == [1] * len(look.keyframes)
    assert [one.time_s for one in look.counted] == list(look.keyframes)


def test_excerpts_are_copies_of_the_film_and_half_a_minute_of_the_voice(
    tmp_path: Path, make_film: Callable[..., Path], make_speech: Callable[..., Path]
) -> None:
    film = make_film(tmp_path / "film.mp4", frames=40, size=(160, 160), options={"g": "10"}, audio="aac")
    look = replace_look(look_at(film, FacesConfig(), DemuxConfig()), counted=(Counted(0.9, 1),))
    cut_film(film, look, 12, tmp_path / "12.mp4")
    cut = look_at(tmp_path / "12.mp4", FacesConfig(), DemuxConfig())
    assert (cut.frames, cut.codec, cut.size, cut.sound) == (12, "h264", (160, 160), True)
    voice = make_speech(tmp_path / "voice.wav", seconds=1.0, before=20, after=20)
    cut_voice(voice, hear(voice), tmp_path / "cut.wav")
    assert hear(tmp_path / "cut.wav").seconds == pytest.approx(30, abs=0.1)


def replace_look(look: Look, **more: Any) -> Look:
    return look._replace(**more)


def test_speech_is_heard_where_it_is(tmp_path: Path, make_speech: Callable[..., Path]) -> None:
    voice = hear(make_speech(tmp_path / "voice.wav", seconds=1.5, before=2, after=1))
    assert voice.seconds == pytest.approx(4.5, abs=0.01)
    assert not voice.at(np.array([0.5, 1.0, 4.4, 99.0])).any()
    assert voice.at(np.arange(2.5, 3.2, 0.1)).mean() > 0.5


def test_an_excerpt_begins_where_faces_are_and_near_the_middle() -> None:
    assert best_start(LOOK, 50) == 4.0
    late = LOOK._replace(counted=tuple(Counted(n + 0.5, int(n >= 8)) for n in range(10)))
    assert best_start(late, 50) == 8.0
    assert best_start(LOOK._replace(keyframes=(0.0,)), 500) == 0.0  # longer than the film


@pytest.mark.parametrize(
    ("silence", "own", "seconds"),
    [
        ("closed", None, list(range(10))),
        ("auto", None, list(range(10))),  # no sound tells whether lips move in the pauses
        ("original", None, [2, 3, 4]),
        ("auto", heard((3, 6)), [2, 3, 4, 5]),
    ],
)
def test_mouths_are_made_in_speech_and_in_pauses_by_policy(silence: str, own: Heard | None, seconds: list[int]) -> None:
    assert generated(heard((2, 5)), own, silence) == seconds


def test_a_breath_is_no_pause() -> None:
    assert generated(heard((2, 3.35), (3.75, 5)), None, "original") == [2, 3, 4]
    frames = generated_frames(LOOK, heard((2, 3.35), (3.75, 5)), None, "original", 0.15, 0.5)
    assert frames[50:125].all()


def test_copies_lie_between_keyframes_and_are_not_too_short() -> None:
    touched = np.ones(250, np.bool_)
    touched[60:170] = False  # 2.4 to 6.8 s: keyframes at 4 and 6
    assert copied_frames(LOOK, touched, 0.5) == 50
    assert copied_frames(LOOK, touched, 3.0) == 0
    assert copied_frames(LOOK, np.zeros(250, np.bool_), 0.5) == 250
    assert copied_frames(LOOK, np.ones(250, np.bool_), 0.5) == 0


def test_work_is_counted_by_faces_speech_and_shots() -> None:
    config = replace(DubConfig(), demux=DemuxConfig(chunk=Fraction(4)))
    half = LOOK._replace(counted=tuple(Counted(n + 0.5, 2 * (n < 5)) for n in range(10)))
    amount, copied = amount_of(half, heard((0, 10), length=70.0), None, config, everyone=False)
    assert (amount.frames, amount.shots, amount.rows, amount.spoken) == (250, 3, 126, 126)  # the middle one is as near to both
    assert amount.seen == 250 + 4 * 12  # each of two joints is seen from both sides
    assert copied == 100 and amount.encoded == 150  # from the keyframe at 6 s on
    assert amount.voice == 3  # half minutes
    both, _ = amount_of(half, heard((0, 10)), None, config, everyone=True)
    assert both.rows == 252


def ran(frames: int, *, cold: float = 0.0, outside: float = 1.0) -> Ran:
    """Blend: 0.5 s a shot and 0.1 a frame; listen 2 s a voice; first of all 3 s."""
    stages = {
        "faces": StageCost(0.2 * frames, True, 10 * frames),
        "listen": StageCost(2.0 + cold, False, 100),
        "blend": StageCost(0.5 + 0.1 * frames, True, 1000 * frames),
        "remux": StageCost(0.3, False, 1000 * frames),
    }
    return Ran(frames, frames, frames, 10.0, 15.0, outside, 0.0, 1, stages)


PROBE = Probe(0.7, ran(10, cold=3.0, outside=2.5), ran(10), ran(60), 0.02, 1, None)


def test_costs_are_taken_apart() -> None:
    found = costs(PROBE)
    blend = found["blend"]
    assert (blend.first_s, blend.call_s, blend.unit_s, blend.unit_bytes) == pytest.approx((0, 0.5, 0.1, 1000))
    listen = found["listen"]
    assert (listen.first_s, listen.call_s, listen.unit_s) == pytest.approx((3.0, 0.0, 2.0))
    assert found["remux"].unit_s == 0 and found["remux"].call_s == pytest.approx(0.3)


def test_a_disturbed_short_run_does_not_make_frames_free() -> None:
    late = ran(10)
    late = late._replace(stages={**late.stages, "blend": late.stages["blend"]._replace(seconds=6.4)})
    assert costs(PROBE._replace(warm=late))["blend"].unit_s == pytest.approx(6.5 / 60 / 2)


def test_a_film_costs_its_frames_its_shots_and_its_voice() -> None:
    config = replace(DubConfig(), demux=DemuxConfig(chunk=Fraction(5)))
    amount, _ = amount_of(LOOK, heard((0, 10), length=60.0), None, config, everyone=False)
    one = stage_seconds(PROBE, [amount], {})
    assert one["blend"] == pytest.approx(2 * 0.5 + 250 * 0.1)
    assert one["listen"] == pytest.approx(3 + 2 * 2.0)
    assert one["faces"] == pytest.approx(0.2 * (250 + 2 * 12))
    two = stage_seconds(PROBE, [amount, amount], {})
    assert two["faces"] == one["faces"]  # a second language is not analysed again
    assert two["listen"] == pytest.approx(3 + 2 * 4.0)
    assert stage_seconds(PROBE, [amount], {"faces": 1.0, "blend": 0.5})["blend"] == pytest.approx(13)
    wall_s, _ = totals(PROBE, one, 1, [125, 125], hands=1, first=True)
    assert wall_s == pytest.approx(0.7 + 2.5 + sum(one.values()))


def test_frames_without_a_mouth_cost_what_coding_costs() -> None:
    amount, _ = amount_of(
        LOOK._replace(keyframes=(0.0,)),
        heard((0, 4)),
        None,
        replace(DubConfig(), decide=replace(DECIDE, silence="original")),
        everyone=False,
    )
    assert amount.encoded == 250 and 100 <= amount.spoken <= 105
    assert stage_seconds(PROBE, [amount], {})["blend"] == pytest.approx(0.5 + 0.1 * amount.spoken + 0.02 * (250 - amount.spoken))


def test_hands_help_as_far_as_there_are_free_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"blend": 90.0, "remux": 10.0}
    for number, least in ((1, 100.0), (3, 40.0), (100, 10 + 90 / 8)):
        monkeypatch.setattr(prediction, "cores", lambda: 12)  # one hand keeps 1.5 busy
        wall_s, cpu_s = totals(PROBE, stages, 1, [25] * 2400, hands=number, first=True)
        assert wall_s == pytest.approx(0.7 + 2.5 + least, rel=0.03)
        assert cpu_s == pytest.approx(0.7 + 2.5 + 150)


def test_shots_at_once_are_as_quick_as_two_were_seen_to_be() -> None:
    """Of 60 frames in two shots: faces of 84 frames 16.8 s, blend 7 s; together 23.8 s one after the other."""
    crowd = ran(60)._replace(shots=2, shots_s=23.8 / 1.4)
    probe = PROBE._replace(workers=2, crowd=crowd)
    assert prediction.crowd_speedup(probe) == pytest.approx(1.4)
    assert prediction.crowd_speedup(probe._replace(crowd=crowd._replace(shots_s=1000.0))) == 1.0  # somebody else had the machine
    assert prediction.crowd_speedup(probe._replace(crowd=crowd._replace(shots_s=0.1))) == 2.0
    assert prediction.crowd_speedup(PROBE) == 1.0


@pytest.mark.parametrize(
    ("shots", "lanes", "speedup", "whole"),
    [
        ([100, 100], 2, 2.0, 2.0),
        ([100], 2, 2.0, 1.0),
        ([100, 50], 2, 2.0, 1.5),
        ([100, 50, 50], 2, 2.0, 2.0),
        ([100, 100], 2, 1.5, 1.5),
        ([100, 100], 1, 1.0, 1.0),
        ([60, 60], 4, 4.0, 2.0),
        ([], 2, 2.0, 1.0),
    ],
)
def test_few_or_uneven_shots_leave_lanes_idle(shots: list[int], lanes: int, speedup: float, whole: float) -> None:
    assert prediction.speedup_over(shots, lanes, speedup) == pytest.approx(whole)


def test_the_disk_holds_the_work_and_the_film_twice() -> None:
    amount, _ = amount_of(LOOK, heard((0, 10)), None, DubConfig(), everyone=False)
    rest = 10 * amount.seen + 100 + 250_000
    assert disk_bytes(PROBE, [amount], signed=False) == int(prediction.MARGIN * (rest + 2 * 250_000))
    assert disk_bytes(PROBE, [amount, amount], signed=False) > 1.9 * disk_bytes(PROBE, [amount], signed=False)
    assert disk_bytes(PROBE, [amount], signed=True) == int(prediction.MARGIN * (rest + 3 * 250_000))  # while it is signed


def test_a_disk_that_is_short_is_refused(tmp_path: Path) -> None:
    check_disk(1, tmp_path)
    with pytest.raises(ResourceError, match="the disk is too small") as refused:
        check_disk(1 << 60, tmp_path)
    assert refused.value.exit_code == 9


@pytest.fixture
def without_probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prediction, "probed", lambda *given, **more: PROBE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("without_probe")
def test_films_of_a_batch_are_summed_and_loading_counts_once(tmp_path: Path, make_speech: Callable[..., Path]) -> None:
    film, voice = clip(tmp_path), make_speech(tmp_path / "fr.wav", seconds=0.3)
    asked = Asked((DubJob(film, voice, tmp_path / "out.mp4"),), Choices("lite", device="cpu"), Place(tmp_path / "work"))
    one, two = predict([asked], report=False), predict([asked, asked], report=False)
    assert (one.films, one.frames, one.shots, one.gpu_hours, two.films, two.frames) == (1, 8, 1, 0.0, 2, 16)
    assert one.synthesised_s == pytest.approx(8 / 25)
    assert two.wall_s == pytest.approx(2 * one.wall_s - 0.7 - (2.5 - 1.0), abs=0.02)
    assert json.loads(json.dumps(one.as_json()))["stages"]["blend"] > 0
    assert any("wall time" in line for line in one.lines())
    assert not (tmp_path / "out.mp4").exists() and not (tmp_path / "work").exists()


@pytest.mark.usefixtures("without_probe")
def test_a_film_without_faces_is_told_before_anything_is_measured(
    tmp_path: Path, make_film: Callable[..., Path], make_speech: Callable[..., Path]
) -> None:
    film, voice = make_film(tmp_path / "wall.mp4", frames=8), make_speech(tmp_path / "fr.wav", seconds=0.3)
    asked = Asked((DubJob(film, voice, tmp_path / "out.mp4"),), Choices("lite", device="cpu"), Place(tmp_path / "work"))
    with pytest.raises(NoFaceError):
        predict([asked], report=False)


def test_what_is_done_or_on_other_machines_is_not_predicted(tmp_path: Path) -> None:
    done = tmp_path / "out.mp4"
    done.touch()
    job, choices, place = DubJob(done, done, done), Choices("lite"), Place(tmp_path / "work")
    with pytest.raises(UsageError, match="done already"):
        prediction.predict_jobs([job], choices, place, Hands(), Existing(skip=True), report=False)
    with pytest.raises(UsageError, match="cluster"):
        prediction.predict_jobs([job], choices, place, Hands(executor="ray"), Existing(), report=False)


def test_a_few_frames_are_really_dubbed_and_the_measurement_is_kept(
    tmp_path: Path, make_speech: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    film, voice = clip(tmp_path, frames=24), make_speech(tmp_path / "fr.wav", seconds=0.9)
    look, choices = look_at(film, FacesConfig(), DemuxConfig()), Choices("lite", device="cpu")
    probe = prediction.probed(film, look, voice, hear(voice), choices, report=False, alike=False)
    assert (probe.cold.frames, probe.warm.frames, probe.long.frames) == (10, 10, 24)
    assert probe.start_s > 0 and probe.plain_s > 0
    assert {"faces", "listen", "latents", "inference", "blend"} <= set(probe.long.stages)
    assert probe.long.rows == probe.long.spoken == 24
    assert probe.long.stages["blend"].of_shots and not probe.long.stages["listen"].of_shots
    monkeypatch.setattr(prediction, "_asked_of_child", lambda *given: pytest.fail("measured again"))
    assert prediction.probed(film, look, voice, hear(voice), choices, report=False, alike=False) == probe


@pytest.mark.usefixtures("without_probe")
def test_a_dry_run_tells_and_makes_nothing(
    tmp_path: Path, make_speech: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    film, voice = clip(tmp_path, frames=24), make_speech(tmp_path / "film.fr.wav", seconds=0.9)
    asked = ["--model", "lite", "--device", "cpu", "--no-report", "--dry-run", "--json"]
    before = set(tmp_path.iterdir())
    assert cli.run(["dub", str(film), "--audio", str(voice), *asked]) == 0
    one = json.loads(capsys.readouterr().out)
    assert (one["films"], one["frames"], one["shots"]) == (1, 24, 1)
    assert one["wall_s"] > sum(one["stages"].values()) > 0
    assert cli.run(["batch", str(film), "--audio", "fr={folder}/{stem}.fr.wav", *asked]) == 0
    assert json.loads(capsys.readouterr().out)["wall_s"] == one["wall_s"]
    monkeypatch.setattr(prediction.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1))
    assert cli.run(["dub", str(film), "--audio", str(voice), *asked]) == 9
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "resource"
    assert set(tmp_path.iterdir()) == before

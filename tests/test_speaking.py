"""Promises of who speaks: lips that go with the sound, better than anybody else's, while somebody is heard. And never a guess without one."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_cast import Seen, clock, faces_of
from numpy.typing import NDArray

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.errors import InternalError
from musetalk_cli.speaking import SURE, Lips, Spoken, who_speaks
from musetalk_cli.stages import s2_speaking
from musetalk_cli.stages.s2_speaking import speaking
from musetalk_cli.types import Source, Speech

FPS = 25.0
FRAMES = 200  # 8 s
Values = NDArray[np.float32]


def sound(seed: int = 0, frames: int = FRAMES) -> Values:
    """What a voice wants of lips: open and shut four times a second or so, never the same."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.normal(0, 1, frames + 4), np.ones(5) / 5, "valid")
    return np.abs(noise).astype(np.float32)


def lips(opening: Values, wanted: Values, speech: Values | float = 1.0, first: int = 0) -> Lips:
    heard = np.broadcast_to(np.asarray(speech, np.float32), len(opening))
    return Lips(np.arange(first, first + len(opening), dtype=np.int32), opening, wanted, heard)


def frames_of(found: Sequence[Spoken], track: int) -> set[int]:
    return {frame for one in found if one.track == track for frame in range(one.start, one.stop)}


WANTED = sound()


def test_lips_that_go_with_the_sound_speak() -> None:
    found = who_speaks({0: lips(0.3 * WANTED + 0.1, WANTED)}, FPS)
    assert [(one.track, one.start, one.stop) for one in found] == [(0, 0, FRAMES)]
    assert found[0].confidence == 1.0


@pytest.mark.parametrize(
    "opening", [np.zeros(FRAMES, np.float32), sound(1), np.roll(WANTED, 60)], ids=["still", "chewing", "out of time"]
)
def test_lips_that_do_something_else_do_not(opening: Values) -> None:
    assert frames_of(who_speaks({0: lips(opening, WANTED)}, FPS), 0) == set()


def test_of_two_the_one_whose_lips_fit_speaks() -> None:
    """Each in turn for four seconds; the other one listens, and moves his lips a little as he pleases."""
    half = FRAMES // 2
    first, second = 0.2 * sound(2), 0.2 * sound(3)
    first[:half], second[half:] = WANTED[:half], WANTED[half:]
    found = who_speaks({0: lips(first, WANTED), 1: lips(second, WANTED)}, FPS)
    left, right = frames_of(found, 0), frames_of(found, 1)
    edge = 40  # frames about the change in which a window sees both
    assert set(range(half - edge)) <= left and set(range(half + edge, FRAMES)) <= right
    assert not left & set(range(half + edge, FRAMES)) and not right & set(range(half - edge))


def test_nobody_speaks_while_nothing_is_heard() -> None:
    assert who_speaks({0: lips(WANTED, WANTED, 0.2)}, FPS) == []
    heard = np.zeros(FRAMES, np.float32)
    heard[50:120] = 1
    assert frames_of(who_speaks({0: lips(WANTED, WANTED, heard)}, FPS), 0) == set(range(50, 120))


def test_a_window_needs_more_than_a_word() -> None:
    heard = np.zeros(FRAMES, np.float32)
    heard[100:115] = 1  # a quarter of one
    assert who_speaks({0: lips(WANTED, WANTED, heard)}, FPS) == []


def test_a_face_seen_for_less_than_half_a_window_is_not_guessed_at() -> None:
    brief = slice(0, 25)
    found = who_speaks({0: lips(WANTED[brief], WANTED[brief]), 1: lips(np.zeros(FRAMES, np.float32), WANTED)}, FPS)
    assert found == []


def test_confidence_is_how_well_the_lips_fit() -> None:
    rng = np.random.default_rng(5)
    told = []
    for noise in (0.1, 0.4):
        opening = (WANTED + rng.normal(0, noise, FRAMES)).astype(np.float32)
        found = who_speaks({0: lips(opening, WANTED)}, FPS)
        told.append(np.mean([one.confidence for one in found]))
    assert 1 > told[0] > told[1] >= SURE


def test_stretches_are_apart_and_ascending_whatever_is_seen() -> None:
    rng = np.random.default_rng(6)
    for _ in range(20):
        tracks = {}
        for track in range(3):
            there = np.flatnonzero(rng.random(FRAMES) > 0.3)
            opening = (WANTED + rng.normal(0, 0.5, FRAMES)).astype(np.float32)[there]
            tracks[track] = Lips(there.astype(np.int32), opening, WANTED[there], rng.random(len(there)))
        found = who_speaks(tracks, FPS)
        for track in range(3):
            own = [one for one in found if one.track == track]
            assert all(one.start < one.stop and 0 <= one.confidence <= 1 for one in own)
            assert all(a.stop <= b.start for a, b in pairwise(own))


def test_no_faces_and_a_shot_of_a_frame_are_nobody() -> None:
    assert who_speaks({}, FPS) == []
    assert who_speaks({0: lips(WANTED[:1], WANTED[:1])}, FPS) == []


# the stage: lips of Faces, and what the embedded model reads out of the sound


class Codes:
    """A model whose wish for a frame is the first feature of the window's middle."""

    def lip_codes(self, windows: NDArray[np.float16]) -> Values:
        return np.asarray(windows[:, 4, 0, :1], np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    monkeypatch.setattr(s2_speaking, "LiteModel", Codes)
    monkeypatch.setattr(s2_speaking, "load_family", lambda config, runtime: Codes())
    return ModelConfig("lite")


def heard(source: Source, wanted: Values, speech: Values) -> Speech:
    """Features that hold what each frame is to be asked for, 50 a second."""
    tokens = int(source.time(source.frames - 1) * 50) + 10
    features, activity = np.zeros((tokens, 5, 384), np.float16), np.zeros(tokens, np.float16)
    for frame in range(source.frames):
        token = int(source.time(frame) * 50)
        features[token : token + 2], activity[token : token + 2] = wanted[frame], speech[frame]
    return Speech(features, activity)


def told(source: Source, model: ModelConfig, *seen: Seen, speech: Values | None = None, number: int = 0) -> Any:
    spoken = np.ones(source.frames, np.float32) if speech is None else speech
    faces = faces_of(source.shots[number], *seen)
    return speaking(source, faces, heard(source, WANTED, spoken), config=model, runtime=Runtime(), out=Path())


def test_the_stage_finds_the_speaker_of_two_by_his_landmarks(model: ModelConfig) -> None:
    source = clock(FRAMES)
    quiet = Seen(range(FRAMES), 400, opening=(0.1 * sound(9)).tolist())
    speaker = Seen(range(FRAMES), 100, opening=(0.3 * WANTED).tolist())
    found = told(source, model, quiet, speaker)
    assert found.shot == source.shots[0]
    assert frames_of(found.spoken, 0) == set()
    assert len(frames_of(found.spoken, 1)) > 0.9 * FRAMES


def test_the_stage_goes_by_the_films_clock_in_every_shot(model: ModelConfig) -> None:
    """The second shot of a film of variable rate hears what is said in its own time."""
    pts = [40 * n if n < 100 else 4000 + 60 * (n - 100) for n in range(FRAMES)]
    source = replace(clock(FRAMES, 100, pts=pts))
    speaker = Seen(range(100, FRAMES), opening=(0.3 * WANTED[100:]).tolist())
    assert len(frames_of(told(source, model, speaker, number=1).spoken, 0)) > 90


def test_a_film_that_goes_on_after_its_sound_has_nobody_speaking_there(model: ModelConfig) -> None:
    source = clock(FRAMES)
    faces = faces_of(source.shots[0], Seen(range(FRAMES), opening=(0.3 * WANTED).tolist()))
    whole = heard(source, WANTED, np.ones(FRAMES, np.float32))
    short = Speech(whole.features[:200], whole.activity[:200])  # four seconds
    found = speaking(source, faces, short, config=model, runtime=Runtime(), out=Path())
    assert frames_of(found.spoken, 0) <= set(range(100))
    assert len(frames_of(found.spoken, 0)) > 80


def test_a_shot_without_faces_has_no_speakers(model: ModelConfig) -> None:
    assert told(clock(FRAMES), model).spoken == ()


def test_a_model_without_lip_codes_is_a_bug_not_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        name = "v15"

    monkeypatch.setattr(s2_speaking, "load_family", lambda config, runtime: Other())
    with pytest.raises(InternalError, match="v15 has no lip codes"):
        told(clock(5), ModelConfig("v15"), Seen(range(5)))

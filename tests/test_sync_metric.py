"""Promises of the sync metric: a shift is found to a part of a frame, another voice is not trusted, and nothing is said of too little."""

import numpy as np
import pytest
from made_lips import HABITS, face_that_does
from numpy.typing import NDArray

from musetalk_cli.metrics.lse import REACH
from musetalk_cli.metrics.sync import LEAST_S, NUMBERS, Asked, judge_lips, lip_numbers, seen_lips, shifted, sure, together

Values = NDArray[np.float64]
RATE_HZ = 40
SECONDS = 12.0


def asked(seed: int = 0, seconds: float = SECONDS, voice: Values | float = 1.0) -> Asked:
    """What a voice might ask for: four numbers that change about as fast as speech does."""
    random = np.random.default_rng(seed)
    whole = random.normal(size=(round(seconds * RATE_HZ) + 8, NUMBERS))
    smooth = np.stack([np.convolve(row, np.hanning(11)[1:-1], "valid") for row in whole.T], 1)
    heard = np.broadcast_to(np.asarray(voice, np.float32), len(smooth)).astype(np.float32)
    return Asked((smooth / smooth.std(0)).astype(np.float32), heard, RATE_HZ)


def clock(fps: float = 25.0, seconds: float = SECONDS) -> Values:
    return np.arange(int(seconds * fps)) / fps


def lips(voice: Asked, times_s: Values, shift_s: float = 0.0, noise: float = 1.0, seed: int = 9) -> NDArray[np.float32]:
    """(N, 68, 2) of lips that do what is asked `shift_s` later, and as much of their own."""
    own = asked(seed).at(times_s)
    return face_that_does(voice.at(times_s - shift_s) + noise * own)


VOICE = asked()


def test_numbers_are_those_of_the_lips_in_eye_distances() -> None:
    told = np.array([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    found = lip_numbers(face_that_does(told))
    np.testing.assert_allclose(found[1:] - found[0], np.diag(HABITS), atol=2e-4)


@pytest.mark.parametrize("frames", [-10, -5, -1, 0, 2, 5, 10])
def test_a_planted_shift_is_found(frames: int) -> None:
    found = judge_lips(lips(VOICE, clock(), frames / 25), clock(), VOICE)
    assert found is not None and sure(found)
    assert found.offset_s == pytest.approx(frames / 25, abs=0.01)
    assert found.r > 0.5


def test_a_shift_of_less_than_a_frame_is_found() -> None:
    found = judge_lips(lips(VOICE, clock(), 0.05), clock(), VOICE)
    assert found is not None
    assert found.offset_s == pytest.approx(0.05, abs=0.01)


def _uneven() -> Values:
    """Every frame late by up to 12 ms, one in eight not there."""
    random = np.random.default_rng(2)
    times = clock() + random.uniform(0, 0.012, len(clock()))
    return times[random.uniform(size=len(times)) > 0.125]


@pytest.mark.parametrize(
    "times", [clock(24000 / 1001), clock(30), clock(60), clock(15), _uneven()], ids=["24", "30", "60", "15", "vfr"]
)
def test_any_frame_rate_tells_the_same(times: Values) -> None:
    found = judge_lips(lips(VOICE, times, -0.2), times, VOICE)
    assert found is not None and sure(found)
    assert found.offset_s == pytest.approx(-0.2, abs=0.012)
    assert found.seconds == pytest.approx(SECONDS, abs=0.6)


def test_figures_are_those_of_lse() -> None:
    found = judge_lips(lips(VOICE, clock()), clock(), VOICE)
    assert found is not None and found.curve.shape == (2 * REACH + 1,)
    assert found.distance == found.curve.min()
    assert found.confidence == pytest.approx(np.median(found.curve) - found.curve.min())
    assert found.curve.argmin() == REACH


def test_size_place_and_habits_of_a_face_do_not_count() -> None:
    numbers = VOICE.at(clock()) + asked(9).at(clock())
    one = judge_lips(face_that_does(numbers), clock(), VOICE)
    other = judge_lips(face_that_does(0.4 * numbers + 0.5, width=311, middle=(20.0, 900.0)), clock(), VOICE)
    assert one is not None and other is not None
    assert other.confidence == pytest.approx(one.confidence, abs=0.005)


def test_another_voice_is_trusted_less_and_never_called_late() -> None:
    own = judge_lips(lips(VOICE, clock()), clock(), VOICE)
    assert own is not None
    for seed in range(20, 28):
        found = judge_lips(lips(VOICE, clock()), clock(), asked(seed))
        assert found is not None
        assert found.confidence < own.confidence / 2
        assert not sure(found) and not shifted(found)


def test_a_mouth_that_does_not_move_is_not_trusted() -> None:
    random = np.random.default_rng(4)
    still = face_that_does(np.zeros((len(clock()), NUMBERS)))
    trembling = still + random.normal(0, 0.2, still.shape).astype(np.float32)
    for mouth in (still, trembling):
        found = judge_lips(mouth, clock(), VOICE)
        assert found is not None and not sure(found)


def test_gaps_are_left_out_and_nothing_is_made_up_in_them() -> None:
    points = lips(VOICE, clock(), 0.12)
    points[100:160] = np.nan
    found = judge_lips(points, clock(), VOICE)
    assert found is not None
    assert found.offset_s == pytest.approx(0.12, abs=0.012)
    assert found.seconds == pytest.approx(SECONDS - 60 / 25 - 2 * 7 / 25, abs=0.1)
    seen, first_s = seen_lips(points, clock())
    assert first_s == 0.0 and np.isnan(seen[100:160]).all() and np.isfinite(seen[:100]).all()


def test_one_lost_frame_is_no_gap() -> None:
    points = lips(VOICE, clock())
    points[50] = np.nan
    assert np.isfinite(seen_lips(points, clock())[0]).all()


def test_a_few_wrong_landmarks_do_not_hide_the_rest() -> None:
    points = lips(VOICE, clock(), 0.2)
    clean = judge_lips(points, clock(), VOICE)
    points[[40, 130, 220], 60:64, 1] -= 900
    found = judge_lips(points, clock(), VOICE)
    assert clean is not None and found is not None
    assert found.confidence > 0.85 * clean.confidence
    assert found.offset_s == pytest.approx(0.2, abs=0.012)


def test_what_lips_do_in_pauses_does_not_count() -> None:
    """Seven seconds of speech, then five of chewing to a silence of which the judge makes up something."""
    heard = (np.arange(round(SECONDS * RATE_HZ)) < 7 * RATE_HZ).astype(np.float64)
    voice = asked(voice=heard)
    chewing = np.where((clock() < 7.5)[:, None], VOICE.at(clock() - 0.2), 2 * asked(5).at(clock()))
    found = judge_lips(face_that_does(chewing), clock(), voice)
    assert found is not None and sure(found)
    assert found.offset_s == pytest.approx(0.2, abs=0.012)
    assert found.seconds == pytest.approx(7, abs=0.5)
    assert found.voiced == pytest.approx(7 / 12, abs=0.02)


def test_too_little_says_nothing() -> None:
    points, nobody = lips(VOICE, clock()), np.full((len(clock()), 68, 2), np.nan, np.float32)
    few = round(LEAST_S * 25)
    assert judge_lips(points, clock(), asked(voice=0.0)) is None  # silence
    assert judge_lips(points, clock(), Asked(np.zeros((0, NUMBERS), np.float32), np.zeros(0, np.float32), RATE_HZ)) is None
    assert judge_lips(nobody, clock(), VOICE) is None
    assert judge_lips(points[:few], clock()[:few], VOICE) is None
    assert judge_lips(points[:1], clock()[:1] + 0.01, VOICE) is None
    assert judge_lips(points[:0], clock()[:0], VOICE) is None
    scattered = nobody.copy()
    scattered[::6] = points[::6]
    assert judge_lips(scattered, clock(), VOICE) is None  # never two moments together
    assert judge_lips(points, clock() + 60, VOICE) is None  # the voice is over


@pytest.mark.parametrize(
    ("shift_s", "usual_s", "late"),
    [
        (0.0, 0.0, False),
        (0.07, 0.0, False),
        (-0.07, 0.0, False),
        (0.09, 0.0, False),
        (0.2, 0.0, True),
        (-0.2, 0.0, True),
        (0.2, 0.19, False),
        (0.0, -0.16, True),
    ],
)
def test_only_a_shift_beyond_the_usual_is_one(shift_s: float, usual_s: float, late: bool) -> None:
    found = judge_lips(lips(VOICE, clock(), shift_s), clock(), VOICE)
    assert found is not None
    assert shifted(found, usual_s) is late


def test_shots_that_say_little_alone_say_much_together() -> None:
    noisy = lips(VOICE, clock(), 0.2, noise=2.2)
    parts = [judge_lips(noisy[first : first + 45], clock()[first : first + 45], VOICE) for first in range(0, 256, 45)]
    known = [part for part in parts if part is not None]
    assert len(known) == 6 and not all(sure(part) for part in known)
    whole = together(known)
    assert whole is not None and shifted(whole)
    assert whole.offset_s == pytest.approx(0.2, abs=0.02)
    assert whole.seconds == pytest.approx(sum(part.seconds for part in known))
    assert together([]) is None


def test_a_stretch_with_itself_is_itself() -> None:
    part = judge_lips(lips(VOICE, clock(), 0.1), clock(), VOICE)
    assert part is not None
    whole = together([part])
    assert whole is not None
    assert whole[:6] == pytest.approx(part[:6])

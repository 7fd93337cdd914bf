"""Promises of steadiness: no jitter, no lag, nothing mixed over a gap or between two people."""

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.steady import runs, smooth


@pytest.mark.parametrize(
    ("frame", "apart", "expected"),
    [
        ([3, 4, 5], [], [[0, 1, 2]]),
        ([3, 4, 6, 7], [], [[0, 1], [2, 3]]),  # frame 5 is missing
        ([3, 3, 4, 4, 5], [[0, 1, 0, 1, 0]], [[0, 2, 4], [1, 3]]),  # two people
        ([3, 4, 5, 6], [[0, 0, 0, 0], [-2, -2, 0, 0]], [[0, 1], [2, 3]]),  # a shut mouth, then words
        ([7], [[0]], [[0]]),
        ([], [[]], []),
    ],
)
def test_runs_are_unbroken_frames_of_one_kind(frame: list[int], apart: list[list[int]], expected: list[list[int]]) -> None:
    found = runs(np.array(frame, np.int32), *(np.array(key, np.int16) for key in apart))
    assert sorted(run.tolist() for run in found) == sorted(expected)


FPS = 25.0


def wave(hz: float, frames: int = 200) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hz * np.arange(frames) / FPS).astype(np.float32)[:, None]


def shared(calm: NDArray[np.float32], given: NDArray[np.float32]) -> float:
    """How much of a wave is left, away from the ends."""
    inner = slice(30, -30)
    return float((calm[inner] * given[inner]).sum() / (given[inner] ** 2).sum())


@pytest.mark.parametrize(("hz", "low", "high"), [(0.5, 0.99, 1.01), (2.0, 0.95, 1.0), (5.0, 0.4, 0.6), (10.0, 0.0, 0.05)])
def test_what_is_faster_than_the_cutoff_goes_and_what_is_slower_stays(hz: float, low: float, high: float) -> None:
    """Half of the wave is left at the cutoff itself: 5 Hz."""
    assert low <= shared(smooth(wave(hz), 5.0, FPS), wave(hz)) <= high


@pytest.mark.parametrize("hz", [1.0, 3.0, 4.5])
def test_steady_movement_has_no_lag(hz: float) -> None:
    calm = smooth(wave(hz), 5.0, FPS)[:, 0]
    lags = range(-3, 4)
    fit = [float((np.roll(wave(hz)[:, 0], lag)[30:-30] * calm[30:-30]).sum()) for lag in lags]
    assert lags[int(np.argmax(fit))] == 0


def test_time_looks_the_same_from_both_ends() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (60, 3)).astype(np.float32)
    np.testing.assert_allclose(smooth(noise[::-1], 5.0, FPS)[::-1], smooth(noise, 5.0, FPS), atol=0.1)


@pytest.mark.parametrize("fps", [24000 / 1001, 25.0, 60.0, 120.0])
def test_the_cutoff_is_in_seconds_whatever_the_rate(fps: float) -> None:
    time = np.arange(round(6 * fps)) / fps
    slow, fast = np.sin(2 * np.pi * 2 * time), np.sin(2 * np.pi * 10 * time)
    calm = smooth((slow + fast)[:, None], 5.0, fps)[:, 0]
    inner = slice(round(fps), -round(fps))
    assert abs(float(calm[inner] @ fast[inner]) / float(fast[inner] @ fast[inner])) < 0.1
    assert float(calm[inner] @ slow[inner]) / float(slow[inner] @ slow[inner]) > 0.9


def test_acceleration_of_noise_is_less_than_half() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (400, 2)).astype(np.float32)
    jerks = [np.abs(np.diff(smooth(noise, hz, FPS), 2, axis=0)).mean() for hz in (0, 8.0, 5.0, 2.0)]
    assert jerks == sorted(jerks, reverse=True)
    assert jerks[1] < 0.5 * jerks[0]


def test_what_stands_still_stays_to_the_ends() -> None:
    still = np.full((9, 2, 3), 0.7, np.float32)
    np.testing.assert_allclose(smooth(still, 2.0, FPS), still, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_nothing_to_average_comes_back_as_it_is(count: int) -> None:
    values = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    np.testing.assert_array_equal(smooth(values, 5.0, FPS), values)


@pytest.mark.parametrize("count", range(3, 12))
def test_few_frames_are_enough(count: int) -> None:
    calm = smooth(np.linspace(0, 1, count, dtype=np.float32)[:, None], 5.0, FPS)
    assert calm.shape == (count, 1)
    assert np.isfinite(calm).all() and calm.min() > -0.2 and calm.max() < 1.2


@pytest.mark.parametrize("hz", [0.0, 12.5, 30.0])  # off, and beyond what the rate can hold
def test_off_changes_nothing(hz: float) -> None:
    values = np.random.default_rng(1).normal(0, 1, (20, 2)).astype(np.float32)
    np.testing.assert_array_equal(smooth(values, hz, FPS), values)


def test_halves_are_averaged_in_floats() -> None:
    """Latents are float16: 60 000 twice is more than it holds."""
    values = np.full((15, 1), 60_000, np.float16)
    assert smooth(values, 5.0, FPS).dtype == np.float32
    np.testing.assert_allclose(smooth(values, 5.0, FPS), 60_000, rtol=1e-3)

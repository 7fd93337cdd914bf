"""Promises of steadiness: no jitter, no lag, nothing mixed over a gap or between two people."""

import numpy as np
import pytest

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


def test_steady_movement_has_no_lag() -> None:
    """Away from the ends, where there is nothing to average with."""
    ramp = np.linspace(0, 10, 41, dtype=np.float32)[:, None]
    np.testing.assert_allclose(smooth(ramp, 1.0)[4:-4], ramp[4:-4], atol=1e-4)


def test_a_jerk_is_smaller_and_as_far_before_as_after_it() -> None:
    jerk = np.zeros((21, 1), np.float32)
    jerk[10] = 1
    calm = smooth(jerk, 1.0)[:, 0]
    np.testing.assert_allclose(calm, calm[::-1], atol=1e-6)
    assert calm.max() == pytest.approx(0.4, abs=0.01)
    assert calm.sum() == pytest.approx(1, abs=1e-5)


def test_more_of_it_is_steadier() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (200, 2)).astype(np.float32)
    jerks = [np.abs(np.diff(smooth(noise, sigma), 2, axis=0)).mean() for sigma in (0, 0.5, 1.0, 2.0)]
    assert jerks == sorted(jerks, reverse=True)
    assert jerks[2] < 0.35 * jerks[0]


def test_what_stands_still_stays_to_the_ends() -> None:
    still = np.full((9, 2, 3), 0.7, np.float32)
    np.testing.assert_allclose(smooth(still, 2.0), still, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_average_comes_back_as_it_is(count: int) -> None:
    values = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    np.testing.assert_array_equal(smooth(values, 1.0), values)


def test_off_changes_nothing() -> None:
    values = np.random.default_rng(1).normal(0, 1, (5, 2)).astype(np.float32)
    np.testing.assert_array_equal(smooth(values, 0), values)


def test_halves_are_averaged_in_floats() -> None:
    """Latents are float16: 60 000 twice is more than it holds."""
    values = np.full((5, 1), 60_000, np.float16)
    assert smooth(values, 1.0).dtype == np.float32
    np.testing.assert_allclose(smooth(values, 1.0), 60_000, rtol=1e-3)

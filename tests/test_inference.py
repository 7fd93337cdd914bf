"""Promises of the one step: the right window at any frame rate, no NaN leaves, memory that runs out costs time and nothing else."""

from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.config import ModelConfig, Runtime
from musetalk_cli.errors import InternalError, ResourceError
from musetalk_cli.models.family import Lent, Plan, windows_at
from musetalk_cli.stages import s4_inference
from musetalk_cli.types import Colour, Faces, Latents, Mouths, Shot, Source, Speech

ROWS = 11
Halves = NDArray[np.float16]


def features(tokens: int) -> Halves:
    """Token k holds k + 1 everywhere, so that a window shows which tokens it took and 0 where there were none."""
    return np.broadcast_to(np.arange(1, tokens + 1, dtype=np.float16)[:, None, None], (tokens, 5, 384)).copy()


@pytest.mark.parametrize(
    "fps", [Fraction(15), Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(50), Fraction(60)]
)
def test_window_is_four_tokens_before_and_six_from_the_frame_on_at_every_rate(fps: Fraction) -> None:
    times = [n / fps for n in range(40)]
    taken = windows_at(features(400), times)[:, :, 0, 0].astype(int) - 1  # (N, 10) token numbers
    inside = [i for i, t in enumerate(times) if 50 * t >= 4]
    for i in inside:
        assert list(taken[i]) == list(range(floor(50 * times[i]) - 4, floor(50 * times[i]) + 6))


def test_window_outside_the_voice_is_silence() -> None:
    windows = windows_at(features(3), [Fraction(0), Fraction(10)])[:, :, 0, 0]
    assert list(windows[0]) == [0, 0, 0, 0, 1, 2, 3, 0, 0, 0]
    assert not windows[1].any()


def test_drift_at_ntsc_rates_is_none_after_an_hour() -> None:
    time = Fraction(107892 * 1001, 30000)  # frame 107 892 of 29.97 fps: one hour and 3.6 s of counting
    taken = windows_at(features(1), [time])
    assert not taken.any()
    assert floor(50 * time) == 179999  # by the true clock; the published scripts would stand at 186 020


class Toy:
    """Answers each row with its masked latents plus its window's last token plus its lender, which is the row as far from the end; fails as told."""

    name, latent_channels = "toy", 4

    def __init__(self, *, room: int = 999, nan_in_half: bool = False, nan_always: bool = False) -> None:
        self.room, self.nan_in_half, self.nan_always = room, nan_in_half, nan_always
        self.batches: list[tuple[int, bool]] = []

    def plan(self, points: NDArray[np.float32], windows: Halves, track: NDArray[np.integer]) -> Plan:
        return Plan(points, np.arange(len(points))[::-1].copy())

    def infer(self, masked: Halves, reference: Halves, windows: Halves, lent: Lent, *, fp32: bool = False) -> Halves:
        if len(masked) > self.room:
            raise MemoryError
        self.batches.append((len(masked), fp32))
        answer = np.asarray(masked + windows[:, -1, 0, 0][:, None, None, None] + lent.latents, np.float16)
        if self.nan_always or (self.nan_in_half and not fp32):
            answer[0, 0, 0, 0] = np.nan
        return answer


def infer(toy: Toy, monkeypatch: pytest.MonkeyPatch, batch_size: int = 4) -> Mouths:
    monkeypatch.setattr(s4_inference, "load_family", lambda config, runtime: toy)
    shot = Shot(0, 0, ROWS)
    pts = np.arange(ROWS, dtype=np.int64)
    source = Source(Fraction(25), (64, 64), Fraction(1, 25), Fraction(0), pts, pts * 0 + 1, (shot,), (), 0, "h264", Colour())
    box = np.tile(np.array([0, 0, 32, 32], np.int32), (ROWS, 1))
    faces = Faces(shot, pts.astype(np.int32), np.zeros(ROWS, np.int16), box, np.zeros((ROWS, 68, 2), np.float32))
    some = np.random.default_rng(0).standard_normal((ROWS, 4, 32, 32)).astype(np.float16)
    config, runtime = ModelConfig("toy"), Runtime(batch_size=batch_size)
    return s4_inference.inference(
        source, faces, Latents(some, some), Speech(features(60)), config=config, runtime=runtime, out=Path()
    )


def test_batch_size_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    one, many = infer(Toy(), monkeypatch, 1), infer(Toy(), monkeypatch, 64)
    np.testing.assert_array_equal(one.latents, many.latents)


def test_each_row_is_lent_the_latents_that_the_family_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    some = np.random.default_rng(0).standard_normal((ROWS, 4, 32, 32)).astype(np.float16)
    token = np.array([floor(50 * n / 25) + 6 for n in range(ROWS)], np.float16)  # features hold their number + 1
    np.testing.assert_allclose(infer(Toy(), monkeypatch).latents, some + token[:, None, None, None] + some[::-1], atol=0.02)


def test_out_of_memory_halves_the_batch_and_loses_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(room=3)
    np.testing.assert_array_equal(infer(toy, monkeypatch, 8).latents, infer(Toy(), monkeypatch).latents)
    assert [rows for rows, _ in toy.batches] == [2, 2, 2, 2, 2, 1]


def test_out_of_memory_for_one_row_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError):
        infer(Toy(room=0), monkeypatch)


def test_nan_in_half_precision_is_asked_again_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(nan_in_half=True)
    np.testing.assert_array_equal(infer(toy, monkeypatch).latents, infer(Toy(), monkeypatch).latents)
    assert toy.batches == [(4, False), (4, True), (4, False), (4, True), (3, False), (3, True)]


def test_nan_in_full_precision_is_an_error_never_a_black_mouth(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InternalError, match="NaN"):
        infer(Toy(nan_always=True), monkeypatch)

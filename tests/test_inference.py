"""Promises of the one step: the right window of the right voice at any frame rate, nothing done for a mouth that stays, no trembling,
no NaN leaves, memory that runs out costs time and nothing else."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.config import InferenceConfig, ModelConfig, Runtime
from musetalk_cli.errors import InternalError, ResourceError
from musetalk_cli.models.family import Lent, Plan, windows_at
from musetalk_cli.stages import s4_inference
from musetalk_cli.types import CLOSED, Colour, Faces, Latents, Line, Mouths, Shot, Source, Speech, Voicing

ROWS = 11
SILENT = 500.0  # what the toy hears in silence
Halves = NDArray[np.float16]
SPOKEN = Voicing((Line(0, 0, ROWS, 0),))
HARD = InferenceConfig(heard_hz=0, answered_hz=0)


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

    def listen(self, speech: NDArray[np.float32]) -> Halves:
        assert not speech.any()
        return np.full((len(speech) // 320, 5, 384), SILENT, np.float16)

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


def some_latents(rows: int = ROWS) -> Latents:
    masked = np.random.default_rng(0).standard_normal((rows, 4, 32, 32)).astype(np.float16)
    return Latents(masked, np.asarray(masked[::-1] * 2, np.float16))


def infer(
    toy: Toy,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int = 4,
    *,
    config: InferenceConfig = HARD,
    voicing: Voicing = SPOKEN,
    voices: Sequence[Halves] | None = None,
    tracks: int = 1,
) -> Mouths:
    """Every frame of ROWS with a row for each track."""
    monkeypatch.setattr(s4_inference, "load_family", lambda config, runtime: toy)
    shot, rows = Shot(0, 0, ROWS), ROWS * tracks
    pts = np.arange(ROWS, dtype=np.int64)
    source = Source(Fraction(25), (64, 64), Fraction(1, 25), Fraction(0), pts, pts * 0 + 1, (shot,), (), 0, "h264", Colour())
    box = np.tile(np.array([0, 0, 32, 32], np.int32), (rows, 1))
    frame, track = np.repeat(np.arange(ROWS, dtype=np.int32), tracks), np.tile(np.arange(tracks, dtype=np.int16), ROWS)
    faces = Faces(shot, frame, track, box, np.zeros((rows, 68, 2), np.float32))
    speeches = [Speech(heard, np.ones(len(heard), np.float16)) for heard in voices or [features(60)]]
    runtime, model = Runtime(batch_size=batch_size), ModelConfig("toy")
    return s4_inference.inference(
        source, faces, some_latents(rows), speeches, voicing, model, config=config, runtime=runtime, out=Path()
    )


def heard_by(found: Mouths, toy_latents: Latents) -> NDArray[np.float64]:
    """(N,) what each row heard, the toy's own latents taken away again."""
    told = found.latents.astype(np.float64) - toy_latents.masked - toy_latents.reference[::-1]
    return np.asarray(told.mean((1, 2, 3)))


LAST = [floor(50 * n / 25) + 6 for n in range(ROWS)]  # of each frame's window; features hold their number + 1


def test_batch_size_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (HARD, InferenceConfig()):
        one, many = (infer(Toy(), monkeypatch, size, config=config) for size in (1, 64))
        np.testing.assert_array_equal(one.latents, many.latents)


def test_each_row_is_lent_the_latents_that_the_family_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    made = some_latents()
    expected = made.masked + np.array(LAST, np.float16)[:, None, None, None] + made.reference[::-1]
    np.testing.assert_allclose(infer(Toy(), monkeypatch).latents, expected, atol=0.02)


def test_each_row_hears_its_own_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people in every frame, and two voices; then the other way round."""
    voices = [features(60), features(60) + np.float16(100)]
    made = some_latents(2 * ROWS)
    for first, second in ((0, 1), (1, 0)):
        lines = Voicing((Line(0, 0, ROWS, first), Line(1, 0, ROWS, second)))
        heard = heard_by(infer(Toy(), monkeypatch, voicing=lines, voices=voices, tracks=2), made)
        np.testing.assert_allclose(heard[0::2], np.array(LAST) + 100 * first, atol=0.1)
        np.testing.assert_allclose(heard[1::2], np.array(LAST) + 100 * second, atol=0.1)


def test_a_shut_mouth_hears_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Voicing((Line(0, 0, 5, 0), Line(0, 5, ROWS, CLOSED)))
    heard = heard_by(infer(Toy(), monkeypatch, voicing=lines), some_latents())
    np.testing.assert_allclose(heard, [*LAST[:5], *[SILENT] * 6], atol=0.3)


def test_a_mouth_without_a_line_stays_the_films_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, made = Toy(), some_latents()
    found = infer(toy, monkeypatch, voicing=Voicing((Line(0, 3, 7, 0),)), config=InferenceConfig())
    still = [*range(3), *range(7, ROWS)]
    np.testing.assert_array_equal(found.latents[still], made.reference[still])
    assert sum(rows for rows, _ in toy.batches) == 4
    nobody = Toy()
    np.testing.assert_array_equal(infer(nobody, monkeypatch, voicing=Voicing()).latents, made.reference)
    assert nobody.batches == []


def trembling(tokens: int = 60) -> Halves:
    return np.broadcast_to(np.arange(tokens, dtype=np.float16)[:, None, None] // 2 % 2, (tokens, 5, 384)).copy()


def jerk(values: NDArray[np.float64]) -> float:
    return float(np.abs(np.diff(values, 2)).mean())


@pytest.mark.parametrize("config", [InferenceConfig(heard_hz=4, answered_hz=0), InferenceConfig(heard_hz=0, answered_hz=4)])
def test_what_trembles_is_steadied_by_what_is_heard_and_by_what_is_answered(
    monkeypatch: pytest.MonkeyPatch, config: InferenceConfig
) -> None:
    made, voices = Latents(*[np.zeros((ROWS, 4, 32, 32), np.float16)] * 2), [trembling()]
    monkeypatch.setattr(f"{__name__}.some_latents", lambda rows=ROWS: made)
    hard, calm = (heard_by(infer(Toy(), monkeypatch, voices=voices, config=one), made) for one in (HARD, config))
    assert jerk(calm) < 0.3 * jerk(hard)


def test_nothing_is_steadied_over_the_end_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words, a shut mouth, and another person in between: each as if it were alone."""
    strong = InferenceConfig(heard_hz=2, answered_hz=2)
    lines = (Line(0, 0, 4, 0), Line(0, 4, ROWS, CLOSED), Line(1, 0, ROWS, 1))
    voices = [np.full((60, 5, 384), value, np.float16) for value in (10, 200)]
    heard = heard_by(
        infer(Toy(), monkeypatch, voicing=Voicing(lines), voices=voices, tracks=2, config=strong), some_latents(2 * ROWS)
    )
    np.testing.assert_allclose(heard[0::2], [*[10] * 4, *[SILENT] * 7], atol=0.5)
    np.testing.assert_allclose(heard[1::2], 200, atol=0.3)


def test_one_persons_line_does_not_depend_on_another_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = infer(Toy(), monkeypatch, voicing=Voicing((Line(0, 0, ROWS, 0),)), tracks=2, config=InferenceConfig())
    both = infer(Toy(), monkeypatch, voicing=Voicing((Line(0, 0, ROWS, 0), Line(1, 2, 9, 0))), tracks=2, config=InferenceConfig())
    np.testing.assert_array_equal(alone.latents[0::2], both.latents[0::2])


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

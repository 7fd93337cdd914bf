"""Training of lite without clips: its rules as tables."""

import numpy as np
import pytest
import torch

from musetalk_cli.metrics.lips import correlation, opening, shifted_correlation
from musetalk_cli.models.lip_codes import CODE_SIZE, lip_codes
from musetalk_cli.training.data import fit_basis
from musetalk_cli.training.lite_lips import VoiceClip, fold_of, in_step
from musetalk_cli.training.lite_stage import cut_out, lip_windows, pixel_weight
from musetalk_cli.training.losses import weighted_l1


def test_lip_code_opens_with_the_mouth_wherever_the_face_is() -> None:
    faces = _faces(np.linspace(0, 0.5, 40))
    basis = fit_basis([faces])
    codes = lip_codes(faces, basis)
    assert codes.shape == (40, CODE_SIZE)
    assert codes[0, 0] == pytest.approx(0, abs=0.1) and np.all(np.diff(codes[:, 0]) > -0.05)
    turned = faces * 3.0 @ np.array([[0.98, 0.2], [-0.2, 0.98]], np.float32) + 100
    np.testing.assert_allclose(lip_codes(turned.astype(np.float32), basis)[:, 0], codes[:, 0], atol=0.1)


def test_correlation_leaves_out_missing_frames_and_finds_the_shift() -> None:
    wave = np.sin(np.arange(60) / 5)
    holes = wave.copy()
    holes[::7] = np.nan
    assert correlation(wave, holes) == pytest.approx(1)
    assert shifted_correlation(wave[3:], wave, 3) == pytest.approx(1)
    assert correlation(wave, np.zeros(60)) == 0


def test_opening_is_in_eye_distances() -> None:
    assert opening(_faces(np.array([0.0, 0.3]))) == pytest.approx([0.0, 0.3], abs=1e-5)


def test_all_clips_of_a_person_are_in_one_fold() -> None:
    clips = [_voice(f"{person}_{i}", person, np.zeros(50)) for person in "abcde" for i in (1, 2)]
    folds = fold_of(clips, 3)
    assert all(folds[i] == folds[i + 1] for i in range(0, 10, 2)) and set(folds) == {0, 1, 2}


def test_clip_out_of_step_is_shifted_and_clip_of_another_voice_left_out() -> None:
    random = np.random.default_rng(0)
    heard = np.convolve(random.normal(size=203), np.ones(4) / 4, "valid").astype(np.float32)
    late, foreign = np.roll(heard, 2), random.normal(size=200).astype(np.float32)
    clips = [_voice("good", "a", heard), _voice("late", "b", late), _voice("foreign", "c", foreign)]
    kept = in_step(clips, [np.repeat(heard[:, None], CODE_SIZE, 1)] * 3)
    assert {clip.name: clip.shift for clip in kept} == {"good": 0, "late": -2}


def test_pixel_weight_favours_the_mouth_and_keeps_the_scale() -> None:
    weight = pixel_weight(torch.tensor([[100.0, 200.0, 30.0, 15.0]]))
    assert weight.shape == (1, 1, 136, 256)
    assert float(weight.mean()) == pytest.approx(1, abs=1e-4)
    assert float(weight[0, 0, 80, 100]) > 3 * float(weight[0, 0, 0, 0])
    white, black = torch.ones(1, 3, 136, 256), torch.zeros(1, 3, 136, 256)
    assert float(weighted_l1(white, black, weight)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("centre", [(128.0, 190.0), (10.0, 250.0), (250.0, 125.0)])
def test_lip_window_stays_in_the_picture(centre: tuple[float, float]) -> None:
    places = lip_windows(torch.tensor([[*centre, 30.0, 10.0]]), torch.tensor([[4, -4]]))
    assert cut_out(torch.zeros(1, 3, 136, 256), places).shape == (1, 3, 112, 144)


def _voice(name: str, identity: str, opened: np.ndarray) -> VoiceClip:
    codes = np.repeat(opened[:, None].astype(np.float32), CODE_SIZE, 1)
    return VoiceClip(name, identity, np.zeros((2 * len(opened), 384), np.float16), codes)


def _faces(opened: np.ndarray) -> np.ndarray:
    """(F, 68, 2) drawn faces, eyes one apart, whose inner lips are `opened` apart."""
    face = np.zeros((68, 2), np.float32)
    angle = np.linspace(np.pi, 0, 17)
    face[:17] = np.stack([0.95 * np.cos(angle), 0.2 + 1.5 * np.sin(angle)], 1)
    face[17:27] = np.stack([np.linspace(-0.8, 0.8, 10), np.full(10, -0.4)], 1)
    face[27:31] = np.stack([np.zeros(4), np.linspace(0, 0.6, 4)], 1)
    face[31:36] = np.stack([np.linspace(-0.2, 0.2, 5), np.full(5, 0.7)], 1)
    for start, side in ((36, -0.5), (42, 0.5)):
        around = np.linspace(np.pi, -np.pi, 7)[:6]
        face[start : start + 6] = np.stack([side + 0.2 * np.cos(around), 0.06 * np.sin(around)], 1)
    outer, inner = np.linspace(np.pi, 3 * np.pi, 13)[:12], np.linspace(np.pi, 3 * np.pi, 9)[:8]
    face[48:60] = np.stack([0.4 * np.cos(outer), 1.2 + 0.12 * np.sin(outer)], 1)
    face[60:68] = np.stack([0.3 * np.cos(inner), np.full(8, 1.2)], 1)
    faces = np.repeat(face[None], len(opened), 0)
    faces[:, [61, 62, 63], 1] -= opened[:, None] / 2
    faces[:, [65, 66, 67], 1] += opened[:, None] / 2
    return faces.astype(np.float32)

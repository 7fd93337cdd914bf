"""Offset and confidence as tables; both experts on made faces and voices whose shift is known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from made_faces import landmarks_at
from numpy.typing import NDArray
from torch import Tensor

from musetalk_cli.errors import UsageError
from musetalk_cli.metrics.lips import correlation
from musetalk_cli.models.family import LEAD
from musetalk_cli.models.syncnet import SyncNet, SyncNetConfig, save_syncnet
from musetalk_cli.training.sync import (
    LipExpert,
    Pairing,
    Sync,
    SyncNetExpert,
    least_confidence,
    lip_distances,
    offset_and_confidence,
    open_expert,
    standardised,
    sync_reason,
)

FRAMES = 150


@pytest.mark.parametrize(
    ("means", "offset", "confidence"),
    [
        ([5, 5, 1, 5, 5], 0, 4.0),
        ([5, 5, 5, 5, 2], 2, 3.0),
        ([1, 4, 5, 4, 4], -2, 3.0),
        ([3, 3, 3, 3, 3], 0, 0.0),  # nothing to choose by: the middle
        ([1, 5, 5, 1, 5], 1, 4.0),  # of two equal ones the nearer to the middle
    ],
)
def test_offset_is_where_the_mean_is_least_and_confidence_the_median_less_it(
    means: list[float], offset: int, confidence: float
) -> None:
    distances = np.array(means) + np.array([[-0.5], [0.5]])  # two times about the mean
    assert offset_and_confidence(distances) == Sync(offset, pytest.approx(confidence))


@pytest.mark.parametrize(("frames", "factor"), [(400, 1.0), (100, 1.0), (25, 2.0), (0, 10.0)])
def test_a_short_clip_must_agree_more(frames: int, factor: float) -> None:
    assert least_confidence(0.3, frames) == pytest.approx(0.3 * factor)


@pytest.mark.parametrize(
    ("sync", "reason"),
    [
        (Sync(0, 0.5), ""),
        (Sync(-6, 0.3), ""),
        (Sync(0, 0.29), "sync confidence 0.29, needs 0.30"),
        (Sync(7, 0.9), "sound is 7 frames late, at most 6"),
        (Sync(-9, 0.9), "sound is 9 frames early, at most 6"),
    ],
)
def test_reason_for_dropping(sync: Sync, reason: str) -> None:
    assert sync_reason(sync, 200, 0.3, 6) == reason


def test_lip_distances_are_one_less_the_correlation() -> None:
    random = np.random.default_rng(0)
    seen, heard = random.normal(size=80).astype(np.float32), random.normal(size=(3, 80)).astype(np.float32)
    fast = [standardised(row[:, None])[:, 0] for row in (seen, *heard)]
    wanted = [1 - correlation(fast[0], row) for row in fast[1:]]
    np.testing.assert_allclose(lip_distances(seen, heard).mean(0), wanted, atol=1e-5)


def test_slow_drift_does_not_count() -> None:
    wave = np.sin(np.arange(300) / 2)[:, None]
    drifting = wave + np.linspace(0, 20, 300)[:, None]
    assert correlation(standardised(wave)[50:250, 0], standardised(drifting)[50:250, 0]) > 0.99


@pytest.mark.parametrize("lead", [0, 25])
@pytest.mark.parametrize("shift", [-7, 0, 4])
def test_lip_expert_finds_by_how_much_the_voice_is_late(shift: int, lead: int) -> None:
    said = _speech(FRAMES + 60)
    pairing = _pairing(said[30 : 30 + FRAMES], said[30 - shift - lead : 30 - shift + FRAMES + 25], lead)
    found = offset_and_confidence(LipExpert(_ToyLips()).scores(pairing))
    assert found.offset == shift and found.confidence > 0.7


def test_lip_expert_does_not_trust_a_foreign_voice() -> None:
    pairing = _pairing(_speech(FRAMES), _speech(FRAMES, seed=1), 0)
    assert offset_and_confidence(LipExpert(_ToyLips()).scores(pairing)).confidence < 0.4


def test_a_face_that_does_not_move_has_no_confidence() -> None:
    pairing = _pairing(np.zeros(FRAMES), _speech(FRAMES), 0)
    assert offset_and_confidence(LipExpert(_ToyLips()).scores(pairing)) == Sync(0, pytest.approx(0, abs=1e-6))


def test_embedded_expert_opens_and_judges() -> None:
    expert = open_expert("embedded")
    assert expert is not None and not expert.sees
    assert expert.scores(_pairing(_speech(40), _speech(40), 0)).shape == (40, 31)


def test_none_is_no_expert_and_a_missing_file_an_error(tmp_path: Path) -> None:
    assert open_expert("none") is None
    with pytest.raises(UsageError, match="no such file"):
        open_expert(str(tmp_path / "syncnet.pt"))


@pytest.mark.parametrize("hears", ["whisper", "mel"])
def test_a_syncnet_file_opens_as_an_expert(tmp_path: Path, hears: Literal["whisper", "mel"]) -> None:
    torch.manual_seed(0)
    save_syncnet(SyncNet(SyncNetConfig.small(hears)), tmp_path / "syncnet.safetensors")
    expert = open_expert(str(tmp_path / "syncnet.safetensors"), radius=2)
    assert expert is not None and expert.sees
    pairing = _pairing(_speech(20), _speech(24), 2)._replace(
        speech=np.zeros(24 * 640, np.float32), crops=lambda numbers: np.zeros((len(numbers), 256, 256, 3), np.uint8)
    )
    assert expert.scores(pairing).shape == (2, 5)


@pytest.mark.parametrize("shift", [-3, 5])
def test_syncnet_expert_finds_the_shift(shift: int) -> None:
    said = _speech(120)
    seen, heard = said[20:80], said[20 - shift : 100 - shift]

    def crops(numbers: list[int]) -> NDArray[np.uint8]:
        return np.stack([np.full((256, 256, 3), 255 * seen[i], np.uint8) for i in numbers])

    pairing = Pairing(np.zeros((60, 68, 2), np.float32), np.zeros((0, 5, 384), np.float16), heard.astype(np.float32), 0, crops)
    expert = SyncNetExpert(_ToySyncNet(), _hear, radius=8)
    scores = expert.scores(pairing)
    assert scores.shape == (12, 17)  # every fourth of the 45 times at which 16 frames begin
    assert offset_and_confidence(scores).offset == shift


def test_syncnet_expert_asks_for_pictures() -> None:
    pairing = Pairing(np.zeros((20, 68, 2), np.float32), np.zeros((0, 5, 384), np.float16), np.zeros(20, np.float32))
    with pytest.raises(UsageError, match="pictures"):
        SyncNetExpert(_ToySyncNet(), _hear).scores(pairing)


def _speech(frames: int, seed: int = 0) -> NDArray[np.float32]:
    """(F,) openings 0..1 that move as fast as lips."""
    noise = np.convolve(np.random.default_rng(seed).normal(size=frames + 3), np.ones(4) / 2, "valid")
    return np.clip(0.5 + noise / 4, 0, 1).astype(np.float32)


def _pairing(opened: NDArray[np.floating], heard: NDArray[np.floating], lead: int) -> Pairing:
    """A face that is `opened`, and features whose every number is what the voice asks for."""
    faces = np.repeat(landmarks_at(100, 100, 80)[None], len(opened), 0)
    faces[:, [65, 66, 67], 1] += 10 * opened[:, None].astype(np.float32)
    features = np.repeat(heard, 2)[:, None, None] * np.ones((1, 5, 384))
    return Pairing(faces, features.astype(np.float16), np.zeros(0, np.float32), lead)


class _ToyLips:
    def habits(self, windows: Tensor) -> Tensor:
        return windows[:, LEAD, 4, :2]


def _hear(pairing: Pairing, starts: list[int]) -> Tensor:
    index = np.array(starts)[:, None] + np.arange(16)
    inside = (index >= 0) & (index < len(pairing.speech))
    return torch.from_numpy(np.where(inside, pairing.speech[np.clip(index, 0, len(pairing.speech) - 1)], 0))


class _ToySyncNet:
    config = SimpleNamespace(audio="mel")

    def embed_frames(self, frames: Tensor) -> Tensor:
        assert frames.shape[1:] == (48, 128, 256)
        return _unit((frames.mean((2, 3)).view(-1, 16, 3).mean(2) + 1) / 2)

    def embed_audio(self, audio: Tensor) -> Tensor:
        return _unit(audio)


def _unit(rows: Tensor) -> Tensor:
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-6)

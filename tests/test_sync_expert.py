"""The published SyncNet: figures here are those of syncnet_python's own code on the same random weights and input."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_weights import made_weights

from musetalk_cli.errors import MissingError
from musetalk_cli.metrics.lse import offsets
from musetalk_cli.models.sync_expert import SyncExpert, SyncNet, face_crops, mfcc

CPU = torch.device("cpu")


MEASURED = [
    [
        24.643906,
        -36.664676,
        -9.279619,
        -10.176937,
        -6.369451,
        1.139119,
        3.578952,
        -1.104288,
        3.720379,
        5.608273,
        2.073408,
        -1.372826,
        -0.857538,
    ],
    [-36.043653, *[0] * 12],
    [
        24.576907,
        -38.723003,
        -7.12683,
        -11.388484,
        -4.745405,
        -7.349896,
        -5.607011,
        -9.27286,
        -5.51535,
        -1.144897,
        4.030609,
        0.589814,
        -3.383153,
    ],
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as old as syncnet_v2.model is: not a zip archive."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in SyncNet().state_dict().items()}
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(made_weights(shapes), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def expert(published: Path) -> SyncExpert:
    return SyncExpert.load(published, CPU)


def test_both_halves_are_those_of_the_published_code(expert: SyncExpert) -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (2, 3, 5, 224, 224)).astype(np.float32))
    mfccs = torch.from_numpy(rng.standard_normal((2, 1, 13, 20)).astype(np.float32) * 5)
    with torch.no_grad():
        np.testing.assert_allclose(expert.net.lips(frames)[0, :4], [-0.5681, 288.7455, 324.2444, -147.0110], rtol=1e-4)
        np.testing.assert_allclose(expert.net.sound(mfccs)[0, :4], [-1.0963, 11.0365, 12.1851, -6.5718], rtol=1e-4)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"netcnnaud.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "other.model")
    with pytest.raises(MissingError, match="not this model's weights"):
        SyncExpert.load(tmp_path / "other.model", CPU)


def test_mfccs_are_those_of_python_speech_features() -> None:
    """Measured with python_speech_features 0.6 on the same samples; 13 numbers each of the first, a silent and the last row."""
    speech = np.random.default_rng(1).integers(-20000, 20000, 8000).astype(np.int16)
    speech[2000:4000] = 0
    found = mfcc(speech.astype(np.float32) / 32768)
    assert found.shape == (49, 13)
    np.testing.assert_allclose(found[[0, 15, 48]], MEASURED, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("samples", "rows"), [(1, 1), (400, 1), (401, 2), (16000, 99), (16001, 99)])
def test_there_are_a_hundred_mfccs_a_second_less_the_last_windows(samples: int, rows: int) -> None:
    assert mfcc(np.ones(samples, np.float32) / 9).shape == (rows, 13)


@pytest.mark.parametrize(
    ("frames", "samples", "moments"), [(8, 9 * 640, 3), (9, 8 * 640 + 5, 3), (5, 9000, 0), (0, 9000, 0), (9, 0, 0)]
)
def test_there_are_as_many_moments_as_in_the_published_code(frames: int, samples: int, moments: int, expert: SyncExpert) -> None:
    rng = np.random.default_rng(0)
    crops = iter(rng.integers(0, 256, (frames, 224, 224, 3), np.uint8))
    found = expert.embed(crops, rng.normal(0, 0.1, samples).astype(np.float32))
    assert found.lips.shape == found.sound.shape == (moments, 1024)


def test_a_clip_is_judged_as_by_the_published_evaluation(expert: SyncExpert) -> None:
    """Measured with SyncNetInstance.evaluate on the same frames and samples, and vshift 3."""
    rng = np.random.default_rng(2)
    crops = rng.integers(0, 256, (9, 224, 224, 3), np.uint8)
    speech = rng.integers(-8000, 8000, 9 * 640).astype(np.float32) / 32768
    found = offsets(*expert.embed(iter(crops), speech), reach=3)
    assert (found.offset, found.distance, found.confidence) == (
        -3,
        pytest.approx(10034.336, abs=0.1),
        pytest.approx(13.211, abs=0.05),
    )


@pytest.mark.parametrize("left", [30, 0], ids=["inside", "over the edge"])
def test_crops_are_cut_as_by_run_pipeline(left: int) -> None:
    """A box of 40 px: 56 by 56 px from its top on, 8 more than it to either side; grey beyond the picture."""
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    crops = list(face_crops([rgb] * 15, np.tile([left, 0.0, left + 40, 40], (15, 1))))
    framed = np.pad(rgb[..., ::-1], ((0, 0), (8, 8), (0, 0)), constant_values=110)
    wanted = cv2.resize(framed[:56, left : left + 56], (224, 224))
    assert len(crops) == 15
    np.testing.assert_array_equal(crops[7], wanted)


def test_a_box_that_leaps_for_a_few_frames_is_not_followed() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    boxes = np.tile([30.0, 0, 70, 40], (20, 1))
    boxes[9:12] += 8
    crops = list(face_crops([rgb] * 20, boxes))
    np.testing.assert_array_equal(crops[10], crops[7])
    with pytest.raises(ValueError, match="longer"):
        list(face_crops([rgb] * 3, boxes))

"""Promises of the better face analysis: the published file formats load, without a network, and give what face_alignment itself gives.

The weights are random: the real ones cannot be shipped.
"""

import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import cv2
import face_alignment
import numpy as np
import pytest
import torch
from face_alignment import utils
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from made_faces import landmarks_at
from numpy.typing import NDArray

from musetalk_cli.errors import MissingError
from musetalk_cli.models.analysis import Detection
from musetalk_cli.models.face_alignment_analyser import FaceAlignmentAnalyser

BOX = np.array([20.0, 10.0, 80.0, 84.0])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder as `weights pull face-alignment` leaves it: state dicts by torch.save, 65 and 1129 tensors."""
    root = tmp_path_factory.mktemp("weights")
    (root / "face-alignment").mkdir()
    torch.manual_seed(0)
    detector, landmarker = s3fd().state_dict(), FAN(4).state_dict()
    assert (len(detector), len(landmarker)) == (65, 1129)
    torch.save(detector, root / "face-alignment" / "s3fd-619a316812.pth")
    torch.save(landmarker, root / "face-alignment" / "2DFAN4-11f355bf06.pth.tar")
    return root


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (96, 112, 3)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)


@pytest.fixture(scope="module")
def analyser(root: Path) -> FaceAlignmentAnalyser:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", _no_network)
        return FaceAlignmentAnalyser(root, "cpu")


def _no_network(*_: object) -> None:
    raise AssertionError("asked for the network")


@pytest.fixture(scope="module")
def original(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[face_alignment.FaceAlignment]:
    """The package's own class on the same files, its numba functions as plain Python: compiling them takes longer than the test."""
    hub = tmp_path_factory.mktemp("hub")
    (hub / "checkpoints").symlink_to(root / "face-alignment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "_hub_dir", str(hub))
        patch.setattr(utils, "transform_np", utils.transform_np.py_func)
        patch.setattr(utils, "_get_preds_fromhm", utils._get_preds_fromhm.py_func)
        detector = {"path_to_detector": str(root / "face-alignment" / "s3fd-619a316812.pth")}
        yield face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_D, device="cpu", compile=False, face_detector_kwargs=detector
        )


def test_landmarks_are_those_of_the_package_to_its_rounding(
    analyser: FaceAlignmentAnalyser, original: face_alignment.FaceAlignment, picture: NDArray[np.uint8]
) -> None:
    ours = analyser.landmarks(picture, BOX)
    assert ours is not None and (ours.shape, ours.dtype) == ((68, 2), np.float32)
    (theirs,) = original.get_landmarks_from_image(picture, [BOX])
    assert np.abs(ours - theirs).max() <= 1.0  # it cuts to whole pixels
    assert np.ptp(ours, axis=0).min() > 10


def test_boxes_are_those_of_the_package(
    analyser: FaceAlignmentAnalyser, original: face_alignment.FaceAlignment, picture: NDArray[np.uint8]
) -> None:
    ours, theirs = analyser.detect(picture), original.face_detector.detect_from_image(picture)
    assert len(ours) == len(theirs) > 0  # random weights see faces everywhere
    np.testing.assert_allclose([face.box for face in ours], [row[:4] for row in theirs], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose([face.score for face in ours], [row[4] for row in theirs], rtol=1e-4)
    assert ours == sorted(ours, key=lambda face: -face.score)


def test_large_frames_are_looked_at_small_and_boxes_are_in_their_pixels(
    analyser: FaceAlignmentAnalyser, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musetalk_cli.models.face_alignment_analyser.DETECT_SIDE_PX", 56)
    half = cv2.resize(picture, (56, 48), interpolation=cv2.INTER_AREA)
    large, small = analyser.detect(picture), analyser.detect(np.asarray(half, np.uint8))
    np.testing.assert_allclose([face.box for face in large], [face.box * 2 for face in small], rtol=1e-5)


def test_identity_is_taken_where_the_landmarks_say(analyser: FaceAlignmentAnalyser, monkeypatch: pytest.MonkeyPatch) -> None:
    from skimage.data import astronaut

    portrait, face = (
        np.asarray(astronaut()[:256, 96:352], np.uint8),
        Detection(BOX.astype(np.float32), 0.9, np.full((5, 2), np.nan)),
    )
    vectors = []
    for x in (130, 131, 40):  # her nose, a pixel beside it, the background
        monkeypatch.setattr(analyser, "landmarks", lambda *_, x=x: landmarks_at(x, 130, 95))
        vectors.append(analyser.embed(portrait, face))
    np.testing.assert_allclose([np.linalg.norm(vector) for vector in vectors], 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.9 > 0.4 > vectors[0] @ vectors[2]


def test_no_landmarks_in_no_area(analyser: FaceAlignmentAnalyser, picture: NDArray[np.uint8]) -> None:
    assert analyser.landmarks(picture, np.array([10.0, 10.0, 10.5, 40.0])) is None


def test_missing_weights_name_the_command_that_gets_them(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="musetalk weights pull face-alignment"):
        FaceAlignmentAnalyser(tmp_path, "cpu")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise AssertionError('pickled code ran')",)


@pytest.mark.parametrize("content", ["pickled code", "another network", "no tensors"])
def test_a_file_that_is_not_the_network_is_refused_and_runs_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "face-alignment" / "s3fd-619a316812.pth"
    file.parent.mkdir()
    if content == "pickled code":
        file.write_bytes(pickle.dumps(Bomb(), protocol=2))
    elif content == "another network":
        torch.save({"conv1_1.weight": torch.zeros(3)}, file)
    else:
        file.write_text("<html>not found</html>")
    with pytest.raises(MissingError, match="weights verify face-alignment"):
        FaceAlignmentAnalyser(tmp_path, "cpu")

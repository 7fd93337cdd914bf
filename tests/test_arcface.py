"""Faces to identity vectors: where a face is laid, and what reads ArcFace's file."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.errors import MissingError
from musetalk_cli.models import arcface
from musetalk_cli.models.analysis import ANALYSIS_FILES, EmbeddedAnalyser, model_file
from musetalk_cli.models.arcface import SIDE_PX, TEMPLATE, ArcFace, SFace, aligned, onto_template


def landmarks_of(five: NDArray[np.floating]) -> NDArray[np.float32]:
    """68 points with these eyes, nose tip and corners of the mouth."""
    points = np.zeros((68, 2), np.float32)
    points[36:42], points[42:48], points[30], points[48], points[54] = five
    return points


def turned(points: NDArray[np.floating], degrees: float, scale: float, shift: tuple[float, float]) -> NDArray[np.float64]:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.asarray(points @ np.array([[c, s], [-s, c]]) + shift)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (35, 2.5), (-170, 0.4)])
def test_five_points_come_to_lie_on_the_template(degrees: float, scale: float) -> None:
    five = turned(TEMPLATE, degrees, scale, (200, 90))
    matrix = onto_template(five)
    np.testing.assert_allclose(five @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-9)


def test_alignment_is_umeyamas_of_scikit_image() -> None:
    """Insightface estimates it so; the five points of a real face never fit the template wholly."""
    from skimage.transform import SimilarityTransform

    five = turned(TEMPLATE, 12, 1.7, (40, 60)) + np.random.default_rng(0).normal(0, 4, (5, 2))
    np.testing.assert_allclose(onto_template(five), SimilarityTransform.from_estimate(five, TEMPLATE).params[:2], atol=1e-9)


def test_an_upright_face_of_the_templates_size_is_cut_as_it_is() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    face = aligned(frame, landmarks_of(TEMPLATE + np.array([50, 40])))
    assert np.abs(face.astype(int) - frame[40:152, 50:162]).max() <= 1


def test_sface_knows_a_face_again_and_tells_its_vector_from_anothers() -> None:
    from skimage.data import astronaut

    judge, picture = SFace.load(), astronaut()
    with EmbeddedAnalyser() as analyser:
        points = analyser.landmarks(picture, analyser.detect(picture)[0].box)
    assert points is not None
    darker = (picture * 0.7).astype(np.uint8)
    a, b = judge.embed(picture, points), judge.embed(darker, points)
    other = judge.embed(np.ascontiguousarray(picture[::-1]), points)  # no face at all
    assert a is not None and b is not None and other is not None
    assert a.shape == (judge.width,) == (128,)
    assert float(a @ a) == pytest.approx(1, abs=1e-5)
    assert float(a @ b) > 0.9 > 0.3 > float(a @ other)


def test_arcface_sees_rgb_between_minus_one_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[NDArray[np.float32]] = []

    class Net:
        def setInput(self, blob: NDArray[np.float32]) -> None:
            seen.append(blob)

        def forward(self) -> NDArray[np.float32]:
            return np.full((1, 512), 3, np.float32)

    frame = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    frame[..., 0] = 255
    found = ArcFace(Net()).embed(frame, landmarks_of(TEMPLATE))  # type: ignore[arg-type]
    assert found is not None and float(found @ found) == pytest.approx(1)
    assert seen[0].shape == (1, 3, SIDE_PX, SIDE_PX)
    np.testing.assert_allclose([seen[0][0, channel, 56, 56] for channel in range(3)], [1, -1, -1], atol=0.01)


def test_a_file_that_is_not_there_names_the_command() -> None:
    with pytest.raises(MissingError, match="weights pull eval"):
        ArcFace.load(Path("/nowhere/w600k_r50.onnx"))


def test_a_damaged_file_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "w600k_r50.onnx").write_bytes(b"\x08\x06nothing of a network")
    with pytest.raises(MissingError, match=r"w600k_r50\.onnx"):
        ArcFace.load(tmp_path / "w600k_r50.onnx")


def test_another_network_of_the_same_input_is_refused() -> None:
    with pytest.raises(MissingError, match="gives 128 numbers, ArcFace has 512"):
        ArcFace.load(model_file(ANALYSIS_FILES[1]))


def test_arcface_reads_any_network_of_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """SFace's file in its place: the path from a file to a vector of length 1."""
    monkeypatch.setattr(arcface, "WIDTH", 128)
    judge = ArcFace.load(model_file(ANALYSIS_FILES[1]))
    frame = np.random.default_rng(0).integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
    found = judge.embed(cv2.GaussianBlur(frame, (0, 0), 5), landmarks_of(TEMPLATE))
    assert found is not None and found.shape == (128,)
    assert float(found @ found) == pytest.approx(1, abs=1e-5)

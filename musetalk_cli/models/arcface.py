"""Whose face it is. In: a picture and 68 landmarks. Out: a vector that is near for the same person. Knows nothing of CSIM's mean.

ArcFace (Deng et al. 2019) is the judge of CSIM: insightface's w600k_r50.onnx of `buffalo_l`, 512 numbers, for non-commercial research
only. SFace (Zhong et al. 2021), 128 numbers, comes along with musetalk; its figure is `CSIM (SFace)`. Both see the face laid by five
points on insightface's template of 112 by 112 pixels.
"""

from pathlib import Path
from typing import NamedTuple, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.errors import MissingError
from musetalk_cli.models.analysis import five_of, open_recogniser
from musetalk_cli.models.loading import VERIFY

SIDE_PX = 112
TEMPLATE = np.array(  # where insightface lays the eyes, the nose's tip and the corners of the mouth
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
WIDTH = 512  # of ArcFace's vector


class IdentityJudge(Protocol):
    """What embeds faces for CSIM."""

    @property
    def name(self) -> str:
        """Of the figure that comes of it: "CSIM" for ArcFace alone, else "CSIM (...)"."""
        ...

    @property
    def width(self) -> int:
        """D."""
        ...

    def embed(self, frame_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.float32] | None:
        """(H, W, 3) and (68, 2) source pixels -> (D,) of length 1; None where the judge sees no face there."""
        ...


class ArcFace(NamedTuple):
    """ArcFace on the CPU, some 60 ms a face."""

    net: cv2.dnn.Net
    name: str = "CSIM"
    width: int = WIDTH

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises MissingError where the file is no network from a face to 512 numbers."""
        if not path.is_file():
            raise MissingError(f"{path}: not there", "musetalk weights pull eval")
        judge = cls(_read_onnx(path))
        try:
            found = judge.vector_of(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8))
        except cv2.error as error:
            raise MissingError(f"{path}: takes no face of {SIDE_PX} px: {_first_line(error)}", VERIFY) from error
        if found.shape != (WIDTH,):
            raise MissingError(f"{path}: gives {found.size} numbers, ArcFace has {WIDTH}", VERIFY)
        return judge

    def embed(self, frame_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.float32] | None:
        """See IdentityJudge."""
        return _unit(self.vector_of(aligned(frame_rgb, landmarks)))

    def vector_of(self, face_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(112, 112, 3) aligned -> (512,) of any length."""
        self.net.setInput(cv2.dnn.blobFromImage(face_rgb, 1 / 127.5, (SIDE_PX, SIDE_PX), (127.5, 127.5, 127.5)))
        return np.asarray(self.net.forward(), np.float32).ravel()


class SFace(NamedTuple):
    """SFace on the CPU, some 10 ms a face."""

    recogniser: cv2.FaceRecognizerSF
    name: str = "CSIM (SFace)"
    width: int = 128

    @classmethod
    def load(cls) -> Self:
        """Raises MissingError where the package that carries it is not installed."""
        return cls(open_recogniser())

    def embed(self, frame_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.float32] | None:
        """See IdentityJudge."""
        face_bgr = np.ascontiguousarray(aligned(frame_rgb, landmarks)[..., ::-1])
        return _unit(np.asarray(self.recogniser.feature(face_bgr), np.float32).ravel())


def aligned(frame_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W, 3), (68, 2) -> (112, 112, 3): turned, scaled and shifted so that the five points lie nearest to the template; black beyond."""
    matrix = onto_template(five_of(np.asarray(landmarks, np.float32)))
    return np.asarray(cv2.warpAffine(frame_rgb, matrix, (SIDE_PX, SIDE_PX)), np.uint8)


def onto_template(five: NDArray[np.floating]) -> NDArray[np.float64]:
    """(5, 2) -> (2, 3) similarity of least squares (Umeyama 1991); as complex numbers, a turn and scale is one factor."""
    points, goal = (part[:, 0] + 1j * part[:, 1] for part in (five.astype(np.float64), TEMPLATE))
    centred = points - points.mean()
    turn = (centred.conj() @ (goal - goal.mean())) / max(float((np.abs(centred) ** 2).sum()), 1e-9)
    shift = goal.mean() - turn * points.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def _read_onnx(path: Path) -> cv2.dnn.Net:
    try:
        return cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as error:
        raise MissingError(f"{path}: no network that OpenCV can read: {_first_line(error)}", VERIFY) from error


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

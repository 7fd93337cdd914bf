"""dlib's own eyes: detector, 68 landmarks, face embedding (King 2009; Kazemi and Sullivan 2014). In: a picture. Out: points, a vector.

A judge that no training of ours has seen: other landmarks and another identity network than those that musetalk works with. For
`CSIM (dlib)`. Needs the extra `eval`: dlib-bin, and face_recognition_models for its files alone; that package is never imported, for it
asks for a part of setuptools that is gone. Knows nothing of films.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.errors import MissingError
from musetalk_cli.models.analysis import AnalysisFile, model_file
from musetalk_cli.tracks import around, iou

CURE = "pip install 'musetalk[eval]'"
SHAPE = AnalysisFile(
    "face_recognition_models",
    "face_recognition_models/models/shape_predictor_68_face_landmarks.dat",
    "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
)
RESNET = AnalysisFile(
    "face_recognition_models",
    "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
)
SEARCH_PX = 360  # shorter side of the picture that the detector looks at: it finds faces from 80 px up
SAME_FACE = 0.3  # overlap of dlib's landmarks with the face that was asked for


class DlibJudge(NamedTuple):
    """dlib 20, on the CPU."""

    dlib: Any
    detector: Any
    shape: Any
    net: Any
    name: str = "CSIM (dlib)"
    width: int = 128

    @classmethod
    def load(cls) -> Self:
        """Raises MissingError, with the extra to install, where dlib or its files are absent."""
        try:
            dlib = import_module("dlib")
        except ImportError as error:
            raise MissingError("dlib: not installed", CURE) from error
        shape, net = (_file(row) for row in (SHAPE, RESNET))
        detector = dlib.get_frontal_face_detector()
        return cls(dlib, detector, dlib.shape_predictor(str(shape)), dlib.face_recognition_model_v1(str(net)))

    def embed(self, frame_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.float32] | None:
        """(H, W, 3) and (68, 2) of the face that is meant -> (128,) of length 1; None where dlib finds no face there."""
        found = self._shape_near(frame_rgb, landmarks)
        if found is None:
            return None
        vector = np.array(self.net.compute_face_descriptor(np.ascontiguousarray(frame_rgb), found), np.float32)
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)

    def landmarks(self, frame_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.float32] | None:
        """(68, 2) source pixels by dlib alone, of the face that is meant; None where dlib finds no face there."""
        found = self._shape_near(frame_rgb, landmarks)
        return None if found is None else _points(found)

    def _shape_near(self, frame_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> Any:
        """dlib's landmarks of the face that lies most on the one that is meant, None where none does."""
        wanted = around(np.asarray(landmarks, np.float32))
        picture = np.ascontiguousarray(frame_rgb)
        shapes = [self.shape(picture, box) for box in self._boxes(picture)]
        overlaps = [iou(around(_points(shape)), wanted) for shape in shapes]
        best = int(np.argmax(overlaps)) if overlaps else -1
        return shapes[best] if overlaps and overlaps[best] >= SAME_FACE else None

    def _boxes(self, picture: NDArray[np.uint8]) -> list[Any]:
        """All faces, looked for in every n-th pixel of a large picture."""
        step = max(1, min(picture.shape[:2]) // SEARCH_PX)
        found = self.detector(np.ascontiguousarray(picture[::step, ::step]), 0)
        return [self.dlib.rectangle(*(step * edge for edge in (b.left(), b.top(), b.right(), b.bottom()))) for b in found]


def _points(shape: Any) -> NDArray[np.float32]:
    return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


def _file(row: AnalysisFile) -> Path:
    try:
        return model_file(row)
    except MissingError as error:
        raise MissingError(error.fact, CURE) from error

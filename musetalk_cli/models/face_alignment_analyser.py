"""The better face analysis, where its weights were pulled. In: RGB frames. Out: faces (S3FD), 68 landmarks (2DFAN4), identity.

The networks are those of the `face_alignment` package (1.5.0). Its front door, the class FaceAlignment, is not used: it fetches a
missing file from the network, rounds landmarks to whole pixels, and switches cuDNN's autotuner on for the whole process, after
which two runs on a GPU differ. Knows nothing of films or tracks.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from face_alignment.detection.sfd.bbox import nms
from face_alignment.detection.sfd.detect import get_predictions
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from face_alignment.utils import CENTER_Y_OFFSET, REFERENCE_SCALE, SCALE_FACTOR, crop, flip
from numpy.typing import NDArray

from musetalk_cli.errors import MissingError
from musetalk_cli.models.analysis import Detection, five_of, identity_of, open_recogniser
from musetalk_cli.weights import FAN as FAN_FILE
from musetalk_cli.weights import S3FD as S3FD_FILE
from musetalk_cli.weights import locate

DETECT_SIDE_PX = 960  # longer side that S3FD looks at: a face of 32 px in HD is still 16 px there, its smallest
MEAN_BGR = (104.0, 117.0, 123.0)  # that S3FD was trained with
OVERLAP_IOU = 0.3  # of two boxes that are one face
SCORE = 0.5
STACKS = 4  # hourglasses of 2DFAN4
HEATMAP_CELLS = 64


class FaceAlignmentAnalyser:
    """S3FD and 2DFAN4 on a torch device, a FaceAnalyser. Raises MissingError where a file is absent or is another network's."""

    def __init__(self, weights: Path, device: str) -> None:
        self._device = torch.device(device)
        self._detector = _loaded(s3fd, locate(S3FD_FILE, weights), self._device)
        self._landmarker = _loaded(lambda: FAN(STACKS), locate(FAN_FILE, weights), self._device)
        self._recogniser = open_recogniser()

    def close(self) -> None:
        """Nothing to end: torch frees its own."""

    @torch.inference_mode()
    def detect(self, frame_rgb: NDArray[np.uint8]) -> list[Detection]:
        """All faces, the surest first. Keypoints are NaN: S3FD finds none, and `embed` takes them from the landmarks."""
        height, width = frame_rgb.shape[:2]
        scale = min(1.0, DETECT_SIDE_PX / max(height, width))
        size = (round(width * scale), round(height * scale))
        small = np.asarray(cv2.resize(frame_rgb, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame_rgb, np.uint8)
        zoom = np.array([width / size[0], height / size[1]] * 2)
        return [_detection(row, zoom) for row in self._candidates(small)]

    @torch.inference_mode()
    def landmarks(self, frame_rgb: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.float32] | None:
        """(68, 2) source pixels, to a fraction of a pixel, of the face in `box` (x1 y1 x2 y2); None for a box without area.

        Averaged with the mirrored crop's, as face_alignment does. 2DFAN always answers: whether a face is there, S3FD must say.
        """
        x1, y1, x2, y2 = (float(v) for v in box[:4])
        width, height = x2 - x1, y2 - y1
        if min(width, height) < 1:
            return None
        centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2 - height * CENTER_Y_OFFSET])
        scale = (width + height) / REFERENCE_SCALE
        square = crop(frame_rgb, torch.from_numpy(centre), scale)  # (256, 256, 3)
        batch = torch.from_numpy(square.transpose(2, 0, 1).astype(np.float32) / 255)[None].to(self._device)
        heat = self._landmarker(batch)[-1] + flip(self._landmarker(flip(batch))[-1], is_label=True)
        cells = _peaks(heat[0].cpu().numpy())  # (68, 2)
        return np.asarray((cells / HEATMAP_CELLS - 0.5) * SCALE_FACTOR * scale + centre, np.float32)

    def embed(self, frame_rgb: NDArray[np.uint8], detection: Detection) -> NDArray[np.float32]:
        """(128,) float32 of length 1, by SFace."""
        points = self.landmarks(frame_rgb, detection.box)
        if points is None:
            raise ValueError(f"no area in the box {detection.box}")
        return identity_of(frame_rgb, detection._replace(keypoints=five_of(points)), self._recogniser)

    def _candidates(self, small_rgb: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        """Rows x1 y1 x2 y2 score."""
        bgr = torch.from_numpy(np.ascontiguousarray(small_rgb[..., ::-1].transpose(2, 0, 1))).to(self._device, torch.float32)
        answers = self._detector((bgr - torch.tensor(MEAN_BGR, device=self._device).view(3, 1, 1))[None])
        answers = [torch.softmax(answer, 1) if i % 2 == 0 else answer for i, answer in enumerate(answers)]
        rows = get_predictions([answer.cpu().numpy() for answer in answers], 1)[0]
        return [rows[i] for i in nms(rows, OVERLAP_IOU) if rows[i, 4] > SCORE] if len(rows) else []


def _loaded(build: Callable[[], torch.nn.Module], path: Path, device: torch.device) -> Any:
    """The network with the file's weights: tensors only, never a pickled object."""
    with torch.device("meta"):  # no time for random weights that the file replaces
        network = build()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        fact = str(error).splitlines()[0]
        raise MissingError(
            f"{path}: does not hold this network: {fact}", "run `musetalk weights verify face-alignment`"
        ) from error
    return network.to(device).eval()


def _detection(row: NDArray[np.float64], zoom: NDArray[np.float64]) -> Detection:
    return Detection((row[:4] * zoom).astype(np.float32), float(row[4]), np.full((5, 2), np.nan, np.float32))


def _peaks(heat: NDArray[np.float32]) -> NDArray[np.float64]:
    """(68, 64, 64) -> (68, 2) x and y of each map's highest cell, moved a quarter towards its higher neighbour."""
    points, side = len(heat), heat.shape[-1]
    y, x = np.divmod(heat.reshape(points, -1).argmax(1), side)
    k = np.arange(points)
    inside = (x > 0) & (x < side - 1) & (y > 0) & (y < side - 1)
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)))
    right, left, below, above = padded[k, y + 1, x + 2], padded[k, y + 1, x], padded[k, y + 2, x + 1], padded[k, y, x + 1]
    slope = np.stack([right - left, below - above], 1)
    return np.asarray(np.stack([x, y], 1) + 0.5 + 0.25 * np.sign(slope) * inside[:, None], np.float64)

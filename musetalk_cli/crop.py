"""The face box and the 256 px crop. In: landmarks and frames. Out: boxes in source pixels, crops as the networks see them.

One rule for training and for dubbing, so that the network meets at work what it met at school. Knows nothing of models or files.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

CROP_PX = 256  # side of the square that the networks see
MASK_ROW = CROP_PX // 2  # rows from here down are hidden from the masked copy
NOSE_BRIDGE = 29  # third of the four nose-bridge points of the 68; lands on MASK_ROW


def face_box(
    landmarks: NDArray[np.floating], size: tuple[int, int], *, margin: int = 10, shift: int = 0
) -> NDArray[np.int32] | None:
    """Box of one face from its 68 landmarks: (x1, y1, x2, y2), int32, source pixels, inside the frame, x2 and y2 exclusive.

    landmarks: (68, 2) source pixels. size: (width, height) of the frame. margin: source pixels added below the chin, as
    MuseTalk v1.5 does (v1: 0). shift: moves the nose-bridge row, as `bbox_shift` does (v1 only). The nose bridge lands at
    mid-height, unless the frame's edge cuts the box. None where nothing of the box lies inside the frame.
    Source: the released `get_landmark_and_bbox`.
    """
    width, height = size
    points = landmarks.astype(np.int64)
    middle = int(points[NOSE_BRIDGE, 1]) + shift
    bottom = int(points[:, 1].max())
    x1, x2 = max(int(points[:, 0].min()), 0), min(int(points[:, 0].max()), width)
    y1, y2 = max(2 * middle - bottom, 0), min(bottom + margin, height)
    if x2 - x1 < 2 or y2 - y1 < 2:
        return None
    return np.array([x1, y1, x2, y2], np.int32)


def crop_face(frame_rgb: NDArray[np.uint8], box: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(H, W, 3) frame -> (256, 256, 3) uint8 crop of box; Lanczos, aspect not kept, as the published networks were trained."""
    x1, y1, x2, y2 = (int(v) for v in box)
    return np.asarray(cv2.resize(frame_rgb[y1:y2, x1:x2], (CROP_PX, CROP_PX), interpolation=cv2.INTER_LANCZOS4), np.uint8)


def hide_mouth(crops_rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., 256, 256, 3) -> the same with rows 128 and below black: -1 after normalisation, the mask of the published models."""
    masked = crops_rgb.copy()
    masked[..., MASK_ROW:, :, :] = 0
    return masked

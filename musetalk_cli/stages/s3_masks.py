"""Where a generated mouth may show. In: Faces, and the film where a parser looks at it. Out: Masks. Knows nothing of voices, so
that a second language parses nothing again.

    box -- square of 1.5 box sides, turned as the box -- labels (512, 512) by BiSeNet or from landmarks -- jaw | raw | neck mask
        -- steady in time -- blurred, and faded to nothing inside the box -- alpha (256, 256)
"""

from collections.abc import Iterator
from itertools import islice
from math import ceil, floor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli.config import MaskConfig, Runtime
from musetalk_cli.crop import Placement
from musetalk_cli.errors import UsageError
from musetalk_cli.landmarks import OUTLINE, set_upright
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.models import parsing
from musetalk_cli.models.parsing import LOWER_LIP, MOUTH, NECK, NOSE, PARSE_PX, SKIN, UPPER_LIP
from musetalk_cli.types import Faces, Masks, Source
from musetalk_cli.work import stage

Sides = tuple[bool, bool, bool, bool]  # left, top, right, bottom
ALPHA_PX = 256  # S: side of the alpha grid over the square
CROPS_A_BATCH = 8
UPPER_FADE = 2  # the fade below the half line, in feathers: cheeks move least there, and networks are worst at their mask's edge
NOWHERE = (False, False, False, False)
STEADY_SIGMA = 1.5  # frames; BiSeNet looks at each frame alone and its outlines flicker

# The 68 points of 300-W, in the order that draws an outline.
UPPER_LIP_LINE = [*range(48, 55), 64, 63, 62, 61, 60]
LOWER_LIP_LINE = [*range(54, 60), 48, 60, 67, 66, 65, 64]
MOUTH_INTERIOR = [*range(60, 68)]
OUTER_LIPS = [*range(48, 60)]
WINGS = (31, 35)  # the outer nostrils, which lie inside the wings of the nose
WING_WIDTH = 1.5  # of the nose at its wings, in distances between these two
LIP_RIM = 0.15  # around the lips, in mouth widths, that is never left to the nose
NECK_SIDES = (4, 12)  # jaw points between which the neck begins


@stage(version=1)
def masks(video: Path, source: Source, faces: Faces, *, config: MaskConfig, runtime: Runtime, out: Path) -> Masks:
    """Blend weights of every row, (N, 256, 256) over the square around its box; 0 outside the box and above `config.upper`.

    Differs from the published scripts where those leak: their blur reaches over the box's edge and the half line, where the
    crop's border shows; here the weight fades to exactly 0 inside them. Source: paper section 3.3, spec 4.2 to 4.4.
    """
    squares = np.array([square_around(box, config.expand) for box in faces.box], np.int32).reshape(-1, 4)
    upright = set_upright(faces.landmarks, faces.roll)  # where boxes and squares lie
    shapes = np.zeros((faces.rows, ALPHA_PX, ALPHA_PX), np.uint8)
    for row, labels in enumerate(_labels(video, source, faces, upright, squares, config, runtime)):
        shape = parsing.mask_of(labels, config.mode, config.cheek)  # (512, 512) 0 | 255
        shapes[row] = cv2.resize(shape, (ALPHA_PX, ALPHA_PX), interpolation=cv2.INTER_AREA)
    if config.parser == "bisenet":
        _steady(shapes, faces)
    for row in range(faces.rows):
        cut = _cut(faces.box[row], source.size) if faces.roll[row] == 0 else NOWHERE
        chin = float(upright[row, :, 1].max())
        shapes[row] = _feathered(shapes[row], faces.box[row], chin, squares[row], cut, config)
    return Masks(shapes, squares)


def square_around(box: NDArray[np.integer], expand: float) -> tuple[int, int, int, int]:
    """The square that is parsed: `expand` times the longer side of the box, x1 y1 x2 y2. Source: spec 4.2."""
    x1, y1, x2, y2 = (int(v) for v in box)
    half = int((max(x2 - x1, y2 - y1) // 2) * expand)
    x, y = (x1 + x2) // 2, (y1 + y2) // 2
    return x - half, y - half, x + half, y + half


def _labels(
    video: Path,
    source: Source,
    faces: Faces,
    upright: NDArray[np.floating],
    squares: NDArray[np.int32],
    config: MaskConfig,
    runtime: Runtime,
) -> Iterator[NDArray[np.uint8]]:
    """(512, 512) CelebAMask-HQ labels of each row's square, row by row. upright: (N, 68, 2) landmarks as the squares lie."""
    if faces.rows == 0:
        return
    if config.parser == "landmarks":
        for landmarks, square in zip(upright, squares, strict=True):
            yield labels_from_landmarks(landmarks, square)
    elif config.parser == "bisenet":
        parser = parsing.load(runtime)
        for crops in _batches(_squares(video, source, faces, squares)):
            yield from parser.parse(crops)
    else:
        raise UsageError(f"mask parser {config.parser!r} is unknown", "choose bisenet or landmarks")


def labels_from_landmarks(landmarks: NDArray[np.floating], square: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(68, 2) source pixels -> (512, 512) labels as BiSeNet would draw them: neck, skin, nose, lips, mouth interior.

    Of an upright head, or one set upright. Blind to a hand or a microphone before the face. The lips win over the nose: however the head is tilted, the mouth can move.
    """
    scale = PARSE_PX / float(square[2] - square[0])
    points = (landmarks - square[:2]) * scale  # (68, 2) in 512-space
    labels = np.zeros((PARSE_PX, PARSE_PX), np.uint8)
    _draw(labels, _neck(points), NECK)
    _draw(labels, points[OUTLINE], SKIN)
    _draw(labels, _nose(points), NOSE)
    _keep_from_nose(labels, points[OUTER_LIPS])
    _draw(labels, points[UPPER_LIP_LINE], UPPER_LIP)
    _draw(labels, points[LOWER_LIP_LINE], LOWER_LIP)
    _draw(labels, points[MOUTH_INTERIOR], MOUTH)
    return labels


def _draw(labels: NDArray[np.uint8], outline: NDArray[np.floating], label: int) -> None:
    cv2.fillPoly(labels, [np.rint(outline * 16).astype(np.int32)], label, shift=4)  # to a sixteenth of a pixel: no jitter


def _neck(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Below the jaw, down to the square's bottom; the head hides its upper part, which is drawn over."""
    left, right = points[NECK_SIDES[0]], points[NECK_SIDES[1]]
    return np.array([left, right, [right[0], PARSE_PX], [left[0], PARSE_PX]])


def _nose(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Bridge, wings and base. The 68 points mark the nostrils; the wings lie further out and a little higher."""
    middle = (points[WINGS[0]] + points[WINGS[1]]) / 2
    left, right = (middle + (points[i] - middle) * WING_WIDTH for i in WINGS)
    raised = (points[30] - points[33]) * 0.6  # towards the tip
    return np.array([points[27], left + raised, left, points[33], right, right + raised])


def _keep_from_nose(labels: NDArray[np.uint8], lips: NDArray[np.floating]) -> None:
    """What of the nose lies within a rim around the lips becomes skin."""
    rim = round(float(np.ptp(lips[:, 0])) * LIP_RIM)
    (x1, y1), (x2, y2) = np.floor(lips.min(0)).astype(int) - rim - 2, np.ceil(lips.max(0)).astype(int) + rim + 3
    x1, y1 = max(x1, 0), max(y1, 0)
    window = labels[y1 : max(y2, 0), x1 : max(x2, 0)]
    if not window.size:
        return
    near = np.zeros(window.shape, np.uint8)
    _draw(near, lips - (x1, y1), 1)
    near = np.asarray(cv2.dilate(near, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))))
    window[(near > 0) & (window == NOSE)] = SKIN


def _squares(video: Path, source: Source, faces: Faces, squares: NDArray[np.int32]) -> Iterator[NDArray[np.uint8]]:
    """(512, 512, 3) RGB of each row's square; upright black outside the frame and by Pillow's bilinear, as published."""
    first, row = int(faces.frame[0]), 0
    for number, frame in enumerate(read_frames(video, source, first, int(faces.frame[-1]) + 1), first):
        if faces.frame[row] != number:
            continue
        rgb = to_rgb(frame, source.colour)
        while row < faces.rows and faces.frame[row] == number:
            yield _parsed(rgb, Placement.of(squares[row], faces.landmarks[row], faces.roll[row]))
            row += 1


def _parsed(rgb: NDArray[np.uint8], square: Placement) -> NDArray[np.uint8]:
    if square.roll:
        return square.taken(rgb, (PARSE_PX, PARSE_PX), how=cv2.INTER_LINEAR)
    cut = Image.fromarray(rgb).crop(square.box)
    return np.asarray(cut.resize((PARSE_PX, PARSE_PX), Image.Resampling.BILINEAR))


def _batches(crops: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """One by one -> (<= 8, 512, 512, 3)."""
    while batch := list(islice(crops, CROPS_A_BATCH)):
        yield np.stack(batch)


def _steady(shapes: NDArray[np.uint8], faces: Faces) -> None:
    """Zero-phase Gaussian over the frames of each unbroken run of a track, in place; the square moves with the face."""
    for track in np.unique(faces.track):
        rows = np.flatnonzero(faces.track == track)
        breaks = np.flatnonzero(np.diff(faces.frame[rows]) != 1) + 1
        for run in np.split(rows, breaks):
            shapes[run] = _over_time(shapes[run])


def _over_time(run: NDArray[np.uint8]) -> NDArray[np.uint8]:
    reach = ceil(3 * STEADY_SIGMA)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / STEADY_SIGMA) ** 2).astype(np.float32)
    steady = np.empty_like(run)
    for i in range(len(run)):
        near = np.arange(max(i - reach, 0), min(i + reach + 1, len(run)))
        share = weights[near - i + reach]
        steady[i] = np.rint(np.tensordot(share / share.sum(), run[near].astype(np.float32), 1))
    return steady


def _cut(box: NDArray[np.integer], size: tuple[int, int]) -> Sides:
    return bool(box[0] == 0), bool(box[1] == 0), bool(box[2] == size[0]), bool(box[3] == size[1])


def _feathered(
    shape: NDArray[np.uint8],
    box: NDArray[np.integer],
    chin: float,
    square: NDArray[np.integer],
    cut: Sides,
    config: MaskConfig,
) -> NDArray[np.uint8]:
    """(256, 256) mask 0..255 -> its blend weight: blurred as in spec 4.4, then faded from within to 0 at the box's edges.

    cut: where the box ends at the frame's own edge there is nothing to fade into, and the weight goes on.
    """
    side_px = int(square[2] - square[0])
    cells = ALPHA_PX / side_px  # a source pixel
    half_kernel_px = floor(config.blur * side_px / 2)  # the kernel is 2 * this + 1
    sigma_px = 0.3 * (half_kernel_px - 1) + 0.8  # OpenCV's rule, which the published scripts rely on
    reach = max(half_kernel_px * cells, 1.0)

    left, top, right, bottom = (box - np.tile(square[:2], 2)) * cells
    below_chin = (box[3] - chin) * cells
    extended = _over_edges(shape, (left, top, right, bottom), cut)
    kernel = 2 * round(reach) + 1
    blurred = cv2.GaussianBlur(extended, (kernel, kernel), sigma_px * cells, borderType=cv2.BORDER_REPLICATE)

    rises = _ramp(left, reach, cut[0])
    columns = rises * _ramp(ALPHA_PX - right, reach, cut[2])[::-1]
    top = max(top, int(ALPHA_PX * config.upper))
    rows = _ramp(top, UPPER_FADE * reach, cut[1] and config.upper <= 0)
    rows *= _ramp(ALPHA_PX - bottom, float(np.clip(below_chin, reach / 2, reach)), cut[3])[::-1]
    return np.rint(blurred * rows[:, None] * columns).astype(np.uint8)


def _over_edges(shape: NDArray[np.uint8], box: tuple[float, ...], cut: Sides) -> NDArray[np.uint8]:
    """The mask continued beyond the sides of the box where the frame ends: a parser sees black there."""
    left, top, right, bottom = box
    xs, ys = np.arange(ALPHA_PX), np.arange(ALPHA_PX)
    if cut[0]:
        xs = np.maximum(xs, ceil(left))
    if cut[1]:
        ys = np.maximum(ys, ceil(top))
    if cut[2]:
        xs = np.minimum(xs, floor(right) - 1)
    if cut[3]:
        ys = np.minimum(ys, floor(bottom) - 1)
    return np.ascontiguousarray(shape[np.ix_(ys, xs)])


def _ramp(edge: float, reach: float, cut: bool) -> NDArray[np.float32]:
    """(256,) 0 to a cell beyond the edge, so that enlarging leaks nothing over it, then smoothly to 1 within `reach` cells."""
    if cut:
        return np.ones(ALPHA_PX, np.float32)
    t = np.clip((np.arange(ALPHA_PX, dtype=np.float32) - np.float32(edge + 0.5)) / np.float32(reach), 0, 1)
    ramp: NDArray[np.float32] = t * t * (3 - 2 * t)
    return ramp

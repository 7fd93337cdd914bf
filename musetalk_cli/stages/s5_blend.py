"""Mouths back onto frames. In: the film, Faces, Masks, Mouths, and when each shows. Out: Segment. Knows nothing of audio.

    Mouths -- decode (thread) -- crop (256, 256, 3) -- the film's colour -- the box's size and turn -- its sharpness and grain --.
    Masks ------------------------------------------------------------------------------------------------------ alpha ------ composite
    film -- read_frames (thread) -- frame, native pixel format --------------------------------------------------------------'   |
                                                                                                         Segment -- encode (thread)

Three threads and bounded queues: decoding, computing and encoding overlap, and no more than a few frames are in memory.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import BlendConfig, ModelConfig, Runtime
from musetalk_cli.crop import CROP_PX, Placement
from musetalk_cli.errors import InternalError, ResourceError
from musetalk_cli.landmarks import OUTLINE, set_upright
from musetalk_cli.media.grain import Detail, Look
from musetalk_cli.media.planes import Patch, composite, region_rgb
from musetalk_cli.media.video import SegmentWriter, read_frames
from musetalk_cli.models import free_batch, load_family
from musetalk_cli.types import Faces, Masks, Mouths, Segment, Source, Stretch, Voicing
from musetalk_cli.work import stage

T = TypeVar("T")
FRAMES_AHEAD = 4  # decoded but not yet blended, and likewise blended but not yet encoded
TINT_CELLS = 32  # side of the grid on which colour is compared: 8 pixels of the crop a cell
TINT_SIGMA = 2.5  # cells; smoother than any feature of a face, so that only light and skin tone pass
TINT_OUTLIER = 12.0  # code values from the tint around; a cell further off shows something else, not another tint
TINT_ROUNDS = 3  # of weighing down outliers
TINT_DOUBT = 0.01  # weight of the usual tint of the face, against up to 1 of what is seen around
TINT_MEMORY = 12  # faces over which the tint is averaged
LIPS = slice(48, 60)  # outer lips of the 68 points
MOUTH_REACH = (0.65, 0.55)  # mouth widths from the middle of the lips, across and down, that open and close
WELL_INSIDE = 0.9  # of the face's outline: skin, and no hair or background


@stage(version=2)
def blend(
    video: Path,
    source: Source,
    faces: Faces,
    masks: Masks,
    mouths: Mouths,
    voicing: Voicing,
    stretch: Stretch,
    model: ModelConfig,
    *,
    config: BlendConfig,
    runtime: Runtime,
    out: Path,
) -> Segment:
    """Every frame of the stretch, encoded once; a frame without a line as it was decoded, several faces in the order of their rows.

    stretch: of the shot, or all of it. Where a line fades, the mouth is that much of the generated one. Pixels whose alpha is 0 go
    to the encoder bit for bit as decoded. Raises the first error of any of its threads; ResourceError where one mouth does not fit
    in the device's memory. Source: paper section 3.3, spec 4.1 and 4.5.
    """
    _check_rows(faces, masks, mouths)
    path = out / "segment.nut"
    shown = Shown(faces, masks, voicing.opacity(faces.frame, faces.track))
    rows = shown.rows_in(stretch)
    with (
        _ahead(read_frames(video, source, *stretch), FRAMES_AHEAD) as frames,
        _ahead(_decoded(mouths.latents[rows], model, runtime), FRAMES_AHEAD) as crops,
        SegmentWriter(path, source, config) as writer,
    ):
        written = _write(writer, _blended(zip(count(stretch.start), frames), rows, crops, source, shown, config))
    return Segment(path, *stretch, written)


class Shown(NamedTuple):
    """The rows of a shot, and how much of each mouth shows."""

    faces: Faces
    masks: Masks
    opacity: NDArray[np.float32]  # (N,) 0..1

    def rows_in(self, stretch: Stretch) -> NDArray[np.intp]:
        """Rows of its frames that show anything."""
        frame = self.faces.frame
        return np.flatnonzero((frame >= stretch.start) & (frame < stretch.stop) & (self.opacity > 0))


def _check_rows(faces: Faces, masks: Masks, mouths: Mouths) -> None:
    rows = {"faces": faces.rows, "masks": len(masks.alpha), "mouths": len(mouths.latents)}
    if len(set(rows.values())) > 1:
        raise InternalError(f"{faces.shot}: rows should be equal, are {rows}")


def _decoded(latents: NDArray[np.float16], model: ModelConfig, runtime: Runtime) -> Iterator[NDArray[np.uint8]]:
    """(N, C, 32, 32) -> N crops (256, 256, 3) RGB, one by one, decoded in batches; no row, no model."""
    if len(latents) == 0:
        return
    family = load_family(model, runtime)
    start, size = 0, runtime.batch_size or free_batch(runtime)
    while start < len(latents):
        try:
            crops = family.decode(latents[start : start + size])
        except MemoryError as error:
            if size == 1:
                raise ResourceError(f"{runtime.device}: out of memory for a single mouth", "choose --device cpu") from error
            size //= 2
            continue
        start += size
        yield from crops


def _blended(
    frames: Iterator[tuple[int, av.VideoFrame]],
    rows: NDArray[np.intp],
    crops: Iterator[NDArray[np.uint8]],
    source: Source,
    shown: Shown,
    config: BlendConfig,
) -> Iterator[av.VideoFrame]:
    """frames: with their numbers; rows: those that show, each with its crop in `crops`."""
    faces = shown.faces
    matches: dict[int, Match] = {}
    todo = deque(int(row) for row in rows)
    for number, frame in frames:
        patches = []
        while todo and faces.frame[todo[0]] == number:
            row = todo.popleft()
            place = Placement.of(faces.box[row], faces.landmarks[row], faces.roll[row])
            region = place.region(source.size)
            film = region_rgb(frame, region, source.colour)  # before any patch: what the film shows
            match = matches.setdefault(int(faces.track[row]), Match(Tint(), Detail(grain=config.grain, sharpen=config.sharpen)))
            patches.append(_patch(next(crops), film, shown, row, place, region, match))
        yield composite(frame, patches, source.colour)


class Match(NamedTuple):
    """What makes a track's patches look like the film."""

    tint: "Tint"
    detail: Detail


Region = tuple[int, int, int, int]  # x1 y1 x2 y2, source pixels, inside the frame


def _patch(
    crop: NDArray[np.uint8],
    film: NDArray[np.float32],
    shown: Shown,
    row: int,
    place: Placement,
    region: Region,
    match: Match,
) -> Patch:
    """The generated crop as the film would show it, over the part of the region where it shows, with its alpha."""
    alpha = _alpha(shown, row, place, region)
    part = _where(alpha)
    whole = _in_colour(crop, film, shown.faces, row, place, region, match.tint)
    patch = whole[part]
    if match.detail.wanted:
        number, track = int(shown.faces.frame[row]), int(shown.faces.track[row])
        skin = _skin(shown.faces.landmarks[row], place.roll, region)
        sharper = match.detail.seen(Look(film, whole, skin, number, region[:2], place.pivot))
        patch = patch + (sharper[part] + match.detail.grain(alpha[part], (number, track)))[..., None]
    return Patch(np.clip(patch, 0, 255), alpha[part], region[0] + part[1].start, region[1] + part[0].start)


def _alpha(shown: Shown, row: int, place: Placement, region: Region) -> NDArray[np.uint8]:
    """(h, w) over the region."""
    masks, box = shown.masks, shown.faces.box[row]
    if place.roll:
        x1, y1, x2, y2 = (int(v) for v in masks.square[row])
        alpha = place._replace(box=(x1, y1, x2, y2)).laid(masks.alpha[row], region, how=cv2.INTER_LINEAR)
    else:
        alpha = alpha_over_box(masks.alpha[row], masks.square[row], box)
    if shown.opacity[row] < 1:
        alpha = np.rint(alpha * shown.opacity[row]).astype(np.uint8)
    return alpha


def _where(alpha: NDArray[np.uint8]) -> tuple[slice, slice]:
    """The rows and columns in which anything shows; a pixel where nothing does."""
    rows, columns = (np.flatnonzero(alpha.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _in_colour(
    crop: NDArray[np.uint8],
    film: NDArray[np.float32],
    faces: Faces,
    row: int,
    place: Placement,
    region: Region,
    tint: "Tint",
) -> NDArray[np.float32]:
    """(h, w, 3): the generated crop over the region, in the film's colour."""
    left, top, _, _ = region
    seen = place.taken(film, (CROP_PX, CROP_PX), left=left, top=top, how=cv2.INTER_LINEAR) if place.roll else film
    points = set_upright(faces.landmarks[row], place.roll)
    field = tint.seen(seen, crop, _mouth_cells(points, faces.box[row]))
    # Lanczos both ways: over 21 sizes of seven faces a crop comes back 0.3 to 7 dB nearer than with bilinear (mean 3.1) or area
    large = place.laid(crop.astype(np.float32), region)
    return np.asarray(large + place.laid(field, region, how=cv2.INTER_LINEAR), np.float32)


def _skin(landmarks: NDArray[np.floating], roll: float, region: Region) -> NDArray[np.bool_]:
    """(h, w) pixels of the region well inside the face and away from the mouth."""
    x1, y1, x2, y2 = region
    points = landmarks - (x1, y1)
    skin = np.zeros((y2 - y1, x2 - x1), np.uint8)
    outline, lips = points[OUTLINE], points[LIPS]
    middle = outline.mean(0)
    cv2.fillPoly(skin, [np.rint(middle + (outline - middle) * WELL_INSIDE).astype(np.int32)], 1)
    width = float(np.ptp(set_upright(points, roll)[LIPS, 0]))
    (x, y), (across, down) = np.rint(lips.mean(0)).astype(int), (round(width * reach) for reach in MOUTH_REACH)
    cv2.ellipse(skin, (int(x), int(y)), (across, down), roll, 0, 360, 0, -1)
    return skin > 0


def alpha_over_box(alpha: NDArray[np.uint8], square: NDArray[np.integer], box: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(S, S) weights over the square -> (h, w) over the box, a weight for each source pixel."""
    side = int(square[2] - square[0])
    shrinks = side < len(alpha)
    whole = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    x1, y1, x2, y2 = (int(v) for v in box - np.tile(square[:2], 2))
    return np.ascontiguousarray(whole[y1:y2, x1:x2])


class Tint:
    """How far a track's generated crops are from the film's colour, at low frequency, steady over time.

    An autoencoder shifts colour a little, differently from place to place. Where film and crop show the same thing (all but the
    mouth and what else moved) their difference is that shift; it is carried smoothly into the mouth. Nothing is corrected where
    the crop is perfect. Only the past is averaged: the shift belongs to the network and the face, and changes slowly.
    """

    def __init__(self) -> None:
        self._sum = np.zeros((TINT_CELLS, TINT_CELLS, 3), np.float32)
        self._weight = np.zeros((TINT_CELLS, TINT_CELLS, 1), np.float32)

    def seen(self, film: NDArray[np.generic], crop: NDArray[np.generic], mouth: NDArray[np.bool_]) -> NDArray[np.float32]:
        """film, crop: RGB of one box, any size; mouth: (32, 32) cells to leave out -> (32, 32, 3) to add to the crop."""
        difference = _cells(film) - _cells(crop)
        weighted, weight = _agreed(difference, ~mouth)
        keep = np.float32(1 - 1 / TINT_MEMORY)
        self._sum = self._sum * keep + weighted
        self._weight = self._weight * keep + weight
        return self._sum / self._weight


def _cells(rgb: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(rgb.astype(np.float32), (TINT_CELLS, TINT_CELLS), interpolation=cv2.INTER_AREA), np.float32)


def _agreed(difference: NDArray[np.float32], same: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(32, 32, 3), (32, 32) -> numerator (32, 32, 3) and weight (32, 32, 1) of the smooth field that most cells agree on."""
    usual = np.median(difference[same], axis=0)  # the start, and where no cell agrees the answer
    weighted, total = usual * TINT_DOUBT, np.full((TINT_CELLS, TINT_CELLS, 1), TINT_DOUBT, np.float32)
    for _ in range(TINT_ROUNDS):
        outlying = np.abs(difference - weighted / total).max(axis=2, keepdims=True) / np.float32(TINT_OUTLIER)
        weight = np.exp(-0.5 * outlying**2) * same[..., None]
        weighted = _smooth(difference * weight) + usual * np.float32(TINT_DOUBT)
        total = _smooth(weight) + np.float32(TINT_DOUBT)
    return weighted, total


def _smooth(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """(32, 32, C) -> the same, low-pass; nothing lies beyond the border."""
    smooth = cv2.GaussianBlur(cells, (0, 0), TINT_SIGMA, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(smooth, np.float32).reshape(cells.shape)


def _mouth_cells(landmarks: NDArray[np.floating], box: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(32, 32) cells of the crop that open and close: an ellipse of 1.3 by 1.1 mouth widths around the lips."""
    x1, y1, x2, y2 = (float(v) for v in box)
    lips = landmarks[LIPS]
    width, (across, down) = float(np.ptp(lips, axis=0).max()), MOUTH_REACH
    xs = (np.arange(TINT_CELLS) + 0.5) * (x2 - x1) / TINT_CELLS + x1
    ys = (np.arange(TINT_CELLS) + 0.5) * (y2 - y1) / TINT_CELLS + y1
    x, y = (xs - lips[:, 0].mean()) / (across * width), (ys - lips[:, 1].mean()) / (down * width)
    inside: NDArray[np.bool_] = x[None] ** 2 + y[:, None] ** 2 < 1
    return inside


def _write(writer: SegmentWriter, frames: Iterable[av.VideoFrame]) -> int:
    """Encode in a thread, `FRAMES_AHEAD` behind; how many were written. Raises the encoder's first error."""
    written = 0
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as encoder:
        for frame in frames:
            waiting.append(encoder.submit(writer.write, frame))
            if len(waiting) > FRAMES_AHEAD:
                waiting.popleft().result()
            written += 1
        for write in waiting:
            write.result()
    return written


@contextmanager
def _ahead(items: Iterator[T], depth: int) -> Iterator[Iterator[T]]:
    """The same items, made by a thread up to `depth` ahead; an error in it is raised where its item would have come."""
    with ThreadPoolExecutor(1) as maker:
        try:
            yield _taken(items, depth, maker)
        finally:
            maker.shutdown(cancel_futures=True)


def _taken(items: Iterator[T], depth: int, maker: ThreadPoolExecutor) -> Iterator[T]:
    waiting = deque(maker.submit(next, items, None) for _ in range(depth))
    while (item := waiting.popleft().result()) is not None:
        yield item
        waiting.append(maker.submit(next, items, None))

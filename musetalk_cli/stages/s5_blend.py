"""Mouths back onto frames. In: the film, Faces, Masks, Mouths, and when each shows. Out: Segment. Knows nothing of audio.

    Mouths -- decode (thread) -- crop (256, 256, 3) -- the film's colour -- the box's size and turn -- its sharpness and grain --.
    Masks ------------------------------------------------------------------------------------------------------ alpha ------ composite
    film -- read_frames (thread) -- frame, native pixel format --------------------------------------------------------------'   |
                                                                                                         Segment -- encode (thread)

Three threads and bounded queues: decoding, computing and encoding overlap, and no more than a few frames are in memory.
"""

from collections import defaultdict, deque
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
from musetalk_cli.media.grain import REACH as BANDS_REACH
from musetalk_cli.media.grain import Detail, Look, Seen
from musetalk_cli.media.planes import Patch, composite, region_rgb
from musetalk_cli.media.video import SegmentWriter, read_frames, segment_name
from musetalk_cli.media.watermark import added as watermark_added
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


@stage(version=3)
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
    path = out / segment_name(source, config)
    shown = Shown(faces, masks, voicing.opacity(faces.frame, faces.track))
    rows = shown.rows_in(stretch)
    with (
        _ahead(read_frames(video, source, *stretch), FRAMES_AHEAD) as frames,
        _ahead(_decoded(mouths.latents[rows], model, runtime), FRAMES_AHEAD) as crops,
        SegmentWriter(path, source, config) as writer,
    ):
        written = _write(writer, _blended(zip(count(stretch.start), frames), rows, crops, source, shown, config))
    return Segment(path, *stretch, written)


class Face(NamedTuple):
    """One row: a face in a frame, and where its patch lies."""

    frame: int
    track: int
    landmarks: NDArray[np.float32]  # (68, 2) source pixels
    place: Placement
    region: tuple[int, int, int, int]  # x1 y1 x2 y2 of the smallest rectangle inside the frame that holds the box
    alpha: NDArray[np.uint8]  # (h, w) over the region


class Shown(NamedTuple):
    """The rows of a shot, and how much of each mouth shows."""

    faces: Faces
    masks: Masks
    opacity: NDArray[np.float32]  # (N,) 0..1

    def rows_in(self, stretch: Stretch) -> NDArray[np.intp]:
        """Rows of its frames that show anything."""
        frame = self.faces.frame
        return np.flatnonzero((frame >= stretch.start) & (frame < stretch.stop) & (self.opacity > 0))

    def face(self, row: int, size: tuple[int, int]) -> Face:
        """size: (width, height) of the frame."""
        faces = self.faces
        place = Placement.of(faces.box[row], faces.landmarks[row], faces.roll[row])
        region = place.region(size)
        alpha = self._alpha(row, place, region)
        return Face(int(faces.frame[row]), int(faces.track[row]), faces.landmarks[row], place, region, alpha)

    def _alpha(self, row: int, place: Placement, region: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        square = self.masks.square[row]
        if place.roll:
            x1, y1, x2, y2 = (int(v) for v in square)
            alpha = place._replace(box=(x1, y1, x2, y2)).laid(self.masks.alpha[row], region, how=cv2.INTER_LINEAR)
        else:
            alpha = alpha_over_box(self.masks.alpha[row], square, self.faces.box[row])
        return alpha if self.opacity[row] >= 1 else np.rint(alpha * self.opacity[row]).astype(np.uint8)


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
    """frames: with their numbers; rows: those that show, each with its crop in `crops`.

    A frame is painted when the next one has been seen: what is new in every frame is grain, and no track should begin without it.
    """
    tints: defaultdict[int, Tint] = defaultdict(Tint)
    details: defaultdict[int, Detail] = defaultdict(lambda: Detail(grain=config.grain, sharpen=config.sharpen))
    todo = deque(int(row) for row in rows)

    def drawn() -> Iterator[tuple[av.VideoFrame, list[Drawn]]]:
        for number, frame in frames:
            drawings = []
            while todo and shown.faces.frame[todo[0]] == number:
                face = shown.face(todo.popleft(), source.size)
                film = region_rgb(frame, face.region, source.colour)  # before any patch: what the film shows
                drawings.append(_drawn(face, next(crops), film, tints[face.track], details[face.track]))
            yield frame, drawings

    for frame, drawings in _one_later(drawn()):
        patches = [_finished(drawing, details[drawing.face.track]) for drawing in drawings]
        if config.watermark:
            pairs = zip(patches, drawings, strict=True)
            patches = [_marked(patch, drawing.face, source, config.watermark) for patch, drawing in pairs]
        yield composite(frame, patches, source.colour)


def _one_later(items: Iterator[T]) -> Iterator[T]:
    """The same items, each when the next one has been made."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


class Drawn(NamedTuple):
    """A face as the network and the film's colours make it, before it is given the film's fine detail."""

    face: Face
    rgb: NDArray[np.float32]  # (h, w, 3) over the face's region
    seen: Seen | None  # None where no detail is asked for
    window: tuple[slice, slice]  # rows and columns of the region that were seen


def _drawn(face: Face, crop: NDArray[np.uint8], film: NDArray[np.float32], tint: "Tint", detail: Detail) -> Drawn:
    """crop: (256, 256, 3) generated. film: (h, w, 3) over the face's region."""
    place, (left, top, _, _) = face.place, face.region
    theirs = place.taken(film, (CROP_PX, CROP_PX), left=left, top=top, how=cv2.INTER_LINEAR) if place.roll else film
    field = tint.seen(theirs, crop, _mouth_cells(set_upright(face.landmarks, place.roll), np.array(place.box)))
    # Lanczos both ways: over 21 sizes of seven faces a crop comes back 0.3 to 7 dB nearer than with bilinear (mean 3.1) or area.
    # Turned, where it comes back at 47 to 59 dB, OpenCV's Lanczos takes 12 ms a face, cubic 2.6 for 0 to 1.5 dB less.
    large = place.laid(crop.astype(np.float32), face.region, how=cv2.INTER_CUBIC if place.roll else cv2.INTER_LANCZOS4)
    rgb = np.asarray(cv2.add(large, place.laid(field, face.region, how=cv2.INTER_LINEAR)), np.float32)
    if not detail.wanted:
        return Drawn(face, rgb, None, (slice(None), slice(None)))
    skin, generated = _skin(face), face.alpha > 0
    window = rows, columns = _around(skin | generated, BANDS_REACH)
    corner = left + columns.start, top + rows.start
    look = Look(film[window], rgb[window], skin[window], generated[window], face.frame, corner, place.pivot)
    return Drawn(face, rgb, detail.seen(look), window)


def _finished(drawn: Drawn, detail: Detail) -> Patch:
    """As sharp and as grainy as the film, and of it the part that shows."""
    face, rgb = drawn.face, drawn.rgb
    rows, columns = part = _around(face.alpha > 0, 0)
    alpha, patch = face.alpha[part], rgb[part]
    if drawn.seen is not None and alpha.any():  # else a pixel, which may lie outside of what was seen
        within = _moved(rows, drawn.window[0].start), _moved(columns, drawn.window[1].start)
        missing = detail.missing(drawn.seen, within, alpha, track=face.track)
        patch = np.asarray(cv2.add(patch, cv2.cvtColor(missing, cv2.COLOR_GRAY2RGB)), np.float32)
    return Patch(np.clip(patch, 0, 255, out=patch), alpha, face.region[0] + columns.start, face.region[1] + rows.start)


def _marked(patch: Patch, face: Face, source: Source, key: str) -> Patch:
    """With the invisible mark; by the film's clock alone, so that it is the same in whatever stretches the film is made."""
    seconds = float(source.time(face.frame))
    mark = watermark_added(key, seconds, face.landmarks, patch.alpha, patch.left, patch.top)
    return patch._replace(rgb=np.clip(patch.rgb + mark[..., None], 0, 255))


def _around(where: NDArray[np.bool_], more: int) -> tuple[slice, slice]:
    """The rows and columns that hold all of it, and so many more around; a pixel where there is nothing."""
    rows, columns = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(max(int(rows[0]) - more, 0), int(rows[-1]) + 1 + more), slice(
        max(int(columns[0]) - more, 0), int(columns[-1]) + 1 + more
    )


def _moved(of: slice, by: int) -> slice:
    return slice(of.start - by, of.stop - by)


def _skin(face: Face) -> NDArray[np.bool_]:
    """(h, w) pixels of the region well inside the face and away from the mouth."""
    x1, y1, x2, y2 = face.region
    points, roll = face.landmarks - (x1, y1), face.place.roll
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

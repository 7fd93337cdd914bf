"""Four panels beside each other. In: a frame of the film and of the dub, where the mouth is. Out: one picture, a film of them.

    film       | dubbed
    mouth      | mask         each at most PANEL_PX wide, labelled

Only the frames that are worked on are in memory. Knows nothing of stages or voices.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from musetalk_cli.crop import from_upright, upright
from musetalk_cli.landmarks import MOUTH
from musetalk_cli.media.ffmpeg import AS_FILE, media_url
from musetalk_cli.media.video import to_rgb
from musetalk_cli.types import Source

Rgb = NDArray[np.uint8]
PANEL_PX = 640
LABELS = ("film", "dubbed", "mouth: film above, dubbed below", "mask")
MARGIN = 0.6  # about the lips, in mouth widths
MASK_RGB = np.array([255, 178, 36], np.float32)
MASK_SHARE = 0.6
GREY = 32
CRF = "18"
BT709 = 1  # as H.264 writes primaries and transfer
ROWS_A_SHEET = 24


class Mouth(NamedTuple):
    """Where a generated mouth is, in a frame as it is coded."""

    landmarks: NDArray[np.float32]  # (68, 2)
    region: tuple[int, int, int, int]  # x1 y1 x2 y2 of the frame
    alpha: NDArray[np.uint8]  # (h, w) over the region


class Moment(NamedTuple):
    """A frame of both, as it is to be seen."""

    number: int
    time_s: Fraction
    film: Rgb
    dubbed: Rgb
    mask: Rgb  # the film with what may change coloured
    lips: NDArray[np.float32]  # (K, 20, 2) of the generated mouths


class Still(NamedTuple):
    """A frame of both as it is kept: JPEG, for there may be thousands."""

    shot: int
    number: int
    time_s: Fraction
    film: bytes
    dubbed: bytes
    touched: bool  # whether a mouth of it was generated


def still_of(shot: int, moment: Moment, size: tuple[int, int]) -> Still:
    """size: (width, height)."""
    film, dubbed = (jpeg(scaled(picture, size)) for picture in (moment.film, moment.dubbed))
    return Still(shot, moment.number, moment.time_s, film, dubbed, bool(len(moment.lips)))


def moment_of(number: int, film: av.VideoFrame, dubbed: av.VideoFrame, source: Source, mouths: Sequence[Mouth]) -> Moment:
    """film, dubbed: as decoded; turned here as the film's tag says."""
    was, now = to_rgb(film, source.colour), to_rgb(dubbed, source.colour)
    mask = was.copy()
    for mouth in mouths:
        x1, y1, x2, y2 = mouth.region
        share = (mouth.alpha[..., None] / 255 * MASK_SHARE).astype(np.float32)
        mask[y1:y2, x1:x2] = np.rint(mask[y1:y2, x1:x2] * (1 - share) + MASK_RGB * share).astype(np.uint8)
    seen = source.size[::-1] if source.rotation % 180 else source.size
    lips = np.array([mouth.landmarks[MOUTH] for mouth in mouths], np.float32).reshape(-1, len(MOUTH), 2)
    was, now, mask = (upright(picture, source.rotation) for picture in (was, now, mask))
    return Moment(number, source.time(number), was, now, mask, np.asarray(from_upright(lips, -source.rotation, seen), np.float32))


def segment_frames(path: Path) -> Iterator[av.VideoFrame]:
    """What blend encoded, in the order it is shown."""
    with av.open(media_url(path), options=AS_FILE) as file:
        yield from file.decode(video=0)


def panel_size(size: tuple[int, int], aspect: float) -> tuple[int, int]:
    """(width, height) of the film and the aspect it is shown with -> of a panel, even, never larger than the film."""
    width = min(PANEL_PX, size[0]) // 2 * 2
    return max(width, 2), max(round(width / aspect) // 2 * 2, 2)


def drawn(moment: Moment, panel: tuple[int, int]) -> Rgb:
    """(2 h, 2 w, 3)."""
    parts = [scaled(moment.film, panel), scaled(moment.dubbed, panel), _close_up(moment, panel), scaled(moment.mask, panel)]
    for part, label in zip(parts, LABELS, strict=True):
        _label(part, label)
    return np.vstack([np.hstack(parts[:2]), np.hstack(parts[2:])])


def scaled(picture: Rgb, size: tuple[int, int]) -> Rgb:
    """size: (width, height)."""
    smaller = size[0] < picture.shape[1]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC), np.uint8)


def write_film(path: Path, moments: Iterator[Moment], panel: tuple[int, int], time_base: Fraction, rate: Fraction) -> int:
    """H.264, 8 bits, for any player; each frame at its own time after the first. Returns the number of frames."""
    written, first = 0, Fraction(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": CRF, "preset": "veryfast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 2 * panel[0], 2 * panel[1], "yuv420p"
        stream.codec_context.time_base = stream.time_base = time_base
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.MPEG
        stream.codec_context.color_primaries, stream.codec_context.color_trc = BT709, BT709
        for moment in moments:
            first = first if written else moment.time_s
            frame = _coded(drawn(moment, panel))
            frame.pts, frame.time_base = round((moment.time_s - first) / time_base), time_base
            file.mux(stream.encode(frame))
            written += 1
        file.mux(stream.encode(None))
    return written


def _coded(picture: Rgb) -> av.VideoFrame:
    """8-bit 4:2:0 by the matrix that the film is tagged with: libav's own choice is BT.601, and players take 720 lines for BT.709."""
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
    )


def jpeg(picture: Rgb) -> bytes:
    """For a page."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done
    return bytes(data.tobytes())


def _close_up(moment: Moment, panel: tuple[int, int]) -> Rgb:
    """The largest mouth of both, one above the other; grey where none is generated."""
    width, height = panel[0], panel[1] // 2
    found = np.full((panel[1], width, 3), GREY, np.uint8)
    if not len(moment.lips):
        return found
    lips = max(moment.lips, key=lambda points: float(np.ptp(points[:, 0])))
    middle = lips.mean(0)
    across = max(float(np.ptp(lips[:, 0])) * (1 + 2 * MARGIN), 4.0)
    scale = width / max(across, float(np.ptp(lips[:, 1]) * (1 + MARGIN)) * width / height)
    matrix = np.array([[scale, 0, width / 2 - scale * middle[0]], [0, scale, height / 2 - scale * middle[1]]])
    for place, picture in enumerate((moment.film, moment.dubbed)):
        found[place * height : (place + 1) * height] = cv2.warpAffine(
            picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
    return found


def _label(panel: Rgb, text: str) -> None:
    size = max(panel.shape[1] / 1100, 0.35)
    left, base = round(14 * size), round(32 * size)
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    strip = panel[: base + left, : min(width + 3 * left, panel.shape[1])]
    strip[:] = strip // 3
    cv2.putText(panel, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)


def sheet(path: Path, stills: Sequence[tuple[str, bytes, bytes]], aspect: float) -> None:
    """PNG: a row for each still, before and after; at most ROWS_A_SHEET of them, spread over all. stills: title, JPEG, JPEG."""
    if len(stills) > ROWS_A_SHEET:
        stills = [stills[round(n * (len(stills) - 1) / (ROWS_A_SHEET - 1))] for n in range(ROWS_A_SHEET)]
    size = (PANEL_PX, max(round(PANEL_PX / aspect), 2))
    rows = []
    for title, *both in stills:
        row = np.hstack([scaled(_from_jpeg(data), size) for data in both])
        _label(row[:, : size[0]], title)
        rows.append(row)
    done, data = cv2.imencode(".png", np.ascontiguousarray(np.vstack(rows)[..., ::-1]))
    assert done
    path.write_bytes(data.tobytes())


def _from_jpeg(data: bytes) -> Rgb:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture[..., ::-1], np.uint8)

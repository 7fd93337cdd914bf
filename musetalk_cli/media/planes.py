"""A patch onto a decoded frame, in the frame's own pixel format. In: a frame, RGB patches with alpha. Out: the frame, every
sample outside the masks bit for bit as decoded. Knows nothing of faces or files.

Only the patch is converted, never the frame: a round trip of the whole picture through RGB would change every sample of it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.errors import InputError, InternalError
from musetalk_cli.types import Colour

HD_ROWS = 720  # untagged pictures of this height and more are BT.709, others BT.601: the rule of media.video.to_rgb

# Kr and Kb of Y' = Kr R' + (1 - Kr - Kb) G' + Kb B' (ITU-T H.273, table 4), by ffmpeg's names.
LUMA_WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}


class Patch(NamedTuple):
    """What to paste, and where: it lies wholly inside the frame."""

    rgb: NDArray[Any]  # (h, w, 3) uint8 or float32, full range 0..255
    alpha: NDArray[np.uint8]  # (h, w), 255 shows the patch
    left: int  # source pixels
    top: int


def composite(frame: av.VideoFrame, patches: Sequence[Patch], colour: Colour) -> av.VideoFrame:
    """Paste the patches in order into `frame` and return it: format, pts, time base, colour attributes and side data stay.

    frame: planar, semi-planar or packed YUV, gray or RGB, 8 to 16 bits, full or limited range. colour: the film's tags; they
    choose matrix and range as in media.video.to_rgb, whose inverse this is (also for PQ and HLG: code values, no tone mapping).
    Chroma is subsampled with the film's siting, its alpha likewise; a sample whose alpha is 0 keeps its decoded value, an alpha
    plane is not touched. Blending is done in float32 and rounded once, so that 10 bits stay 10 bits under a partial alpha.
    The frame's buffers are copied first where the decoder still refers to them. Raises InputError for a pixel format or a
    colour matrix that this cannot write.
    """
    layout = layout_of(frame.format.name)
    if patches:
        frame.make_writable()
    for patch in patches:
        _paste(frame, layout, patch, colour)
    return frame


def region_rgb(frame: av.VideoFrame, region: tuple[int, int, int, int], colour: Colour) -> NDArray[np.float32]:
    """What composite would have to paste to change nothing: (h, w, 3) RGB 0..255 of the region x1 y1 x2 y2, not clipped.

    For comparing colours over an area, without converting the whole frame: chroma is the nearest sample's, not interpolated.
    Raises InputError as composite does.
    """
    layout = layout_of(frame.format.name)
    planes = {channel.role: _region(frame, channel, layout, region) for channel in layout.channels if channel.role != "A"}
    if "R" in planes:
        return np.stack([planes[role] for role in "RGB"], 2) * np.float32(255 / ((1 << layout.depth) - 1))
    y_scale, y_zero, c_scale, c_zero = _code_values(layout.depth, is_full_range(frame.format.name, colour))
    if "U" not in planes:
        luma = (planes["Y"] - np.float32(y_zero)) * np.float32(255 / y_scale)
        return np.repeat(luma[..., None], 3, 2)
    kr, kb = luma_weights(colour, frame.height)
    kg = 1 - kr - kb
    blue, red = 2 * (1 - kb), 2 * (1 - kr)
    of_yuv = np.array([[1, 0, red], [1, -blue * kb / kg, -red * kr / kg], [1, blue, 0]]) * 255  # Y', Cb, Cr of 0..1 and -0.5..0.5
    of_codes = of_yuv / [y_scale, c_scale, c_scale]
    moved = of_codes @ [-y_zero, -c_zero, -c_zero]
    codes = cv2.merge([planes[role] for role in "YUV"]).astype(np.float32)
    return np.asarray(cv2.transform(codes, np.column_stack([of_codes, moved])), np.float32)


def _region(frame: av.VideoFrame, channel: "Channel", layout: "Layout", region: tuple[int, int, int, int]) -> NDArray[Any]:
    """(h, w) code values of one component at each pixel of the region; of chroma the sample that a pixel belongs to."""
    x1, y1, x2, y2 = region
    samples = _samples(frame, channel, layout)
    if channel.role in "UV" and (layout.log2_x or layout.log2_y):
        down, across = layout.log2_y, layout.log2_x
        cells = samples[y1 >> down : -(-y2 >> down), x1 >> across : -(-x2 >> across)]
        wide = np.repeat(np.repeat(cells, 1 << down, 0), 1 << across, 1)
        top, left = y1 - (y1 >> down << down), x1 - (x1 >> across << across)
        cut = wide[top : top + y2 - y1, left : left + x2 - x1]
    else:
        cut = samples[y1:y2, x1:x2]
    return np.ascontiguousarray(cut >> layout.shift if layout.shift else cut, cut.dtype.newbyteorder("="))


def cut_out(frame: av.VideoFrame, region: tuple[int, int, int, int]) -> av.VideoFrame:
    """The part x1 y1 x2 y2 of a frame in the same format, with all that the frame says of itself; x1 and y1 on whole chroma samples.

    By libavfilter, which points into the frame: PyAV (18.1) can copy samples, but not tell a new frame where its chroma lies.
    """
    x1, y1, x2, y2 = region
    graph = av.filter.Graph()
    given = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    crop, out = graph.add("crop", f"{x2 - x1}:{y2 - y1}:{x1}:{y1}:exact=1"), graph.add("buffersink")
    given.link_to(crop)
    crop.link_to(out)
    graph.configure()
    given.push(frame)
    return cast(av.VideoFrame, out.pull())


def cuts_exactly(frame: av.VideoFrame) -> bool:
    """Whether a part of a frame converts to RGB as the whole does: chroma samples are whole there, and not packed beside luma."""
    layout = layout_of(frame.format.name)
    whole = frame.width % (1 << layout.log2_x) == 0 and frame.height % (1 << layout.log2_y) == 0
    return whole and not (layout.log2_x and layout.channels[0].step > 1)


def rounded(frame: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    """The frame in the same format of fewer bits, every sample rounded to the nearest; pts and colour tags stay.

    A code value of Y, U or V is worth 2**n of the finer ones, of full-range R, G, B and alpha a share of the largest.
    """
    layout, coarse = layout_of(frame.format.name), layout_of(pix_fmt)
    made = av.VideoFrame(frame.width, frame.height, pix_fmt)
    finest, most = ((1 << of.depth) - 1 for of in (layout, coarse))
    for channel in layout.channels:
        scale = 2.0 ** (coarse.depth - layout.depth) if channel.role in "YUV" else most / finest
        _samples(made, channel, coarse)[:] = np.minimum(np.floor(_samples(frame, channel, layout) * scale + 0.5), most)
    made.pts, made.time_base = frame.pts, frame.time_base
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
    return made


class Channel(NamedTuple):
    """Where the samples of one component lie."""

    role: str  # Y U V R G B A
    plane: int
    offset: int = 0  # in samples from the row's start
    step: int = 1  # samples from one to the next


class Layout(NamedTuple):
    """How a pixel format keeps its samples."""

    channels: tuple[Channel, ...]
    depth: int = 8  # significant bits
    dtype: str = "u1"
    shift: int = 0  # of the significant bits within a sample: P010 keeps them at the top
    log2_x: int = 0  # chroma subsampling
    log2_y: int = 0


@lru_cache(maxsize=64)
def layout_of(pix_fmt: str) -> Layout:
    """Layout of an ffmpeg pixel format. Raises InputError for those that this cannot write: palettes, Bayer, floats, surfaces."""
    for pattern, build in _FORMATS:
        match = re.fullmatch(pattern, pix_fmt)
        if match:
            return build(match)
    raise InputError(f"pixel format {pix_fmt} is not supported", "convert the film first, for example to yuv420p or yuv422p10le")


def _planar_yuv(match: re.Match[str]) -> Layout:
    _, alpha, sub, depth, end = match.groups()
    roles = "YUVA" if alpha else "YUV"
    log2_x, log2_y = _SUBSAMPLING[sub]
    channels = tuple(Channel(role, plane) for plane, role in enumerate(roles))
    return Layout(channels, int(depth or 8), _dtype(depth, end), 0, log2_x, log2_y)


def _semi_planar(match: re.Match[str]) -> Layout:
    layouts = {"12": (1, 1, "UV"), "21": (1, 1, "VU"), "16": (1, 0, "UV"), "24": (0, 0, "UV"), "42": (0, 0, "VU")}
    log2_x, log2_y, order = layouts[match[1]]
    return Layout(_two_planes(order), 8, "u1", 0, log2_x, log2_y)


def _semi_planar_deep(match: re.Match[str]) -> Layout:
    sub, depth, end = match.groups()
    log2_x, log2_y = {"0": (1, 1), "2": (1, 0), "4": (0, 0)}[sub]
    return Layout(_two_planes("UV"), int(depth), _dtype("16", end), 16 - int(depth), log2_x, log2_y)


def _two_planes(order: str) -> tuple[Channel, ...]:
    return (Channel("Y", 0), *(Channel(role, 1, offset, 2) for offset, role in enumerate(order)))


def _packed_422(match: re.Match[str]) -> Layout:
    order = match[1].upper()  # YUYV, YVYU, UYVY: four bytes hold two pixels
    chroma = tuple(Channel(role, 0, order.index(role), 4) for role in "UV")
    return Layout((Channel("Y", 0, order.index("Y"), 2), *chroma), log2_x=1)


def _gray(match: re.Match[str]) -> Layout:
    depth, end = match.groups()
    return Layout((Channel("Y", 0),), int(depth or 8), _dtype(depth, end))


def _gray_alpha(match: re.Match[str]) -> Layout:
    depth, end = match.groups()
    return Layout((Channel("Y", 0, 0, 2), Channel("A", 0, 1, 2)), int(depth), _dtype(depth, end))


def _planar_rgb(match: re.Match[str]) -> Layout:
    alpha, depth, end = match.groups()
    channels = tuple(Channel(role, plane) for plane, role in enumerate("GBRA" if alpha else "GBR"))
    return Layout(channels, int(depth or 8), _dtype(depth, end))


def _packed_rgb(match: re.Match[str]) -> Layout:
    order, bits, end = match.groups()
    depth = int(bits or 8 * len(order)) // len(order)  # rgb24 and rgb48le name the bits of a pixel, rgba and bgr0 do not
    roles = {role: offset for offset, role in enumerate(order.upper()) if role in "RGBA"}
    channels = tuple(Channel(role, 0, offset, len(order)) for role, offset in roles.items())
    return Layout(channels, depth, _dtype(str(depth), end))


def _dtype(depth: str | None, end: str | None) -> str:
    return "u1" if int(depth or 8) <= 8 else (">u2" if end == "be" else "<u2")


_SUBSAMPLING = {"444": (0, 0), "422": (1, 0), "420": (1, 1), "440": (0, 1), "411": (2, 0), "410": (2, 2)}
_FORMATS = (
    (r"yuv(j?)(a?)(\d{3})p(\d+)?(le|be)?", _planar_yuv),
    (r"nv(12|21|16|24|42)", _semi_planar),
    (r"p([024])(10|12|16)(le|be)", _semi_planar_deep),
    (r"(yuyv|yvyu|uyvy)422", _packed_422),
    (r"gray(\d+)?(le|be)?", _gray),
    (r"ya(8|16)(le|be)?", _gray_alpha),
    (r"gbr(a?)p(\d+)?(le|be)?", _planar_rgb),
    (r"(rgb|bgr)(24|48)(le|be)?", _packed_rgb),
    (r"(rgba|bgra|argb|abgr|rgb0|bgr0|0rgb|0bgr)(64)?(le|be)?", _packed_rgb),
)


def _paste(frame: av.VideoFrame, layout: Layout, patch: Patch, colour: Colour) -> None:
    _check_place(frame, patch)
    left, top, rgb, alpha = _on_chroma_grid(patch, layout, (frame.width, frame.height))
    weight = alpha.astype(np.float32) / np.float32(255)
    coarse = _subsample(weight, layout, colour)
    values = _components(rgb, frame, layout, colour)  # role -> (h, w) float32 code values of the frame's depth
    for channel in layout.channels:
        if channel.role == "A":
            continue
        value, share = values[channel.role] * weight, weight
        x, y = left, top
        if channel.role in "UV":
            value, share = _subsample(value, layout, colour), coarse
            x, y = left >> layout.log2_x, top >> layout.log2_y
        _blend(_samples(frame, channel, layout), layout, value, share, x, y)


def _check_place(frame: av.VideoFrame, patch: Patch) -> None:
    height, width = patch.alpha.shape
    inside = patch.left >= 0 and patch.top >= 0 and patch.left + width <= frame.width and patch.top + height <= frame.height
    if patch.rgb.shape != (height, width, 3) or not inside:
        place = f"{patch.left},{patch.top} in a frame of {frame.width}x{frame.height}"
        raise InternalError(f"patch {patch.rgb.shape} with alpha {patch.alpha.shape} does not lie at {place}")


def _on_chroma_grid(
    patch: Patch, layout: Layout, size: tuple[int, int]
) -> tuple[int, int, NDArray[np.float32], NDArray[np.uint8]]:
    """The patch widened by a chroma sample or more on each side, to whole ones; new left and top, which may be negative.

    Alpha is 0 in what was added, but beyond the frame's edge, where it goes on: half a chroma sample there belongs to no pixel.
    """
    height, width = patch.alpha.shape
    ys, yw, yr = _widen(patch.top, height, layout.log2_y, size[1])
    xs, xw, xr = _widen(patch.left, width, layout.log2_x, size[0])
    rgb = np.asarray(cv2.copyMakeBorder(patch.rgb, *ys, *xs, cv2.BORDER_REPLICATE), np.float32)
    alpha = np.zeros(rgb.shape[:2], np.uint8)
    alpha[yr, xr] = np.pad(patch.alpha, (yw, xw), mode="edge")
    return patch.left - xs[0], patch.top - ys[0], rgb, alpha


def _widen(start: int, length: int, log2: int, limit: int) -> tuple[tuple[int, int], tuple[int, int], slice]:
    """Pixels added before and after; of them those that continue the alpha; where the alpha lies in the widened range."""
    cell = 1 << log2
    extra = cell if log2 else 0
    before, after = start % cell + extra, -(start + length) % cell + extra
    kept = (before if start == 0 else 0, after if start + length == limit else 0)
    return (before, after), kept, slice(before - kept[0], before + length + kept[1])


def _components(rgb: NDArray[np.float32], frame: av.VideoFrame, layout: Layout, colour: Colour) -> dict[str, NDArray[np.float32]]:
    """(h, w, 3) RGB 0..255 -> a plane of code values for each component, not yet rounded."""
    if any(channel.role == "R" for channel in layout.channels):
        top = float((1 << layout.depth) - 1)
        return {role: rgb[..., i] * np.float32(top / 255) for i, role in enumerate("RGB")}
    kr, kb = luma_weights(colour, frame.height)
    y_scale, y_zero, c_scale, c_zero = _code_values(layout.depth, is_full_range(frame.format.name, colour))
    luma = np.array([kr, 1 - kr - kb, kb])
    blue, red = ([0, 0, 1] - luma) / (2 * (1 - kb)), ([1, 0, 0] - luma) / (2 * (1 - kr))
    of_rgb = np.stack([luma * y_scale, blue * c_scale, red * c_scale]) / 255
    rows = np.column_stack([of_rgb, [y_zero, c_zero, c_zero]])  # one by one: a third of the time of all at once, then split
    return {role: np.asarray(cv2.transform(rgb, rows[i : i + 1]), np.float32) for i, role in enumerate("YUV")}


def luma_weights(colour: Colour, height: int) -> tuple[float, float]:
    """Kr and Kb of the film's matrix. Raises InputError for a matrix that is not linear in R'G'B'."""
    untagged = colour.matrix in ("", "gbr")  # gbr on YUV planes is a slip of the encoder
    name = ("bt709" if height >= HD_ROWS else "smpte170m") if untagged else colour.matrix
    if name not in LUMA_WEIGHTS:
        raise InputError(f"colour matrix {name} is not supported", "convert the film to bt709 or bt2020nc first")
    return LUMA_WEIGHTS[name]


def is_full_range(pix_fmt: str, colour: Colour) -> bool:
    """Whether black is code value 0. Untagged is limited; yuvj says full in its name, and swscale takes every gray as full."""
    return colour.range == "pc" or pix_fmt.startswith(("yuvj", "gray", "ya"))


def _code_values(depth: int, full: bool) -> tuple[float, float, float, float]:
    """Scale and zero of luma, scale and zero of chroma (ITU-T H.273, equations 20 to 29)."""
    if full:
        return (1 << depth) - 1.0, 0.0, (1 << depth) - 1.0, float(1 << (depth - 1))
    step = float(1 << (depth - 8))
    return 219 * step, 16 * step, 224 * step, 128 * step


def _subsample(plane: NDArray[np.float32], layout: Layout, colour: Colour) -> NDArray[np.float32]:
    sites = chroma_sites(colour)
    rows = _reduce(plane, layout.log2_y, sites[1], axis=0)
    return _reduce(rows, layout.log2_x, sites[0], axis=1)


Site = Literal["first", "middle", "last"]


def chroma_sites(colour: Colour) -> tuple[Site, Site]:
    """Where a chroma sample sits among its luma samples, across and down; untagged in the middle, as to_rgb's swscale reads it."""
    location = colour.chroma_location
    across: Site = "first" if "left" in location else "middle"
    down: Site = "first" if "top" in location else "last" if "bottom" in location else "middle"
    return across, down


def _reduce(plane: NDArray[np.float32], log2: int, site: Site, *, axis: int) -> NDArray[np.float32]:
    """plane by 2**log2 fewer rows or columns: a box where chroma sits in the middle, else a triangle around the one it shares."""
    cell = 1 << log2
    if cell == 1:
        return plane
    if site == "middle":
        taps = dict.fromkeys(range(cell), 1 / cell)
    else:
        centre = 0 if site == "first" else cell - 1
        taps = {centre + k: (cell - abs(k)) / cell**2 for k in range(1 - cell, cell)}
    count = plane.shape[axis] // cell
    shape = (count, plane.shape[1]) if axis == 0 else (plane.shape[0], count)
    total = np.zeros(shape, np.float32)
    for k, share in taps.items():
        first = -(k // cell) if k < 0 else 0  # the outer cell is alpha 0 on both sides: beyond it is nothing
        last = min(count, -(-(plane.shape[axis] - k) // cell))
        given = slice(first * cell + k, (last - 1) * cell + k + 1, cell)
        part, of = ((slice(first, last),), (given,)) if axis == 0 else ((slice(None), slice(first, last)), (slice(None), given))
        total[part] += np.float32(share) * plane[of]
    return total


def _samples(frame: av.VideoFrame, channel: Channel, layout: Layout) -> NDArray[Any]:
    """A writable view of one component: (rows, columns) of the plane's own dtype."""
    plane = frame.planes[channel.plane]
    width, height = frame.width, frame.height
    if channel.role in "UV":
        width, height = -(-width >> layout.log2_x), -(-height >> layout.log2_y)
    flat = np.frombuffer(plane, np.dtype(layout.dtype))  # type: ignore[call-overload]
    per_row = plane.line_size // flat.itemsize
    rows = np.lib.stride_tricks.as_strided(flat, (height, per_row), (plane.line_size, flat.itemsize))
    view: NDArray[Any] = rows[:, channel.offset :: channel.step][:, :width]
    return view


def _blend(samples: NDArray[Any], layout: Layout, value: NDArray[np.float32], share: NDArray[np.float32], x: int, y: int) -> None:
    """samples <- samples (1 - share) + value, where share is not 0; value is weighted already. x, y may lie outside by a cell."""
    height, width = samples.shape
    inside = (
        slice(max(-y, 0), min(value.shape[0], height - y)),
        slice(max(-x, 0), min(value.shape[1], width - x)),
    )
    value, share = value[inside], share[inside]
    y, x = max(y, 0), max(x, 0)
    place = samples[y : y + value.shape[0], x : x + value.shape[1]]
    new = (place >> layout.shift if layout.shift else place).astype(np.float32)
    new *= 1 - share
    new += value
    np.clip(np.rint(new, out=new), 0, (1 << layout.depth) - 1, out=new)
    kind = place.dtype.newbyteorder("=")
    np.copyto(place, new.astype(kind) << layout.shift if layout.shift else new.astype(kind), where=share > 0)

"""What a film is made of. In: the film. Out: Source: every frame's timestamp, shots, streams, colour. Knows nothing of faces or voices.

    film -- headers -- streams, colour, size, aspect --.
         '- every frame decoded once -- timestamps ----|-- Source
                                     '- cuts -- shots -'

The one full decode is also the proof that the film can be read to its end.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import ffmpeg
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from musetalk_cli.config import FILE_LIMITS, DemuxConfig, Runtime
from musetalk_cli.errors import InputError
from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg
from musetalk_cli.media.shots import CutFinder, shots_between
from musetalk_cli.media.video import (
    SWS_MATRIX,
    Timeline,
    clock,
    earliest_start,
    hdr10,
    open_film,
    picture_of,
    profile_of,
    scan,
    side_data,
)
from musetalk_cli.types import Colour, Source, Stream
from musetalk_cli.work import stage

# libav's numbers for colour tags (ITU-T H.273), by its names; "" is untagged.
MATRIX = ("gbr", "bt709", "", "", "fcc", "bt470bg", "smpte170m", "smpte240m", "ycgco", "bt2020nc", "bt2020c")
PRIMARIES = (
    "",
    "bt709",
    "",
    "",
    "bt470m",
    "bt470bg",
    "smpte170m",
    "smpte240m",
    "film",
    "bt2020",
    "smpte428",
    "smpte431",
    "smpte432",
)
TRANSFER = (
    *("", "bt709", "", "", "gamma22", "gamma28", "smpte170m", "smpte240m", "linear", "log100", "log316", "iec61966-2-4"),
    *("bt1361e", "iec61966-2-1", "bt2020-10", "bt2020-12", "smpte2084", "smpte428", "arib-std-b67"),
)
RANGE = ("", "tv", "pc")
CHROMA_LOCATION = re.compile(r"\b(left|center|topleft|top|bottomleft|bottom)\)")
COMMON_FPS = tuple(
    Fraction(n, d) for n, d in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (48, 1), (50, 1), (60000, 1001), (60, 1))
)
# Metadata that changes from frame to frame, made for the old pixels; an encoder of ours would drop it.
DYNAMIC_HDR = {
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+",
}
MS = 0.001001  # seconds
CURE_DYNAMIC_HDR = (
    "take it out first: ffmpeg -i FILM -c copy -bsf:v dovi_rpu=strip=1 NEW.mp4, or for HDR10+ hdr10plus_tool remove"
)
CURE_PROGRESSIVE = "deinterlace it first: ffmpeg -i FILM -map 0 -c copy -c:v libx264 -crf 8 -vf bwdif NEW.mkv"
CURE_ALPHA = (
    "make it one picture first: ffmpeg -c:v libvpx-vp9 -i FILM -c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le NEW.mov "
    "(VP8: libvpx)"
)
FIELDS = range(2, 6)  # libav's numbers for an interlaced track
# Every frame says whether it has fields; of all others the track alone does.
FRAMES_TELL_FIELDS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3", "dnxhd", "dvvideo", "ffv1"}


@stage(version=2)
def demux(video: Path, *, config: DemuxConfig, runtime: Runtime, out: Path) -> Source:
    """The film's exact frame list, streams and shots. Raises InputError, with the first bad timestamp, for a film that is damaged,
    and with the cure for one whose picture cannot be kept as it is: interlaced, with layers that no decoder shows, changing its
    size, dynamic HDR."""
    _check_track(video)
    cuts = CutFinder(config.cut_threshold, config.min_shot)
    check = _SameForm(video)

    def watch(frame: av.VideoFrame) -> None:
        check.watch(frame)
        cuts.watch(frame)

    timeline = scan(video, watch)
    with open_film(video) as film:
        picture = picture_of(film, video)
        fps = mean_fps(timeline, picture)
        if fps > FILE_LIMITS.fps and len(timeline.pts) > 1:
            fact = f"it has {float(fps):g} frames a second, more than {FILE_LIMITS.fps}"
            raise InputError(f"{video}: {fact}", "slow it down first: ffmpeg -i FILM -vf fps=25 NEW.mp4")
        log = _header_log(video, picture.index)
        first, last = (int(timeline.pts[n]) * cast(Fraction, picture.time_base) for n in (0, -1))
        _check_whole(video, film, last, log)
        return Source(
            fps=fps,
            size=check.size,
            time_base=cast(Fraction, picture.time_base),
            start=min(earliest_start(film), first),
            pts=timeline.pts,
            durations=timeline.durations,
            shots=shots_between(cuts.cuts(), len(timeline.pts), fps, config.chunk),
            streams=tuple(_streams(film, log)),
            video_stream=picture.index,
            codec=picture.codec.canonical_name,
            colour=_colour(video, picture, check.pix_fmt, log),
            sar=picture.sample_aspect_ratio or Fraction(1),
            rotation=check.rotation,
            profile=profile_of(film, picture),
            mastering=check.hdr10[0],
            light=check.hdr10[1],
        )


def mean_fps(timeline: Timeline, picture: VideoStream) -> Fraction:
    """Mean rate in frames a second: exact where all frames are equally long, a common rate where every timestamp is within a
    millisecond of it (to which Matroska rounds)."""
    pts, tick = timeline.pts, cast(Fraction, picture.time_base)
    if len(pts) < 2:
        return picture.average_rate or Fraction(25)
    steps = np.diff(pts)
    if steps.min() == steps.max():
        return 1 / (int(steps[0]) * tick)
    for fps in COMMON_FPS:
        ideal = np.arange(len(pts)) * float(1 / fps / tick)
        if np.abs(pts - pts[0] - ideal).max() * float(tick) <= MS:
            return fps
    return ((len(pts) - 1) / (int(pts[-1] - pts[0]) * tick)).limit_denominator(1_000_000)


def _header_log(video: Path, index: int) -> str:
    """What ffmpeg says of the film's headers."""
    film: Any = ffmpeg.input(media_url(video), **AS_FILE)
    nothing = ffmpeg.output(film[str(index)], "-", format="null", c="copy", t=0)
    return run_ffmpeg(nothing, purpose="read the film's headers", loglevel="verbose")


def _check_whole(video: Path, film: InputContainer, last: Fraction, log: str) -> None:
    """Matroska says nothing when it ends too early; its header's duration does, unless the file has none and ffmpeg guessed one.

    last: seconds of the last frame.
    """
    if "matroska" not in film.format.name or film.duration is None or "Estimating duration" in log:
        return
    promised = Fraction(film.duration, av.time_base) - 1  # a second's grace: durations are rounded, subtitles clipped
    if last < promised and (end := _end_of(film)) < promised:
        raise InputError(
            f"{video}: it is cut off at {clock(end)}, its header promises {clock(promised + 1)}",
            "get a whole copy, or accept what is there: ffmpeg -i FILM -c copy NEW.mkv",
        )


def _end_of(film: InputContainer) -> Fraction:
    """Seconds at which the last packet of any stream ends."""
    ends = (
        (packet.pts + (packet.duration or 0)) * packet.time_base
        for packet in film.demux()
        if packet.size and packet.pts is not None
    )
    return max(ends, default=Fraction(0))


def _check_track(video: Path) -> None:
    """Refuses what a track says of its picture and the frames do not."""
    with open_film(video) as film:
        picture = picture_of(film, video)
        if picture.codec.canonical_name not in FRAMES_TELL_FIELDS and picture.codec_context.field_order in FIELDS:
            raise InputError(f"{video}: the track says that the picture is interlaced", CURE_PROGRESSIVE)
        if picture.metadata.get("alpha_mode") == "1":
            raise InputError(f"{video}: its transparency is stored apart from the picture and would be lost", CURE_ALPHA)
        if _has_layers(film, picture):
            fact = "transparency or a second view is stored as a layer of its own and would be lost"
            raise InputError(f"{video}: {fact}", "if it may go: ffmpeg -i FILM -crf 8 -c:a copy NEW.mp4")


def _has_layers(film: InputContainer, picture: VideoStream) -> bool:
    """Whether HEVC's first frame has NAL units above the base layer, which libav does not show (nuh_layer_id, H.265 7.3.1.2)."""
    if picture.codec.canonical_name != "hevc":
        return False
    data, header = b"", picture.codec_context.extradata or b""
    with suppress(av.FFmpegError):  # a damaged film is refused where it is read whole
        data = bytes(next((packet for packet in film.demux(picture) if packet.size), b""))
    return any(nal[0] & 1 or nal[1] >> 3 for nal in _nal_units(data, header) if len(nal) > 1)


def _nal_units(data: bytes, header: bytes) -> Iterator[bytes]:
    """NAL units of a packet: each after its length where the header is hvcC (ISO/IEC 14496-15), else after a start code."""
    if len(header) < 23 or header[0] != 1:
        yield from data.split(b"\0\0\1")[1:]
        return
    at, size = 0, (header[21] & 3) + 1
    while at < len(data):
        start = at + size
        at = start + int.from_bytes(data[at:start])
        yield data[start:at]


class _SameForm:
    """Every frame must be what the first one is, and progressive."""

    def __init__(self, video: Path) -> None:
        self._video = video
        self.size, self.pix_fmt, self.rotation = (0, 0), "", 0
        self.hdr10 = ("", "")

    def watch(self, frame: av.VideoFrame) -> None:
        at = f"{self._video} at {clock(cast(int, frame.pts) * cast(Fraction, frame.time_base))}"
        form = ((frame.width, frame.height), frame.format.name)
        if not self.pix_fmt:
            (self.size, self.pix_fmt), self.rotation = form, frame.rotation % 360
            _check_not_mirrored(self._video, side_data(frame, "DISPLAYMATRIX"))
        if form != (self.size, self.pix_fmt):
            raise InputError(
                f"{at}: the picture changes from {self.size} {self.pix_fmt} to {form[0]} {form[1]}",
                "make it one size first: ffmpeg -i FILM -vf scale=WIDTH:HEIGHT -crf 8 -c:a copy NEW.mp4",
            )
        if frame.interlaced_frame:
            raise InputError(f"{at}: the picture is interlaced, a face in it has two positions at once", CURE_PROGRESSIVE)
        found = hdr10(frame)
        if any(found) and found != self.hdr10:
            if any(self.hdr10):
                raise InputError(
                    f"{at}: the HDR10 metadata change", "dub the parts apart: ffmpeg -i FILM -ss TIME -c copy PART.mp4"
                )
            self.hdr10 = found
        for kind, name in DYNAMIC_HDR.items():
            if side_data(frame, kind):
                raise InputError(f"{at}: the picture carries {name} metadata, which would no longer fit it", CURE_DYNAMIC_HDR)


def _check_not_mirrored(video: Path, matrix: bytes) -> None:
    """Source carries a rotation and no mirroring; matrix: 9 int32, row by row, or empty."""
    if matrix:
        a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
        if a * d < b * c:
            raise InputError(f"{video}: it is to be shown mirrored", "mirror it first: ffmpeg -i FILM -crf 8 -c:a copy NEW.mp4")


def _streams(film: InputContainer, log: str) -> Iterator[Stream]:
    for stream in film.streams:
        codec = stream.codec.canonical_name if stream.codec_context else _tag(log, stream.index)
        yield Stream(stream.index, stream.type, codec, stream.language or "", stream.metadata.get("title", ""))


def _tag(log: str, index: int) -> str:
    """Four letters that name the format of a stream which libav cannot decode: `tmcd`, `text`, `mebx`."""
    found = re.search(r"\((\S{4}) / 0x", _stream_line(log, index))
    return found.group(1) if found else ""


def _stream_line(log: str, index: int) -> str:
    return next((line for line in log.splitlines() if re.search(rf"Stream #0:{index}\b", line)), "")


def _colour(video: Path, picture: VideoStream, pix_fmt: str, log: str) -> Colour:
    context = picture.codec_context
    matrix = _name(MATRIX, context.colorspace)
    if matrix not in ("", *SWS_MATRIX) and not pix_fmt.startswith(("gbr", "rgb", "bgr")):
        raise InputError(f"{video}: its colour matrix is {matrix}, which cannot be undone here", _CURE_MATRIX)
    return Colour(
        pix_fmt,
        matrix,
        _name(PRIMARIES, context.color_primaries),
        _name(TRANSFER, context.color_trc),
        _name(RANGE, context.color_range),
        _chroma_location(log, picture.index),
    )


_CURE_MATRIX = "convert it first: ffmpeg -i FILM -vf zscale=matrix=709 -crf 8 -c:a copy NEW.mp4"


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else ""


def _chroma_location(log: str, index: int) -> str:
    """Where chroma samples lie; PyAV does not tell, ffmpeg's log does."""
    found = CHROMA_LOCATION.search(_stream_line(log, index))
    return found.group(1) if found else ""

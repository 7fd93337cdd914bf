"""The picture of a film: exact frames in, exact frames out. In: a file, frame numbers. Out: decoded frames in presentation order,
RGB arrays, encoded segments. Knows nothing of faces, shots or sound.

One rule holds everywhere: the frames of a film are what a full decode gives, in that order. `scan` makes that list; `read_frames`
checks every frame that it hands out against it and raises rather than shift by one.
"""

import errno
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.buffer import Buffer
from av.container import InputContainer, OutputContainer
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from musetalk_cli.config import FILE_LIMITS, BlendConfig
from musetalk_cli.errors import InputError, InternalError
from musetalk_cli.media.encoders import IN_MOV, THREADS, choose_encoder, coded_format, encoder_options
from musetalk_cli.media.ffmpeg import AS_FILE, media_url
from musetalk_cli.media.planes import HD_ROWS, cut_out, cuts_exactly, rounded
from musetalk_cli.reading import check_regular
from musetalk_cli.types import Colour, Source
from musetalk_cli.work import disk_fault

# A packet of these is one frame; one that never shows is a lost frame. Others may carry hidden frames (VP8) or none (MPEG-4 N-VOP).
ONE_FRAME_A_PACKET = {"h264", "hevc", "mpeg1video", "mpeg2video"}
SEEK_BACK_S = (0, 1, 4, 16, 64, None)  # None: from the very start, which is how the list was made
SWS_MATRIX = {
    "bt709": Colorspace.ITU709,
    "fcc": Colorspace.FCC,
    "bt470bg": Colorspace.ITU601,
    "smpte170m": Colorspace.ITU601,
    "smpte240m": Colorspace.SMPTE240M,
    "bt2020nc": Colorspace.BT2020,
}  # matrices that swscale undoes exactly; demux refuses others
# Their frames say nothing of HDR10 or of how they were mastered, and little of colour: the track does.
TOLD_BY_TRACK = ("vp9", "prores", "dnxhd", "ffv1")
NAMED_BY_TAG = ("prores", "dnxhd")  # the track's four letters are the profile
DNXHD_ID = slice(40, 44)  # of a frame's header: the compression id (SMPTE ST 2019-1)


NARROW = re.compile(r"(?:p|gray)(9|10|12|14)le$")  # formats whose samples fill the lower bits of two bytes

CHROMA_REACH_PX = 16  # luma pixels; bicubic looks at four chroma samples, of up to four pixels each
CUT_GRID_PX = 16  # whole chroma samples of any format, whole steps of the converter's vector code
BACKWARDS = 16  # frames in memory where a film runs backwards


class Timeline(NamedTuple):
    """What a full decode shows."""

    pts: NDArray[np.int64]  # (F,) presentation timestamps, ticks of the stream's time base
    durations: NDArray[np.int64]  # (F,) ticks, 0 where the film gives none


def scan(video: Path, watch: Callable[[av.VideoFrame], None]) -> Timeline:
    """Decode the whole picture once; `watch` sees every frame in presentation order, its pts as in the list.

    Raises InputError, naming the first bad timestamp, where the film is truncated or damaged or its frames have no order in time.
    """
    pts: list[int] = []
    durations: list[int] = []
    with open_film(video) as film:
        stream = picture_of(film, video)
        ticks = _ticks(video) if _has_ticks(film) else None
        for frame in _shown(film, stream, video, ticks, from_start=True):
            if frame.pts is None or (pts and frame.pts <= pts[-1]):
                after = clock(pts[-1] * cast(Fraction, stream.time_base)) if pts else "its start"
                raise InputError(f"{video}: the frame after {after} has no later timestamp", _cure_recode(video))
            pts.append(frame.pts)
            check_span((frame.pts - pts[0]) * cast(Fraction, stream.time_base), video)
            durations.append(frame.duration)
            watch(frame)
            _check_rate(pts, cast(Fraction, stream.time_base), video)
    if not pts or (ticks is not None and len(ticks) != len(pts)):
        raise InputError(f"{video}: {len(pts)} frames of its picture can be decoded", _cure_recode(video))
    return Timeline(np.array(pts, np.int64), np.array(durations, np.int64))


def _check_rate(pts: Sequence[int], tick: Fraction, video: Path) -> None:
    """Raises InputError for more frames in a second than any film has: a chunk of them would fill the memory. Not by what the header says, which
    for variable rates is libav's guess: 12,800 for an MKV of a second."""
    most = FILE_LIMITS.fps
    if len(pts) > most and (pts[-1] - pts[-1 - most]) * tick < 1:
        fact = f"more than {most} frames within the second before {clock(pts[-1] * tick)}"
        raise InputError(f"{video}: {fact}", "if that is so, convert it to a lower rate first; else get a whole copy")


def check_span(seconds: Fraction, path: Path) -> None:
    """Raises InputError for a timestamp that is further from the first than any film is long: what lies between would be filled."""
    if seconds > FILE_LIMITS.hours * 3600:
        fact = f"a timestamp is {float(seconds / 3600):.0f} hours after the first, more than {FILE_LIMITS.hours}"
        raise InputError(f"{path}: {fact}", _cure_recode(path))


def read_frames(video: Path, source: Source, start: int, stop: int) -> Iterator[av.VideoFrame]:
    """Frames [start, stop) of the film in presentation order: native pixel format, `pts` equal to `source.pts`, each checked.

    Decoding begins at the keyframe before `start`, at an earlier one where that one does not lead to it (open GOP, gradual
    refresh). Raises InputError where the film no longer decodes to the frames that demux found.
    """
    if not 0 <= start <= stop <= source.frames:
        raise InternalError(f"frames [{start}, {stop}) asked of a film of {source.frames}")
    if source.own and stop > source.own:
        yield from _lengthened(video, source, start, stop)
        return
    number = start
    for back_s in SEEK_BACK_S:
        for frame in _frames_from(video, source, start, back_s) if number < stop else ():
            if frame.pts != source.pts[number]:
                break
            yield frame
            number += 1
            if number == stop:
                return
        if number > start:
            break  # it began well and went wrong: no other keyframe will mend that
    if number < stop:
        at = clock(int(source.pts[number]) * source.time_base)
        raise InputError(
            f"{video}: frame {number} at {at} is not what it was when the film was analysed",
            "the file changed or is damaged; put it back, or start again with --fresh",
        )


def _lengthened(video: Path, source: Source, start: int, stop: int) -> Iterator[av.VideoFrame]:
    """Frames of which some follow on the film's own: the last one again and again, or the film backwards and forwards."""
    if start < source.own:
        yield from read_frames(video, source, start, source.own)
    for first, last in _blocks(source, max(start, source.own), stop):
        shown = [source.shows(number) for number in range(first, last)]
        low, high = min(shown), max(shown) + 1
        frames = list(read_frames(video, source, low, high))
        repeated = _again(frames[0], len(shown)) if high - low == 1 else [frames[number - low] for number in shown]
        for number, frame in enumerate(repeated, first):
            frame.pts, frame.time_base = int(source.pts[number]), source.time_base
            yield frame


def _blocks(source: Source, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """[start, stop) in pieces that show few frames in one direction, so that few are in memory; a held frame in one piece."""
    held = source.turns_at == source.own - 1
    first = start
    while first < stop:
        last = first + 1
        while last < stop and (held or (last - first < BACKWARDS and _goes_on(source, last))):
            last += 1
        yield first, last
        first = last


def _goes_on(source: Source, number: int) -> bool:
    """Whether the picture moves in the same direction before and after frame number - 1."""
    a, b, c = (source.shows(frame) for frame in (number - 2, number - 1, number))
    return (b - a) == (c - b)


def _again(frame: av.VideoFrame, times: int) -> Iterator[av.VideoFrame]:
    """The same picture several times, each of which may be written to."""
    graph = av.filter.Graph()
    given = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    loop, out = graph.add("loop", f"loop={times - 1}:size=1"), graph.add("buffersink")
    given.link_to(loop)
    loop.link_to(out)
    graph.configure()
    given.push(frame)
    given.push(None)
    for _ in range(times):
        yield cast(av.VideoFrame, out.pull())


def packet_times(video: Path) -> tuple[NDArray[np.int64], Fraction]:
    """Timestamps of the picture without decoding it: (F,) ticks, ascending, and the seconds of a tick.

    Equal to what `scan` finds wherever every packet is one frame that shows; fast enough to look over a finished film.
    """
    with open_film(video) as film:
        stream = picture_of(film, video)
        tick = cast(Fraction, stream.time_base)
        if _has_ticks(film):
            return _ticks(video) + _delay(stream), tick
        shown = (packet for packet in _packets(film, stream, video) if packet.size and not packet.is_discard)
        return np.array(sorted(cast(int, packet.pts) for packet in shown), np.int64), tick


def to_rgb(frame: av.VideoFrame, colour: Colour, *, quick: bool = False, rows: int = 0) -> NDArray[np.uint8]:
    """Decoded frame -> (H, W, 3) uint8 full-range RGB by the film's own matrix and range; not rotated, its transfer curve kept.

    Untagged: BT.709 for 720 lines and more, else BT.601; limited range. Bicubic chroma, accurate rounding, the same bytes on every
    machine. quick: chroma repeated and rounded down, about one level darker, in a thirtieth of the time: for eyes that only look
    for faces (720p: 0.3 ms, else 9 ms). rows: of the film, where the frame is a part of one.
    """
    exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    untagged = Colorspace.ITU709 if (rows or frame.height) >= HD_ROWS else Colorspace.ITU601
    full = colour.range == "pc" or frame.format.name.startswith("yuvj")
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=SWS_MATRIX.get(colour.matrix, untagged),
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.BITEXACT | (Interpolation(0) if quick else exact),
        threads=1,
    )
    return np.asarray(rgb.to_ndarray(), np.uint8)  # (H, W, 3)


def region_to_rgb(frame: av.VideoFrame, region: tuple[int, int, int, int], colour: Colour) -> NDArray[np.uint8]:
    """`to_rgb(frame, colour)[y1:y2, x1:x2]` for the region x1 y1 x2 y2 inside the frame, to the last bit, in the time of its area.

    A full frame of 1080p takes 20 ms; the chroma filter looks a few samples beyond the region, which are cut out with it.
    """
    x1, y1, x2, y2 = region
    if not cuts_exactly(frame):
        return to_rgb(frame, colour)[y1:y2, x1:x2]
    left, top = (max((edge - CHROMA_REACH_PX) // CUT_GRID_PX * CUT_GRID_PX, 0) for edge in (x1, y1))
    right, bottom = (
        min(-(-(edge + CHROMA_REACH_PX) // CUT_GRID_PX) * CUT_GRID_PX, most)
        for edge, most in ((x2, frame.width), (y2, frame.height))
    )
    rgb = to_rgb(cut_out(frame, (left, top, right, bottom)), colour, rows=frame.height)
    return rgb[y1 - top : y2 - top, x1 - left : x2 - left]


def segment_name(source: Source, config: BlendConfig) -> str:
    """What a SegmentWriter's file is called: its suffix says what it is."""
    return f"segment.{_form(choose_encoder(source, config))}"


def _form(encoder: str) -> str:
    """Of a segment's file. NUT does not hold ProRes and DNxHR; MOV does, and its timestamps are exact where none is reordered."""
    return "mov" if encoder in IN_MOV else "nut"


class SegmentWriter:
    """Encodes a stretch of the film to one file: a closed GOP, pixel format, size, colour tags, HDR10 and sample aspect ratio as in
    the source.

    The file is NUT (MOV for ProRes and DNxHR), which holds timestamps in fractions of the source's time base (Matroska would round
    them to milliseconds), moved as a whole where decoding order asks for it. The same frames give the same bytes on any machine,
    and all segments of a film the same codec headers, so that remux joins them without encoding again. Use as a context manager; an
    exception inside leaves an unfinished file behind.
    """

    def __init__(self, path: Path, source: Source, config: BlendConfig) -> None:
        self._path, self._source = path, source
        self._encoder = choose_encoder(source, config)
        self._options = encoder_options(self._encoder, source, config)
        self._pix_fmt = coded_format(self._encoder, source.colour.pix_fmt)
        self._file = av.open(media_url(path), "w", format=_form(self._encoder), options={"fflags": "+bitexact"})
        self._stream: VideoStream | None = None
        self.frames = 0

    def write(self, frame: av.VideoFrame) -> None:
        """Append a frame; its format and size must be the source's, its pts later than the last one's."""
        found = (frame.format.name, frame.width, frame.height)
        if found != (self._source.colour.pix_fmt, *self._source.size):
            raise InternalError(
                f"{self._path.name}: a frame is {found}, the film {self._source.colour.pix_fmt} {self._source.size}"
            )
        _check_depth(frame, self._source)
        if self._stream is None:
            self._stream = self._open_stream()
        if self._pix_fmt != frame.format.name:
            frame = rounded(frame, self._pix_fmt)
        frame.time_base = self._source.time_base
        frame.pict_type = PictureType.NONE  # else x264 repeats the frame types of the film's own encoder
        self._file.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Finish the file and see it on the disk."""
        if self._stream is None:
            raise InternalError(f"{self._path.name}: a segment without frames")
        self._file.mux(self._stream.encode(None))
        self._file.close()
        sync_file(self._path)

    def _open_stream(self) -> VideoStream:
        source = self._source
        os.environ.setdefault("SVT_LOG", "1")  # errors alone: SVT-AV1 greets on stderr, past libav's log
        stream = self._file.add_stream(self._encoder, rate=source.fps, options=self._options)
        if not isinstance(stream, VideoStream):
            raise InternalError(f"{self._encoder} is no video encoder")
        context = stream.codec_context
        context.width, context.height = source.size
        context.pix_fmt = self._pix_fmt
        context.time_base = stream.time_base = source.time_base
        context.sample_aspect_ratio = source.sar
        context.thread_count = THREADS
        with kept_scheduling():
            context.open()
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def _check_depth(frame: av.VideoFrame, source: Source) -> None:
    """InputError where samples lie beyond their format's bits, as uncompressed films can hold them: libavcodec's DNxHD (FFmpeg 8)
    ends the process on such a frame, others write what they make of it."""
    narrow = NARROW.search(frame.format.name)
    if not narrow:
        return
    for plane in frame.planes:
        samples = np.frombuffer(memoryview(plane), np.uint16).reshape(-1, plane.line_size // 2)[: plane.height, : plane.width]
        if samples.max() >> int(narrow[1]):
            at_s = float((frame.pts or 0) * source.time_base)
            fact = (
                f"the picture at {at_s:.3f} s has the value {samples.max()}, beyond the {narrow[1]} bits of {frame.format.name}"
            )
            raise InputError(fact, "the film is damaged or its pixel format is mislabelled; encode it anew from its source")


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """What is opened within does not change how the system schedules this process: run by root, SVT-AV1 (4.1) gives the thread that
    opens it, and its own, real-time priority 99 (FIFO), for good; whatever waits by spinning then starves the threads it waits for."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError, PermissionError):
                if os.sched_getscheduler(int(thread.name)) != policy:
                    os.sched_setscheduler(int(thread.name), policy, priority)


@contextmanager
def open_film(video: Path) -> Iterator[InputContainer]:
    """Open a media file for reading: a file, of a format that holds its picture and sound itself. Raises InputError where it is not there,
    is no media file, or says of itself what FileLimits excludes; ResourceError where the disk fails."""
    _check_regular(video)
    try:
        film = av.open(media_url(video), options=AS_FILE, metadata_errors="replace")
    except FileNotFoundError as error:
        raise InputError(f"{video}: there is no such file", "check the path") from error
    except av.FFmpegError as error:
        if (fault := disk_fault(OSError(error.errno, ""), video)) is not None:
            raise fault from error
        fact = "is empty" if video.is_file() and video.stat().st_size == 0 else f"cannot be read ({error.strerror})"
        if error.errno == errno.EINVAL:  # what libav says of a format that is not among FORMATS
            fact = "is no film or voice, or a list of other files"
        raise InputError(f"{video}: the file {fact}", "give a film or a voice that ffmpeg plays") from error
    with film:
        _check_limits(film, video)
        yield film


def _check_regular(video: Path) -> None:
    try:
        check_regular(video.stat().st_mode, video)
    except (ValueError, IsADirectoryError) as error:
        fact = "it is a folder" if isinstance(error, IsADirectoryError) else str(error)
        raise InputError(f"{str(video)!a}: {fact}", "give a film or a voice, as a file") from error
    except OSError:  # told better by libav
        return


def _check_limits(film: InputContainer, video: Path) -> None:
    """By the headers, before any frame is decoded for us."""
    most = FILE_LIMITS
    told = [("streams", Fraction(sum(stream.type != "attachment" for stream in film.streams)), most.streams)]
    told.append(("hours", Fraction(film.duration or 0, av.time_base) / 3600, most.hours))
    for stream in film.streams:
        match stream:
            case VideoStream(codec_context=context) if context is not None:
                told.append(("pixels a side", Fraction(max(context.width, context.height)), most.side_px))
            case AudioStream(codec_context=context) if context is not None:
                told.append(("Hz", Fraction(context.sample_rate), most.sampling_hz))
                told.append(("channels", Fraction(context.layout.nb_channels), most.channels))
    for what, number, limit in told:
        if number > limit:
            fact = f"it says that it has {float(number):g} {what}, more than {limit}"
            raise InputError(f"{video}: {fact}", "if that is so, cut or convert it first; else get a whole copy")


def picture_of(film: InputContainer, video: Path) -> VideoStream:
    """The film's picture: its first video stream that is neither cover art nor a still. Raises InputError where there is none."""
    art = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in film.streams.video:
        if not stream.disposition & art:
            if stream.codec_context is None:
                raise InputError(f"{video}: no decoder for its picture", "convert it first: ffmpeg -i FILM -c:a copy NEW.mp4")
            return stream
    raise InputError(f"{video}: there is no picture in it", "give a film; the voice goes with --audio")


def earliest_start(film: InputContainer) -> Fraction:
    """Seconds at which the file's timeline begins: where its earliest stream does, but not before zero. What a decoder throws away
    before an audio track's zero (Opus, AAC and MP3 in Matroska) is not heard and does not count."""
    starts = [
        stream.start_time * stream.time_base
        for stream in film.streams
        if stream.start_time is not None and stream.time_base is not None and not stream.disposition & Disposition.attached_pic
    ]
    return max(min(starts, default=Fraction(0)), Fraction(0))


def side_data(frame: av.VideoFrame, name: str) -> bytes:
    """What a frame carries beside its pixels, by libav's name for it (`DISPLAYMATRIX`); empty where it carries none."""
    found = frame.side_data.get(name)
    return b"" if found is None else bytes(cast(Buffer, found))


def hdr10(frame: av.VideoFrame) -> tuple[str, str]:
    """HDR10's static metadata as Source has it: mastering display (SMPTE ST 2086), content light level; empty where there is none.

    Layouts: libavutil/mastering_display_metadata.h. What a display leaves unsaid is 0, as in the codecs' own messages.
    """
    mastering, light = "", ""
    display, level = (side_data(frame, name) for name in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"))
    if display:
        *numbers, primaries, luminance = struct.unpack("=22i", display[:88])
        told = [primaries] * 8 + [luminance] * 2
        ratios = [Fraction(numbers[2 * n], numbers[2 * n + 1]) if told[n] else Fraction(0) for n in range(10)]
        rx, ry, gx, gy, bx, by, wx, wy = (round(ratio * 50_000) for ratio in ratios[:8])
        low, high = (round(ratio * 10_000) for ratio in ratios[8:])
        mastering = f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({high},{low})" if primaries or luminance else ""
    if level:
        light = "{},{}".format(*struct.unpack("=2I", level[:8]))
    return mastering, light


def profile_of(film: InputContainer, picture: VideoStream) -> str:
    """What names the rate of a film that has no other: ProRes' four letters (apch), DNxHD's compression id (1237); else nothing.

    Reads on in a DNxHD film, by a packet.
    """
    codec = picture.codec.canonical_name
    if codec == "prores":
        return picture.codec_context.codec_tag.strip("\0")
    if codec == "dnxhd":
        return str(int.from_bytes(bytes(next(film.demux(picture)))[DNXHD_ID]))
    return ""


def add_picture(joined: OutputContainer, encoded: VideoStream, film: VideoStream, source: Source) -> VideoStream:
    """A track for the packets of a segment. What its codec leaves to the track (colour tags, where chroma lies, HDR10) is the film's.

    Where chroma lies, and HDR10, only if the film is of that codec itself: PyAV can copy both but not set them.
    """
    codec = encoded.codec.canonical_name
    if codec not in TOLD_BY_TRACK:
        return joined.add_stream_from_template(encoded, opaque=True)
    stream = joined.add_stream_from_template(film if film.codec.canonical_name == codec else encoded, opaque=True)
    own, told = stream.codec_context, film.codec_context
    own.extradata = encoded.codec_context.extradata
    if codec in NAMED_BY_TAG:
        own.codec_tag = encoded.codec_context.codec_tag
    own.sample_aspect_ratio = source.sar
    own.colorspace, own.color_range = told.colorspace, told.color_range
    own.color_primaries, own.color_trc = told.color_primaries, told.color_trc
    return stream


def clock(seconds: Fraction) -> str:
    """Seconds as a person reads them in a player: 0:01:02.345."""
    sign, ms = "-" if seconds < 0 else "", round(abs(seconds) * 1000)
    return f"{sign}{ms // 3_600_000}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def sync_file(path: Path) -> None:
    """Make the file's bytes survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _frames_from(video: Path, source: Source, start: int, back_s: int | None) -> Iterator[av.VideoFrame]:
    """Frames from the first one at or after `start` on, decoding from a keyframe at least `back_s` seconds before it."""
    with open_film(video) as film:
        stream = cast(VideoStream, film.streams[source.video_stream])
        if stream.time_base != source.time_base:
            return  # another film; its ticks are no timestamps of ours
        ticks = source.pts - _delay(stream) if _has_ticks(film) else None
        if back_s is not None:
            stored = (source.pts if ticks is None else ticks)[start]
            try:
                film.seek(int(stored) - int(back_s / source.time_base), stream=stream)
            except av.FFmpegError:
                return  # no keyframe that far back; the last attempt starts at the film's first packet
        try:
            for frame in _shown(film, stream, video, ticks, from_start=back_s is None):
                if frame.pts is not None and frame.pts >= source.pts[start]:
                    yield frame
        except InputError:
            if back_s is None:
                raise
            # Not the film is damaged but this way into it: a keyframe of a gradual refresh shows nothing until the refresh is over.


def _shown(
    film: InputContainer, stream: VideoStream, video: Path, ticks: NDArray[np.int64] | None, *, from_start: bool
) -> Iterator[av.VideoFrame]:
    """Frames in presentation order with their timestamps in `pts`; after a seek, only those that the keyframe found leads to."""
    decoded = _decoded(film, stream, video, from_start=from_start)
    return decoded if ticks is None else _shown_on_ticks(decoded, stream, ticks, from_start=from_start)


def _decoded(film: InputContainer, stream: VideoStream, video: Path, *, from_start: bool) -> Iterator[av.VideoFrame]:
    """Decoder's output, every packet accounted for. A frame's `opaque` is (dts of the packet that carried it,)."""
    stream.thread_type = "AUTO"  # frame threads; the frames are the same as with one
    stream.codec_context.copy_opaque = True
    waiting: set[int] = set()  # pts of packets whose frame has not come yet
    first: int | None = None  # pts of the first keyframe; what shows before it may lack its references
    packets = dropwhile(lambda packet: packet.size and not packet.is_keyframe, _packets(film, stream, video))
    try:
        for packet in packets:
            if packet.size and packet.pts is not None:
                first = packet.pts if first is None else first
                waiting |= set() if packet.is_discard else {packet.pts}
            packet.opaque = (packet.dts,)  # a new object each time: PyAV 18 keeps them by id, and equal small ints are one object
            for frame in _decode(stream, packet, video, waiting):
                waiting.discard(cast(int, frame.pts))
                frame.time_base = stream.time_base
                whole = first is None or frame.pts is None or frame.pts >= first
                if whole and frame.is_corrupt:
                    raise _damaged(video, stream, frame.pts)
                if whole or from_start:
                    yield frame
    finally:
        # Waits for the decoder's threads without the GIL. Where PyAV 18 frees the decoder it waits with it, for ever, if one of them
        # just drops a damaged packet: its `opaque` is Python's.
        stream.codec_context.flush_buffers()
    lost = [pts for pts in waiting if first is not None and pts >= first]
    if lost and stream.codec_context.name in ONE_FRAME_A_PACKET:
        raise _damaged(video, stream, min(lost))


def _packets(film: InputContainer, stream: VideoStream, video: Path) -> Iterator["av.Packet[VideoStream]"]:
    """The picture's packets. Raises InputError at the first that is incomplete or cannot be read."""
    last: int | None = None
    try:
        for packet in film.demux(stream):
            last = packet.dts if packet.pts is None else packet.pts
            if packet.is_corrupt:
                raise _damaged(video, stream, last)
            yield packet
    except av.FFmpegError as error:
        raise _damaged(video, stream, last) from error


def _decode(stream: VideoStream, packet: "av.Packet[VideoStream]", video: Path, waiting: set[int]) -> list[av.VideoFrame]:
    try:
        return stream.codec_context.decode(packet if packet.size else None)
    except av.FFmpegError as error:
        # Threads report an error some packets late; what is still waiting after a drain is what could not be decoded.
        with suppress(av.FFmpegError):
            waiting -= {frame.pts for frame in stream.codec_context.decode(None) if frame.pts is not None}
        raise _damaged(video, stream, min(waiting, default=packet.dts)) from error


def _damaged(video: Path, stream: VideoStream, pts: int | None) -> InputError:
    at = "an unknown time" if pts is None else clock(pts * cast(Fraction, stream.time_base))
    return InputError(f"{video}: the picture is damaged or cut off at {at}", _cure_recode(video))


def _cure_recode(video: Path) -> str:
    return f"get a whole copy, or keep what can be decoded: ffmpeg -i {video.name} -c:a copy -crf 8 NEW.mp4"


def _has_ticks(film: InputContainer) -> bool:
    """AVI has no presentation timestamps: one frame a tick, in decoding order; what libav makes up for them runs backwards."""
    return film.format.name == "avi"


def _ticks(video: Path) -> NDArray[np.int64]:
    """The ticks of an AVI's frames, ascending. Raises InputError where its header promises more than follows."""
    with open_film(video) as film:
        stream = picture_of(film, video)
        ticks = sorted(packet.dts for packet in _packets(film, stream, video) if packet.size and packet.dts is not None)
        if not ticks or (ticks[-1] + 1 + 1 / cast(Fraction, stream.time_base) < stream.frames):  # a second may be empty chunks
            raise _damaged(video, stream, ticks[-1] + 1 if ticks else 0)
    return np.array(ticks, np.int64)


def _delay(stream: VideoStream) -> int:
    """Ticks between a frame's place in an AVI and its showing: the decoder's reordering."""
    return stream.codec_context.reorder_depth


def _shown_on_ticks(
    frames: Iterator[av.VideoFrame], stream: VideoStream, ticks: NDArray[np.int64], *, from_start: bool
) -> Iterator[av.VideoFrame]:
    """Give frames without timestamps the tick of their rank in the film.

    At a keyframe the rank is known: all frames stored before it, plus those stored after it that were shown before it. The first
    keyframe after a seek is not believed, as the frames shown before it may be missing.
    """
    stored: list[int] = []
    rank = 0 if from_start else -1
    for frame in frames:
        own = cast(tuple[int], frame.opaque)[0]
        if rank < 0 and frame.key_frame and stored:
            rank = int(np.searchsorted(ticks, own)) + sum(other > own for other in stored)
        stored.append(own)
        if rank >= 0:
            frame.pts = int(ticks[rank]) + _delay(stream) if rank < len(ticks) else None
            rank += 1
            yield frame

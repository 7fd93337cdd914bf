"""Untouched stretches of a film, packet for packet, between re-encoded ones, in one track. In: a film, its Source, Segments. Out: where
the film can be cut; the joined picture. Decodes nothing, encodes nothing.

    film ------ packets as they are -----------------------------------------------------------|-- picture: one track, one header,
    Segments -- Annex B -> length-prefixed, parameter sets under numbers that the film lacks --|   the film's timestamps

A copied stretch begins at a keyframe after which nothing is stored that is shown before it, and ends wherever the frames stored so far
are the first ones shown. H.264: ITU-T H.264 (08/2021); HEVC: ITU-T H.265 (08/2021); avcC and hvcC: ISO/IEC 14496-15.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from musetalk_cli.errors import InputError, InternalError, MusetalkError
from musetalk_cli.media.ffmpeg import media_url
from musetalk_cli.media.video import open_film, picture_of
from musetalk_cli.types import Segment, Source

NAMES = {"h264": "H.264", "hevc": "HEVC", "vp9": "VP9", "prores": "ProRes", "dnxhd": "DNxHR", "mjpeg": "Motion JPEG"}
TAGGED = ("prores", "dnxhd")  # the track names the profile of all its frames
NAL_LENGTH = 4  # bytes before each NAL unit; the other sizes, 1 and 2, do not hold a large picture
SORTS = 2  # of segments in one track: with B-frames, and without
SLICE_HEAD = 16  # bytes that hold a slice header up to the number of its picture parameter set
# Numbers of picture parameter sets whose ue(v) has 9 bits where 0 has 1: a slice that names one grows by exactly a byte, and all that
# follows keeps its place in the byte.
LONG = range(15, 31)
END_OF_SEQUENCE = bytes([0, 0, 0, 2, 36 << 1, 1])  # HEVC's NAL unit, length-prefixed: the next CRA begins anew


class NoSplice(NamedTuple):
    """Why nothing of a film can be copied, for people: "its H.264 has no parameter sets in its header"."""

    why: str


class Copied(NamedTuple):
    """Frames [start, stop), the film's own packets."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Splice:
    """Where a film can be cut without decoding it. Frame numbers are indices of source.pts, ascending.

    starts: (S,) int64, frames with which a copied stretch may begin. stops: (E,) int64, before which it may end. abrupt: (A,)
    int64, those of starts whose keyframe makes a decoder throw away what it has not yet shown (HEVC's CRA). Segments are of this
    codec and profile, in the film's size and pixel format, and reorder no more than reordering_before allows.
    """

    codec: str  # ffmpeg's name
    profile: str  # of ProRes and DNxHR, ffmpeg's name; "" where it need not be the film's
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    abrupt: NDArray[np.int64]
    delay: int  # frames by which a frame is stored later than it would be in showing order, at most
    reordering: int  # frames that the header tells a decoder to hold back

    def copied(self, start: int, stop: int) -> Copied | None:
        """The longest stretch within frames [start, stop) that can be copied."""
        first = self.starts[np.searchsorted(self.starts, start) :][:1]
        last = self.stops[: np.searchsorted(self.stops, stop, side="right")][-1:]
        return Copied(int(first[0]), int(last[0])) if len(first) and len(last) and first[0] < last[0] else None

    def reordering_before(self, stop: int) -> int:
        """Frames that a segment up to frame `stop` may hold back: 0 means no B-frames, 1 none that others refer to.

        Never more than the film: where a container stores no dts (Matroska), libav makes them up as the first frames need them, and
        ffmpeg's "-c copy" would then move the timestamps of later frames that are held back longer.
        """
        return 0 if stop in self.abrupt else self.reordering


class Start(IntEnum):
    """What a packet means to a decoder that showed something else before."""

    NONE = 0  # it needs what is stored before it
    CLEAN = 1  # all that waits is shown, then it begins anew
    ABRUPT = 2  # what waits is thrown away


def copyable_points(video: Path, source: Source, container: str) -> Splice | NoSplice:
    """Read the picture's packets once. container: of the joined film, libav's name.

    Raises InputError where the film cannot be read.
    """
    with open_film(video) as film:
        stream = cast(VideoStream, film.streams[source.video_stream])
        codec = stream.codec.canonical_name
        if "avi" in (film.format.name, container):
            return NoSplice("AVI has no timestamps to cut at")
        if codec == "av1":
            return NoSplice("AV1 has one sequence header for a whole track, and another encoder's differs")
        if codec not in NAMES:
            return NoSplice(f"{codec} is never copied in part, only {', '.join(NAMES.values())}")
        with av.open("never-written", "w", format=container) as probe:  # a file is made with the first packet
            if stream.codec.name not in probe.supported_codecs:
                return NoSplice(f"{container} does not hold {NAMES[codec]}")
        try:
            return _points(_scan(film, stream, video, source), stream, source)
        except _CannotSplice as reason:
            return NoSplice(str(reason))


def join(
    path: Path,
    container: str,
    pieces: Sequence[Copied | Segment],
    video: Path,
    source: Source,
    splice: Splice,
    options: Mapping[str, str],
) -> None:
    """Write the picture alone: the pieces in order, covering all frames; frame n has exactly the timestamp source.pts[n].

    Copied packets are the film's, byte for byte. container, options: the muxer's, by libav's names. dts is the sorted pts, late by
    the longest reordering of all, so that it ascends over all pieces and never passes pts. Raises InternalError where the pieces do
    not fit the film or were not encoded alike, InputError where the film changed.
    """
    _check_pieces(pieces, source, splice)
    with av.open(media_url(path), "w", format=container, options=dict(options)) as joined, open_film(video) as film:
        given = cast(VideoStream, film.streams[source.video_stream])
        if given.time_base != source.time_base:
            raise _changed(0, source.frames)
        guests = _guests(pieces, source, splice, _sets_of(given))
        stream = _add_track(joined, given, source, container, guests)
        delay = max([splice.delay, *(guest.delay for guest in guests)])
        durations = _durations(source)
        for stored, (number, packet) in enumerate(_in_order(pieces, _shown(film, given, video, source), source, splice, guests)):
            if number < stored - delay:
                raise InternalError(f"{path.name}: frame {number} is stored too late to show")
            packet.pts, packet.time_base = int(source.pts[number]), source.time_base
            packet.dts = _dts(source, durations, stored - delay)
            packet.duration = int(durations[number])
            packet.stream = stream
            joined.mux(packet)


class _CannotSplice(InputError):
    """Carries NoSplice.why out of the depth; when joining, the film is no longer what it was."""


class _Read(NamedTuple):
    """What the film's packets say, in storing order."""

    frames: NDArray[np.int64]  # (F,) number of the frame that a packet shows
    starts: NDArray[np.uint8]  # (F,) Start
    hidden: NDArray[np.int64]  # (F,) packets before it that show nothing: outside an edit list, or lacking what they refer to


def _scan(film: InputContainer, stream: VideoStream, video: Path, source: Source) -> _Read:
    frames, starts, hidden, lost = [], bytearray(), [], 0
    sets, codec = _sets_of(stream), stream.codec.canonical_name
    family = FAMILIES.get(codec)
    for packet in _packets(film, stream, video):
        if packet.has_sidedata("new_extradata"):
            raise _CannotSplice(f"its {NAMES[codec]} changes its header on the way")
        start = _plain_start(packet, codec) if family is None else _nal_start(packet, family, sets)
        number = _number(packet, source)
        if number is None:
            lost += 1
            continue
        frames.append(number)
        starts.append(start if packet.is_keyframe else Start.NONE)
        hidden.append(lost)
    if sorted(frames) != list(range(source.frames)):
        raise _CannotSplice(f"{len(set(frames))} of its {source.frames} frames can be told from its packets")
    return _Read(np.array(frames, np.int64), np.frombuffer(bytes(starts), np.uint8), np.array(hidden, np.int64))


def _points(read: _Read, stream: VideoStream, source: Source) -> Splice:
    """Cuts inside the longest run without a hidden packet: it would show if copied, and others need it."""
    count = np.arange(source.frames)
    run = read.hidden == np.bincount(read.hidden).argmax()
    whole = np.maximum.accumulate(read.frames) == count  # with this packet, exactly the first frames are stored
    begins = np.concatenate([[True], whole[:-1]]) & (read.frames == count) & (read.starts != Start.NONE) & run
    if not begins.any():
        raise _CannotSplice(f"no keyframe of its {NAMES[stream.codec.canonical_name]} begins anew")
    return Splice(
        codec=stream.codec.canonical_name,
        profile=_profile(stream),
        starts=np.flatnonzero(begins),
        stops=np.flatnonzero(whole & run) + 1,
        abrupt=np.flatnonzero(begins & (read.starts == Start.ABRUPT)),
        delay=int(np.max(count - read.frames)),
        reordering=stream.codec_context.reorder_depth,
    )


def _profile(stream: VideoStream) -> str:
    if stream.profile == "DNXHD":
        raise _CannotSplice("its DNxHD, unlike DNxHR, binds every frame to one bit rate")
    return stream.profile or "" if stream.codec.canonical_name in TAGGED else ""


def _plain_start(packet: "av.Packet[VideoStream]", codec: str) -> Start:
    """Of codecs whose frames carry all their parameters."""
    if codec != "vp9":
        return Start.CLEAN
    bits = _Bits(bytes(memoryview(packet)[:2]))  # uncompressed_header: VP9 bitstream specification, 6.2
    bits.u(2)
    if bits.u(2) == 3:
        bits.u(1)
    shown_again, inter = bits.u(1), bits.u(1)
    return Start.NONE if shown_again or inter else Start.CLEAN


def _nal_start(packet: "av.Packet[VideoStream]", family: "_Family", sets: Sequence[bytes]) -> Start:
    start = Start.NONE
    for nal in _length_prefixed(memoryview(packet)):
        if family.kind(nal) in family.numbers and bytes(nal) not in sets:
            raise _CannotSplice(f"its {family.name} changes its parameter sets on the way")
        if foreign := family.foreign(nal):
            raise _CannotSplice(f"its {family.name} has {foreign}, which a segment would lack")
        start = start or family.start(nal)
    return start


def _length_prefixed(packet: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + NAL_LENGTH])
        at += NAL_LENGTH + size
        if not size or at > len(packet):
            raise _CannotSplice("its packets are not what its header says")
        yield packet[at - size : at]


def _packets(film: InputContainer, stream: VideoStream, video: Path) -> Iterator["av.Packet[VideoStream]"]:
    try:
        yield from (packet for packet in film.demux(stream) if packet.size)
    except av.FFmpegError as error:
        raise InputError(f"{video}: cannot be read ({error.strerror})", "put the file back as it was") from error


def _number(packet: "av.Packet[VideoStream]", source: Source) -> int | None:
    """The frame that a packet of the film shows; None for one that shows nothing."""
    return None if packet.is_discard or packet.pts is None else _frame_at(source, packet.pts)


def _frame_at(source: Source, ticks: int) -> int | None:
    number = int(np.searchsorted(source.pts, ticks))
    return number if number < source.frames and source.pts[number] == ticks else None


def _sets_of(stream: VideoStream) -> tuple[bytes, ...]:
    """Parameter sets in the film's header; of codecs that have none, none."""
    family = FAMILIES.get(stream.codec.canonical_name)
    if family is None:
        return ()
    header = stream.codec_context.extradata or b""
    if len(header) < family.header_size or header[0] != 1:
        raise _CannotSplice(f"its {family.name} has no parameter sets in its header")
    if (header[family.length_at] & 3) + 1 != NAL_LENGTH:
        raise _CannotSplice(f"its {family.name} leaves no room for the size of a large picture")
    sets = family.read(header)
    if not family.numbers.keys() <= {family.kind(nal) for nal in sets}:
        raise _CannotSplice(f"its {family.name} has no parameter sets in its header")
    if len(_free_numbers(family, sets)) < SORTS:
        raise _CannotSplice(f"its {family.name} leaves no numbers for other parameter sets")
    return sets


def _free_numbers(family: "_Family", sets: Sequence[bytes]) -> list[Mapping[int, int]]:
    """Numbers that none of the film's parameter sets has: for each sort of segments, by kind of set."""
    used = {(family.kind(nal), family.own_number(nal)) for nal in sets if family.kind(nal) in family.numbers}
    free = ([number for number in numbers if (kind, number) not in used] for kind, numbers in family.numbers.items())
    return [dict(zip(family.numbers, chosen, strict=True)) for chosen in zip(*free, strict=False)]


def _check_pieces(pieces: Sequence[Copied | Segment], source: Source, splice: Splice) -> None:
    edges = [0, *(piece.stop for piece in pieces)]
    if edges[:-1] != [piece.start for piece in pieces] or edges[-1] != source.frames:
        raise InternalError(f"pieces {[(p.start, p.stop) for p in pieces]} do not make a film of {source.frames} frames")
    for piece in pieces:
        if isinstance(piece, Copied) and not (piece.start in splice.starts and piece.stop in splice.stops):
            raise InternalError(f"frames [{piece.start}, {piece.stop}) cannot be copied")


class _Guest(NamedTuple):
    """A sort of segments."""

    sets: tuple[bytes, ...]  # parameter sets as the encoder wrote them
    numbers: Mapping[int, int]  # theirs in the joined track, by kind of set
    delay: int  # as of a Splice


def _guests(pieces: Sequence[Copied | Segment], source: Source, splice: Splice, sets: Sequence[bytes]) -> list[_Guest]:
    """The sorts of segments: those of a sort are encoded alike, so the first one tells."""
    family = FAMILIES.get(splice.codec)
    numbers = iter(_free_numbers(family, sets) if family else [{}, {}])
    guests: list[_Guest] = []
    for sort in (False, True):
        path = next((segment.path for segment, abrupt in _segments(pieces, splice) if abrupt is sort), None)
        if path is None:
            continue
        with open_film(path) as part:
            given = picture_of(part, path)
            own = _encoder_sets(path, given, source, splice)
            if all(guest.sets != own for guest in guests):
                guests.append(_Guest(own, next(numbers), given.codec_context.reorder_depth))
    return guests


def _segments(pieces: Sequence[Copied | Segment], splice: Splice) -> Iterator[tuple[Segment, bool]]:
    """Segments, and whether an abrupt start follows."""
    for piece, after in pairwise([*pieces, None]):
        if isinstance(piece, Segment):
            yield piece, isinstance(after, Copied) and after.start in splice.abrupt


def _encoder_sets(path: Path, given: VideoStream, source: Source, splice: Splice) -> tuple[bytes, ...]:
    """Parameter sets in a segment's header, the segment seen to be what the film is; of codecs that have none, none."""
    context = given.codec_context
    found = (given.codec.canonical_name, _profile(given), (context.width, context.height), context.pix_fmt)
    due = (splice.codec, splice.profile, source.size, source.colour.pix_fmt)
    if found != due:
        raise InternalError(f"{path.name}: is {found}, the film {due}")
    family = FAMILIES.get(splice.codec)
    if family is None:
        return ()
    sets = tuple(nal for nal in _annex_b(context.extradata or b"") if family.kind(nal) in family.numbers)
    if [(family.kind(nal), family.own_number(nal)) for nal in sets] != [(kind, 0) for kind in family.numbers]:
        raise InternalError(f"{path.name}: its header is not one parameter set of each kind, number 0")
    return sets


def _add_track(
    joined: OutputContainer, given: VideoStream, source: Source, container: str, guests: Sequence[_Guest]
) -> VideoStream:
    stream = joined.add_stream_from_template(given, opaque=True)
    stream.time_base = source.time_base
    if source.sar != (stream.codec_context.sample_aspect_ratio or 1):
        stream.codec_context.sample_aspect_ratio = source.sar  # else only what the codec's own header says
    codec = given.codec.canonical_name
    family = FAMILIES.get(codec)
    if family is not None:
        added = [_renumbered(nal, family, guest.numbers) for guest in guests for nal in guest.sets]
        stream.codec_context.extradata = family.merged(given.codec_context.extradata or b"", added)
    if codec == "hevc" and container in ("mp4", "mov"):
        stream.codec_context.codec_tag = "hvc1"  # Apple's players know no other
    if codec in TAGGED:
        stream.codec_context.codec_tag = given.codec_context.codec_tag
    return stream


def _shown(
    film: InputContainer, stream: VideoStream, video: Path, source: Source
) -> Iterator[tuple[int, "av.Packet[VideoStream]"]]:
    """The film's packets that show a frame, with its number, in storing order."""
    for packet in _packets(film, stream, video):
        number = _number(packet, source)
        if number is not None:
            yield number, packet


def _in_order(
    pieces: Sequence[Copied | Segment],
    shown: Iterator[tuple[int, "av.Packet[VideoStream]"]],
    source: Source,
    splice: Splice,
    guests: Sequence[_Guest],
) -> Iterator[tuple[int, "av.Packet[VideoStream]"]]:
    """All pieces' packets in storing order, each with the number of its frame; every piece is whole."""
    ends = dict(_segments(pieces, splice))
    read = 0
    for piece in pieces:
        if isinstance(piece, Copied):
            yield from _whole(piece, islice(shown, piece.start - read, piece.stop - read), _changed(*piece))
            read = piece.stop
        else:
            encoded = _encoded(piece, source, splice, guests, abrupt=ends[piece])
            yield from _whole(
                piece, encoded, InternalError(f"{piece.path.name}: does not hold frames [{piece.start}, {piece.stop})")
            )


def _changed(start: int, stop: int) -> InputError:
    return InputError(
        f"frames [{start}, {stop}) of the film are not what they were when it was analysed",
        "the file changed or is damaged; put it back, or start again with --fresh",
    )


def _whole(
    piece: Copied | Segment, packets: Iterable[tuple[int, "av.Packet[VideoStream]"]], error: MusetalkError
) -> Iterator[tuple[int, "av.Packet[VideoStream]"]]:
    """The packets, seen to be one for each of the piece's frames."""
    missing = set(range(piece.start, piece.stop))
    for number, packet in packets:
        if number not in missing:
            raise error
        missing.remove(number)
        yield number, packet
    if missing:
        raise error


def _encoded(
    segment: Segment, source: Source, splice: Splice, guests: Sequence[_Guest], *, abrupt: bool
) -> Iterator[tuple[int, "av.Packet[VideoStream]"]]:
    """A segment's packets as they go into the track, with the numbers of their frames. abrupt: such a start follows."""
    with open_film(segment.path) as part:
        given = picture_of(part, segment.path)
        guest = _guest_of(segment.path, given, source, splice, guests)
        allowed = 0 if abrupt else splice.reordering
        if guest.delay > allowed:
            raise InternalError(f"{segment.path.name}: reorders {guest.delay} frames, where {allowed} are allowed")
        family, tick = FAMILIES.get(splice.codec), cast(Fraction, given.time_base)
        moved: Fraction | None = None
        for stored, packet in enumerate(_packets(part, given, segment.path), start=segment.start + 1):
            seconds = cast(int, packet.pts) * tick
            if moved is None:  # the first stored is the first shown
                moved = seconds - int(source.pts[segment.start]) * source.time_base
            ticks = (seconds - moved) / source.time_base
            number = _frame_at(source, int(ticks)) if ticks.denominator == 1 else None
            if number is None:
                raise InternalError(f"{segment.path.name}: no frame of the film is at {seconds - moved} s")
            if family is not None:
                end = END_OF_SEQUENCE if abrupt and stored == segment.stop else b""
                packet = _guest_packet(packet, family, guest, end)
            yield number, packet


def _guest_of(path: Path, given: VideoStream, source: Source, splice: Splice, guests: Sequence[_Guest]) -> _Guest:
    sets = _encoder_sets(path, given, source, splice)
    for guest in guests:
        if guest.sets == sets:
            return guest
    raise InternalError(f"{path.name}: was encoded with other settings")


def _durations(source: Source) -> NDArray[np.int64]:
    """(F,) ticks until the next frame; of the last one what the film says, or as long as the one before it."""
    gaps = np.diff(source.pts)
    last = int(source.durations[-1])
    return np.append(gaps, last if last > 0 else gaps[-1] if len(gaps) else 1)


def _dts(source: Source, durations: NDArray[np.int64], number: int) -> int:
    """Timestamp of frame `number`, going on evenly before the film's first."""
    return int(source.pts[number]) if number >= 0 else int(source.pts[0]) + number * int(durations[0])


def _guest_packet(packet: "av.Packet[VideoStream]", family: "_Family", guest: _Guest, end: bytes) -> "av.Packet[VideoStream]":
    data = bytearray()
    for nal in _annex_b(bytes(packet)):
        if family.kind(nal) not in family.numbers:
            kept = _renumbered(nal, family, guest.numbers)
            data += len(kept).to_bytes(NAL_LENGTH) + kept if kept else b""
        elif nal not in guest.sets:
            raise InternalError("a segment changes its parameter sets on the way")
    made = cast("av.Packet[VideoStream]", av.Packet(bytes(data + end)))
    made.is_keyframe = packet.is_keyframe
    return made


def _annex_b(data: bytes) -> list[bytes]:
    """NAL units between start codes; a unit never ends in a zero byte."""
    return [unit.rstrip(b"\0") for unit in data.split(b"\0\0\1")[1:]]


def _unescaped(nal: bytes) -> bytes:
    """Without emulation prevention: the header and the RBSP."""
    return nal.replace(b"\0\0\3", b"\0\0")


def _escaped(rbsp: bytes) -> bytes:
    return re.sub(rb"\x00\x00(?=[\x00-\x03]|\Z)", b"\0\0\3", rbsp)


def _renumbered(nal: bytes, family: "_Family", numbers: Mapping[int, int]) -> bytes:
    """The NAL unit, its parameter sets called by other numbers; empty where nothing of it may stay."""
    kind, rbsp = family.kind(nal), _unescaped(nal)
    if kind == family.messages:
        return _escaped(_without_messages(rbsp, family))
    fields = family.fields(rbsp)
    if not fields:
        return nal
    if kind in family.numbers:
        bits = _replaced(_Bits(rbsp).text.rstrip("0")[:-1], fields, numbers) + "1"  # the last one stops the set
        return _escaped(_bytes_of(bits + "0" * (-len(bits) % 8)))
    return _escaped(_bytes_of(_replaced(_Bits(rbsp[:SLICE_HEAD]).text, fields, numbers)) + rbsp[SLICE_HEAD:])


def _without_messages(rbsp: bytes, family: "_Family") -> bytes:
    """An SEI NAL unit without the messages that name parameter sets; empty where none is left."""
    at = family.nal_header
    kept = bytearray(rbsp[:at])
    while at < len(rbsp) - 1:  # the last byte stops it
        first = at
        kind, at = _message_number(rbsp, at)
        size, at = _message_number(rbsp, at)
        at += size
        if kind not in family.naming:
            kept += rbsp[first:at]
    return bytes(kept) + rbsp[-1:] if len(kept) > family.nal_header else b""


def _message_number(rbsp: bytes, at: int) -> tuple[int, int]:
    """(a message's type or size, where it ends)"""
    number = 0
    while rbsp[at] == 255:
        number, at = number + 255, at + 1
    return number + rbsp[at], at + 1


class _Field(NamedTuple):
    """Where a NAL unit holds the number of a parameter set."""

    names: int  # kind of set
    start: int  # bits of header and RBSP
    stop: int
    width: int  # bits; 0: ue(v)
    value: int


class _Bits:
    """A reader of bits, which text holds as 0 and 1."""

    def __init__(self, data: bytes) -> None:
        self.text = f"{int.from_bytes(data):0{8 * len(data)}b}"
        self.at = 0

    def u(self, width: int) -> int:
        self.at += width
        return int(self.text[self.at - width : self.at], 2)

    def ue(self) -> int:
        zeros = self.text.index("1", self.at) - self.at
        self.at += zeros
        return self.u(zeros + 1) - 1

    def field(self, names: int, width: int = 0) -> _Field:
        start = self.at
        value = self.u(width) if width else self.ue()
        return _Field(names, start, self.at, width, value)


def _replaced(text: str, fields: Sequence[_Field], numbers: Mapping[int, int]) -> str:
    for field in reversed(fields):
        code = f"{numbers[field.names]:0{field.width}b}" if field.width else _ue(numbers[field.names])
        text = text[: field.start] + code + text[field.stop :]
    return text


def _ue(number: int) -> str:
    code = f"{number + 1:b}"
    return "0" * (len(code) - 1) + code


def _bytes_of(text: str) -> bytes:
    return int(text, 2).to_bytes(len(text) // 8)


def _counted(header: bytes, at: int, count: int) -> tuple[tuple[bytes, ...], int]:
    """(NAL units, each after 16 bits of its length; where they end)"""
    nals = []
    for _ in range(count):
        size = int.from_bytes(header[at : at + 2])
        nals.append(header[at + 2 : at + 2 + size])
        at += 2 + size
    return tuple(nals), at


def _counting(nals: Iterable[bytes]) -> bytes:
    return b"".join(len(nal).to_bytes(2) + nal for nal in nals)


class _H264:
    """Names of NAL units: table 7-1."""

    name = "H.264"
    numbers: Mapping[int, range] = {7: range(32), 8: LONG}  # sequence and picture parameter sets
    nal_header = 1  # bytes
    messages, naming = 6, frozenset({0})  # buffering period
    header_size, length_at = 7, 4  # of avcC

    def kind(self, nal: bytes | memoryview) -> int:
        return nal[0] & 31

    def start(self, nal: bytes | memoryview) -> Start:
        return Start.CLEAN if self.kind(nal) == 5 else Start.NONE

    def foreign(self, nal: bytes | memoryview) -> str:
        return "further layers or views" if self.kind(nal) in (14, 15, 20, 21) else ""

    def fields(self, rbsp: bytes) -> tuple[_Field, ...]:
        """Numbers of parameter sets in a set or slice, its own first."""
        kind = self.kind(rbsp)
        bits = _Bits(rbsp if kind in self.numbers else rbsp[:SLICE_HEAD])
        bits.at = 8
        if kind == 7:
            bits.u(24)  # profile, constraints, level
            return (bits.field(7),)
        if kind == 8:
            return (bits.field(8), bits.field(7))
        if kind in (1, 5):
            bits.ue()  # first_mb_in_slice
            bits.ue()  # slice_type
            return (bits.field(8),)
        return ()

    def own_number(self, nal: bytes) -> int:
        return self.fields(_unescaped(nal))[0].value

    def read(self, avcc: bytes) -> tuple[bytes, ...]:
        sequence, at = _counted(avcc, 6, avcc[5] & 31)
        return sequence + _counted(avcc, at + 1, avcc[at])[0]

    def merged(self, avcc: bytes, added: Sequence[bytes]) -> bytes:
        """avcC of both, in the highest profile and level, with the promises that all sets make."""
        film, at = _counted(avcc, 6, avcc[5] & 31)
        sequence = [*film, *(nal for nal in added if self.kind(nal) == 7)]
        film, end = _counted(avcc, at + 1, avcc[at])
        picture = [*film, *(nal for nal in added if self.kind(nal) == 8)]
        profile, promises, level = avcc[1:4]
        for nal in added:
            if self.kind(nal) == 7:
                profile, promises, level = max(profile, nal[1]), promises & nal[2], max(level, nal[3])
        tail = avcc[end:] or next((self._samples(nal) for nal in added if profile == nal[1] not in (66, 77, 88)), b"")
        counts = bytes([0xE0 | len(sequence)]), bytes([len(picture)])
        return (
            bytes([1, profile, promises, level, avcc[4]])
            + counts[0]
            + _counting(sequence)
            + counts[1]
            + _counting(picture)
            + tail
        )

    def _samples(self, sequence: bytes) -> bytes:
        """avcC's last bytes: chroma format and bit depths, no extensions."""
        rbsp = _unescaped(sequence)
        bits = _Bits(rbsp)
        bits.at = self.fields(rbsp)[0].stop
        chroma = bits.ue()
        if chroma == 3:
            bits.u(1)
        return bytes([0xFC | chroma, 0xF8 | bits.ue(), 0xF8 | bits.ue(), 0])


class _Hevc:
    """Names of NAL units: table 7-1."""

    name = "HEVC"
    numbers: Mapping[int, range] = {32: range(16), 33: range(16), 34: LONG}  # video, sequence and picture parameter sets
    nal_header = 2  # bytes
    messages, naming = 39, frozenset({0, 129})  # buffering period, active parameter sets
    header_size, length_at = 23, 21  # of hvcC

    def kind(self, nal: bytes | memoryview) -> int:
        return nal[0] >> 1 & 63

    def start(self, nal: bytes | memoryview) -> Start:
        """C.5.2.2: before a CRA that begins anew, and wherever no_output_of_prior_pics_flag says so, waiting pictures are lost."""
        kind = self.kind(nal)
        if kind == 21 or (16 <= kind <= 20 and nal[2] & 0x40):
            return Start.ABRUPT
        return Start.CLEAN if 16 <= kind <= 20 else Start.NONE

    def foreign(self, nal: bytes | memoryview) -> str:
        if self.kind(nal) in (62, 63):
            return "Dolby Vision"
        return "further layers or views" if nal[0] & 1 or nal[1] >> 3 else ""

    def fields(self, rbsp: bytes) -> tuple[_Field, ...]:
        """Numbers of parameter sets in a set or slice."""
        kind = self.kind(rbsp)
        bits = _Bits(rbsp if kind in self.numbers else rbsp[:SLICE_HEAD])
        bits.at = 16
        if kind == 32:
            return (bits.field(32, 4),)
        if kind == 33:
            return (bits.field(32, 4), self._after_levels(bits).field(33))
        if kind == 34:
            return (bits.field(34), bits.field(33))
        if kind < 32:
            bits.u(2 if 16 <= kind <= 23 else 1)  # first_slice_segment_in_pic_flag, no_output_of_prior_pics_flag
            return (bits.field(34),)
        return ()

    def _after_levels(self, bits: _Bits) -> _Bits:
        """Past sps_max_sub_layers_minus1, sps_temporal_id_nesting_flag and profile_tier_level (7.3.3)."""
        further = bits.u(3)
        bits.u(1 + 88 + 8)
        if further:
            present = [(bits.u(1), bits.u(1)) for _ in range(further)]
            bits.u(2 * (8 - further))
            for profile, level in present:
                bits.at += 88 * profile + 8 * level
        return bits

    def own_number(self, nal: bytes) -> int:
        return next(field.value for field in self.fields(_unescaped(nal)) if field.names == self.kind(nal))

    def read(self, hvcc: bytes) -> tuple[bytes, ...]:
        return tuple(nal for _, nals in self._arrays(hvcc) for nal in nals)

    def merged(self, hvcc: bytes, added: Sequence[bytes]) -> bytes:
        """hvcC of both, in the highest profile, tier and level, with the promises that all sets make."""
        head = bytearray(hvcc[:23])
        for nal in added:
            if self.kind(nal) == 33:
                levels = _unescaped(nal)[2:15]  # what the sequence parameter set says where hvcC does
                head[1] = max(head[1], levels[1])
                head[2:12] = bytes(own & other for own, other in zip(head[2:12], levels[2:12], strict=True))
                head[12] = max(head[12], levels[12])
                head[13:16] = bytes([0xF0, 0, 0xFC])  # nothing known of segments that decode in parallel
                head[21] &= 0xFB | (levels[0] & 1) << 2  # temporal nesting
        arrays = b""
        for first, nals in self._arrays(hvcc):
            nals += tuple(nal for nal in added if self.kind(nal) == first & 63)
            arrays += bytes([first]) + len(nals).to_bytes(2) + _counting(nals)
        return bytes(head) + arrays

    def _arrays(self, hvcc: bytes) -> Iterator[tuple[int, tuple[bytes, ...]]]:
        """(completeness and kind, NAL units)"""
        at = 23
        for _ in range(hvcc[22]):
            first = hvcc[at]
            nals, at = _counted(hvcc, at + 3, int.from_bytes(hvcc[at + 1 : at + 3]))
            yield first, nals


_Family = _H264 | _Hevc
FAMILIES: Mapping[str, _Family] = {"h264": _H264(), "hevc": _Hevc()}  # codecs whose parameters stand outside the frames

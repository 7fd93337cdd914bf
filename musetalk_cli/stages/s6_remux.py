"""The finished film. In: the film, the new voice, Segments. Out: Film: the new picture and voice with all else that the film carries.

    Segments -- packets joined, the film's own timestamps -- picture --.
    voice ------------------------------------ copied or encoded once --|-- film.mp4 -- checked against Source
    film ------ sound, subtitles, chapters, attachments, tags, copied --'

Knows nothing of faces or models. Nothing is dropped in silence: what the container cannot hold is refused, with the cure.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache, reduce
from math import gcd, lcm
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import av
import ffmpeg
import numpy as np
from av.container import InputContainer, OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from musetalk_cli.config import RemuxConfig, Runtime
from musetalk_cli.errors import InputError, InternalError
from musetalk_cli.languages import three_letters
from musetalk_cli.media.audio import voice_of
from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg
from musetalk_cli.media.splice import Copied, NoSplice, copyable_points, join
from musetalk_cli.media.video import add_picture, earliest_start, open_film, packet_times, picture_of, sync_file
from musetalk_cli.provenance.identity import Identity
from musetalk_cli.provenance.sign import hashes, sign
from musetalk_cli.provenance.statement import UNSIGNED, Statement
from musetalk_cli.types import Film, Segment, Source, Stretch
from musetalk_cli.work import stage


class Container(NamedTuple):
    """What a kind of file holds."""

    name: str  # libav's
    tick: Fraction | None  # seconds of which its timestamps are multiples; None: any
    voices: frozenset[str]  # codecs of a voice that is copied as it is
    encoder: str  # for other voices
    encoder_options: tuple[tuple[str, str], ...] = ()


MS = Fraction(1, 1000)
LOSSY = frozenset({"aac", "mp3", "ac3", "eac3"})
# Not MP3 in AVI: with no timestamps its encoder's delay would be heard, 25 ms.
PCM = frozenset({"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"})
AAC_256K = (("b", "256k"),)
CONTAINERS = {
    ".mp4": Container("mp4", None, LOSSY | {"alac", "flac", "opus"}, "aac", AAC_256K),
    ".m4v": Container("mp4", None, LOSSY | {"alac", "flac", "opus"}, "aac", AAC_256K),
    ".mov": Container("mov", None, LOSSY | PCM | {"alac"}, "pcm_s24le"),
    ".mkv": Container("matroska", MS, LOSSY | PCM | {"alac", "flac", "opus", "vorbis", "dts", "truehd"}, "flac"),
    ".webm": Container("webm", MS, frozenset({"opus", "vorbis"}), "libopus", (("b", "192k"),)),
    ".avi": Container("avi", None, PCM, "pcm_s24le"),
}
AVI_TICKS_A_FRAME = 4  # on average; AVI stores an empty chunk for each tick without a frame
MAX_TIMESCALE = 2**31 - 1  # of an MP4's tracks and of the whole
# Written by mkvmerge and ffmpeg about the old packets, or by the muxer anew.
STALE_TAGS = (
    "ENCODER",
    "DURATION",
    "BPS",
    "NUMBER_OF_",
    "_STATISTICS_",
    "SOURCE_ID",
    "MAJOR_BRAND",
    "MINOR_VERSION",
    "COMPATIBLE_BRANDS",
)
REMADE = ("text", "tmcd")  # data tracks of an MP4 that the muxer writes itself, from chapters and the timecode tag


class Copies(NamedTuple):
    """Stretches of the film whose packets are kept, ascending."""

    of: tuple[Stretch, ...] = ()


@stage(version=3)
def remux(
    video: Path,
    audio: Path,
    source: Source,
    segments: Sequence[Segment],
    copies: Copies,
    told: Statement = UNSIGNED,
    signer: Sequence[Path] = (),
    voices: Sequence[Path] = (),
    *,
    config: RemuxConfig,
    runtime: Runtime,
    out: Path,
) -> Film:
    """Join segments and the film's own packets without encoding again, and add the voice as the first sound; everything else is
    the film's, copied.

    told, signer, voices: what the film's manifest says, chain and key of who signs it, every voice that was given; none: it is not signed.
    The voice's first sample is at the film's start. The same inputs give the same bytes. Raises InputError where the container
    (`config.suffix`) cannot hold a stream or the timestamps, InternalError where the finished file is not what was asked.
    """
    check_deliverable(video, source, config)
    path = out / f"film{config.suffix}"
    with TemporaryDirectory(dir=out) as folder:
        picture = Path(folder) / f"picture{config.suffix}"
        if copies.of:
            _join_with_copies(segments, copies, video, source, picture, CONTAINERS[config.suffix].name)
        else:
            join_segments(segments, video, source, picture)
        plain = Path(folder) / f"plain{config.suffix}" if told.text else path
        _mux(picture, audio, video, source, config, plain)
        if told.text:
            picture.unlink()
            signed = sign(plain, told, hashes(video, voices), Identity(*signer), path)
            if signed.sidecar is not None:
                sync_file(signed.sidecar)
    _verify(path, video, source, config)
    sync_file(path)
    return Film(path, source.frames)


def _join_with_copies(
    segments: Sequence[Segment], copies: Copies, video: Path, source: Source, path: Path, container: str
) -> None:
    splice = copyable_points(video, source, container)
    if isinstance(splice, NoSplice):
        raise InternalError(f"{video.name}: {splice.why}, but stretches of it were to be copied")
    pieces: list[Copied | Segment] = [*segments, *(Copied(*stretch) for stretch in copies.of)]
    pieces.sort(key=lambda piece: piece.start)
    join(path, container, pieces, video, source, splice, _mux_options(source, container))


def check_deliverable(video: Path, source: Source, config: RemuxConfig) -> None:
    """Raises InputError, before any work is done, where the container cannot hold the film's timestamps or one of its streams."""
    if config.suffix not in CONTAINERS:
        raise InputError(f"cannot write {config.suffix or 'a file without suffix'}", f"end the output in {', '.join(CONTAINERS)}")
    three_letters(config.language)
    container = CONTAINERS[config.suffix]
    if container.name == "avi" and source.pts[0] != 0:
        raise InputError(f"{video}: AVI cannot begin later than at zero", "choose another container: -o NAME.mp4")
    if (
        container.name == "avi"
        and (int(source.pts[-1]) + 1) * source.time_base / _avi_tick(source) > AVI_TICKS_A_FRAME * source.frames
    ):
        raise InputError(f"{video}: AVI cannot hold its variable frame rate", "choose another container: -o NAME.mp4")
    step = source.time_base / (container.tick or source.time_base)
    if np.any(source.pts * step.numerator % step.denominator):
        raise InputError(
            f"{video}: its timestamps are not whole milliseconds, and {config.suffix} holds no others",
            "choose the film's own container or .mp4: -o NAME.mp4",
        )
    with open_film(video) as film:
        for stream in _kept_streams(film, source, config):
            _check_held(video, stream, container, config)


def join_segments(segments: Sequence[Segment], video: Path, source: Source, path: Path) -> None:
    """One picture of all segments, packets copied; frame n has exactly the timestamp source.pts[n].

    Raises InternalError where the segments leave a gap or were not encoded alike.
    """
    edges = [0, *(segment.stop for segment in segments)]
    if edges[-1] != source.frames or [segment.start for segment in segments] != edges[:-1]:
        raise InternalError(f"segments that end at {edges[1:]} do not make a film of {source.frames} frames")
    container = CONTAINERS[path.suffix]
    options = _mux_options(source, container.name)
    with av.open(media_url(path), "w", format=container.name, options=options) as joined, open_film(video) as film:
        original = cast(VideoStream, film.streams[source.video_stream])
        stream: VideoStream | None = None
        header: bytes | None = None
        for segment in segments:
            with open_film(segment.path) as part:
                given = picture_of(part, segment.path)
                if stream is None:
                    stream, header = _add_picture(joined, given, original, source, container.name), given.codec_context.extradata
                if given.codec_context.extradata != header:
                    raise InternalError(f"{segment.path.name}: frame {segment.start} on was encoded with other settings")
                for packet in _timed_packets(part, given, segment, source):
                    packet.stream = stream
                    joined.mux(packet)


def _timed_packets(
    part: InputContainer, given: VideoStream, segment: Segment, source: Source
) -> Iterator["av.Packet[VideoStream]"]:
    """A segment's packets in decoding order with the film's timestamps.

    dts is the sorted pts, late by the encoder's reordering, so that it ascends over all segments and never passes pts.
    """
    packets = [packet for packet in part.demux(given) if packet.size]
    order = np.argsort(np.array([packet.pts for packet in packets], np.int64))
    if len(packets) != segment.frames:
        raise InternalError(f"{segment.path.name}: holds {len(packets)} frames of [{segment.start}, {segment.stop})")
    first, delay = segment.start, given.codec_context.reorder_depth
    moved = cast(int, packets[order[0]].pts) * cast(Fraction, given.time_base) - int(source.pts[first]) * source.time_base
    rank = np.argsort(order)
    for number, packet in enumerate(packets):
        due = first + int(rank[number])
        seconds = cast(int, packet.pts) * cast(Fraction, given.time_base) - moved
        if seconds != int(source.pts[due]) * source.time_base or due < first + number - delay:
            raise InternalError(f"{segment.path.name}: frame {due} is at {seconds} s, or stored too late to show")
        packet.time_base = source.time_base
        packet.pts = int(source.pts[due])
        packet.dts = _dts(source, first + number - delay)
        packet.duration = frame_duration(source, due)
        yield packet


def _dts(source: Source, number: int) -> int:
    """Timestamp of frame `number`, going on evenly before the film's first."""
    if number >= 0:
        return int(source.pts[number])
    return int(source.pts[0]) + number * frame_duration(source, 0)


def frame_duration(source: Source, number: int) -> int:
    """Ticks until the next frame; of the last one what the film says, or as long as the one before it."""
    if number + 1 < source.frames:
        return int(source.pts[number + 1] - source.pts[number])
    if source.durations[number] > 0 or source.frames == 1:
        return max(int(source.durations[number]), 1)
    return int(source.pts[number] - source.pts[number - 1])


def _add_picture(
    joined: OutputContainer, given: VideoStream, original: VideoStream, source: Source, container: str
) -> VideoStream:
    stream = add_picture(joined, given, original, source)
    stream.time_base = _avi_tick(source) if container == "avi" else source.time_base
    if source.rotation:
        stream.set_display_rotation(source.rotation)
    return stream


def _avi_tick(source: Source) -> Fraction:
    """The longest tick of which all timestamps are multiples."""
    return reduce(gcd, (int(pts) for pts in source.pts)) * source.time_base or source.time_base


def _mux_options(source: Source, container: str) -> dict[str, str]:
    """Options of the muxer that keep timestamps exact and bytes the same from run to run."""
    options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
    if container in ("mp4", "mov"):
        options["video_track_timescale"] = str(source.time_base.denominator)
        options["movie_timescale"] = str(_movie_timescale(source))
    return options


def _movie_timescale(source: Source) -> int:
    """Ticks a second in which an MP4 says when its tracks begin and how long they are: a whole number for the picture."""
    exact = lcm(source.time_base.denominator, source.start.denominator)
    return exact if exact <= MAX_TIMESCALE else source.time_base.denominator


def _mux(picture: Path, audio: Path, video: Path, source: Source, config: RemuxConfig, path: Path) -> None:
    """All streams into one file, by ffmpeg: 0 the picture, 1 the voice, then the film's others in their order."""
    container = CONTAINERS[config.suffix]
    with open_film(audio) as file, open_film(video) as film, open_film(picture) as joined:
        kept = _kept_streams(film, source, config)
        covers = [stream for stream in kept if _is_cover(stream) and container.name == "matroska"]
        mapped = [stream for stream in kept if stream not in covers]
        original = ffmpeg.input(media_url(video), **AS_FILE)
        streams = [
            ffmpeg.input(media_url(picture), **AS_FILE)["0"],
            _voice_input(file, audio, source, config, path.parent),
            *(original[str(stream.index)] for stream in mapped),
        ]
        options = {
            **_file_options(container, film, source, tags_from=3 if mapped else 2),
            **_mux_options(source, container.name),
            **_voice_options(voice_of(file, audio).codec.canonical_name, container),
            **_dispositions(mapped),
        }
        if joined.streams.video[0].codec.canonical_name == "hevc" and container.name in ("mp4", "mov"):
            options["tag:0"] = "hvc1"  # Apple's players know no other
        fonts = sum(stream.type == "attachment" for stream in mapped)
        repeated = [*_tags(film, source, config), *_attached(covers, picture.parent, after=fonts)]
    output = ffmpeg.output(*streams, media_url(path), **options)
    run_ffmpeg(output, purpose=f"write {path.name}", repeated=repeated, unmapped=video)


def _attached(covers: Sequence[Any], folder: Path, *, after: int) -> Iterator[str]:
    """Options that attach cover art as Matroska does, as files; mapped as a stream it would become a second picture."""
    for number, stream in enumerate(covers, start=after):
        kind = "png" if stream.codec.canonical_name == "png" else "jpeg"
        file = folder / f"cover{number}.{kind}"
        file.write_bytes(next(bytes(packet) for packet in stream.container.demux(stream) if packet.size))
        name = stream.metadata.get("FILENAME") or stream.metadata.get("filename") or f"cover.{kind}"
        yield from ("-attach", media_url(file))
        yield from (f"-metadata:s:t:{number}", f"mimetype=image/{kind}", f"-metadata:s:t:{number}", f"filename={name}")


def _file_options(container: Container, film: InputContainer, source: Source, *, tags_from: int) -> dict[str, Any]:
    """Options of the whole file, by ffmpeg's names. tags_from: number of the input that gives tags and chapters."""
    apple = any(key.startswith("com.apple.") for key in film.metadata)
    return {
        "f": container.name,
        "c": "copy",
        "copyts": None,  # else every input is moved to zero, by whole microseconds
        "strict": "-2",  # FLAC and Opus in MP4 were experimental before ffmpeg 7
        "max_muxing_queue_size": 4096,
        "r:0": str(1 / _avi_tick(source) if container.name == "avi" else source.fps),  # for the header; packets keep their times
        "map_metadata": tags_from,
        "map_chapters": tags_from,
        **({"movflags": "+use_metadata_tags"} if apple and container.name == "mov" else {}),
    }


def _voice_input(file: InputContainer, audio: Path, source: Source, config: RemuxConfig, folder: Path) -> Any:
    """The voice, moved to the film's start; with `trim` no longer than the picture."""
    options: dict[str, Any] = {**AS_FILE, "itsoffset": _seconds(source.start - earliest_start(file))}
    voice, container = voice_of(file, audio), CONTAINERS[config.suffix]
    if config.length == "trim":
        most = source.time(source.frames - 1) + frame_duration(source, source.frames - 1) * source.time_base
        if container.name == "mov" and voice.codec.canonical_name in container.voices:
            return ffmpeg.input(media_url(_cut(file, voice, most, folder / "voice.nut")), **options)["0"]
        options["t"] = _seconds(most)
    return ffmpeg.input(media_url(audio), **options)[str(voice.index)]


def _cut(file: InputContainer, voice: Any, most: Fraction, path: Path) -> Path:
    """The packets that begin before `most`, at their own times: ffmpeg's -t before a copied PCM drops the whole track from a MOV."""
    first = earliest_start(file)
    with av.open(media_url(path), "w", format="nut") as kept:
        stream = kept.add_stream_from_template(voice)
        for packet in file.demux(voice):
            if packet.size and packet.pts is not None and packet.pts * packet.time_base - first < most:
                packet.stream = stream
                kept.mux(packet)
    return path


def _seconds(time: Fraction) -> str:
    """As ffmpeg's command line takes it: whole microseconds."""
    return f"{float(time):.6f}"


def _voice_options(codec: str, container: Container) -> dict[str, str]:
    """A voice is encoded only where the container does not hold it as it is, without resampling unless the codec (Opus) asks."""
    if codec in container.voices:
        return {}
    return {"c:1": container.encoder, "flags:1": "+bitexact", **{f"{name}:1": value for name, value in container.encoder_options}}


def _dispositions(kept: Sequence[Any]) -> dict[str, str]:
    """The voice plays by default, the film's own sound no longer does; all other marks stay."""
    marks = {"disposition:0": "default", "disposition:1": "default+dub"}
    for number, stream in enumerate(kept, start=2):
        mark = stream.disposition & ~Disposition.default if stream.type == "audio" else stream.disposition
        marks[f"disposition:{number}"] = "+".join(str(flag.name) for flag in Disposition if flag in mark) or "0"
    return marks


def _tags(film: InputContainer, source: Source, config: RemuxConfig) -> list[str]:
    """The film's tags are copied by ffmpeg; these are the ones that change, and those of the picture."""
    comment = next((value for key, value in film.metadata.items() if key.lower() == "comment"), "")
    notice = "\n".join(text for text in (comment, config.notice) if text)
    options = [("-metadata", f"comment={notice}")] if notice else []
    options += [("-metadata", f"{key}=") for key in film.metadata if _is_stale(key)]
    own = film.streams[source.video_stream].metadata
    options += [("-metadata:s:0", f"{key}={value}") for key, value in own.items() if not _is_stale(key)]
    if config.language:
        options.append(("-metadata:s:1", f"language={three_letters(config.language)}"))
    return [part for option in options for part in option]


def _is_stale(key: str) -> bool:
    return key.upper().startswith(STALE_TAGS)


def _kept_streams(film: InputContainer, source: Source, config: RemuxConfig) -> list[Any]:
    """The film's streams that are copied: all but the picture, tracks that the muxer writes itself, and sound where not wanted."""
    return [
        stream
        for stream in film.streams
        if stream.index != source.video_stream
        and (config.original_audio or stream.type != "audio")
        and source.streams[stream.index].codec not in REMADE
    ]


def _check_held(video: Path, stream: Any, container: Container, config: RemuxConfig) -> None:
    """Raises InputError where the container has no place for a stream of the film."""
    if stream.type == "attachment":
        held = container.name == "matroska"
    elif _is_cover(stream):
        held = container.name in ("matroska", "mp4") and stream.codec.canonical_name in ("mjpeg", "png")
    else:
        held = stream.codec_context is not None and stream.codec.name in held_codecs(container.name)
    if not held:
        name = stream.codec.canonical_name if stream.codec_context else "unknown"
        raise InputError(
            f"{video}: {config.suffix} cannot hold its stream {stream.index} ({stream.type}, {name})",
            f"choose .mkv, or take it out: ffmpeg -i FILM -map 0 -map -0:{stream.index} -c copy NEW{video.suffix}",
        )


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


@cache
def held_codecs(container: str) -> frozenset[str]:
    """Codecs that a container holds, by the names of libav's decoders."""
    with av.open("never-written", "w", format=container) as probe:  # a file is made with the first packet
        return frozenset(probe.supported_codecs)


def same_aspect(one: Fraction, other: Fraction, size: tuple[int, int]) -> bool:
    """Whether two sample aspect ratios show a picture of this size equally wide, to a pixel: H.264 holds ratios of small numbers only, and
    Matroska whole pixels of width."""
    return abs(one / other - 1) * max(size) <= 1


def _verify(path: Path, video: Path, source: Source, config: RemuxConfig) -> None:
    """Open the finished file again: every frame, timestamp and stream must be there. Raises InternalError otherwise."""
    try:
        times, tick = packet_times(path)
    except InputError as error:
        raise InternalError(
            f"{path.name}: {error.about}", "run the same command again, and report it where that helps not"
        ) from error
    ratio = source.time_base / tick
    if len(times) != source.frames:
        raise InternalError(f"{path.name}: holds {len(times)} frames, the film {source.frames}")
    wrong = np.flatnonzero(times * ratio.denominator != source.pts * ratio.numerator)
    if len(wrong):
        number = int(wrong[0])
        raise InternalError(
            f"{path.name}: frame {number} is at {times[number] * tick} s, should be at {source.pts[number] * source.time_base}"
        )
    with open_film(path) as done, open_film(video) as film:
        picture = picture_of(done, path)
        size, sar = (picture.codec_context.width, picture.codec_context.height), picture.sample_aspect_ratio or Fraction(1)
        if size != source.size or not same_aspect(sar, source.sar, size):
            raise InternalError(f"{path.name}: the picture is {(size, sar)}, should be {(source.size, source.sar)}")
        due = sorted(["video", "audio", *(stream.type for stream in _kept_streams(film, source, config))])
        kinds = sorted(stream.type for stream in done.streams)
        if not Counter(due) <= Counter(kinds) or len(done.chapters()) != len(film.chapters()):
            raise InternalError(
                f"{path.name}: holds {kinds} and {len(done.chapters())} chapters, should hold {due} and {len(film.chapters())}"
            )

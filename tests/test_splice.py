"""Copied and re-encoded stretches in one track: bytes, timestamps, pixels. Real codecs, tiny films."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from conftest import make_film, run_tool
from numpy.typing import NDArray

from musetalk_cli.config import BlendConfig, DemuxConfig, Runtime
from musetalk_cli.errors import InputError, InternalError
from musetalk_cli.media import splice as splice_module
from musetalk_cli.media.ffmpeg import find_ffmpeg, media_url
from musetalk_cli.media.splice import END_OF_SEQUENCE, Copied, NoSplice, Splice, copyable_points, join
from musetalk_cli.media.video import SegmentWriter, packet_times, picture_of, read_frames
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.types import Segment, Source

FRAMES = 44
SIZE = (96, 64)
X264 = {"crf": "18", "preset": "medium", "x264-params": "aq-mode=0:threads=1"}
X265 = {"crf": "12", "preset": "fast", "x265-params": "log-level=none:open-gop=0:pools=1:frame-threads=1"}
MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@dataclass(frozen=True)
class Case:
    """A film, and how its segments are encoded."""

    codec: str
    params: str = ""  # of x264 and x265
    pix_fmt: str = "yuv420p"
    suffix: str = ".mp4"
    options: dict[str, str] = field(default_factory=dict)
    segment: dict[str, str] = field(default_factory=dict)
    segment_suffix: str = ".nut"
    size: tuple[int, int] = SIZE


H264 = {
    "no B-frames": "keyint=10:min-keyint=10:bframes=0:ref=1:cabac=0",
    "deep reordering": "keyint=10:min-keyint=10:bframes=5:b-pyramid=normal:ref=5:scenecut=0",
    "several slices": "keyint=10:min-keyint=10:slices=3:bframes=2",
    "all intra": "keyint=1",
    "Main, number 3": "keyint=10:min-keyint=10:8x8dct=0:sps-id=3",
    "its numbers 15 and 16 taken": "keyint=10:min-keyint=10:sps-id=15",
    "repeated headers": "keyint=10:min-keyint=10:repeat-headers=1:aud=1",
}
HEVC = {
    "closed": "keyint=10:min-keyint=10:open-gop=0:bframes=4:ref=3",
    "no B-frames": "keyint=10:min-keyint=10:open-gop=0:bframes=0:ref=1:ctu=16",
    "several slices": "keyint=10:min-keyint=10:open-gop=0:slices=2",
    "CRA": "keyint=10:min-keyint=10:open-gop=1:bframes=0",
    "repeated headers": "keyint=10:min-keyint=10:open-gop=0:repeat-headers=1:aud=1:hrd=1:vbv-maxrate=2000:vbv-bufsize=2000",
    "temporal layers": "keyint=10:min-keyint=10:open-gop=0:temporal-layers=1:bframes=3",
}
CASES = {
    **{f"H.264, {name}": Case("libx264", params) for name, params in H264.items()},
    "H.264, 10 bit": Case("libx264", H264["deep reordering"], "yuv420p10le", ".mkv"),
    "H.264, 4:2:2 10 bit in mov": Case("libx264", H264["no B-frames"], "yuv422p10le", ".mov"),
    "H.264 in mkv, segments unlike": Case("libx264", H264["no B-frames"], suffix=".mkv", segment={"bf": "5", "refs": "5"}),
    "H.264, segments with HRD": Case("libx264", H264["deep reordering"], segment={"maxrate": "400k", "bufsize": "400k", "x264-params": "nal-hrd=vbr:slices=2:aud=1"}),
    "HEVC, segments with HRD": Case("libx265", HEVC["closed"], segment={"x265-params": "log-level=none:hrd=1:vbv-maxrate=900:vbv-bufsize=900:slices=2"}),
    "HEVC, segments with sublayers": Case("libx265", HEVC["closed"], segment={"x265-params": "log-level=none:temporal-layers=2"}),
    "H.264 in mkv, segments without B-frames": Case("libx264", H264["deep reordering"], suffix=".mkv", segment={"bf": "0", "coder": "vlc"}),
    **{f"HEVC, {name}": Case("libx265", params) for name, params in HEVC.items()},
    "HEVC, 10 bit": Case("libx265", HEVC["closed"], "yuv420p10le", ".mkv"),
    "HEVC, 10 bit in mov": Case("libx265", HEVC["CRA"], "yuv420p10le", ".mov"),
    "HEVC, 4:2:2 10 bit": Case("libx265", HEVC["closed"], "yuv422p10le"),
    "VP9": Case("libvpx-vp9", suffix=".webm", options={"g": "10", "deadline": "good", "cpu-used": "8"}),
    "VP9, alternate references, mp4": Case(
        "libvpx-vp9", suffix=".mp4", options={"g": "15", "deadline": "good", "cpu-used": "4", "auto-alt-ref": "1", "lag-in-frames": "12"}
    ),
    "ProRes": Case("prores_ks", "", "yuv422p10le", ".mov", {"profile": "standard"}, {"profile": "standard"}, ".mov"),
    "ProRes in mkv": Case("prores_ks", "", "yuv422p10le", ".mkv", {"profile": "hq"}, {"profile": "hq"}, ".mov"),
    "DNxHR": Case("dnxhd", "", "yuv422p", ".mov", {"profile": "dnxhr_hq"}, {"profile": "dnxhr_hq"}, ".mov", (256, 120)),
    "Motion JPEG": Case("mjpeg", "", "yuvj420p", ".mov"),
}  # fmt: skip


class Made(NamedTuple):
    """A film joined from its own packets and from re-encoded frames."""

    video: Path
    source: Source
    splice: Splice
    pieces: list[Copied | Segment]
    joined: Path


def texture(number: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """(H, W, 3) RGB: blocks that move, with noise that makes every frame another."""
    width, height = size
    blocks = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    noise = np.random.default_rng(number).integers(0, 12, (height, width, 3), np.uint8)
    return np.asarray(np.roll(blocks // 2, (number, 3 * number), (0, 1)) + noise, np.uint8)


def film_of(case: Case, folder: Path, **more: Any) -> Path:
    options = dict(case.options)
    if case.params:
        one_thread = "log-level=none:pools=1:frame-threads=1" if case.codec == "libx265" else "threads=1"
        options[f"{case.codec[3:]}-params"] = f"{case.params}:{one_thread}"
    like: dict[str, Any] = {"frames": FRAMES, "size": case.size, "picture": lambda number: texture(number, case.size)}
    return make_film(
        folder / f"film{case.suffix}", **like | {"codec": case.codec, "pix_fmt": case.pix_fmt, "options": options, **more}
    )


def demuxed(video: Path) -> Source:
    return demux(video, config=DemuxConfig(), runtime=Runtime(), out=video.parent)


def points_of(video: Path, source: Source) -> Splice:
    found = copyable_points(video, source, MUXERS[video.suffix])
    assert isinstance(found, Splice), found
    return found


def segment_of(video: Path, source: Source, start: int, stop: int, case: Case, *, b_frames: bool = True) -> Segment:
    """The film's own frames, encoded."""
    path = video.parent / f"{start}{case.segment_suffix}"
    options = {"libx264": X264, "libx265": X265}.get(case.codec, case.options) | case.segment
    if not b_frames:
        options["bf"] = "0"
    with av.open(media_url(path), "w", options={"fflags": "+bitexact"}) as file:
        stream: Any = file.add_stream(case.codec, rate=source.fps, options=options)
        stream.width, stream.height = source.size
        stream.pix_fmt = case.pix_fmt
        stream.codec_context.time_base = stream.time_base = source.time_base
        stream.codec_context.thread_count = 1
        for frame in read_frames(video, source, start, stop):
            frame.pict_type = PictureType.NONE
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return Segment(path, start, stop, stop - start)


def planned(splice: Splice, frames: int) -> list[tuple[bool, int, int]]:
    """(copied, start, stop): as much as can be copied of the film's beginning, middle and end, the rest encoded."""
    plan, at = [], 0
    for start, stop in ((0, 12), (15, 34), (38, frames)):
        kept = splice.copied(max(start, at), stop)
        if kept is not None:
            plan += [(False, at, kept.start)] * (kept.start > at) + [(True, *kept)]
            at = kept.stop
    return plan + [(False, at, frames)] * (at < frames)


def options_of(source: Source, container: str) -> dict[str, str]:
    options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
    return options | ({"video_track_timescale": str(source.time_base.denominator)} if container in ("mp4", "mov") else {})


def joined_from(video: Path, case: Case, suffix: str = "") -> Made:
    source = demuxed(video)
    splice = points_of(video, source)
    pieces: list[Copied | Segment] = [
        Copied(start, stop)
        if copied
        else segment_of(video, source, start, stop, case, b_frames=splice.reordering_before(stop) > 1)
        for copied, start, stop in planned(splice, source.frames)
    ]
    return Made(video, source, splice, pieces, joined(video, source, splice, pieces, suffix))


def joined(video: Path, source: Source, splice: Splice, pieces: list[Copied | Segment], suffix: str = "") -> Path:
    path = video.parent / f"joined{suffix or video.suffix}"
    container = MUXERS[path.suffix]
    join(path, container, pieces, video, source, splice, options_of(source, container))
    return path


@pytest.fixture(scope="module", params=CASES, name="made")
def _made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    case = CASES[request.param]
    return joined_from(film_of(case, tmp_path_factory.mktemp("film")), case)


def packets_of(video: Path) -> dict[Fraction, bytes]:
    """Seconds -> payload."""
    with av.open(str(video)) as film:
        stream = film.streams.video[0]
        return {cast(int, p.pts) * cast(Fraction, stream.time_base): bytes(p) for p in film.demux(stream) if p.size}


def pictures_of(video: Path) -> list[bytes]:
    with av.open(str(video)) as film:
        stream = film.streams.video[0]
        return [frame.to_ndarray().tobytes() for frame in film.decode(stream)]


def test_some_is_copied_and_some_encoded(made: Made) -> None:
    kinds = [isinstance(piece, Copied) for piece in made.pieces]
    assert kinds.count(True) >= 2 and kinds.count(False) >= 2
    assert made.splice.stops[-1] == made.source.frames and made.splice.starts[0] == 0


def test_copied_packets_are_the_films(made: Made) -> None:
    film, joined = packets_of(made.video), packets_of(made.joined)
    for piece in made.pieces:
        times = [int(made.source.pts[n]) * made.source.time_base for n in range(piece.start, piece.stop)]
        if isinstance(piece, Copied):
            assert [joined[time] for time in times] == [film[time] for time in times]


def test_every_frame_has_its_timestamp(made: Made) -> None:
    times, tick = packet_times(made.joined)
    assert [int(t) * tick for t in times] == [int(t) * made.source.time_base for t in made.source.pts]


def test_a_strict_decoder_finds_no_error(made: Made) -> None:
    assert strictly_decoded(made.joined) == made.source.frames


def strictly_decoded(video: Path) -> int:
    """Frames that ffmpeg decodes; it stops at the first error and has nothing to say."""
    strict = [str(find_ffmpeg()), "-v", "warning", "-xerror", "-err_detect", "explode", "-i", str(video), "-map", "0:v:0"]
    done = subprocess.run(
        [*strict, "-fps_mode", "passthrough", "-f", "framemd5", "-"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return sum(not line.startswith("#") for line in done.stdout.splitlines())


def test_pixels_are_the_films_or_the_segments(made: Made) -> None:
    film, joined = pictures_of(made.video), pictures_of(made.joined)
    assert len(joined) == made.source.frames
    for piece in made.pieces:
        due = film[piece.start : piece.stop] if isinstance(piece, Copied) else pictures_of(piece.path)
        assert joined[piece.start : piece.stop] == due


def test_seeking_back_and_forth_shows_the_same_pixels(made: Made) -> None:
    whole = pictures_of(made.joined)
    copied = [piece for piece in made.pieces if isinstance(piece, Copied)]
    encoded = [piece for piece in made.pieces if isinstance(piece, Segment)]
    with av.open(str(made.joined)) as film:
        stream = film.streams.video[0]
        times, _ = packet_times(made.joined)
        for piece in (encoded[0], copied[-1], encoded[-1], copied[0]):
            number = (piece.start + piece.stop) // 2
            film.seek(int(times[number]), stream=stream)
            frame = next(f for f in film.decode(stream) if f.pts == times[number])
            assert frame.to_ndarray().tobytes() == whole[number]


def test_copying_again_with_ffmpeg_changes_nothing(made: Made) -> None:
    again = made.joined.with_stem("again")
    rate = str(made.source.time_base.denominator)
    run_tool("-copyts", "-i", str(made.joined), "-c", "copy", "-avoid_negative_ts", "disabled", *(
        () if again.suffix in (".mkv", ".webm") else ("-video_track_timescale", rate)
    ), str(again))  # fmt: skip
    assert packets_of(again) == packets_of(made.joined)


def test_the_joined_film_is_described_as_the_film(made: Made) -> None:
    again = demuxed(made.joined)
    assert (again.size, again.sar, again.rotation, again.colour) == (
        made.source.size,
        made.source.sar,
        made.source.rotation,
        made.source.colour,
    )
    with av.open(str(made.video)) as film, av.open(str(made.joined)) as done:
        tags = [picture_of(file, made.video).codec_context.codec_tag for file in (film, done)]
        assert tags[1] == tags[0].replace("hev1", "hvc1")


def cut_off(folder: Path) -> Path:
    """An MP4 cut in the middle of a GOP: frames before the cut are there but not shown."""
    whole = film_of(Case("libx264", H264["deep reordering"]), folder)
    run_tool("-ss", "0.6", "-i", str(whole), "-c", "copy", str(folder / "cut.mp4"))
    return folder / "cut.mp4"


def headless(folder: Path) -> Path:
    """Begins with a CRA whose leading pictures refer to what is not there."""
    whole = film_of(Case("libx265", OPEN["HEVC"], suffix=".mkv"), folder)
    run_tool("-ss", "0.7", "-i", str(whole), "-c", "copy", str(folder / "cut.mkv"))
    return folder / "cut.mkv"


def in_scenes(number: int) -> NDArray[np.uint8]:
    return texture(number) if number // 15 % 2 else 255 - texture(number)


OPEN = {
    "H.264": "keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0",
    "HEVC": "keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0",
    "scenes": "keyint=40:min-keyint=2:open-gop=1:bframes=3",
}
ODD: dict[str, tuple[Callable[[Path], Path], list[int]]] = {
    "open GOP, H.264": (lambda f: film_of(Case("libx264", OPEN["H.264"]), f), [0]),
    "open GOP, HEVC": (lambda f: film_of(Case("libx265", OPEN["HEVC"]), f), [0]),
    "open GOP, HEVC cut into scenes": (lambda f: film_of(Case("libx265", OPEN["scenes"]), f, picture=in_scenes), [0, 15, 30]),
    "edit list": (cut_off, [5, 15, 25]),
    "gradual refresh": (lambda f: film_of(Case("libx264", "keyint=12:intra-refresh=1:bframes=0"), f), [0]),
    "VP9": (lambda f: film_of(CASES["VP9, alternate references, mp4"], f), [0, 15, 30]),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_stretch_from_any_start_to_any_stop_decodes_alone(tmp_path: Path, kind: str) -> None:
    make, starts = ODD[kind]
    video = make(tmp_path)
    source = demuxed(video)
    splice, whole = points_of(video, source), pictures_of(video)
    assert splice.starts.tolist() == starts
    assert len(splice.stops) > 5
    for start in starts:
        for stop in splice.stops[splice.stops > start][::3]:
            assert decoded_alone(video, source, start, int(stop)) == whole[start:stop]


def decoded_alone(video: Path, source: Source, start: int, stop: int) -> list[bytes]:
    """What a decoder makes of the packets of frames [start, stop) and no others."""
    with av.open(str(video)) as film:
        stream = film.streams.video[0]
        shown = (packet for packet in film.demux(stream) if packet.size and packet.pts in source.pts and not packet.is_discard)
        frames = [frame for packet in islice(shown, start, stop) for frame in stream.codec_context.decode(packet)]
        return [frame.to_ndarray().tobytes() for frame in frames + stream.codec_context.decode(None)]


def test_nothing_is_copied_across_a_packet_that_does_not_show(tmp_path: Path) -> None:
    video = film_of(Case("libx264", H264["no B-frames"]), tmp_path)
    source = demuxed(video)
    shorter = replace(
        source,
        pts=np.delete(source.pts, 31),
        durations=np.delete(source.durations, 31),
        shots=(source.shots[0]._replace(stop=FRAMES - 1),),
    )
    splice = points_of(video, shorter)
    assert (splice.starts.tolist(), splice.stops.tolist()) == ([0, 10, 20, 30], list(range(1, 32)))
    assert splice.copied(5, 40) == Copied(10, 31)
    assert splice.copied(31, 40) is None


@pytest.mark.parametrize("codec", ["H.264", "HEVC"])
def test_no_message_of_a_segment_names_a_parameter_set(tmp_path: Path, codec: str) -> None:
    case = CASES[f"{codec}, segments with HRD"]
    made = joined_from(film_of(case, tmp_path), case)
    family = splice_module.FAMILIES[made.splice.codec]
    packets = list(packets_of(made.joined).values())
    encoded = [packet for piece in made.pieces if isinstance(piece, Segment) for packet in packets[piece.start : piece.stop]]
    nals = [bytes(nal) for packet in encoded for nal in splice_module._length_prefixed(memoryview(packet))]
    messages = {nal[family.nal_header] for nal in nals if family.kind(nal) == family.messages}
    assert 1 in messages and not messages & family.naming  # picture timing stays


def test_film_with_an_edit_list_is_joined(tmp_path: Path) -> None:
    made = joined_from(cut_off(tmp_path), Case("libx264"))
    test_copied_packets_are_the_films(made)
    test_every_frame_has_its_timestamp(made)
    test_a_strict_decoder_finds_no_error(made)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_variable_frame_rate_is_joined(tmp_path: Path, suffix: str) -> None:
    pts = (100 + np.cumsum(np.random.default_rng(0).integers(10, 90, FRAMES))).tolist()
    case = Case("libx264", H264["deep reordering"], suffix=".mkv")
    made = joined_from(film_of(case, tmp_path, vfr_pts=pts, time_base=Fraction(1, 1000)), case, suffix)
    test_copied_packets_are_the_films(made)
    test_every_frame_has_its_timestamp(made)
    test_a_strict_decoder_finds_no_error(made)


def test_sample_aspect_rotation_and_colours_are_the_films(tmp_path: Path) -> None:
    case = Case("libx264", H264["several slices"])
    tagged = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    video = film_of(replace(case, options=tagged), tmp_path)
    turned = tmp_path / "turned.mp4"
    run_tool("-display_rotation", "90", "-i", str(video), "-c", "copy", "-aspect", "2:1", str(turned))
    made = joined_from(turned, replace(case, segment=tagged))
    assert (made.source.sar, made.source.rotation, made.source.colour.primaries) == (Fraction(4, 3), 90, "bt709")
    test_the_joined_film_is_described_as_the_film(made)


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_segments_of_the_blend_stage_fit(tmp_path: Path, encoder: str) -> None:
    video = film_of(Case(encoder, (H264 if encoder == "libx264" else HEVC)["several slices"]), tmp_path)
    source = demuxed(video)
    with SegmentWriter(tmp_path / "s.nut", source, BlendConfig(suffix=".mp4", codec=encoder, preset="ultrafast")) as writer:
        for frame in read_frames(video, source, 10, 30):
            writer.write(frame)
    pieces: list[Copied | Segment] = [Copied(0, 10), Segment(tmp_path / "s.nut", 10, 30, 20), Copied(30, FRAMES)]
    splice = points_of(video, source)
    made = Made(video, source, splice, pieces, joined(video, source, splice, pieces))
    test_a_strict_decoder_finds_no_error(made)
    test_pixels_are_the_films_or_the_segments(made)


def test_a_cra_after_a_segment_begins_anew_whatever_the_count_of_pictures(tmp_path: Path) -> None:
    """The CRA's picture order count, modulo 256, is 24: within the segment's, which has 40 frames."""
    params = "keyint=280:min-keyint=2:open-gop=1:bframes=0:scenecut=0:no-scenecut=1"
    video = film_of(Case("libx265", params, options={"preset": "ultrafast"}), tmp_path, frames=300)
    source = demuxed(video)
    splice = points_of(video, source)
    assert splice.abrupt.tolist() == [280]
    assert splice.reordering_before(280) == 0
    case = Case("libx265", segment={"preset": "ultrafast", "bf": "0"})
    pieces: list[Copied | Segment] = [Copied(0, 240), segment_of(video, source, 240, 280, case), Copied(280, 300)]
    made = Made(video, source, splice, pieces, joined(video, source, splice, pieces))
    test_a_strict_decoder_finds_no_error(made)
    test_pixels_are_the_films_or_the_segments(made)
    ended = [int(packet.endswith(END_OF_SEQUENCE)) for packet in packets_of(made.joined).values()]
    assert (sum(ended), ended[279]) == (1, 1)


def test_a_segment_that_holds_back_more_than_allowed_is_refused(tmp_path: Path) -> None:
    case = Case("libx265", HEVC["CRA"])
    video = film_of(case, tmp_path)
    source = demuxed(video)
    pieces: list[Copied | Segment] = [Copied(0, 10), segment_of(video, source, 10, 30, case), Copied(30, FRAMES)]
    with pytest.raises(InternalError, match="10.nut: reorders 2 frames, where 0 are allowed"):
        joined(video, source, points_of(video, source), pieces)


def x264(**more: Any) -> Case:
    return replace(Case("libx264", H264["deep reordering"]), **more)


def test_pieces_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    video = film_of(x264(), tmp_path)
    source = demuxed(video)
    splice = points_of(video, source)
    first = segment_of(video, source, 10, 20, x264())
    other = segment_of(video, source, 20, 30, x264(segment={"x264-params": "ref=2:threads=1"}))
    short = Segment(first.path, 10, 21, 11)
    for pieces, fact in (
        ([Copied(0, 10), Copied(20, 44)], "do not make a film of 44 frames"),
        ([Copied(0, 10), first], "do not make a film of 44 frames"),
        ([Copied(0, 12), Copied(12, 44)], "frames .0, 12. cannot be copied"),
        ([Copied(0, 10), first, other, Copied(30, 44)], "20.nut: was encoded with other settings"),
        ([Copied(0, 10), short, segment_of(video, source, 21, 30, x264()), Copied(30, 44)], "10.nut: does not hold frames .10, 21."),
    ):  # fmt: skip
        with pytest.raises(InternalError, match=fact):
            joined(video, source, splice, cast(list[Copied | Segment], pieces))


def test_a_segment_of_another_codec_size_or_format_is_refused(tmp_path: Path) -> None:
    video = film_of(x264(), tmp_path)
    source = demuxed(video)
    splice = points_of(video, source)
    for case in (Case("libx265"), x264(pix_fmt="yuv444p")):
        pieces: list[Copied | Segment] = [Copied(0, 10), segment_of(video, source, 10, 20, case), Copied(20, 44)]
        with pytest.raises(InternalError, match="10.nut: is .*, the film .'h264', '', .96, 64., 'yuv420p'."):
            joined(video, source, splice, pieces)


def test_a_film_that_changed_is_refused(tmp_path: Path) -> None:
    video = film_of(x264(), tmp_path)
    source = demuxed(video)
    splice = points_of(video, source)
    film_of(x264(), tmp_path, fps=Fraction(24))
    with pytest.raises(InputError, match="are not what they were when it was analysed"):
        joined(video, source, splice, [Copied(0, 44)])


def changed(video: Path, change: Callable[[int, bytes], bytes], header: Callable[[bytes], bytes] = bytes) -> Path:
    """A copy of the film, packets and header not as they were."""
    path = video.with_stem("changed")
    with av.open(str(video)) as film, av.open(str(path), "w") as copy:
        given = film.streams.video[0]
        stream = copy.add_stream_from_template(given, opaque=True)
        stream.codec_context.extradata = header(given.codec_context.extradata or b"")
        for number, packet in enumerate(packet for packet in film.demux(given) if packet.size):
            new: Any = av.Packet(change(number, bytes(packet)))
            new.pts, new.dts, new.duration, new.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
            new.is_keyframe, new.stream = packet.is_keyframe, stream
            copy.mux(new)
    return path


def other_sets(folder: Path) -> Path:
    """H.264 whose parameter sets in the middle say something else than its header, under the same number."""
    for name, references in (("a", 1), ("b", 4)):
        film_of(x264(suffix=".ts", params=f"keyint=10:bframes=0:ref={references}"), folder).rename(folder / f"{name}.ts")
    (folder / "ab.ts").write_bytes((folder / "a.ts").read_bytes() + (folder / "b.ts").read_bytes())
    run_tool("-i", str(folder / "ab.ts"), "-c", "copy", str(folder / "ab.mkv"))
    return folder / "ab.mkv"


def with_nal(folder: Path, codec: str, nal: bytes) -> Path:
    film = film_of(Case(codec, (H264 if codec == "libx264" else HEVC)["no B-frames"]), folder)
    return changed(film, lambda number, data: data + (len(nal).to_bytes(4) + nal if number == 30 else b""))


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "transport stream": (lambda f: film_of(x264(suffix=".ts"), f), "its H.264 has no parameter sets in its header"),
    "AVI": (lambda f: film_of(x264(suffix=".avi"), f), "AVI has no timestamps"),
    "MPEG-4": (lambda f: make_film(f / "a.mp4", codec="mpeg4"), "mpeg4 is never copied in part, only H.264, HEVC"),
    "AV1": (lambda f: make_film(f / "a.mkv", frames=3, codec="libsvtav1", options={"preset": "13"}), "AV1 has one sequence header"),
    "other parameter sets": (other_sets, "its H.264 changes its parameter sets on the way"),
    "leading pictures alone": (headless, "no keyframe of its HEVC begins anew"),
    "Dolby Vision": (lambda f: with_nal(f, "libx265", bytes([62 << 1, 1, 25, 8])), "its HEVC has Dolby Vision, which a segment"),
    "two views": (lambda f: with_nal(f, "libx264", bytes([20, 1, 25, 8])), "its H.264 has further layers or views"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_copied_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    make, why = REFUSED[kind]
    video = make(tmp_path)
    found = copyable_points(video, demuxed(video), MUXERS.get(video.suffix, "mp4"))
    assert isinstance(found, NoSplice)
    assert why in found.why


def test_packets_that_are_no_nal_units_are_refused(tmp_path: Path) -> None:
    video = film_of(x264(), tmp_path)
    found = copyable_points(changed(video, lambda number, data: data + b"abcde"), demuxed(video), "mp4")
    assert found == NoSplice("its packets are not what its header says")


def test_a_container_that_cannot_hold_the_codec_is_refused(tmp_path: Path) -> None:
    video = film_of(x264(), tmp_path)
    source = demuxed(video)
    assert copyable_points(video, source, "webm") == NoSplice("webm does not hold H.264")
    assert copyable_points(video, source, "avi") == NoSplice("AVI has no timestamps to cut at")


def test_a_film_that_uses_all_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = film_of(Case("libx264", H264["its numbers 15 and 16 taken"]), tmp_path)
    source = demuxed(video)
    monkeypatch.setattr(splice_module._H264, "numbers", {7: range(32), 8: range(15, 17)})
    assert copyable_points(video, source, "mp4") == NoSplice("its H.264 leaves no numbers for other parameter sets")


def test_the_header_holds_the_parameter_sets_of_both(tmp_path: Path) -> None:
    made = joined_from(film_of(x264(params=H264["Main, number 3"]), tmp_path), x264())
    headers = []
    for path in (made.video, made.joined):
        with av.open(str(path)) as film:
            headers.append(film.streams.video[0].codec_context.extradata or b"")
    family = splice_module._H264()
    own, both = (family.read(header) for header in headers)
    assert [(family.kind(nal), family.own_number(nal)) for nal in own] == [(7, 3), (8, 3)]
    assert [(family.kind(nal), family.own_number(nal)) for nal in both] == [(7, 3), (7, 0), (8, 3), (8, 15)]
    assert set(own) < set(both)
    assert (headers[0][1], headers[1][1], headers[1][-4:]) == (77, 100, bytes([0xFD, 0xF8, 0xF8, 0]))  # High says 4:2:0, 8 bit


def test_segments_with_and_without_b_frames_have_parameter_sets_of_their_own(tmp_path: Path) -> None:
    video = film_of(Case("libx265", OPEN["scenes"]), tmp_path, picture=in_scenes)
    source = demuxed(video)
    splice = points_of(video, source)
    assert splice.reordering == 2
    case = Case("libx265")
    cut = int(splice.stops[splice.stops > 15][0])
    pieces: list[Copied | Segment] = [
        segment_of(video, source, 0, 15, case, b_frames=False),
        Copied(15, cut),
        segment_of(video, source, cut, FRAMES, case),
    ]
    made = Made(video, source, splice, pieces, joined(video, source, splice, pieces))
    test_a_strict_decoder_finds_no_error(made)
    test_pixels_are_the_films_or_the_segments(made)
    with av.open(str(made.joined)) as film:
        family = splice_module._Hevc()
        sets = [nal for nal in family.read(film.streams.video[0].codec_context.extradata or b"") if family.kind(nal) == 34]
    assert [family.own_number(nal) for nal in sets] == [0, 15, 16]


def test_emulation_prevention_is_put_back_as_the_standard_says() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(300):
        rbsp = numbers.choice([0, 0, 0, 1, 2, 3, 4, 255], 40).astype(np.uint8).tobytes() + b"\x80"
        assert splice_module._escaped(rbsp) == escaped_slowly(rbsp)
        assert splice_module._unescaped(escaped_slowly(rbsp)) == rbsp


def escaped_slowly(rbsp: bytes) -> bytes:
    """7.4.1.1 of both standards, byte by byte."""
    out, zeros = bytearray(), 0
    for byte in rbsp:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)

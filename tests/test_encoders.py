"""The encoder follows the film, keeps every sample, tag and profile, and refuses what it cannot keep. Real codecs, tiny films."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import make_film, run_tool
from numpy.typing import NDArray

from musetalk_cli.config import BlendConfig, DemuxConfig, Runtime
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.media.encoders import DNXHD, ENCODERS, PRESETS, choose_encoder, encoder_options
from musetalk_cli.media.video import SegmentWriter, add_picture, hdr10, open_film, profile_of, read_frames, segment_name
from musetalk_cli.stages.s1_demux import MATRIX, PRIMARIES, RANGE, TRANSFER, demux
from musetalk_cli.types import Colour, Shot, Source

MASTERING, LIGHT = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)", "1000,400"
HD = (1920, 1080)


def source_like(
    codec: str, pix_fmt: str = "yuv420p", size: tuple[int, int] = HD, *, profile: str = "", hdr: bool = False
) -> Source:
    tick, one = Fraction(1, 25), np.arange(1)
    told = (profile, MASTERING, LIGHT) if hdr else (profile, "", "")
    return Source(
        *(1 / tick, size, tick, Fraction(0), one, one, (Shot(0, 0, 1),), (), 0, codec, Colour(pix_fmt), Fraction(1), 0, *told)
    )


FOLLOWED = [
    *(("h264", pix_fmt, suffix, "libx264") for pix_fmt in ("yuv420p", "yuv422p10le", "yuv444p") for suffix in (".mp4", ".mov", ".avi")),
    ("h264", "yuv420p14le", ".mp4", ""),
    *(("hevc", pix_fmt, ".mkv", "libx265") for pix_fmt in ("yuv420p", "yuv420p10le", "yuv422p12le", "yuv444p10le", "gbrp10le")),
    ("hevc", "yuv420p", ".avi", "libx264"),
    ("hevc", "yuv420p", ".webm", "libvpx-vp9"),
    ("hevc", "yuv420p10le", ".webm", "libsvtav1"),
    ("av1", "yuv420p", ".mp4", "libsvtav1"),
    ("av1", "yuv420p10le", ".webm", "libsvtav1"),
    ("av1", "yuv444p", ".mp4", "libx264"),
    ("av1", "yuv444p10le", ".mkv", "libx265"),
    ("av1", "yuv420p", ".mov", "libx264"),
    ("vp9", "yuv420p", ".webm", "libvpx-vp9"),
    ("vp9", "yuv444p", ".mkv", "libvpx-vp9"),
    ("vp9", "yuv420p10le", ".webm", "libsvtav1"),
    ("vp9", "yuv422p10le", ".mkv", "libx265"),
    ("prores", "yuv422p10le", ".mov", "prores_ks"),
    ("prores", "yuv444p12le", ".mov", "prores_ks"),
    ("prores", "yuva444p12le", ".mkv", "prores_ks"),
    ("prores", "yuv422p10le", ".mp4", "libx265"),
    ("dnxhd", "yuv422p", ".mov", "dnxhd"),
    ("dnxhd", "yuv422p10le", ".mov", "dnxhd"),
    ("dnxhd", "gbrp10le", ".mov", "dnxhd"),
    ("dnxhd", "yuv422p12le", ".mov", "libx265"),
    ("dnxhd", "yuv422p10le", ".mkv", "libx265"),
    ("mjpeg", "yuvj422p", ".mov", "libx264"),
    ("ffv1", "yuv420p16le", ".mkv", ""),
    ("ffv1", "yuv422p10le", ".mkv", "libx265"),
    ("mpeg2video", "yuv420p", ".mp4", "libx264"),
    ("vp8", "yuv420p", ".webm", "libvpx-vp9"),
    ("wmv3", "yuv420p", ".mkv", "libx264"),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "pix_fmt", "suffix", "expected"), FOLLOWED)
def test_auto_follows_the_film_where_the_container_holds_it_and_an_encoder_keeps_it(
    codec: str, pix_fmt: str, suffix: str, expected: str
) -> None:
    source, config = source_like(codec, pix_fmt), BlendConfig(suffix=suffix)
    if expected:
        assert choose_encoder(source, config) == expected
    else:
        with pytest.raises(InputError, match=f"the picture is {pix_fmt}, which"):
            choose_encoder(source, config)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size", "suffix", "expected"),
    [
        ("mpeg4", "yuv420p", (127, 97), ".mp4", "libvpx-vp9"),
        ("h264", "yuv420p", (128, 97), ".mkv", "libvpx-vp9"),
        ("hevc", "yuv422p10le", (128, 97), ".mkv", "libx265"),
        ("h264", "yuv444p", (127, 97), ".mp4", "libx264"),
        ("av1", "yuv420p10le", (127, 97), ".mp4", "libsvtav1"),
        ("prores", "yuv444p12le", (127, 97), ".mov", "prores_ks"),
        ("dnxhd", "yuv422p10le", (128, 96), ".mov", "libx265"),
    ],
)
def test_odd_and_small_sizes_go_to_an_encoder_that_keeps_them(
    codec: str, pix_fmt: str, size: tuple[int, int], suffix: str, expected: str
) -> None:
    assert choose_encoder(source_like(codec, pix_fmt, size), BlendConfig(suffix=suffix)) == expected


REFUSED = [
    (source_like("png", "rgb24"), BlendConfig(), "rgb24, which libx264 cannot keep", "convert the film first"),
    (source_like("png", "rgb24", (127, 96)), BlendConfig(), "rgb24, which libx264 cannot keep", "crop the film first"),
    (source_like("prores", "yuva444p12le"), BlendConfig(), "yuva444p12le, which libx265 cannot keep", "use -o NAME.mov"),
    (source_like("vp9", "yuva420p"), BlendConfig(suffix=".webm"), "yuva420p, which libvpx-vp9 cannot", "use --codec ffv1 and -o NAME.mkv"),
    (source_like("hevc", "yuva420p"), BlendConfig(), "yuva420p, which libx265 cannot", "use --codec ffv1 and -o NAME.mkv"),
    (source_like("ffv1", "yuv420p16le"), BlendConfig(suffix=".mkv"), "which libx265 cannot", "use --codec ffv1"),
    (source_like("h264", size=(127, 96)), BlendConfig(codec="libx264"), "cannot keep an odd size", "use --codec libvpx-vp9"),
    (source_like("h264", size=(127, 96)), BlendConfig(suffix=".mov"), "cannot keep an odd size", r"use -o NAME\.mp4"),
    (source_like("prores", "yuv422p10le", (127, 96)), BlendConfig(suffix=".mov"), "odd size", "use --codec ffv1 and -o NAME.mkv"),
    (source_like("dnxhd", "yuv422p", (128, 96)), BlendConfig(codec="dnxhd", suffix=".mov"), "takes 256x120", "--codec libx264"),
    (source_like("h264"), BlendConfig(codec="libx264", suffix=".webm"), r"\.webm cannot hold the picture", "use --codec libx264 and -o NAME.mp4"),
    (source_like("prores", "yuv422p10le"), BlendConfig(codec="prores_ks"), r"\.mp4 cannot hold", "use --codec prores_ks and -o NAME.mov"),
    (source_like("h264"), BlendConfig(codec="prores_ks", suffix=".mov"), "yuv420p, which prores_ks cannot keep", "--codec libx264"),
    (source_like("hevc", "yuv422p10le", hdr=True), BlendConfig(codec="prores_ks", suffix=".mov"), "HDR10, whose metadata prores_ks", "libx265"),
    (source_like("hevc", "yuv420p10le", hdr=True), BlendConfig(codec="ffv1", suffix=".mkv"), "HDR10, whose metadata ffv1", "libx265"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "config", "fact", "cure"), REFUSED)
def test_picture_that_no_encoder_keeps_is_refused_with_the_cure(
    source: Source, config: BlendConfig, fact: str, cure: str
) -> None:
    with pytest.raises(InputError, match=f"{fact}.*; .*{cure}"):
        choose_encoder(source, config)


@pytest.mark.parametrize(("encoder", "able"), ENCODERS.items())
def test_every_encoder_can_be_asked_for(encoder: str, able: object) -> None:
    pix_fmt = "yuv422p10le" if encoder in ("prores_ks", "dnxhd") else "yuv420p"
    suffix = ENCODERS[encoder].containers[0]
    assert choose_encoder(source_like("mpeg4", pix_fmt), BlendConfig(codec=encoder, suffix=suffix)) == encoder


@pytest.mark.parametrize(
    ("source", "config", "fact"),
    [
        (source_like("h264"), BlendConfig(codec="mystery"), "no encoder 'mystery'"),
        (source_like("h264"), BlendConfig(crf=52), "--crf 52: outside of 0 to 51"),
        (source_like("av1"), BlendConfig(crf=64), "--crf 64: outside of 0 to 63"),
        (source_like("prores", "yuv422p10le"), BlendConfig(crf=3, suffix=".mov"), "--crf 3: prores_ks has no such setting"),
        (source_like("ffv1"), BlendConfig(codec="ffv1", crf=1, suffix=".mkv"), "--crf 1: outside of 0 to 0"),
    ],
)
def test_what_an_encoder_lacks_is_a_mistake_of_usage(source: Source, config: BlendConfig, fact: str) -> None:
    with pytest.raises(UsageError, match=fact):
        choose_encoder(source, config)


def test_unknown_preset_is_a_mistake_of_usage() -> None:
    with pytest.raises(UsageError, match="no preset 'swift'"):
        encoder_options("libx264", source_like("h264"), BlendConfig(preset="swift"))


def texture(pix_fmt: str, size: tuple[int, int], number: int, noise: float) -> av.VideoFrame:
    """A gradient that moves, with noise; an alpha plane of its own. noise: standard deviation, share of the range."""
    frame, rng = av.VideoFrame(*size, pix_fmt), np.random.default_rng(number)
    bits = frame.format.components[0].bits
    for plane, pixels in zip(frame.planes, planes_of(frame), strict=True):
        y, x = np.mgrid[: plane.height, : plane.width]
        ramp = 0.15 + 0.6 * ((x + y + 2 * number) % 256 / 256 + rng.normal(0, noise, x.shape))
        pixels[:] = np.clip(np.rint(ramp * ((1 << bits) - 1)), 0, (1 << bits) - 1)
    return frame


def planes_of(frame: av.VideoFrame) -> list[NDArray[np.generic]]:
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]


def textured(
    path: Path, codec: str, pix_fmt: str, *, size: tuple[int, int] = (96, 64), frames: int = 8, noise: float = 0.0, **options: str
) -> tuple[Path, Source]:
    """A film and what demux says of it."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as film:
        stream = film.add_stream(codec, rate=25, options={key.replace("_", "-"): value for key, value in options.items()})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for number in range(frames):
            frame = texture(pix_fmt, size, number, noise)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return path, demuxed(path)


def demuxed(video: Path) -> Source:
    return demux(video, config=DemuxConfig(), runtime=Runtime(), out=video.parent)


def encoded(video: Path, source: Source, config: BlendConfig, start: int = 0, stop: int | None = None) -> Path:
    path = video.parent / f"{start}{segment_name(source, config)}"
    with SegmentWriter(path, source, config) as writer:
        for frame in read_frames(video, source, start, source.frames if stop is None else stop):
            writer.write(frame)
    return path


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as file:
        return list(file.decode(video=0))


def worst_psnr(video: Path, source: Source, segment: Path) -> float:
    """dB of the worst plane of the worst frame."""
    peak = 2 ** av.VideoFormat(source.colour.pix_fmt).components[0].bits - 1
    errors = [
        float(((a.astype(float) - b) ** 2).mean())
        for one, other in zip(read_frames(video, source, 0, source.frames), decoded(segment), strict=True)
        for a, b in zip(planes_of(one), planes_of(other), strict=True)
    ]
    return float(10 * np.log10(peak**2 / max(*errors, 1e-9)))


LOSSLESS = [
    *(("libx264", pix_fmt) for pix_fmt in ("yuv420p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")),
    *(("libx265", pix_fmt) for pix_fmt in ("yuv420p", "yuv420p10le", "yuv422p12le", "gbrp10le")),
    *(("libvpx-vp9", pix_fmt) for pix_fmt in ("yuv420p", "yuv444p")),
    *(("libsvtav1", pix_fmt) for pix_fmt in ("yuv420p", "yuv420p10le")),
    *(("ffv1", pix_fmt) for pix_fmt in ("yuv420p", "yuv422p10le", "yuva444p12le", "gbrp10le", "yuv420p16le")),
]


@pytest.mark.parametrize(("encoder", "pix_fmt"), LOSSLESS)
def test_crf_0_keeps_every_sample(tmp_path: Path, encoder: str, pix_fmt: str) -> None:
    video, source = textured(tmp_path / "a.mkv", "ffv1", pix_fmt, frames=12, noise=0.01)
    segment = encoded(video, source, BlendConfig(codec=encoder, crf=0, suffix=".mkv", preset="ultrafast"))
    for one, other in zip(read_frames(video, source, 0, source.frames), decoded(segment), strict=True):
        assert one.format.name == other.format.name
        assert all(np.array_equal(a, b) for a, b in zip(planes_of(one), planes_of(other), strict=True))


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.3])
@pytest.mark.parametrize(
    ("encoder", "pix_fmt"),
    [
        *(("libx264", pix_fmt) for pix_fmt in ("yuv420p", "yuv422p10le", "yuv444p")),
        *(("libx265", pix_fmt) for pix_fmt in ("yuv420p10le", "yuv422p12le", "yuv444p10le")),
        *(("libvpx-vp9", pix_fmt) for pix_fmt in ("yuv420p", "yuv444p")),
        *(("libsvtav1", pix_fmt) for pix_fmt in ("yuv420p", "yuv420p10le")),
    ],
)
def test_worst_plane_of_the_worst_frame_is_over_45_db_even_of_noise(
    tmp_path: Path, encoder: str, pix_fmt: str, noise: float
) -> None:
    video, source = textured(tmp_path / "a.mkv", "ffv1", pix_fmt, frames=10, noise=noise)
    segment = encoded(video, source, BlendConfig(codec=encoder, suffix=".mkv"))
    assert worst_psnr(video, source, segment) > 45


@pytest.mark.parametrize("crf", [None, 0])
def test_ten_bit_av1_is_not_spoilt_by_fast_presets_and_references(tmp_path: Path, crf: float | None) -> None:
    """As SVT-AV1 4.1 does to pictures with hard edges."""
    video = make_film(tmp_path / "a.mkv", frames=12, codec="ffv1", pix_fmt="yuv420p10le")
    source = demuxed(video)
    segment = encoded(video, source, BlendConfig(codec="libsvtav1", crf=crf, preset="ultrafast", suffix=".mkv"))
    assert worst_psnr(video, source, segment) > (45 if crf is None else 100)


@pytest.mark.parametrize(
    ("letters", "profile", "pix_fmt", "decoded_fmt"),
    [
        ("apco", "proxy", "yuv422p10le", "yuv422p10le"),
        ("apcs", "lt", "yuv422p10le", "yuv422p10le"),
        ("apcn", "standard", "yuv422p10le", "yuv422p10le"),
        ("apch", "hq", "yuv422p10le", "yuv422p10le"),
        ("ap4h", "4444", "yuv444p10le", "yuv444p12le"),
        ("ap4x", "4444xq", "yuva444p10le", "yuva444p12le"),
    ],
)
def test_prores_keeps_its_profile_and_alpha(tmp_path: Path, letters: str, profile: str, pix_fmt: str, decoded_fmt: str) -> None:
    video, source = textured(tmp_path / "a.mov", "prores_ks", pix_fmt, frames=3, profile=profile)
    segment = encoded(video, source, BlendConfig(suffix=".mov"))
    with open_film(segment) as file:
        stream = file.streams.video[0]
        assert (profile_of(file, stream), source.profile) == (letters, letters)
        assert (stream.codec_context.pix_fmt, source.colour.pix_fmt) == (decoded_fmt, decoded_fmt)
    assert worst_psnr(video, source, segment) > 45
    if "yuva" in pix_fmt:
        pairs = zip(read_frames(video, source, 0, source.frames), decoded(segment), strict=True)
        assert all(np.array_equal(planes_of(a)[3], planes_of(b)[3]) for a, b in pairs)


@pytest.mark.parametrize(
    ("number", "profile", "pix_fmt"),
    [
        ("1270", "dnxhr_444", "yuv444p10le"),
        ("1271", "dnxhr_hqx", "yuv422p10le"),
        ("1272", "dnxhr_hq", "yuv422p"),
        ("1273", "dnxhr_sq", "yuv422p"),
        ("1274", "dnxhr_lb", "yuv422p"),
    ],
)
def test_dnxhr_keeps_its_profile(tmp_path: Path, number: str, profile: str, pix_fmt: str) -> None:
    video, source = textured(tmp_path / "a.mov", "dnxhd", pix_fmt, size=(256, 128), frames=3, profile=profile)
    segment = encoded(video, source, BlendConfig(suffix=".mov"))
    with open_film(segment) as file:
        assert (profile_of(file, file.streams.video[0]), source.profile) == (number, number)
    assert worst_psnr(video, source, segment) > 45


DNXHD_FORMS = {"1235": (HD, "yuv422p10le"), "1250": ((1280, 720), "yuv422p10le"), "1251": ((1280, 720), "yuv422p")}
DNXHD_FORMS |= {"1252": ((1280, 720), "yuv422p"), "1258": ((960, 720), "yuv422p"), "1259": ((1440, 1080), "yuv422p")}


@pytest.mark.parametrize("number", DNXHD)
def test_dnxhd_keeps_its_compression_id(tmp_path: Path, number: str) -> None:
    size, pix_fmt = DNXHD_FORMS.get(number, (HD, "yuv422p"))
    source = source_like("dnxhd", pix_fmt, size, profile=number)
    with SegmentWriter(tmp_path / "a.mov", source, BlendConfig(suffix=".mov")) as writer:
        writer.write(even_frame(size, pix_fmt, 64))
    with open_film(tmp_path / "a.mov") as file:
        assert profile_of(file, file.streams.video[0]) == number


@pytest.mark.parametrize(("value", "good"), [(1023, True), (1024, False)])
def test_samples_beyond_their_bits_are_refused_not_encoded(tmp_path: Path, value: int, good: bool) -> None:
    """libavcodec's DNxHD ends the process on them."""
    source = source_like("dnxhd", "yuv422p10le", (256, 128), profile="1271")
    with SegmentWriter(tmp_path / "a.mov", source, BlendConfig(suffix=".mov")) as writer:
        writer.write(even_frame((256, 128), "yuv422p10le", 512))
        with nullcontext() if good else pytest.raises(InputError, match=r"value 1024, beyond the 10 bits of yuv422p10le"):
            writer.write(even_frame((256, 128), "yuv422p10le", value, pts=1))


def even_frame(size: tuple[int, int], pix_fmt: str, value: int, pts: int = 0) -> av.VideoFrame:
    """Every sample the same."""
    frame = av.VideoFrame(*size, pix_fmt)
    for plane in frame.planes:
        of = np.uint16 if pix_fmt.endswith("10le") else np.uint8
        plane.update(np.full(plane.buffer_size // of().itemsize, value, of))
    frame.pts = pts
    return frame


EVERY = [
    ("libx264", "yuv420p10le", ".mp4"),
    ("libx265", "yuv420p10le", ".mp4"),
    ("libvpx-vp9", "yuv420p", ".webm"),
    ("libsvtav1", "yuv420p10le", ".mkv"),
    ("prores_ks", "yuv422p10le", ".mov"),
    ("dnxhd", "yuv422p10le", ".mov"),
    ("ffv1", "yuv420p10le", ".mkv"),
]


@pytest.mark.parametrize(("encoder", "pix_fmt", "suffix"), EVERY)
def test_segments_join_whatever_their_length_and_are_the_same_from_run_to_run(
    tmp_path: Path, encoder: str, pix_fmt: str, suffix: str
) -> None:
    video, source = textured(tmp_path / "a.mkv", "ffv1", pix_fmt, size=(256, 128), frames=13, noise=0.01)
    config = BlendConfig(codec=encoder, suffix=suffix, preset="ultrafast")
    headers, first = [], []
    edges = (
        (0, 3, 7, 13) if encoder == "libx265" else (0, 1, 3, 13)
    )  # of one or two frames x265 reads memory that it never filled
    for start, stop in pairwise(edges):
        segment = encoded(video, source, config, start, stop)
        again = segment.read_bytes()
        assert encoded(video, source, config, start, stop).read_bytes() == again
        with av.open(str(segment)) as file:
            headers.append(file.streams.video[0].codec_context.extradata)
            first.append(next(packet.is_keyframe for packet in file.demux(video=0)))
    assert headers[0] == headers[1] == headers[2] and all(first)


@pytest.mark.parametrize(
    ("encoder", "pix_fmt", "suffix"), [("prores_ks", "yuv422p10le", ".mov"), ("libsvtav1", "yuv420p", ".mkv")]
)
def test_irregular_timestamps_are_kept(tmp_path: Path, encoder: str, pix_fmt: str, suffix: str) -> None:
    pts = (50 + np.cumsum(np.random.default_rng(0).integers(10, 90, 12))).tolist()
    tick = Fraction(1, 1000)
    video = make_film(tmp_path / "a.mkv", frames=12, codec="ffv1", pix_fmt=pix_fmt, vfr_pts=pts, time_base=tick)
    with av.open(str(encoded(video, demuxed(video), BlendConfig(codec=encoder, suffix=suffix)))) as file:
        stream = file.streams.video[0]
        seconds = sorted(packet.pts * stream.time_base for packet in file.demux(stream) if packet.size)
    assert [second - seconds[0] for second in seconds] == [(tick * when - tick * pts[0]) for when in pts]


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
@pytest.mark.parametrize("most", [0, 1, None])
def test_encoder_holds_back_no_more_frames_than_it_may(tmp_path: Path, encoder: str, most: int | None) -> None:
    video, source = textured(tmp_path / "a.mkv", "ffv1", "yuv420p", frames=24)
    segment = encoded(video, source, BlendConfig(codec=encoder, reordering=most, preset="fast"))
    with av.open(str(segment)) as file:
        assert file.streams.video[0].codec_context.reorder_depth == (2 if most is None else most)


def test_av1_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video, source = textured(tmp_path / "a.mkv", "ffv1", "yuv420p", frames=2)
    encoded(video, source, BlendConfig(codec="libsvtav1", preset="ultrafast"))
    assert capfd.readouterr().err == ""


def joined(segment: Path, video: Path, source: Source, suffix: str) -> Path:
    """A segment in a track of the finished film."""
    path = segment.parent / f"joined{suffix}"
    with av.open(str(path), "w") as out, av.open(str(segment)) as part, av.open(str(video)) as film:
        given = part.streams.video[0]
        stream = add_picture(out, given, film.streams.video[0], source)
        stream.time_base = source.time_base
        for number, packet in enumerate(packet for packet in part.demux(given) if packet.size):
            packet.time_base, packet.stream = source.time_base, stream
            packet.pts = packet.dts = int(source.pts[number])
            out.mux(packet)
    return path


def tags_of(path: Path) -> list[str]:
    with av.open(str(path)) as film:
        context = film.streams.video[0].codec_context
        numbers = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        return [names[number] for names, number in zip((MATRIX, PRIMARIES, TRANSFER, RANGE), numbers, strict=True)]


def tagged(tags: Sequence[str]) -> dict[str, str]:
    return dict(zip(("colorspace", "color_primaries", "color_trc", "color_range"), tags, strict=True))


PQ, HLG = ("bt2020nc", "bt2020", "smpte2084", "tv"), ("bt2020nc", "bt2020", "arib-std-b67", "tv")
CARRIED = [
    *((*every, tags) for every in EVERY for tags in (PQ, HLG)),
    ("libx264", "yuv420p", ".mp4", ("bt470bg", "bt470bg", "gamma28", "pc")),
    ("libx265", "yuv420p", ".mkv", ("smpte170m", "smpte170m", "smpte170m", "pc")),
    ("libvpx-vp9", "yuv420p", ".mkv", ("bt709", "bt709", "bt709", "pc")),
    ("libsvtav1", "yuv420p", ".mp4", ("bt709", "bt709", "bt709", "pc")),
    ("ffv1", "yuv420p", ".mkv", ("bt709", "bt709", "bt709", "pc")),
    ("prores_ks", "yuv422p10le", ".mkv", ("bt709", "bt709", "bt709", "tv")),
]


@pytest.mark.parametrize(("encoder", "pix_fmt", "suffix", "tags"), CARRIED)
def test_colour_tags_reach_the_track(tmp_path: Path, encoder: str, pix_fmt: str, suffix: str, tags: tuple[str, ...]) -> None:
    video = make_film(tmp_path / "a.mkv", frames=2, size=(256, 128), codec="ffv1", pix_fmt=pix_fmt, options=tagged(tags))
    source = demuxed(video)
    assert source.colour[1:5] == tags
    segment = encoded(video, source, BlendConfig(codec=encoder, suffix=suffix, preset="ultrafast"))
    assert tags_of(joined(segment, video, source, suffix)) == list(tags)


@pytest.fixture(scope="module", name="hdr_film")
def _hdr_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {**tagged(PQ), "x265-params": f"log-level=none:master-display={MASTERING}:max-cll={LIGHT}"}
    path = tmp_path_factory.mktemp("hdr") / "film.mkv"
    return make_film(path, frames=3, size=(256, 128), codec="libx265", pix_fmt="yuv422p10le", options=options)


@pytest.mark.parametrize(
    ("film", "suffix", "expected"),
    [
        (("libx264", "yuv420p10le", f"x264-params=mastering-display={MASTERING}:cll={LIGHT}", ".mp4"), ".mp4", "h264"),
        (("libx265", "yuv420p10le", f"x265-params=log-level=none:master-display={MASTERING}:max-cll={LIGHT}", ".mp4"), ".mkv", "hevc"),
        (("libsvtav1", "yuv420p10le", "preset=10", ".mkv"), ".mp4", "av1"),
        (("libvpx-vp9", "yuv420p", "deadline=realtime", ".webm"), ".webm", "vp9"),
        (("libvpx-vp9", "yuv420p", "deadline=realtime", ".webm"), ".mp4", "vp9"),
        (("libvpx-vp9", "yuv420p10le", "deadline=realtime", ".webm"), ".webm", "av1"),
        (("prores_ks", "yuv422p10le", "profile=lt", ".mov"), ".mov", "prores"),
        (("prores_ks", "yuv422p10le", "profile=lt", ".mov"), ".mkv", "prores"),
        (("prores_ks", "yuv422p10le", "profile=lt", ".mov"), ".mp4", "hevc"),
        (("dnxhd", "yuv422p10le", "profile=dnxhr_hqx", ".mov"), ".mov", "dnxhd"),
        (("ffv1", "yuv420p10le", "level=3", ".mkv"), ".mkv", "hevc"),
    ],
)  # fmt: skip
def test_hdr10_metadata_reaches_the_finished_film(
    tmp_path: Path, hdr_film: Path, film: tuple[str, str, str, str], suffix: str, expected: str
) -> None:
    codec, pix_fmt, option, container = film
    video = tmp_path / f"film{container}"
    key, _, value = option.partition("=")
    run_tool("-i", str(hdr_film), "-c:v", codec, "-pix_fmt", pix_fmt, f"-{key}", value, str(video))
    source = demuxed(video)
    assert (source.mastering, source.light) == (MASTERING, LIGHT)
    segment = encoded(video, source, BlendConfig(suffix=suffix, preset="ultrafast"))
    finished = joined(segment, video, source, suffix)
    with av.open(str(finished)) as file:
        assert file.streams.video[0].codec.canonical_name == expected
        assert hdr10(next(file.decode(video=0))) == (MASTERING, LIGHT)
    with av.open(str(finished)) as file:
        assert profile_of(file, file.streams.video[0]) == (source.profile if expected == source.codec else "")
    assert tags_of(finished) == list(PQ)


def test_presets_are_those_of_the_command_line() -> None:
    for encoder in ENCODERS:
        for preset in PRESETS:
            assert encoder_options(encoder, source_like("h264", "yuv422p10le"), BlendConfig(preset=preset))


def test_tags_that_the_film_lacks_stay_unset() -> None:
    source = source_like("h264")
    assert not {"colorspace", "color_trc", "color_range"} & encoder_options("libx264", source, BlendConfig()).keys()
    tagged_one = replace(source, colour=Colour("yuv420p", "bt709"))
    assert encoder_options("libx264", tagged_one, BlendConfig())["colorspace"] == "bt709"


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
@pytest.mark.parametrize("encoder", ["libx264", "libsvtav1"])
def test_encoder_takes_no_real_time_priority(tmp_path: Path, encoder: str) -> None:
    """As SVT-AV1 would where root runs it, for its threads and for the one that opens it: a hung render node."""
    video, source = textured(tmp_path / "a.mkv", "ffv1", "yuv420p", frames=3)
    with SegmentWriter(tmp_path / "b.mkv", source, BlendConfig(codec=encoder, suffix=".mkv", preset="ultrafast")) as segment:
        for frame in read_frames(video, source, 0, 3):
            segment.write(frame)
        policies = {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}
    assert policies == {os.SCHED_OTHER}

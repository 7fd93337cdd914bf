"""Films and voices go in and out exactly: frames, timestamps, colour, sound. Real codecs, tiny films."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest
import soundfile
from conftest import make_film, make_voice, number_of, run_tool
from numpy.typing import NDArray

from musetalk_cli.config import BlendConfig, DemuxConfig, Runtime
from musetalk_cli.errors import InputError, InternalError, MissingError, MusetalkError, ResourceError, RetryableError
from musetalk_cli.media import ffmpeg as ffmpeg_module
from musetalk_cli.media.audio import read_speech, speech_blocks
from musetalk_cli.media.ffmpeg import find_ffmpeg, media_url, run_ffmpeg
from musetalk_cli.media.shots import CutFinder, shots_between
from musetalk_cli.media.video import SegmentWriter, clock, packet_times, read_frames, scan, to_rgb
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.types import Colour, Source

B_FRAMES = {"bf": "3", "g": "12", "x264-params": "scenecut=0"}
OPEN_GOP = {"bf": "3", "g": "12", "x264-params": "open-gop=1:scenecut=0"}
REFRESH = {"bf": "0", "g": "12", "x264-params": "intra-refresh=1"}  # no keyframe but the first


def source_of(video: Path, **config: object) -> Source:
    return demux(video, config=DemuxConfig(**config), runtime=Runtime(), out=video.parent)  # type: ignore[arg-type]


def edit_list(folder: Path) -> Path:
    """An MP4 cut in the middle of a GOP: frames before the cut are there but not shown."""
    whole = make_film(folder / "whole.mp4", frames=40, options=B_FRAMES)
    run_tool("-ss", "0.6", "-i", str(whole), "-c", "copy", str(folder / "cut.mp4"))
    return folder / "cut.mp4"


def irregular(folder: Path) -> Path:
    pts = np.cumsum(np.random.default_rng(0).integers(10, 90, 40))
    return make_film(folder / "vfr.mkv", frames=40, vfr_pts=pts.tolist(), time_base=Fraction(1, 1000), options=B_FRAMES)


FILMS: dict[str, Callable[[Path], Path]] = {
    "23.976, B-frames": lambda f: make_film(f / "a.mp4", frames=40, fps=Fraction(24000, 1001), options=B_FRAMES),
    "29.97, Matroska's milliseconds": lambda f: make_film(f / "a.mkv", frames=40, fps=Fraction(30000, 1001), options=B_FRAMES),
    "50, open GOP": lambda f: make_film(f / "a.mkv", frames=40, fps=Fraction(50), options=OPEN_GOP),
    "MPEG-TS, open GOP": lambda f: make_film(f / "a.ts", frames=40, options=OPEN_GOP),
    "MPEG-PS": lambda f: make_film(f / "a.mpg", frames=40, codec="mpeg2video", options={"bf": "2", "g": "12"}),
    "gradual refresh": lambda f: make_film(f / "a.mp4", frames=40, options=REFRESH),
    "WebM": lambda f: make_film(
        f / "a.webm", frames=40, codec="libvpx-vp9", options={"g": "12", "deadline": "realtime", "cpu-used": "8"}
    ),
    "AV1": lambda f: make_film(
        f / "a.mp4",
        frames=40,
        codec="libsvtav1",
        pix_fmt="yuv420p10le",
        options={"g": "12", "preset": "7"},
    ),
    "ProRes": lambda f: make_film(f / "a.mov", frames=40, codec="prores_ks", pix_fmt="yuv422p10le"),
    "AVI": lambda f: make_film(f / "a.avi", frames=40, codec="mpeg4", options={"g": "12"}),
    "AVI with B-frames": lambda f: make_film(f / "a.avi", frames=40, options=B_FRAMES),
    "AVI with B-frames, open GOP": lambda f: make_film(f / "a.avi", frames=40, options=OPEN_GOP),
    "variable frame rate": irregular,
    "edit list": edit_list,
}


@pytest.fixture(scope="module", params=FILMS, name="film")
def _film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FILMS[request.param](tmp_path_factory.mktemp("film"))


def test_any_part_of_a_film_is_exactly_that_part_of_the_whole(film: Path) -> None:
    source = source_of(film)
    whole = [(frame.pts, frame.to_ndarray().tobytes()) for frame in read_frames(film, source, 0, source.frames)]
    assert [pts for pts, _ in whole] == source.pts.tolist()
    for start, stop in ((0, 1), (1, 3), (11, 14), (13, 15), (source.frames - 2, source.frames)):
        part = [(frame.pts, frame.to_ndarray().tobytes()) for frame in read_frames(film, source, start, stop)]
        assert part == whole[start:stop]


def test_frames_come_in_the_order_in_which_they_were_made(film: Path) -> None:
    source = source_of(film)
    numbers = [number_of(to_rgb(frame, source.colour)) for frame in read_frames(film, source, 0, source.frames)]
    assert numbers == list(range(numbers[0], numbers[0] + source.frames))
    assert source.frames == 40 or film.name == "cut.mp4"


def test_edit_list_hides_what_it_hides(tmp_path: Path) -> None:
    film = edit_list(tmp_path)
    source = source_of(film)
    first = next(read_frames(film, source, 0, 1))
    assert (number_of(to_rgb(first, source.colour)), source.frames) == (15, 25)


def test_a_finished_film_is_looked_over_without_decoding(film: Path) -> None:
    source = source_of(film)
    times, tick = packet_times(film)
    assert (times.tolist(), tick) == (source.pts.tolist(), source.time_base)


def test_film_that_changed_after_its_analysis_is_refused_not_shifted(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=30)
    source = source_of(film)
    make_film(film, frames=30, fps=Fraction(24))
    with pytest.raises(InputError, match="frame 10 at 0:00:00.400 is not what it was"):
        list(read_frames(film, source, 10, 12))


CODECS = {".mpg": ("mpeg2video", "yuv420p"), ".avi": ("mpeg4", "yuv420p"), ".mov": ("mjpeg", "yuvj420p")}


def truncated(film: Path, share: float) -> Path:
    film.write_bytes(film.read_bytes()[: int(film.stat().st_size * share)])
    return film


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mpg", ".mov"])
def test_truncated_film_is_refused_with_the_first_bad_time(tmp_path: Path, suffix: str) -> None:
    options = {"movflags": "+faststart"} if suffix in (".mp4", ".mov") else {}
    codec, pix_fmt = CODECS.get(suffix, ("libx264", "yuv420p"))
    whole = make_film(
        tmp_path / f"whole{suffix}", frames=150, codec=codec, pix_fmt=pix_fmt, options={"bf": "0", "g": "12"}, audio="libmp3lame"
    )
    film = tmp_path / f"film{suffix}"
    run_tool("-i", str(whole), "-c", "copy", *(part for pair in options.items() for part in (f"-{pair[0]}", pair[1])), str(film))
    with pytest.raises(InputError, match=r"film\.\w+: .*cut off at 0:00:0[23]\.\d\d\d"):
        source_of(truncated(film, 0.5))


def test_damaged_frame_is_refused_with_its_time(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mkv", frames=50, options={"bf": "0", "g": "12"})
    with av.open(str(film)) as file:
        place = [packet.pos + packet.size // 2 for packet in file.demux(video=0) if packet.pts == 1200][0]
    data = bytearray(film.read_bytes())
    data[place : place + 24] = b"\0" * 24
    film.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged or cut off at 0:00:01\.200"):
        source_of(film)


@pytest.mark.parametrize(
    ("pix_fmt", "matrix", "span", "kr", "kb"),
    [
        ("yuv420p", "bt709", "tv", 0.2126, 0.0722),
        ("yuv422p", "smpte170m", "pc", 0.299, 0.114),
        ("yuv420p10le", "bt2020nc", "tv", 0.2627, 0.0593),
        ("yuv420p", "", "", 0.299, 0.114),
    ],
)
def test_rgb_follows_the_films_matrix_and_range(pix_fmt: str, matrix: str, span: str, kr: float, kb: float) -> None:
    frame = av.VideoFrame(64, 32, pix_fmt)
    bits = frame.format.components[0].bits
    codes = np.array([120, 100, 180]) << (bits - 8)
    for plane, code in zip(frame.planes, codes, strict=True):
        plane.update(np.full(plane.buffer_size // (bits + 7 >> 3), code, np.uint8 if bits == 8 else np.uint16).tobytes())
    low, luma, chroma = (0, 255, 255) if span == "pc" else (16, 219, 224)
    y, u, v = (codes / 2 ** (bits - 8) - (low, 128, 128)) / (luma, chroma, chroma)
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    expected = np.array([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue]) * 255
    assert np.abs(to_rgb(frame, Colour(pix_fmt, matrix, range=span))[16, 32] - expected).max() <= 1


TAGS = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}


def encoded(film: Path, source: Source, config: BlendConfig, name: str = "segment.nut") -> Path:
    path = film.parent / name
    with SegmentWriter(path, source, config) as writer:
        for frame in read_frames(film, source, 0, source.frames):
            writer.write(frame)
    return path


def planes_of(frame: av.VideoFrame) -> NDArray[np.float64]:
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    rows = [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
    return np.concatenate([row.ravel().astype(np.float64) for row in rows])


def worst_psnr(film: Path, source: Source, segment: Path) -> float:
    peak = 2 ** av.VideoFormat(source.colour.pix_fmt).components[0].bits - 1
    with av.open(str(segment)) as file:
        pairs = zip(read_frames(film, source, 0, source.frames), file.decode(video=0), strict=True)
        errors = [float(((planes_of(a) - planes_of(b)) ** 2).mean()) for a, b in pairs]
    return float(10 * np.log10(peak**2 / max(*errors, 1e-9)))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size", "suffix", "expected"),
    [
        ("a.mp4", "libx264", "yuv420p", (128, 96), ".mp4", "h264"),
        ("a.mkv", "libx264", "yuv444p", (128, 96), ".mkv", "h264"),
        ("a.mov", "prores_ks", "yuv422p10le", (128, 96), ".mov", "prores"),
        ("a.mov", "prores_ks", "yuv422p10le", (128, 96), ".mp4", "hevc"),
        ("a.mkv", "libx264", "yuv420p10le", (128, 96), ".mkv", "h264"),
        ("a.mkv", "libsvtav1", "yuv420p10le", (128, 96), ".mkv", "av1"),
        ("a.webm", "libvpx-vp9", "yuv420p", (128, 96), ".webm", "vp9"),
        ("a.mov", "mjpeg", "yuvj420p", (128, 96), ".mov", "h264"),
        ("a.mkv", "mpeg4", "yuv420p", (127, 97), ".mkv", "vp9"),
    ],
)
def test_segment_keeps_the_picture_over_45_db(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, size: tuple[int, int], suffix: str, expected: str
) -> None:
    film = make_film(tmp_path / name, frames=8, codec=codec, pix_fmt=pix_fmt, size=size)
    source = source_of(film)
    segment = encoded(film, source, BlendConfig(suffix=suffix, preset="ultrafast"))
    with av.open(str(segment)) as file:
        context = file.streams.video[0].codec_context
        assert (context.codec.canonical_name, context.pix_fmt, context.width, context.height) == (expected, pix_fmt, *size)
    assert worst_psnr(film, source, segment) > 45


def test_segment_keeps_timestamps_tags_and_aspect(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=20, fps=Fraction(24000, 1001), options={**B_FRAMES, **TAGS})
    source = replace(source_of(film), sar=Fraction(16, 11), colour=Colour("yuv420p", "bt709", "bt709", "bt709", "tv", "topleft"))
    segment = encoded(film, source, BlendConfig(preset="ultrafast"))
    with av.open(str(segment)) as file:
        stream = file.streams.video[0]
        context = stream.codec_context
        seconds = sorted(packet.pts * stream.time_base for packet in file.demux(stream) if packet.size)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert stream.sample_aspect_ratio == Fraction(16, 11)
    assert [second - seconds[0] for second in seconds] == [Fraction(n * 1001, 24000) for n in range(20)]
    assert ", topleft)" in subprocess.run([find_ffmpeg(), "-v", "verbose", "-i", segment], capture_output=True, text=True).stderr


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_same_frames_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    film = make_film(tmp_path / "a.mp4", frames=12)
    source = source_of(film)
    config = BlendConfig(suffix=suffix, preset="veryfast")
    assert encoded(film, source, config, "1.nut").read_bytes() == encoded(film, source, config, "2.nut").read_bytes()


def test_frame_types_of_the_films_encoder_are_not_repeated(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=12, options={"g": "1"})
    with av.open(str(encoded(film, source_of(film), BlendConfig(preset="veryfast")))) as file:
        assert [packet.is_keyframe for packet in file.demux(video=0) if packet.size] == [True] + [False] * 11


def test_segment_refuses_a_frame_of_another_form(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=2)
    writer = SegmentWriter(tmp_path / "a.nut", source_of(film), BlendConfig())
    with pytest.raises(InternalError, match="a frame is"), writer:
        writer.write(av.VideoFrame(64, 64, "yuv420p"))


def test_cut_is_found_at_its_frame() -> None:
    cuts = CutFinder(threshold=27.0, min_shot=8)
    for number in range(60):
        shade = np.full((96, 128, 3), 40 if number < 23 else 200 if number < 41 else 90, np.uint8)
        cuts.watch(av.VideoFrame.from_ndarray(shade, format="rgb24"))
    assert cuts.cuts() == [23, 41]


@pytest.mark.parametrize(
    ("cuts", "frames", "edges"),
    [([], 100, [0, 100]), ([], 251, [0, 125, 251]), ([30], 600, [0, 30, 220, 410, 600]), ([1], 2, [0, 1, 2])],
)
def test_shots_cover_the_film_and_none_is_longer_than_a_chunk(cuts: list[int], frames: int, edges: list[int]) -> None:
    shots = shots_between(cuts, frames, Fraction(25), Fraction(10))
    assert [0, *(shot.stop for shot in shots)] == edges
    assert max(shot.frames for shot in shots) <= 250


def tone(seconds: float, rate_hz: int) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate_hz)) / rate_hz)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_speech_is_the_same_sound_at_16_khz(tmp_path: Path, rate_hz: int) -> None:
    stereo = np.stack([tone(1, rate_hz), np.zeros(rate_hz)], 1)
    soundfile.write(tmp_path / "v.wav", stereo, rate_hz)
    speech = read_speech(tmp_path / "v.wav")
    assert speech.dtype == np.float32 and abs(len(speech) - 16000) <= 1
    assert np.abs(speech[500:15500] - tone(1, 16000)[500:15500] / 2).max() < 2e-3


def test_speech_comes_in_whole_blocks(tmp_path: Path) -> None:
    voice = make_voice(tmp_path / "v.wav", seconds=2.3, rate_hz=44100)
    blocks = list(speech_blocks(voice, 16000))
    assert [len(block) for block in blocks[:-1]] == [16000, 16000] and abs(len(blocks[-1]) - 4800) <= 1
    assert np.array_equal(np.concatenate(blocks), read_speech(voice))


def test_voice_that_starts_later_than_its_file_is_preceded_by_silence(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=50)
    voice = make_voice(tmp_path / "v.wav", seconds=1)
    both = tmp_path / "both.mkv"
    run_tool("-i", str(film), "-itsoffset", "0.5", "-i", str(voice), "-map", "0:v", "-map", "1:a", "-c", "copy", str(both))
    late, direct = read_speech(both), read_speech(voice)
    assert np.abs(late[:7900]).max() < 1e-3 and abs(len(late) - len(direct) - 8000) <= 1
    assert np.abs(late[8000:22000] - direct[:14000]).max() < 2e-2


def test_silence_stands_where_the_voice_has_a_hole(tmp_path: Path) -> None:
    voice = make_voice(tmp_path / "v.wav", seconds=3)
    holed = tmp_path / "h.mkv"
    run_tool("-i", str(voice), "-af", "aselect=not(between(t\\,1\\,1.9))", "-c:a", "pcm_s16le", str(holed))
    heard, whole = read_speech(holed), read_speech(voice)
    assert not heard[18000:30000].any()
    late = range(-16, 17)  # samples: Matroska's milliseconds
    assert max(np.corrcoef(heard[32000 + by : 39000 + by], whole[32000:39000])[0, 1] for by in late) > 0.8


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("nothing.wav", b"", "is empty"), ("note.wav", b"these are words", "cannot be read"), ("gone.wav", None, "no such file")],
)
def test_voice_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_speech(tmp_path / name)


def test_file_without_sound_is_no_voice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"silent\.mp4: there is no sound in it"):
        read_speech(make_film(tmp_path / "silent.mp4", frames=3))


def test_voice_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no length"):
        read_speech(make_voice(tmp_path / "v.wav", seconds=0))


@pytest.mark.parametrize("name", ["-y.mp4", 'it\'s "one".mp4', "Фильм 電影.mp4", "http:x.mp4", "two\nlines.mp4", "50%d.mp4"])
def test_any_file_name_is_only_a_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(tmp_path / "plain.mp4", frames=3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert source_of(Path(name)).frames == 3
    copy = Path(f"copy {name}")
    run_ffmpeg(ffmpeg.output(ffmpeg.input(media_url(Path(name))), media_url(copy), f="mp4", c="copy"), purpose="copy")
    assert len(scan(copy, lambda frame: None).pts) == 3


def test_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=1).rename(tmp_path / "\udcff.mp4")
    with pytest.raises(InputError, match="not in UTF-8"):
        source_of(film)


def test_ffmpegs_last_words_are_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="could not copy it: .*Invalid data"):
        (tmp_path / "x.mp4").write_text("words")
        run_ffmpeg(ffmpeg.output(ffmpeg.input(media_url(tmp_path / "x.mp4")), media_url(tmp_path / "y.mp4")), purpose="copy it")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_is_named(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=3)
    with pytest.raises(ResourceError, match="disk is full"):
        run_ffmpeg(ffmpeg.output(ffmpeg.input(media_url(film)), "/dev/full", f="nut", c="copy", y=None), purpose="copy")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("deed", "error", "said"),
    [
        ("kill -KILL $$", RetryableError, "could not copy: it was ended by SIGKILL"),
        ("kill -SEGV $$", RetryableError, "could not copy: it was ended by SIGSEGV"),
        ("exit 255", RetryableError, "could not copy: it was ended by a signal"),
        ("kill -XFSZ $$", ResourceError, "could not copy: the disk is full"),
        ("echo 'x.mp4: Input/output error' >&2; exit 251", ResourceError, "could not copy: the disk fails"),
    ],
)
def test_what_ended_an_ffmpeg_is_told(
    deed: str, error: type[MusetalkError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{deed}\n")
    program.chmod(0o755)
    monkeypatch.setattr(ffmpeg_module, "find_ffmpeg", lambda: program)
    with pytest.raises(error, match=said):
        run_ffmpeg(ffmpeg.output(ffmpeg.input("x.mp4"), "y.mp4"), purpose="copy")


ENDLESS = """
import ffmpeg
from musetalk_cli.media.ffmpeg import run_ffmpeg
run_ffmpeg(ffmpeg.output(ffmpeg.input("anullsrc", f="lavfi", re=None), "-", f="null", t=60), purpose="wait")
"""


def children_of(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in listing.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux' process table")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_ffmpeg_outlives_us(number: signal.Signals) -> None:
    us = subprocess.Popen([sys.executable, "-c", ENDLESS], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while not (children := children_of(us.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    us.send_signal(number)
    us.wait(10)
    until = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize(
    ("version", "preferred"), [("7.1.1", True), ("n9.0.2-17", True), ("N-118000-g1a2b", True), ("4.4.2", False)]
)
def test_ffmpeg_on_path_is_preferred_unless_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, preferred: bool
) -> None:
    own = tmp_path / "ffmpeg"
    own.write_text(f"#!/bin/sh\necho 'ffmpeg version {version} Copyright'\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    find_ffmpeg.cache_clear()
    try:
        assert (find_ffmpeg() == own) == preferred
    finally:
        find_ffmpeg.cache_clear()


def test_no_ffmpeg_at_all_is_a_missing_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(ffmpeg_module.imageio_ffmpeg, "get_ffmpeg_exe", none)
    find_ffmpeg.cache_clear()
    try:
        with pytest.raises(MissingError, match="no ffmpeg"):
            find_ffmpeg()
    finally:
        find_ffmpeg.cache_clear()


def test_clock_reads_like_a_player() -> None:
    assert [clock(Fraction(n, 8)) for n in (0, 30001, -1)] == ["0:00:00.000", "1:02:30.125", "-0:00:00.125"]

"""What demux says of a film. Tiny real films; the frame lists themselves are tested in test_media."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import make_film, run_tool

from musetalk_cli.config import DemuxConfig, Runtime
from musetalk_cli.errors import InputError
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.types import Source


def demuxed(video: Path, **config: object) -> Source:
    return demux(video, config=DemuxConfig(**config), runtime=Runtime(), out=video.parent)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fps", [Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(50), Fraction(2997, 100)]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rate_is_exact(tmp_path: Path, fps: Fraction, suffix: str) -> None:
    source = demuxed(make_film(tmp_path / f"a{suffix}", frames=60, fps=fps, size=(64, 48)))
    rounded = suffix == ".mkv" and fps == Fraction(2997, 100)  # in Matroska's milliseconds it cannot be told from 30000/1001
    assert source.fps == (Fraction(30000, 1001) if rounded else fps)
    assert [source.time(n) for n in (0, 59)] == [0, 59 / fps if suffix == ".mp4" else Fraction(round(59000 / fps), 1000)]


def test_variable_rate_keeps_every_timestamp(tmp_path: Path) -> None:
    pts = [0, 33, 80, 81, 300, 340]
    source = demuxed(make_film(tmp_path / "a.mkv", frames=6, vfr_pts=pts, time_base=Fraction(1, 1000)))
    assert source.pts.tolist() == pts
    assert source.fps == Fraction(5000, 340)


def test_streams_languages_and_cover_art_are_told_apart(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=10, audio="aac")
    run_tool("-i", str(film), "-frames:v", "1", str(tmp_path / "cover.png"))
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,300\nhello\n")
    full = tmp_path / "full.mp4"
    run_tool(
        *(
            "-i",
            str(tmp_path / "cover.png"),
            "-i",
            str(film),
            "-i",
            str(tmp_path / "a.srt"),
            "-map",
            "0",
            "-map",
            "1",
            "-map",
            "2",
        ),
        *("-c", "copy", "-c:s", "mov_text", "-disposition:v:0", "attached_pic", "-metadata:s:a:0", "language=eng", str(full)),
    )
    source = demuxed(full)
    kinds = {stream.index: (stream.kind, stream.codec) for stream in source.streams}
    assert kinds[source.video_stream] == ("video", "h264")
    assert sorted(kinds.values()) == [("audio", "aac"), ("subtitle", "mov_text"), ("video", "h264"), ("video", "png")]
    assert next(stream.language for stream in source.streams if stream.kind == "audio") == "eng"


def test_timeline_begins_with_the_earliest_stream(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=10, audio="aac")
    late = tmp_path / "late.mkv"
    run_tool("-i", str(film), "-itsoffset", "0.2", "-i", str(film), "-map", "0:a", "-map", "1:v", "-c", "copy", str(late))
    source = demuxed(late)
    assert (source.start, source.time(0)) == (0, Fraction(1, 5))
    broadcast = tmp_path / "b.ts"
    run_tool("-i", str(film), "-map", "0:v", "-c", "copy", str(broadcast))
    source = demuxed(broadcast)
    assert source.start > 1 and source.time(0) == 0


def test_colour_tags_aspect_and_rotation_are_told_as_the_film_has_them(tmp_path: Path) -> None:
    tags = {
        "colorspace": "bt709",
        "color_primaries": "bt709",
        "color_trc": "bt709",
        "color_range": "tv",
        "chroma_sample_location": "topleft",
    }
    film = make_film(tmp_path / "a.mp4", frames=3, options=tags)
    turned = tmp_path / "turned.mp4"
    run_tool("-display_rotation", "90", "-i", str(film), "-c", "copy", "-aspect", "2:1", str(turned))
    source = demuxed(turned)
    assert tuple(source.colour) == ("yuv420p", "bt709", "bt709", "bt709", "tv", "topleft")
    assert (source.size, source.sar, source.rotation) == ((128, 96), Fraction(3, 2), 90)
    assert tuple(demuxed(make_film(tmp_path / "b.mp4", frames=3)).colour)[1:5] == ("", "", "", "")


def test_cuts_and_chunks_make_the_shots(tmp_path: Path) -> None:
    def picture(number: int) -> np.ndarray:
        return np.full((96, 128, 3), 30 if number < 13 else 220, np.uint8)

    film = make_film(tmp_path / "a.mp4", frames=40, picture=picture)
    assert [(shot.start, shot.stop) for shot in demuxed(film).shots] == [(0, 13), (13, 40)]
    chunked = demuxed(film, chunk=Fraction(1, 2))
    assert [(shot.start, shot.stop) for shot in chunked.shots] == [(0, 6), (6, 13), (13, 22), (22, 31), (31, 40)]


INTERLACED = {
    "H.264, MBAFF": ("i.mp4", "libx264", "yuv420p", "-flags", "+ildct+ilme", "-x264-params", "tff=1"),
    "H.264, said in messages": ("i.mkv", "libx264", "yuv420p", "-x264-params", "fake-interlaced=1:tff=1"),
    "HEVC, a frame a field": ("i.mkv", "libx265", "yuv420p", "-x265-params", "log-level=none:interlace=tff"),
    "MPEG-2": ("i.mpg", "mpeg2video", "yuv420p", "-flags", "+ildct+ilme"),
    "MPEG-4": ("i.avi", "mpeg4", "yuv420p", "-flags", "+ildct+ilme"),
    "ProRes": ("i.mov", "prores_ks", "yuv422p10le", "-flags", "+ildct"),
    "ProRes, the track alone": ("i.mov", "prores_ks", "yuv422p10le"),
    "DNxHD": ("i.mov", "dnxhd", "yuv422p", "-s", "1920x1080", "-b:v", "120M", "-flags", "+ildct", "-frames:v", "2"),
    "FFV1": ("i.mkv", "ffv1", "yuv420p"),
    "DV": ("i.avi", "dvvideo", "yuv420p", "-s", "720x576"),
    "uncompressed": ("i.mov", "v210", "yuv422p10le"),
    "Motion JPEG, the track alone": ("i.mov", "mjpeg", "yuvj422p"),
    "VP9, the track alone": ("i.mkv", "libvpx-vp9", "yuv420p"),
}


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"), [(*kind[:3], kind[3:]) for kind in INTERLACED.values()], ids=INTERLACED
)
def test_interlaced_film_is_refused_with_the_cure(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: tuple[str, ...]
) -> None:
    film = make_film(tmp_path / "a.mkv", frames=4)
    fields = tmp_path / name
    run_tool("-i", str(film), "-vf", "setfield=tff", "-c:v", codec, "-pix_fmt", pix_fmt, *options, str(fields))
    with pytest.raises(InputError, match=rf"{name}.*: the (picture is|track says that the picture is) interlaced") as caught:
        demuxed(fields)
    assert "bwdif" in caught.value.cure


@pytest.mark.parametrize("options", [("libx264", "-x264-params", "fake-interlaced=1"), ("prores_ks",), ("mpeg2video",)])
def test_progressive_film_is_not_taken_for_interlaced(tmp_path: Path, options: tuple[str, ...]) -> None:
    film = make_film(tmp_path / "a.mkv", frames=4)
    run_tool("-i", str(film), "-c:v", *options, str(tmp_path / "p.mov"))
    assert demuxed(tmp_path / "p.mov").frames == 4


def test_transparency_that_no_decoder_shows_is_refused(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.webm", frames=3, codec="libvpx-vp9", pix_fmt="yuva420p")
    with pytest.raises(InputError, match=r"a\.webm: its transparency is stored apart.*yuva444p10le NEW\.mov"):
        demuxed(film)


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_second_layer_that_no_decoder_shows_is_refused(tmp_path: Path, suffix: str) -> None:
    film = make_film(tmp_path / f"a{suffix}", frames=3, codec="libx265", options={"x265-params": "log-level=none"})
    layered = tmp_path / f"layers{suffix}"
    with av.open(str(film)) as given, av.open(str(layered), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0], opaque=True)
        for packet in given.demux(video=0):
            if packet.size:
                nal = bytes([2, 9, 128, 128])  # a slice of layer 1
                mark = len(nal).to_bytes(4) if suffix == ".mp4" else b"\0\0\0\1"
                made = av.Packet(bytes(packet) + mark + nal)
                made.pts, made.dts, made.time_base, made.stream = packet.pts, packet.dts, packet.time_base, stream
                made.is_keyframe = packet.is_keyframe
                out.mux(made)
    assert demuxed(film).frames == 3
    with pytest.raises(InputError, match=r"layers\.\w+: transparency or a second view is stored as a layer"):
        demuxed(layered)


def test_profiles_and_hdr10_metadata_are_told(tmp_path: Path) -> None:
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    params = {"x265-params": f"log-level=none:master-display={display}:max-cll=1000,400"}
    source = demuxed(make_film(tmp_path / "a.mkv", frames=3, codec="libx265", pix_fmt="yuv420p10le", options=params))
    assert (source.mastering, source.light, source.profile) == (display, "1000,400", "")
    source = demuxed(make_film(tmp_path / "a.mov", frames=2, codec="prores_ks", pix_fmt="yuv422p10le", options={"profile": "lt"}))
    assert (source.mastering, source.light, source.profile) == ("", "", "apcs")


def test_film_whose_hdr10_metadata_change_is_refused(tmp_path: Path) -> None:
    parts = []
    for light in (1000, 600):
        params = {"x265-params": f"log-level=none:bframes=0:repeat-headers=1:max-cll={light},400"}
        parts.append(make_film(tmp_path / f"{light}.hevc", frames=3, codec="libx265", pix_fmt="yuv420p10le", options=params))
    (tmp_path / "both.hevc").write_bytes(b"".join(part.read_bytes() for part in parts))
    both = tmp_path / "both.mp4"
    run_tool("-r", "25", "-i", str(tmp_path / "both.hevc"), "-c", "copy", str(both))
    with pytest.raises(InputError, match=r"both\.mp4 at 0:00:00\.\d+: the HDR10 metadata change"):
        demuxed(both)


def test_mirrored_film_is_refused(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=3)
    run_tool("-display_hflip", "-i", str(film), "-c", "copy", str(tmp_path / "m.mp4"))
    with pytest.raises(InputError, match=r"m\.mp4: it is to be shown mirrored"):
        demuxed(tmp_path / "m.mp4")


def test_film_that_changes_its_size_is_refused(tmp_path: Path) -> None:
    parts = [make_film(tmp_path / f"{w}.h264", frames=5, size=(w, 64), options={"bf": "0"}) for w in (128, 96)]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    both = tmp_path / "both.mp4"
    run_tool("-r", "25", "-i", str(tmp_path / "both.h264"), "-c", "copy", str(both))
    with pytest.raises(
        InputError, match=r"both\.mp4 at 0:00:00\.\d00: the picture changes from \(128, 64\) yuv420p to \(96, 64\)"
    ):
        demuxed(both)


@pytest.mark.parametrize(("content", "reason"), [(b"", "is empty"), (b"not a film\n" * 50, "cannot be read")])
def test_file_that_is_no_film_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.mp4: the file {reason}"):
        demuxed(tmp_path / "x.mp4")


def test_sound_without_picture_is_no_film(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=3, audio="aac")
    run_tool("-i", str(film), "-vn", "-c", "copy", str(tmp_path / "sound.mp4"))
    with pytest.raises(InputError, match=r"sound\.mp4: there is no picture"):
        demuxed(tmp_path / "sound.mp4")


def test_recording_without_length_in_its_header_is_no_truncated_film(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=50, audio="aac")
    run_tool("-i", str(film), "-c:v", "copy", "-c:a", "pcm_s16le", "-live", "1", "-f", "matroska", str(tmp_path / "live.mkv"))
    with av.open(str(tmp_path / "live.mkv")) as file:
        assert file.duration is None or file.duration > 0
    assert demuxed(tmp_path / "live.mkv").frames == 50

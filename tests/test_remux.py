"""The finished film against the original: every timestamp, stream and tag. Real codecs, tiny films, segments of unchanged frames."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from conftest import make_film, make_voice, number_of, run_tool

from musetalk_cli.config import BlendConfig, DemuxConfig, DubConfig, RemuxConfig, Runtime
from musetalk_cli.errors import InputError, InternalError, UsageError
from musetalk_cli.media.audio import read_speech
from musetalk_cli.media.ffmpeg import run_ffmpeg
from musetalk_cli.media.video import SegmentWriter, read_frames, segment_name, to_rgb
from musetalk_cli.pieces import cut_film
from musetalk_cli.stages import s6_remux
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s6_remux import Copies, check_deliverable, remux
from musetalk_cli.types import Line, Segment, Source, Stretch, Voicing

B_FRAMES = {"bf": "3", "g": "12"}
NONE = Copies()
NOTICE = "Lip movements in this film were altered by an AI system"


def demuxed(video: Path) -> Source:
    return demux(video, config=DemuxConfig(chunk=Fraction(3, 5)), runtime=Runtime(), out=video.parent)


def segments_of(
    video: Path, source: Source, suffix: str, stretches: Sequence[tuple[int, int]] | None = None, **blend: Any
) -> list[Segment]:
    """The film's own frames, encoded shot by shot, or those of some stretches."""
    segments = []
    config = BlendConfig(suffix=suffix, preset="ultrafast", **blend)
    for start, stop in [(shot.start, shot.stop) for shot in source.shots] if stretches is None else stretches:
        folder = video.parent / f"{start}{suffix}"
        folder.mkdir(exist_ok=True)
        path = folder / segment_name(source, config)
        with SegmentWriter(path, source, config) as writer:
            for frame in read_frames(video, source, start, stop):
                writer.write(frame)
        segments.append(Segment(path, start, stop, writer.frames))
    return segments


def dubbed(
    video: Path, voice: Path, suffix: str = "", *, copies: Copies = NONE, segments: list[Segment] | None = None, **config: object
) -> tuple[Source, Path]:
    """(what the film was, the finished film)"""
    source, suffix = demuxed(video), suffix or video.suffix
    out = video.parent / f"out{len(list(video.parent.iterdir()))}"
    out.mkdir()
    settings = RemuxConfig(suffix=suffix, notice=NOTICE, **{"language": "fr", **config})  # type: ignore[arg-type]
    parts = segments_of(video, source, suffix) if segments is None else segments
    film = remux(video, voice, source, parts, copies, config=settings, runtime=Runtime(), out=out)
    assert [path.name for path in out.iterdir()] == [f"film{suffix}"]
    return source, film.path


def irregular(folder: Path) -> Path:
    pts = (100 + np.cumsum(np.random.default_rng(0).integers(10, 90, 40))).tolist()
    return make_film(folder / "vfr.mkv", frames=40, vfr_pts=pts, time_base=Fraction(1, 1000), options=B_FRAMES, audio="aac")


def late_picture(folder: Path) -> Path:
    """Picture 1001/30000 s after its sound, and not at a whole millisecond."""
    film = make_film(folder / "a.mp4", frames=30, fps=Fraction(30000, 1001), audio="aac")
    run_tool(
        "-i",
        str(film),
        "-itsoffset",
        "0.3336667",
        "-i",
        str(film),
        "-map",
        "0:a",
        "-map",
        "1:v",
        "-c",
        "copy",
        str(folder / "l.mp4"),
    )
    return folder / "l.mp4"


def edit_list(folder: Path) -> Path:
    whole = make_film(folder / "whole.mp4", frames=40, options=B_FRAMES, audio="aac")
    run_tool("-ss", "0.6", "-i", str(whole), "-c", "copy", str(folder / "cut.mp4"))
    return folder / "cut.mp4"


FILMS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "23.976 mp4": (lambda f: make_film(f / "a.mp4", frames=40, fps=Fraction(24000, 1001), options=B_FRAMES, audio="aac"), ".mp4"),
    "29.97 mp4 to mov": (lambda f: make_film(f / "a.mp4", frames=40, fps=Fraction(30000, 1001), options=B_FRAMES), ".mov"),
    "29.97 mkv": (lambda f: make_film(f / "a.mkv", frames=40, fps=Fraction(30000, 1001), audio="flac"), ".mkv"),
    "29.97 mkv to mp4": (lambda f: make_film(f / "a.mkv", frames=40, fps=Fraction(30000, 1001), audio="aac"), ".mp4"),
    "50 fps": (lambda f: make_film(f / "a.mp4", frames=40, fps=Fraction(50), options=B_FRAMES, audio="aac"), ".mp4"),
    "25 mp4 to mkv": (lambda f: make_film(f / "a.mp4", frames=40, audio="aac"), ".mkv"),
    "webm": (
        lambda f: make_film(f / "a.webm", frames=20, codec="libvpx-vp9", options={"deadline": "realtime"}, audio="libopus"),
        ".webm",
    ),
    "avi": (lambda f: make_film(f / "a.avi", frames=40, codec="mpeg4", audio="libmp3lame"), ".avi"),
    "29.97 avi": (lambda f: make_film(f / "a.avi", frames=40, fps=Fraction(30000, 1001), codec="mpeg4"), ".avi"),
    "avi with B-frames to mp4": (lambda f: make_film(f / "a.avi", frames=40, options=B_FRAMES), ".mp4"),
    "transport stream to mp4": (lambda f: make_film(f / "a.ts", frames=40, options=B_FRAMES, audio="aac"), ".mp4"),
    "10 bit": (lambda f: make_film(f / "a.mp4", frames=12, pix_fmt="yuv420p10le", audio="aac"), ".mp4"),
    "variable rate mkv": (irregular, ".mkv"),
    "variable rate mkv to mp4": (irregular, ".mp4"),
    "late picture": (late_picture, ".mp4"),
    "edit list": (edit_list, ".mp4"),
}


@pytest.fixture(scope="module", name="voice")
def _voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voice(tmp_path_factory.mktemp("voice") / "fr.wav", seconds=1, rate_hz=44100)


@pytest.mark.parametrize("kind", FILMS)
def test_every_frame_is_where_it_was(tmp_path: Path, voice: Path, kind: str) -> None:
    make, suffix = FILMS[kind]
    video = make(tmp_path)
    source, film = dubbed(video, voice, suffix)
    again = demuxed(film)
    expected = [int(pts) * source.time_base for pts in source.pts]
    assert [int(pts) * again.time_base for pts in again.pts] == expected
    assert (again.size, again.sar, tuple(again.colour)[:4]) == (source.size, source.sar, tuple(source.colour)[:4])
    assert (again.colour.range or "tv") == (source.colour.range or "tv")  # x265 writes the default
    first, last = (next(read_frames(video, source, n, n + 1)) for n in (0, source.frames - 1))
    numbers = [number_of(to_rgb(frame, source.colour)) for frame in read_frames(film, again, 0, again.frames)]
    assert numbers == list(range(number_of(to_rgb(first, source.colour)), number_of(to_rgb(last, source.colour)) + 1))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
@pytest.mark.parametrize("codec", ["wav", "mp3", "flac", "m4a", "opus"])
def test_voice_is_heard_where_it_was_spoken(tmp_path: Path, voice: Path, suffix: str, codec: str) -> None:
    spoken = tmp_path / f"v.{codec}"
    run_tool("-i", str(voice), *(("-ar", "48000") if codec == "opus" else ()), str(spoken))
    webm = suffix == ".webm"
    options = {"deadline": "realtime", "cpu-used": "8"} if webm else {}
    video = make_film(tmp_path / f"a{suffix}", frames=4, codec="libvpx-vp9" if webm else "mpeg4", options=options)
    _, film = dubbed(video, spoken)
    heard, said = read_speech(film), read_speech(spoken)
    size = min(len(heard), len(said))
    at = [np.dot(heard[100 + by : size - 100 + by], said[100 : size - 100]) for by in range(-100, 100)]
    assert abs(int(np.argmax(at)) - 100) <= (16 if suffix in (".mkv", ".webm") else 1)  # samples at 16 kHz; those count in ms
    with av.open(str(film)) as file:
        assert file.streams.audio[0].rate == (48000 if codec == "opus" or webm else 44100)


def full_mkv(folder: Path) -> Path:
    """Two sound tracks, subtitles, chapters, a font and tags."""
    film = make_film(folder / "plain.mkv", frames=25, audio="aac")
    (folder / "a.srt").write_text("1\n00:00:00,100 --> 00:00:00,500\nbonjour\n", encoding="utf-8")
    (folder / "font.ttf").write_bytes(bytes(range(256)))
    (folder / "tags.txt").write_text(
        ';FFMETADATA1\ntitle=Amélie\'s "film"\ncomment=first cut\nartist=me\n'
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=one\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=1000\ntitle=zwei ü\n",
        encoding="utf-8",
    )
    full = folder / "full film.mkv"
    run_tool(
        *("-i", str(film), "-i", str(folder / "a.srt"), "-i", str(folder / "tags.txt"), "-attach", str(folder / "font.ttf")),
        *("-map", "0:v", "-map", "0:a", "-map", "0:a", "-map", "1", "-map_metadata", "2", "-map_chapters", "2", "-c", "copy"),
        *("-c:a:1", "flac", "-metadata:s:t", "mimetype=font/ttf", "-metadata:s:v:0", "title=the picture"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:0", "title=original", "-metadata:s:a:1", "language=ger"),
        *("-metadata:s:s:0", "language=fre", "-disposition:s:0", "forced", str(full)),
    )
    return full


def test_everything_else_of_the_film_is_kept(tmp_path: Path, voice: Path) -> None:
    _, film = dubbed(full_mkv(tmp_path), voice)
    with av.open(str(film)) as file:
        told = [
            (s.type, s.codec.canonical_name if s.codec_context else "", s.language, s.metadata.get("title")) for s in file.streams
        ]
        assert told[0] == ("video", "h264", None, "the picture")
        assert told[1] == ("audio", "pcm_s16le", "fra", None)
        assert told[2:] == [
            ("audio", "aac", "eng", "original"),
            ("audio", "flac", "ger", None),
            ("subtitle", "subrip", "fre", None),
            ("attachment", "", None, None),
        ]
        default = [bool(file.streams[n].disposition & Disposition.default) for n in range(4)]
        assert default == [True, True, False, False]
        assert file.streams[4].disposition & Disposition.forced
        assert file.streams.attachments[0].data == bytes(range(256))
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"]) for c in file.chapters()]
        assert chapters == [(0, Fraction(2, 5), "one"), (Fraction(2, 5), 1, "zwei ü")]
        tags = {key.lower(): value for key, value in file.metadata.items()}
        assert (tags["title"], tags["artist"], tags["comment"]) == ('Amélie\'s "film"', "me", f"first cut\n{NOTICE}")


def packets_of(film: Path, kind: str, number: int) -> list[tuple[Fraction, bytes]]:
    with av.open(str(film)) as file:
        stream = [stream for stream in file.streams if stream.type == kind][number]
        return [((packet.pts or 0) * packet.time_base, bytes(packet)) for packet in file.demux(stream) if packet.size]


def test_original_sound_and_subtitles_are_bit_for_bit_the_same(tmp_path: Path, voice: Path) -> None:
    video = full_mkv(tmp_path)
    _, film = dubbed(video, voice)
    for kind, old, new in (("audio", 0, 1), ("audio", 1, 2), ("subtitle", 0, 0)):
        assert packets_of(film, kind, new) == packets_of(video, kind, old)


def test_original_sound_can_be_left_out(tmp_path: Path, voice: Path) -> None:
    _, film = dubbed(full_mkv(tmp_path), voice, original_audio=False)
    with av.open(str(film)) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio", "subtitle", "attachment"]


def test_mp4_keeps_cover_chapters_subtitles_and_timecode(tmp_path: Path, voice: Path) -> None:
    film = make_film(tmp_path / "plain.mp4", frames=25, audio="aac")
    run_tool("-i", str(film), "-frames:v", "1", str(tmp_path / "cover.jpg"))
    full_mkv(tmp_path)
    full = tmp_path / "full.mp4"
    run_tool(
        *("-i", str(film), "-i", str(tmp_path / "cover.jpg"), "-i", str(tmp_path / "a.srt"), "-i", str(tmp_path / "tags.txt")),
        *("-map", "0", "-map", "1", "-map", "2", "-map_metadata", "3", "-map_chapters", "3", "-c", "copy", "-c:s", "mov_text"),
        *("-disposition:v:1", "attached_pic", "-timecode", "01:00:00:00", "-metadata:s:a:0", "language=eng", str(full)),
    )
    source, dub = dubbed(full, voice)
    data = [sorted(s.codec for s in film.streams if s.kind == "data") for film in (source, demuxed(dub))]
    assert set(data[0]) == set(data[1]) == {"text", "tmcd"}
    with av.open(str(full)) as before, av.open(str(dub)) as after:
        kinds = [stream.type for stream in after.streams if stream.type != "data"]
        assert kinds[:3] == ["video", "audio", "audio"] and sorted(kinds[3:]) == ["subtitle", "video"]
        assert after.streams.video[1].disposition & Disposition.attached_pic
        assert after.streams.video[0].metadata["timecode"] == "01:00:00:00"
        assert [stream.language for stream in after.streams.audio] == ["fra", "eng"]
        chapters = [
            [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in film.chapters()]
            for film in (before, after)
        ]
        assert chapters[0] == chapters[1] and len(chapters[0]) == 2
        assert after.metadata["comment"] == f"first cut\n{NOTICE}" and after.metadata["title"] == before.metadata["title"]
    assert packets_of(dub, "video", 1)[0][1] == packets_of(full, "video", 1)[0][1]
    assert packets_of(dub, "audio", 1) == packets_of(full, "audio", 0)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_cover_art_stays_cover_art(tmp_path: Path, voice: Path, suffix: str) -> None:
    film = make_film(tmp_path / "plain.mkv", frames=3)
    for name in ("cover.png", "cover.jpg"):
        run_tool("-i", str(film), "-frames:v", "1", str(tmp_path / name))
    full = tmp_path / "full.mkv"
    attach = [("-attach", str(tmp_path / name)) for name in ("cover.jpg", "cover.png")]
    types = [(f"-metadata:s:t:{n}", f"mimetype=image/{kind}") for n, kind in enumerate(("jpeg", "png"))]
    run_tool("-i", str(film), "-c", "copy", *(part for option in attach + types for part in option), str(full))
    _, dub = dubbed(full, voice, suffix)
    with av.open(str(dub)) as file:
        assert [bool(stream.disposition & Disposition.attached_pic) for stream in file.streams.video] == [False, True, True]
    assert [packets_of(dub, "video", n)[0][1] for n in (1, 2)] == [
        (tmp_path / name).read_bytes() for name in ("cover.jpg", "cover.png")
    ]


def test_rotation_and_aspect_are_carried(tmp_path: Path, voice: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=5)
    turned = tmp_path / "t.mp4"
    run_tool("-display_rotation", "90", "-i", str(film), "-c", "copy", "-aspect", "2:1", str(turned))
    for suffix in (".mp4", ".mov", ".mkv"):
        source, dub = dubbed(turned, voice, suffix)
        again = demuxed(dub)
        assert (again.rotation, again.sar) == (90, Fraction(3, 2)) == (source.rotation, source.sar)


def test_last_frame_lasts_as_long_as_it_did(tmp_path: Path, voice: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=30, fps=Fraction(30000, 1001), options=B_FRAMES)
    _, dub = dubbed(film, voice)
    with av.open(str(film)) as before, av.open(str(dub)) as after:
        ends = [s.duration * s.time_base for s in (before.streams.video[0], after.streams.video[0])]
        assert ends[0] == ends[1] == Fraction(30030, 30000)
        assert before.streams.video[0].average_rate == after.streams.video[0].average_rate


def test_frame_rate_is_in_the_header_of_a_matroska_film(tmp_path: Path, voice: Path) -> None:
    _, dub = dubbed(make_film(tmp_path / "a.mkv", frames=30, fps=Fraction(24000, 1001)), voice)
    with av.open(str(dub)) as file:
        assert abs(file.streams.video[0].average_rate - Fraction(24000, 1001)) < Fraction(1, 1000)


@pytest.mark.parametrize(("length", "seconds"), [("keep", 2.0), ("trim", 1.0)])
def test_voice_longer_than_the_picture_follows_the_length_policy(tmp_path: Path, length: str, seconds: float) -> None:
    long = make_voice(tmp_path / "v.wav", seconds=2, rate_hz=44100)
    source, film = dubbed(make_film(tmp_path / "a.mp4", frames=25), long, length=length)
    assert abs(len(read_speech(film)) / 16000 - seconds) < 0.03
    assert source.frames == 25


def test_same_inputs_give_the_same_bytes(tmp_path: Path, voice: Path) -> None:
    for name in ("a.mkv", "a.mp4"):
        video = make_film(tmp_path / name, frames=20, audio="aac")
        films = [dubbed(video, voice)[1].read_bytes() for _ in range(2)]
        assert films[0] == films[1]


@pytest.mark.parametrize("name", ["-it's a film.mp4", 'q"uote\n電影 ü.mkv'])
def test_any_name_of_film_and_voice(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video = make_film(tmp_path / f"a{Path(name).suffix}", frames=4, audio="aac").rename(tmp_path / name)
    voice = make_voice(tmp_path / "v.wav", seconds=0.2).rename(tmp_path / "-v;'$HOME.wav")
    monkeypatch.chdir(tmp_path)
    assert dubbed(Path(video.name).absolute(), Path(voice.name))[0].frames == 4


def refused(video: Path, **config: object) -> InputError:
    with pytest.raises(InputError) as caught:
        check_deliverable(video, demuxed(video), RemuxConfig(**config))  # type: ignore[arg-type]
    assert caught.value.cure
    return caught.value


def test_container_that_cannot_hold_a_stream_is_refused_with_the_cure(tmp_path: Path) -> None:
    error = refused(full_mkv(tmp_path), suffix=".mp4")
    assert "stream 3 (subtitle, subrip)" in error.fact and "-map -0:3" in error.cure


def test_container_that_would_round_timestamps_is_refused(tmp_path: Path) -> None:
    assert "not whole milliseconds" in refused(make_film(tmp_path / "a.mp4", frames=9, fps=Fraction(24)), suffix=".mkv").fact
    assert "later than at zero" in refused(irregular(tmp_path), suffix=".avi").fact
    uneven = make_film(tmp_path / "u.mkv", frames=3, vfr_pts=[0, 33, 90], time_base=Fraction(1, 1000))
    assert "variable frame rate" in refused(uneven, suffix=".avi").fact


def test_unknown_container_and_language_are_refused(tmp_path: Path) -> None:
    film = make_film(tmp_path / "a.mp4", frames=2)
    assert "cannot write .wmv" in refused(film, suffix=".wmv").fact
    with pytest.raises(UsageError, match="'klingon' is no language"):
        check_deliverable(film, demuxed(film), RemuxConfig(language="klingon"))


def test_file_without_sound_is_no_voice(tmp_path: Path) -> None:
    video = make_film(tmp_path / "a.mp4", frames=3)
    with pytest.raises(InputError, match="there is no sound in it"):
        dubbed(video, make_film(tmp_path / "v.mp4", frames=3))


def test_segments_of_other_settings_or_another_film_are_never_joined(tmp_path: Path, voice: Path) -> None:
    video = make_film(tmp_path / "a.mp4", frames=30)
    source = demuxed(video)
    segments = segments_of(video, source, ".mp4")
    settings = RemuxConfig(suffix=".mp4")

    def join(source: Source, parts: list[Segment]) -> None:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        remux(video, voice, source, parts, NONE, config=settings, runtime=Runtime(), out=out)

    with pytest.raises(InternalError, match="do not make a film"):
        join(source, segments[1:])
    shifted = source.pts.copy()
    shifted[20] += 1
    with pytest.raises(InternalError, match="frame 20 is at"):
        join(replace(source, pts=shifted), segments)
    with SegmentWriter(segments[1].path, source, BlendConfig(preset="medium")) as writer:
        for frame in read_frames(video, source, source.shots[1].start, source.shots[1].stop):
            writer.write(frame)
    with pytest.raises(InternalError, match="encoded with other settings"):
        join(source, segments)


@pytest.mark.parametrize(
    ("fault", "fact"),
    [(["-frames:v", "5"], "holds 5 frames, the film 20"), (["-aspect:0", "3"], "the picture is")],
)
def test_film_that_came_out_wrong_is_never_delivered(
    tmp_path: Path, voice: Path, monkeypatch: pytest.MonkeyPatch, fault: list[str], fact: str
) -> None:
    def faulty(output: object, *, repeated: list[str], **rest: object) -> str:
        return run_ffmpeg(output, repeated=[*repeated, *fault], **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(s6_remux, "run_ffmpeg", faulty)
    with pytest.raises(InternalError, match=fact):
        dubbed(make_film(tmp_path / "a.mp4", frames=20), voice)


def test_a_film_that_was_cut_short_is_our_error_and_not_the_users(
    tmp_path: Path, voice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(output: object, **rest: object) -> str:
        said = run_ffmpeg(output, **rest)  # type: ignore[arg-type]
        (made,) = tmp_path.rglob("film.mp4")
        os.truncate(made, made.stat().st_size // 2)
        return said

    monkeypatch.setattr(s6_remux, "run_ffmpeg", cut_short)
    with pytest.raises(InternalError, match=r"film\.mp4: the file cannot be read"):
        dubbed(make_film(tmp_path / "a.mp4", frames=20), voice)


# stretches that are the film's own packets

KEYED = "keyint=10:min-keyint=10:scenecut=0"
COPIED = {
    "mp4": (".mp4", "libx264", {"x264-params": KEYED}),
    "mp4 without B-frames": (".mp4", "libx264", {"x264-params": KEYED, "bf": "0"}),
    "mkv": (".mkv", "libx264", {"x264-params": KEYED}),
    "hevc": (".mp4", "libx265", {"x265-params": f"log-level=none:{KEYED}:open-gop=0:pools=1:frame-threads=1"}),
}


Told = tuple[Path, Source, Path, Copies]


@pytest.fixture(scope="module", params=COPIED)
def copied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, voice: Path) -> Told:
    """(the film of 60 frames, what it was, the finished film, what of it was copied)"""
    suffix, codec, options = COPIED[request.param]
    video = make_film(tmp_path_factory.mktemp("copied") / f"a{suffix}", frames=60, codec=codec, options=options, audio="aac")
    source = demuxed(video)
    cut = cut_film(
        video,
        source,
        [Voicing((Line(0, 23, 37, 0),))],
        DubConfig(blend=BlendConfig(suffix=suffix), remux=RemuxConfig(suffix=suffix)),
    )
    (first, second) = cut.copied
    segments = segments_of(video, source, suffix, [(first.stop, second.start)], reordering=cut.reordering)
    source, film = dubbed(video, voice, suffix, copies=Copies(cut.copied), segments=segments)
    return video, source, film, Copies(cut.copied)


def test_what_is_copied_is_bit_for_bit_the_films_and_the_rest_is_not(copied: Told) -> None:
    video, source, film, copies = copied
    before, after = (dict(packets_of(path, "video", 0)) for path in (video, film))
    for number in range(source.frames):
        time = int(source.pts[number]) * source.time_base
        kept = any(stretch.start <= number < stretch.stop for stretch in copies.of)
        assert (after[time] == before[time]) == kept
    assert sum(stop - start for start, stop in copies.of) >= 30


def test_copied_and_encoded_frames_are_all_there_at_their_times(copied: Told) -> None:
    _, source, film, _ = copied
    again = demuxed(film)
    assert [int(t) * again.time_base for t in again.pts] == [int(t) * source.time_base for t in source.pts]
    numbers = [number_of(to_rgb(frame, source.colour)) for frame in read_frames(film, again, 0, again.frames)]
    assert numbers == list(range(60))


def test_no_strict_player_finds_an_error_at_the_joints(copied: Told) -> None:
    run_tool("-xerror", "-err_detect", "explode", "-i", str(copied[2]), "-f", "null", "-")


def test_the_voice_comes_first_over_copied_stretches_too(copied: Told) -> None:
    video, _, film, _ = copied
    with av.open(str(film)) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio", "audio"]
        assert [stream.language for stream in file.streams.audio][0] == "fra"
    assert packets_of(film, "audio", 1) == packets_of(video, "audio", 0)


def test_a_film_that_is_all_copied_is_the_films_picture(tmp_path: Path, voice: Path) -> None:
    video = make_film(tmp_path / "a.mp4", frames=20, audio="aac")
    _, film = dubbed(video, voice, copies=Copies((Stretch(0, 20),)), segments=[])
    assert packets_of(film, "video", 0) == packets_of(video, "video", 0)


def test_a_stretch_that_cannot_be_copied_is_a_bug_and_no_film(tmp_path: Path, voice: Path) -> None:
    video = make_film(tmp_path / "a.mp4", frames=20, options={"x264-params": KEYED})
    with pytest.raises(InternalError, match=r"\[5, 20\) cannot be copied"):
        dubbed(video, voice, copies=Copies((Stretch(5, 20),)), segments=segments_of(video, demuxed(video), ".mp4", [(0, 5)]))
    with pytest.raises(InternalError, match="do not make a film of 20 frames"):
        dubbed(video, voice, copies=Copies((Stretch(10, 20),)), segments=[])
    old = make_film(tmp_path / "a.avi", frames=20, codec="mpeg4")
    with pytest.raises(InternalError, match="were to be copied"):
        dubbed(old, voice, copies=Copies((Stretch(0, 20),)), segments=[])

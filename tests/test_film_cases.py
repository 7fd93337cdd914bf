"""Everything that a film can be, by the command: it is dubbed right, or refused with its exit code and the cure; never altered in silence.

SECTION names every case once, with the rows of CASES or the tests that prove it, here or elsewhere. Real codecs, the embedded model,
the shared clip of made_films.
"""

import ast
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

import av
import made_films as films
import numpy as np
import pytest
from conftest import FRENCH, make_film, make_speech, make_voice, run_tool
from made_films import clip, passed
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli import cli, pipeline
from musetalk_cli import work as work_module
from musetalk_cli.config import BlendConfig, DemuxConfig, RemuxConfig, Runtime
from musetalk_cli.media.audio import read_speech
from musetalk_cli.media.ffmpeg import find_ffmpeg
from musetalk_cli.media.video import SegmentWriter, packet_times, read_frames, segment_name
from musetalk_cli.models.family import windows_at
from musetalk_cli.models.lite import LiteModel
from musetalk_cli.stages import s5_blend
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s6_remux import Copies, remux
from musetalk_cli.stages.s7_verify import verify_film
from musetalk_cli.types import Colour, Segment, Shot, Source, Stretch
from musetalk_cli.weights import embedded_lite

FLAGS = ("--device", "cpu", "--model", "lite", "--preset", "ultrafast", "--progress", "plain")
CHANGED = 24  # code values of 8 bits: more than any encoder here makes of a picture
Event = dict[str, Any]


@dataclass(frozen=True)
class Dubbed:
    """What a run left."""

    film: Path
    voice: Path
    out: Path
    said: str  # on stderr
    told: list[Event]

    @property
    def plan(self) -> Event:
        (plan,) = [event for event in self.told if event["event"] == "run.plan"]
        return plan


Check = Callable[[Dubbed], None]


@dataclass(frozen=True)
class Case:
    """A film, how it is dubbed, and what must come of it."""

    make: Callable[[Path], Path]
    flags: tuple[str, ...] = ()
    voice: Callable[[Path], Path] | None = None  # None: half a second of speech
    suffix: str = ""  # of the output; the film's
    code: int = 0
    said: tuple[str, ...] = ()  # on stderr, facts and cures
    mouth: tuple[float, float] | None = films.MOUTH  # where in the stored picture it changes; None: nothing is said of where
    check: Check | None = None


# what a row may ask of its dubbed film


class Shown(NamedTuple):
    time: Fraction
    grey: NDArray[np.int16]  # (H, W)


def shown(film: Path) -> list[Shown]:
    with av.open(str(film)) as file:
        stream = file.streams.video[0]
        tick = Fraction(stream.time_base or 1)
        return [
            Shown((frame.pts or 0) * tick, frame.to_ndarray(format="gray").astype(np.int16)) for frame in file.decode(stream)
        ]


def differences(film: Path, other: Path) -> list[NDArray[np.bool_]]:
    """Of each frame, where it is another by more than an encoder makes it. (H, W) each."""
    return [np.abs(a.grey - b.grey) > CHANGED for a, b in zip(shown(film), shown(other), strict=False)]


def mouth_changed(done: Dubbed, mouth: tuple[float, float]) -> None:
    """Some mouth, and nothing far from it."""
    changed = np.any(differences(done.film, done.out), axis=0)
    assert changed.any(), "no mouth was dubbed"
    height, width = changed.shape
    down, across = np.nonzero(changed)
    far = np.hypot(across / width - mouth[0], down / height - mouth[1])
    assert far.max() < 0.3 and np.median(far) < 0.12, (float(np.median(far)), float(far.max()))


def untouched(done: Dubbed) -> None:
    assert not np.any(differences(done.film, done.out))


def same_frames(done: Dubbed) -> None:
    """Each at its time, and no other."""
    assert [frame.time for frame in shown(done.out)] == [frame.time for frame in shown(done.film)]


def more_frames(count: int, done: Dubbed) -> None:
    """The film's own at their times, and more at its pace until the voice ends."""
    was, now = ([frame.time for frame in shown(path)] for path in (done.film, done.out))
    assert now[: len(was)] == was and len(now) == count
    assert {b - a for a, b in pairwise(now)} == {was[1] - was[0]}


def one_faceless(done: Dubbed) -> None:
    touched = [bool(changed.any()) for changed in differences(done.film, done.out)]
    assert not touched[5] and any(touched[:5]) and any(touched[6:])


def black_stays_black(done: Dubbed) -> None:
    assert max(int(frame.grey.max()) for frame in shown(done.out)[10:]) <= 2
    assert any(changed.any() for changed in differences(done.film, done.out)[:10])


def cuts_kept(done: Dubbed) -> None:
    """Each shot has its own mouth, from its first frame to its last: nothing is smoothed over a cut."""
    assert [(shot["start"], shot["stop"]) for shot in done.plan["decisions"]] == [(0, 12), (12, 24), (24, 36)]
    found = differences(done.film, done.out)
    for number, changed in enumerate(found):
        left = (0, 112, 0)[number // 12]
        down, across = np.nonzero(changed)
        away = np.abs(across - left - 144 * films.MOUTH[0])
        assert len(away) == 0 or away.max() < 40, number
    assert all(any(changed.any() for changed in found[start : start + 12]) for start in (0, 12, 24))


def demuxed(film: Path) -> Source:
    return demux(film, config=DemuxConfig(), runtime=Runtime(), out=film.parent)


def same_source(*names: str) -> Check:
    """What demux tells of the film, it tells of the dub."""

    def check(done: Dubbed) -> None:
        was, now = demuxed(done.film), demuxed(done.out)
        assert {name: getattr(now, name) for name in names} == {name: getattr(was, name) for name in names}

    return check


def is_a(name: str, value: object, *names: str) -> Check:
    """The made film has what its row is about, and so has the dub."""

    def check(done: Dubbed) -> None:
        for path in (done.film, done.out):
            assert _found(demuxed(path), name) == value
        same_source("codec", "size", "sar", "rotation", "mastering", "light", *names)(done)
        assert _tags(demuxed(done.out).colour) == _tags(demuxed(done.film).colour)

    return check


def _found(source: Source, name: str) -> object:
    return getattr(source.colour if hasattr(source.colour, name) else source, name)


def _tags(colour: Colour) -> Colour:
    """x265 and ProRes write the range even where it is the usual one."""
    return colour._replace(range=colour.range or "tv")


def reordered(done: Dubbed) -> None:
    with av.open(str(done.film)) as file:
        packets = [packet.pts for packet in file.demux(file.streams.video[0]) if packet.size]
    assert packets != sorted(pts for pts in packets if pts is not None)


def heard_from(start: Fraction, done: Dubbed) -> None:
    """The voice's first sample so long after the film's start, to the sample; none is lost, none is added."""
    given, (first, samples) = sound_of(done.voice)[1], sound_of(done.out)
    assert first - demuxed(done.film).start == start
    np.testing.assert_array_equal(samples[: len(given)], given)
    assert not samples[len(given) :].any()


def sound_of(path: Path) -> tuple[Fraction, NDArray[np.float64]]:
    """Seconds at which the first track of sound begins, and its samples (S, channels), a lossless one's exactly."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        frames = list(file.decode(stream))
        start = (frames[0].pts or 0) * Fraction(frames[0].time_base or 1)
        planar = [frame.to_ndarray() if frame.format.is_planar else frame.to_ndarray().reshape(-1, len(frame.layout.channels)).T for frame in frames]
        scale = {"s16": 1, "s16p": 1, "s32": 65536, "s32p": 65536}.get(frames[0].format.name, 1)
    return start, np.concatenate(planar, axis=1).T.astype(np.float64) / scale


def lasts(seconds: float, done: Dubbed) -> None:
    """The voice, to within a block of AAC."""
    with av.open(str(done.out)) as file:
        assert sum(frame.samples / frame.sample_rate for frame in file.decode(file.streams.audio[0])) == pytest.approx(seconds, abs=0.07)


def six_kept(done: Dubbed) -> None:
    with av.open(str(done.out)) as file:
        assert file.streams.audio[0].codec_context.channels == 6


def all_carried(done: Dubbed) -> None:
    with av.open(str(done.out)) as file:
        told = [(stream.type, stream.language) for stream in file.streams]
        font = next(stream for stream in file.streams if stream.type == "attachment")
        assert (font.name, font.mimetype, bytes(font.data)) == ("font.ttf", "application/x-truetype-font", bytes(range(256)) * 8)
        assert [chapter["metadata"]["title"] for chapter in file.chapters()] == ["Part 0", "Part 1"]
        assert file.metadata["title"] == "A film"
    sounds = ["fra", "eng", "ger", "jpn"]
    assert [language for kind, language in told if kind == "audio"] == sounds
    assert [language for kind, language in told if kind == "subtitle"] == ["eng", "spa"]


def hidden_frames(done: Dubbed) -> None:
    with av.open(str(done.film)) as file:
        assert sum(packet.size > 0 for packet in file.demux(file.streams.video[0])) > len(shown(done.film))


def no_last_duration(done: Dubbed) -> None:
    assert demuxed(done.film).durations[-1] == 0
    assert demuxed(done.out).frames == films.FRAMES


def alpha_kept(done: Dubbed) -> None:
    """Sample for sample, and it is no plain one."""
    was, now = (alphas(path) for path in (done.film, done.out))
    assert was == now and len(set(was[0])) > 100


def alphas(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(frame.planes[3]) for frame in file.decode(video=0)]


def copied_whole(done: Dubbed) -> None:
    """And it is told why."""
    assert done.plan["frames_copied"] == films.FRAMES
    assert "1 passed through (silence 1)" in done.said


# the table

SHUT = ("--silence", "closed")
LATE = partial(films.late_sound, seconds="0.04")


def speech_of(seconds: float, folder: Path) -> Path:
    return make_speech(folder / "fr.wav", seconds=seconds)


def late_speech(folder: Path) -> Path:
    """Its file begins 40 ms before it, by the clock of the file."""
    speech = make_speech(folder / "fr.wav", seconds=0.3)
    path = folder / "fr.mka"
    run_tool("-itsoffset", "0.04", "-i", str(speech), "-f", "lavfi", "-i", "anullsrc=r=8000:d=0.02", "-map", "0", "-map", "1", "-c:a", "pcm_s16le", str(path))
    return path


def coloured(tags: dict[str, str], params: str = "", pix_fmt: str = "yuv420p10le") -> Callable[[Path], Path]:
    options = {**tags, "x265-params": f"{films.X265}:{params}".rstrip(":")}
    return partial(clip, codec="libx265", pix_fmt=pix_fmt, options=options)


CASES: dict[str, Case] = {
    "plain": Case(partial(clip, audio="aac"), check=same_source("colour", "codec")),
    "one frame without a face": Case(
        partial(clip, frames=11, picture=lambda n: films.wall() if n == 5 else films.face(n)), mouth=None, check=one_faceless
    ),
    "a cut every 12 frames": Case(films.cuts, voice=partial(speech_of, 1.6), mouth=None, check=cuts_kept),
    "fade to black": Case(films.fading, check=black_stays_black),
    "rotated 90": Case(partial(films.turned, degrees=90), mouth=(0.58, 0.5), check=is_a("rotation", 90)),
    "rotated 180": Case(partial(films.turned, degrees=180), mouth=(0.5, 0.42), check=is_a("rotation", 180)),
    "rotated 270": Case(partial(films.turned, degrees=270), mouth=(0.42, 0.5), check=is_a("rotation", 270)),
    "anamorphic": Case(films.squeezed, check=is_a("sar", Fraction(4, 3))),
    "odd size, VP9": Case(
        partial(clip, suffix=".webm", size=(161, 159), picture=lambda _: films.portrait(161, 159), codec="libvpx-vp9", options={"crf": "10", "b": "0", "cpu-used": "8"}),
        check=is_a("size", (161, 159)),
    ),
    "odd size, 4:4:4": Case(
        partial(clip, size=(161, 159), picture=lambda _: films.portrait(161, 159), pix_fmt="yuv444p"), check=is_a("size", (161, 159))
    ),
    "odd size that no encoder of the container keeps": Case(
        partial(clip, suffix=".mkv", size=(161, 159), picture=lambda _: films.portrait(161, 159), codec="ffv1"),
        suffix=".mov", code=3, said=("161x159", "cannot keep an odd size", "use -o NAME."),
    ),
    "interlaced": Case(
        partial(passed, arguments=("-vf", "setfield=tff", "-c:v", "libx264", "-flags", "+ildct+ilme", "-x264-params", "tff=1")),
        code=3, said=("the picture is interlaced", "bwdif"),
    ),
    "PQ, mastered": Case(coloured(films.PQ, films.MASTERING), check=is_a("light", "1000,400", "codec")),
    "HLG": Case(coloured(films.HLG), check=is_a("transfer", "arib-std-b67")),
    "10 bits in H.264": Case(partial(clip, pix_fmt="yuv420p10le", options=films.BT709), check=is_a("pix_fmt", "yuv420p10le")),
    "12 bits": Case(coloured(films.BT709, pix_fmt="yuv420p12le"), check=is_a("pix_fmt", "yuv420p12le")),
    "4:2:2": Case(partial(clip, pix_fmt="yuv422p"), check=is_a("pix_fmt", "yuv422p")),
    "4:2:2, 10 bits": Case(partial(clip, suffix=".mov", pix_fmt="yuv422p10le", codec="prores_ks"), check=is_a("pix_fmt", "yuv422p10le", "profile")),
    "4:4:4": Case(partial(clip, pix_fmt="yuv444p"), check=is_a("pix_fmt", "yuv444p")),
    "full range": Case(partial(clip, options={**films.BT709, "color_range": "pc"}), check=is_a("range", "pc")),
    "ProRes with alpha": Case(films.transparent, check=alpha_kept),
    "ProRes with alpha to a container without": Case(
        films.transparent, suffix=".mp4", code=3, said=("cannot keep as it is", "use -o NAME.mov")
    ),
    "sound 40 ms after the picture": Case(LATE, check=partial(heard_from, Fraction(0))),
    "picture 40 ms after the sound": Case(partial(films.late_sound, seconds="-0.04"), check=partial(heard_from, Fraction(0))),
    "voice 40 ms into its file": Case(LATE, voice=late_speech, suffix=".mov", check=partial(heard_from, Fraction(1, 25))),
    "voice longer, kept": Case(clip, ("--length", "keep"), partial(speech_of, 1.4), said=("1.1 s longer",), check=partial(lasts, 1.4)),
    "voice longer, trimmed": Case(clip, ("--length", "trim"), partial(speech_of, 1.4), check=partial(lasts, 0.32)),
    "voice longer, held": Case(clip, ("--length", "hold"), partial(speech_of, 0.52), check=partial(more_frames, 13)),
    "voice longer, bounced": Case(clip, ("--length", "bounce"), partial(speech_of, 0.52), check=partial(more_frames, 13)),
    "voice shorter": Case(partial(clip, frames=12), voice=partial(speech_of, 0.3), check=partial(lasts, 0.3)),
    "voice in 5.1": Case(clip, voice=films.six_channels, check=six_kept),
    "silent voice": Case(clip, voice=partial(films.silence, seconds=0.4), mouth=None, said=("silence",), check=copied_whole),
    "silent voice, mouth shut": Case(clip, SHUT, partial(films.silence, seconds=0.4)),
    "three sounds, two subtitles, chapters, a font": Case(films.everything, check=all_carried),
    "edit list": Case(
        partial(passed, arguments=films.COPY, before=("-ss", "0.16"), frames=14, options={"bf": "3", "g": "14"}), check=hidden_frames
    ),
    "last duration missing": Case(films.without_last_duration, check=no_last_duration),
    "starts at 2 s": Case(partial(passed, arguments=(*films.COPY, "-output_ts_offset", "2"), suffix=".mkv"), check=same_source("start")),
    "B-frames": Case(partial(clip, frames=12, options={"bf": "3", "b_strategy": "0"}), check=reordered),
    "59.94": Case(partial(clip, fps=Fraction(60_000, 1001)), check=same_source("fps", "time_base")),
    "120": Case(partial(clip, fps=Fraction(120)), check=same_source("fps", "time_base")),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user without weights, settings or cache."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MUSETALK_", "XDG_"))]:
            patch.delenv(name)
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            patch.setenv(name, str(folder))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One work folder for all films: the voice that they share is heard once."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_speech(tmp_path_factory.mktemp("voice") / "fr.wav", seconds=0.5)


def musetalk(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


def journal(work: Path) -> list[Event]:
    path = work / "run.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("name", CASES)
def test_a_film_is_dubbed_right_or_refused_with_its_cure(
    name: str, tmp_path: Path, work: Path, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    tmp_path.joinpath("voice").mkdir()
    film, voice = case.make(tmp_path), speech if case.voice is None else case.voice(tmp_path / "voice")
    out, before = tmp_path / f"out{case.suffix or film.suffix}", len(journal(work))
    capsys.readouterr()
    code = musetalk("dub", film, "--audio", f"fr={voice}", "-o", out, "--work-dir", work, *FLAGS, *case.flags)
    said = capsys.readouterr().err
    assert code == case.code, said
    assert all(part in said for part in case.said), said
    assert out.exists() == (code == 0)
    if code == 0:
        done = Dubbed(film, voice, out, said, journal(work)[before:])
        assert musetalk("verify", film, out) == 0, capsys.readouterr().out
        if not {"hold", "bounce"} & set(case.flags):
            same_frames(done)
        if case.mouth is not None:
            mouth_changed(done, case.mouth)
        if case.check is not None:
            case.check(done)

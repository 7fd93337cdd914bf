"""Everything that a film can be, by the command: it is dubbed right, or refused with its exit code and the cure; never altered in silence.

SECTION names every case once, with the rows of CASES or the tests that prove it, here or elsewhere. Real codecs, the embedded model,
the shared clip of made_films.
"""

import ast
import ctypes
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import dying
import made_films as films
import numpy as np
import pytest
from conftest import make_speech, make_voice, run_tool
from made_films import clip, passed
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli import cli
from musetalk_cli.config import BlendConfig, DemuxConfig, RemuxConfig, Runtime
from musetalk_cli.media.ffmpeg import find_ffmpeg
from musetalk_cli.media.planes import Patch, composite
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
        return [Shown((frame.pts or 0) * tick, frame.to_ndarray(format="gray").astype(np.int16)) for frame in file.decode(stream)]


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


def more_frames(follow: Sequence[int], done: Dubbed) -> None:
    """The film's own at their times, and more at its pace until the voice ends, which show its frames `follow`."""
    was, now = shown(done.film), shown(done.out)
    assert [frame.time for frame in now[: len(was)]] == [frame.time for frame in was]
    assert {b.time - a.time for a, b in pairwise(now)} == {was[1].time - was[0].time}
    assert len(now) == len(was) + len(follow)
    for frame, number in zip(now[len(was) :], follow, strict=True):
        hair = slice(0, films.SIZE[1] // 3)
        assert np.abs(frame.grey[hair] - was[number].grey[hair]).max() <= CHANGED


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
        across = np.nonzero(changed)[1]
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
        planar = [
            frame.to_ndarray() if frame.format.is_planar else frame.to_ndarray().reshape(-1, len(frame.layout.channels)).T
            for frame in frames
        ]
        scale = {"s16": 1, "s16p": 1, "s32": 65536, "s32p": 65536}.get(frames[0].format.name, 1)
    return start, np.concatenate(planar, axis=1).T.astype(np.float64) / scale


def lasts(seconds: float, done: Dubbed) -> None:
    """The voice, to within a block of AAC."""
    with av.open(str(done.out)) as file:
        assert sum(frame.samples / frame.sample_rate for frame in file.decode(file.streams.audio[0])) == pytest.approx(
            seconds, abs=0.07
        )


def six_kept(done: Dubbed) -> None:
    with av.open(str(done.out)) as file:
        assert file.streams.audio[0].codec_context.channels == 6


def all_carried(done: Dubbed) -> None:
    with av.open(str(done.out)) as file:
        told = [(stream.type, stream.language) for stream in file.streams]
        font: Any = next(stream for stream in file.streams if stream.type == "attachment")
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
    np.testing.assert_array_equal(now, was)
    assert len(np.unique(was)) > 100


def alphas(path: Path) -> NDArray[np.uint16]:
    with av.open(str(path)) as file:
        return np.array([np.frombuffer(bytes(frame.planes[3]), np.uint16) for frame in file.decode(video=0)])


def copied_whole(done: Dubbed) -> None:
    """And it is told why."""
    assert done.plan["frames_copied"] == len(shown(done.film))
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
    run_tool(
        "-itsoffset",
        "0.04",
        "-i",
        str(speech),
        "-f",
        "lavfi",
        "-i",
        "anullsrc=r=8000:d=0.02",
        "-map",
        "0",
        "-map",
        "1",
        "-c:a",
        "pcm_s16le",
        str(path),
    )
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
    "rotated 90": Case(partial(films.turned, degrees=90), mouth=(0.42, 0.5), check=is_a("rotation", 90)),
    "rotated 180": Case(partial(films.turned, degrees=180), mouth=(0.5, 0.42), check=is_a("rotation", 180)),
    "rotated 270": Case(partial(films.turned, degrees=270), mouth=(0.58, 0.5), check=is_a("rotation", 270)),
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
    "voice longer, held": Case(clip, ("--length", "hold"), partial(speech_of, 0.52), check=partial(more_frames, (7, 7, 7, 7, 7))),
    "voice longer, bounced": Case(clip, ("--length", "bounce"), partial(speech_of, 0.52), check=partial(more_frames, (6, 5, 4, 3, 2))),
    "voice shorter": Case(partial(clip, frames=12), voice=partial(speech_of, 0.3), check=partial(lasts, 0.3)),
    "voice in 5.1": Case(clip, voice=films.six_channels, check=six_kept),
    "silent voice": Case(partial(clip, frames=14), voice=partial(films.silence, seconds=0.4), mouth=None, said=("silence",), check=copied_whole),
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

# the list: every case, and the rows above or the tests, here or elsewhere, that prove it

HERE = "test_film_cases.py::"
CLOCKS = "test_clocks.py::test_every_frame_keeps_its_time_and_faceless_ones_their_picture"  # nobody at first, between and at last
NAMES = HERE + "test_names_are_only_names"
KILLED = HERE + "test_killed_in_each_stage_in_turn_the_film_is_the_same"
SECTION: dict[str, tuple[str, ...]] = {
    "no face at the start, in the middle, at the end": (CLOCKS,),
    "no face at all": ("test_cli.py::test_5_for_a_film_without_any_face",),
    "one frame without a face": ("one frame without a face",),
    "two faces swapping sides": (HERE + "test_two_people_who_swap_sides_keep_their_voices", "test_cast.py::test_each_mouth_follows_its_own_voice_in_either_order"),
    "off-screen voice over moving lips": (HERE + "test_lips_that_move_under_a_voice_from_off_screen_do_not_speak",),
    "a cut every 12 frames": ("a cut every 12 frames", "test_faces.py::test_only_chunks_of_one_take_see_each_other"),
    "fade to black": ("fade to black",),
    "variable frame rate": (CLOCKS,),
    "24000/1001 over two hours": (HERE + "test_after_two_hours_at_23_976_no_tick_is_lost", "test_inference.py::test_drift_at_ntsc_rates_is_none_after_an_hour"),
    "display matrix": ("rotated 90", "rotated 180", "rotated 270"),
    "mirrored": ("test_demux.py::test_mirrored_film_is_refused",),
    "anamorphic": ("anamorphic",),
    "odd dimensions": ("odd size, VP9", "odd size, 4:4:4", "odd size that no encoder of the container keeps"),
    "interlaced": ("interlaced", "test_demux.py::test_interlaced_film_is_refused_with_the_cure"),
    "10-bit PQ and HLG": ("PQ, mastered", "HLG", "10 bits in H.264"),
    "12 bits": ("12 bits",),
    "4:2:2 and 4:4:4": ("4:2:2", "4:2:2, 10 bits", "4:4:4"),
    "full range": ("full range",),
    "ProRes with alpha": ("ProRes with alpha", "ProRes with alpha to a container without"),
    "sound 40 ms off": ("sound 40 ms after the picture", "picture 40 ms after the sound", "voice 40 ms into its file"),
    "voice longer": ("voice longer, kept", "voice longer, trimmed", "voice longer, held", "voice longer, bounced"),
    "voice shorter": ("voice shorter",),
    "voice in 5.1": ("voice in 5.1",),
    "silent voice": ("silent voice", "silent voice, mouth shut", "test_cast.py::test_a_voice_in_which_nobody_speaks_leaves_the_film_as_it_is"),
    "3 sounds, 2 subtitles, chapters, attachments": ("three sounds, two subtitles, chapters, a font", "test_remux.py::test_mp4_keeps_cover_chapters_subtitles_and_timecode"),
    "edit list": ("edit list",),
    "missing last duration": ("last duration missing",),
    "start offset": ("starts at 2 s",),
    "B-frames": ("B-frames",),
    "25, 29.97, 50, 59.94, 120": ("plain", CLOCKS, "59.94", "120"),
    "samples outside of the mask": (
        HERE + "test_outside_the_mask_every_sample_reaches_the_encoder_as_it_was_decoded",
        HERE + "test_a_lossless_film_differs_in_no_sample_outside_the_mask",
    ),
    "names": (NAMES, "test_cli.py::test_any_name_is_a_name"),
    "two jobs of one basename at once": (HERE + "test_two_films_of_one_name_are_dubbed_at_once",),
    "the same film at once": (HERE + "test_the_same_film_at_once_is_told_to_wait", "test_cli.py::test_75_for_a_work_folder_in_use"),
    "disk full": ("test_cli.py::test_9_for_a_disk_that_takes_no_more",),
    "SIGKILL in each stage": (KILLED, "test_resume.py::test_killed_and_resumed_is_bit_identical_and_computes_nothing_twice"),
    "read-only output folder": (HERE + "test_a_folder_that_cannot_be_written_is_told_before_any_work",),
    "no terminal": ("test_cli.py::test_0_a_dub_replaces_the_output_when_told_so_and_leaves_no_work_folder",),
    "out of memory within a chunk": (HERE + "test_memory_that_runs_out_in_a_batch_halves_it_and_then_is_an_error",),
    "corrupted intermediate": (
        HERE + "test_a_flipped_bit_in_a_result_is_found_and_the_film_is_the_same",
        HERE + "test_a_flipped_bit_in_what_a_result_says_of_itself_is_found",
    ),
    "model hash mismatch": (HERE + "test_a_model_that_is_damaged_is_refused", "test_cli.py::test_4_for_weights_that_do_not_verify"),
    "ffmpeg missing": (HERE + "test_no_ffmpeg_is_a_missing_dependency", "test_cli.py::test_doctor_fails_without_ffmpeg"),
    "encoder missing": (
        HERE + "test_an_ffmpeg_without_an_encoder_is_a_missing_dependency",
        HERE + "test_a_libav_without_the_films_encoder_is_a_missing_dependency",
    ),
}  # fmt: skip


def test_every_case_is_proven_somewhere() -> None:
    """And every row is of a case."""
    proofs = {name for names in SECTION.values() for name in names}
    rows = {name for name in proofs if "::" not in name}
    assert rows == CASES.keys()
    for name in proofs - rows:
        file, _, function = name.partition("::")
        tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user without weights, settings or cache."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MUSETALK_", "XDG_"))]:
            patch.delenv(name)
        patch.setenv("MUSETALK_REPORT", "0")
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


# two people, and who speaks


def test_two_people_who_swap_sides_keep_their_voices(tmp_path: Path, speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Anna goes from left to right above, Bert the other way below: whoever is given the voice speaks it all the way."""
    film, quiet = films.two_people(tmp_path), films.silence(tmp_path, seconds=0.6)
    for name, picture in (("anna", films.portrait()), ("bert", 255 - films.portrait())):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    cast = tmp_path / "cast.toml"
    cast.write_text("".join(f'[[person]]\nname = "{name}"\nstill = "{name}.png"\n' for name in ("anna", "bert")))
    for speaker, other, half in (("anna", "bert", slice(0, 144)), ("bert", "anna", slice(144, 288))):
        out = tmp_path / f"{speaker}.mp4"
        voices = ("--audio", f"{speaker}={speech}", "--audio", f"{other}={quiet}", "--silence", "original")
        assert musetalk("dub", film, "--cast", cast, *voices, "-o", out, "--work-dir", tmp_path / "work", "--json", *FLAGS) == 0
        assert musetalk("verify", film, out) == 0
        (shot,) = json.loads(capsys.readouterr().out.splitlines()[0])["films"][0]["shots"]
        verdicts = {track["track"]: track for track in shot["tracks"]}
        assert [(verdicts[track]["start"], verdicts[track]["stop"]) for track in (0, 1)] == [(0, 14), (0, 14)]
        changed = [np.nonzero(frame) for frame in differences(film, out)]
        within = [bool(len(down)) and bool(((down >= half.start) & (down < half.stop)).all()) for down, _ in changed]
        assert sum(within) > 7 and not any(len(down) for (down, _), ok in zip(changed, within, strict=True) if not ok)
        across = [float(np.median(columns)) for _, columns in changed if len(columns)]
        assert (across[-1] - across[0]) * (1 if speaker == "anna" else -1) > 80


@pytest.mark.parametrize("off_screen", [False, True])
def test_lips_that_move_under_a_voice_from_off_screen_do_not_speak(
    off_screen: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = films.talking(tmp_path, make_speech(tmp_path / "off.wav", seconds=2) if off_screen else None)
    assert musetalk("inspect", film, "--work-dir", tmp_path / "work", "--json", "-q") == 0
    ((person,),) = [shot["persons"] for shot in json.loads(capsys.readouterr().out)["shots"]]
    assert bool(person["speaks"]) != off_screen


# two hours


def test_after_two_hours_at_23_976_no_tick_is_lost(tmp_path: Path, speech: Path) -> None:
    """172 800 frames of an MP4, the last second encoded anew, the others copied: the last frame's time, what it hears, the file."""
    frames, fps = 172_800, Fraction(24_000, 1001)
    film = films.two_hours(tmp_path / "film.mp4", frames)
    pts = np.arange(frames, dtype=np.int64) * 1001
    source = replace(
        demuxed(films.two_hours(tmp_path / "short.mp4", 24)), pts=pts, durations=pts * 0 + 1001, shots=(Shot(0, 0, frames),)
    )
    last = source.time(frames - 1)
    assert last == (frames - 1) / fps

    token: Any = np.arange(50 * 7300).reshape(-1, 1, 1)  # each says its number
    heard = windows_at(token, [source.time(n) for n in range(frames - 24, frames)])[:, 4, 0, 0]
    assert heard.tolist() == [floor(50 * n * Fraction(1001, 24_000)) for n in range(frames - 24, frames)]

    first, config = frames - 24, BlendConfig(suffix=".mp4", preset="ultrafast", reordering=0)
    with SegmentWriter(tmp_path / segment_name(source, config), source, config) as writer:
        for frame in read_frames(film, source, first, frames):
            writer.write(frame)
    segment = Segment(tmp_path / segment_name(source, config), first, frames, 24)
    notice = RemuxConfig(suffix=".mp4", notice="altered by musetalk")
    (tmp_path / "out").mkdir()
    made = remux(
        film, speech, source, [segment], Copies((Stretch(0, first),)), config=notice, runtime=Runtime(), out=tmp_path / "out"
    )
    times, tick = packet_times(made.path)
    np.testing.assert_array_equal(times * tick.numerator * 24_000, pts * tick.denominator)
    assert verify_film(film, made.path, decode=False, provenance=False).passed


# samples


@dataclass(frozen=True)
class Handed:
    """What a dub handed to its encoder, by the frame's time."""

    film: Path
    out: Path
    frames: dict[Fraction, list[NDArray[Any]]]  # planes
    masks: dict[Fraction, NDArray[np.bool_]]  # (H, W) where a patch shows


def planes(frame: av.VideoFrame) -> list[NDArray[Any]]:
    kind = np.dtype("<u2" if frame.format.components[0].bits > 8 else "u1")
    lines = [np.frombuffer(bytes(plane), kind).reshape(-1, plane.line_size // kind.itemsize) for plane in frame.planes]
    return [samples[: plane.height, : plane.width] for samples, plane in zip(lines, frame.planes, strict=True)]


def time_of(frame: av.VideoFrame) -> Fraction:
    return (frame.pts or 0) * Fraction(frame.time_base or 1)


def decoded(film: Path) -> dict[Fraction, list[NDArray[Any]]]:
    with av.open(str(film)) as file:
        return {time_of(frame): planes(frame) for frame in file.decode(video=0)}


@pytest.fixture(scope="module", params=["8 bits", "10 bits"])
def handed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Handed:
    folder, deep = tmp_path_factory.mktemp("handed"), request.param == "10 bits"
    film = clip(folder, frames=10, pix_fmt="yuv420p10le" if deep else "yuv420p")
    seen = Handed(film, folder / ("out.mkv" if deep else "out.mp4"), {}, {})
    write = SegmentWriter.write

    def composited(frame: av.VideoFrame, patches: Sequence[Patch], colour: Colour) -> av.VideoFrame:
        mask = np.zeros((frame.height, frame.width), bool)
        for patch in patches:
            height, width = patch.alpha.shape
            mask[patch.top : patch.top + height, patch.left : patch.left + width] |= patch.alpha > 0
        seen.masks[time_of(frame)] = mask
        return composite(frame, patches, colour)

    def written(writer: SegmentWriter, frame: av.VideoFrame) -> None:
        seen.frames[time_of(frame)] = planes(frame)
        write(writer, frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s5_blend, "composite", composited)
        patch.setattr(SegmentWriter, "write", written)
        lossless = ("--codec", "ffv1") if deep else ("--crf", "0")
        assert (
            musetalk("dub", film, "--audio", f"fr={speech}", "-o", seen.out, "--work-dir", folder / "work", *FLAGS, *lossless)
            == 0
        )
    assert musetalk("verify", film, seen.out) == 0
    assert len(seen.frames) == len(seen.masks) == 10
    return seen


def same_outside(was: list[NDArray[Any]], now: list[NDArray[Any]], mask: NDArray[np.bool_]) -> None:
    """Every sample of every plane, but those beside which a patch shows."""
    for a, b in zip(was, now, strict=True):
        reach = (
            2 * mask.shape[0] // a.shape[0]
        )  # a sample of chroma is of two pixels a side, and of its neighbours by where it sits
        near = np.zeros_like(mask)
        for down in range(-reach + 1, reach):
            for across in range(-reach + 1, reach):
                near |= np.roll(mask, (down, across), (0, 1))
        step = mask.shape[0] // a.shape[0]
        apart = ~(near if step > 1 else mask)[::step, ::step]
        assert apart.mean() > 0.5
        np.testing.assert_array_equal(a[apart], b[apart])


def test_outside_the_mask_every_sample_reaches_the_encoder_as_it_was_decoded(handed: Handed) -> None:
    was = decoded(handed.film)
    assert was.keys() == handed.frames.keys()
    for at, mask in handed.masks.items():
        same_outside(was[at], handed.frames[at], mask)
        assert not mask.any() or (was[at][0] != handed.frames[at][0]).any()
    assert any(mask.any() for mask in handed.masks.values())


def test_a_lossless_film_differs_in_no_sample_outside_the_mask(handed: Handed) -> None:
    was, now = decoded(handed.film), decoded(handed.out)
    for at, mask in handed.masks.items():
        same_outside(was[at], now[at], mask)
    for at, frame in handed.frames.items():
        for a, b in zip(frame, now[at], strict=True):
            np.testing.assert_array_equal(a, b)


# a run that is disturbed


STAGES = ("demux", "listen", "lengthen", "faces", "decide", "pick", "latents", "masks", "inference", "blend", "sound", "remux")


@dataclass(frozen=True)
class Run:
    """A dub in which every stage has its work: held until the voice ends, laid over music."""

    folder: Path
    arguments: tuple[str, ...]

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def out(self) -> Path:
        return self.folder / "out.mp4"

    def of(self, work: str, out: str, *more: str) -> list[str]:
        return [*self.arguments, "--work-dir", str(self.folder / work), "-o", str(self.folder / out), *more]

    def again(self) -> dict[str, int]:
        """Run it once more in its work folder; how many results of each stage were made."""
        before = len(journal(self.work))
        assert cli.run(self.of("work", "again.mp4", "-y")) == 0
        assert (self.folder / "again.mp4").read_bytes() == self.out.read_bytes()
        made = [event["stage"] for event in journal(self.work)[before:] if event["event"] == "stage.done" and not event["reused"]]
        return {stage: made.count(stage) for stage in made}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Run:
    folder = tmp_path_factory.mktemp("whole")
    film, music = clip(folder, audio="aac"), make_voice(folder / "music.wav", seconds=0.5)
    given = ("dub", str(film), "--audio", f"fr={speech}", "--mix", str(music), "--length", "hold", *FLAGS)
    run = Run(folder, given)
    assert cli.run(run.of("work", "out.mp4")) == 0
    assert {path.parent.parent.name for path in run.work.glob("*/*/result.json")} == set(STAGES)
    assert musetalk("verify", film, run.out) == 0
    return run


def bend(path: Path, at: int) -> None:
    """Flip one bit of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def bend_record(path: Path) -> None:
    """Its first digit: it is still JSON, and says something else."""
    text = path.read_text()
    bend(path, next(at for at in range(text.index('"record"'), len(text)) if text[at].isdigit()))


@pytest.mark.parametrize("stage", STAGES)
def test_a_flipped_bit_in_a_result_is_found_and_the_film_is_the_same(stage: str, whole: Run) -> None:
    for folder in (whole.work / stage).iterdir():
        data = sorted((path for path in folder.iterdir() if path.name != "result.json"), key=lambda path: path.stat().st_size)
        for path in data[-1:]:
            bend(path, path.stat().st_size * 3 // 4)
        if not data:
            bend_record(folder / "result.json")
    made = whole.again()
    assert made.keys() == {stage}


def test_a_flipped_bit_in_what_a_result_says_of_itself_is_found(whole: Run) -> None:
    """A digit of its record, in which for example the film's rate is kept, or how many frames a segment has."""
    for path in whole.work.glob("*/*/result.json"):
        bend_record(path)
    assert whole.again().keys() == set(STAGES)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def spawn() -> Callable[..., Any]:
    """Start the command as a process of its own; they are forked from one that has imported everything."""
    children = multiprocessing.get_context("forkserver")
    heavy = ["mediapipe.tasks.python.vision", "transformers.models.whisper.modeling_whisper", "musetalk_cli.models.lite"]
    children.set_forkserver_preload(["dying", "made_films", "musetalk_cli.jobs", "musetalk_cli.pipeline", *heavy])

    def start(arguments: Sequence[object], said: Path, deadly: str = "") -> Any:
        process = children.Process(target=dying.musetalk, args=([str(part) for part in arguments], environment(), said, deadly))
        process.start()
        return process

    return start


def test_killed_in_each_stage_in_turn_the_film_is_the_same(whole: Run, spawn: Callable[..., Any]) -> None:
    """Each run dies with a whole result in its hands that nobody finds; the next one makes that again, and nothing before it."""
    arguments = whole.of("killed", "killed.mp4")
    for stage in (*STAGES, "deliver"):
        process = spawn(arguments, whole.folder / "said.txt", stage)
        process.join()
        assert process.exitcode == -signal.SIGKILL, (stage, (whole.folder / "said.txt").read_text())
        assert not (whole.folder / "killed.mp4").exists()
    assert cli.run(arguments) == 0
    assert (whole.folder / "killed.mp4").read_bytes() == whole.out.read_bytes()
    done = [
        (event["stage"], event["key"])
        for event in journal(whole.folder / "killed")
        if event["event"] == "stage.done" and not event["reused"]
    ]
    assert len(done) == len(set(done))
    assert not list((whole.folder / "killed" / "tmp").glob("*"))
    assert [path.name for path in whole.folder.glob(".*.part")] == []


def test_two_films_of_one_name_are_dubbed_at_once(tmp_path: Path, speech: Path, spawn: Callable[..., Any]) -> None:
    """In two folders, by two processes, their work in one cache."""
    runs = []
    for name, change in (("a", 0), ("b", 20)):
        (tmp_path / name).mkdir()
        film = clip(tmp_path / name, picture=lambda n, change=change: np.roll(films.face(n), change, axis=1))
        arguments = ("dub", film, "--audio", f"fr={speech}", *FLAGS)
        runs.append((film, spawn(arguments, tmp_path / name / "said.txt")))
    for film, process in runs:
        process.join()
        assert process.exitcode == 0, (film.parent / "said.txt").read_text()
        out = film.with_name("film.fr.mp4")
        assert musetalk("verify", film, out) == 0
        mouth = (films.MOUTH[0] + (20 / 160 if film.parent.name == "b" else 0), films.MOUTH[1])
        mouth_changed(Dubbed(film, speech, out, "", []), mouth)


def test_the_same_film_at_once_is_told_to_wait(
    tmp_path: Path, speech: Path, home: Path, spawn: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        clip(tmp_path / name, picture=lambda n: films.face(n)[:, ::-1])
    arguments = [["dub", str(tmp_path / name / "film.mp4"), "--audio", f"fr={speech}", *FLAGS] for name in ("a", "b")]
    process = spawn(arguments[0], tmp_path / "said.txt")
    while not list((home / "musetalk").glob("*/holder")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert cli.run(arguments[1]) == 75
    finally:
        os.kill(process.pid, signal.SIGCONT)
    said = capsys.readouterr().err
    assert f"in use by process {process.pid}" in said and "wait for it, or choose another --work-dir" in said
    process.join()
    assert process.exitcode == 0
    assert cli.run(arguments[1]) == 0
    assert (tmp_path / "a" / "film.fr.mp4").read_bytes() == (tmp_path / "b" / "film.fr.mp4").read_bytes()


@pytest.mark.parametrize("step", ["encode", "infer", "decode"])
def test_memory_that_runs_out_in_a_batch_halves_it_and_then_is_an_error(
    step: str, whole: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, room, asked = getattr(LiteModel, step), 3, []

    def full(model: LiteModel, rows: NDArray[Any], *rest: Any, **more: Any) -> Any:
        asked.append(len(rows))
        if len(rows) > room:
            raise MemoryError
        return real(model, rows, *rest, **more)

    for stage in ("latents", "inference", "blend", "remux"):
        for path in (whole.work / stage).glob("*/result.json"):
            path.unlink()
    monkeypatch.setattr(LiteModel, step, full)
    assert whole.again().keys() == {"latents", "inference", "blend", "remux"}
    assert max(asked) > 3 and sum(count <= 3 for count in asked) > 2
    room = 0
    for path in (whole.work / {"encode": "latents", "infer": "inference", "decode": "blend"}[step]).glob("*/result.json"):
        path.unlink()
    capsys.readouterr()
    assert cli.run(whole.of("work", "again.mp4", "-y")) == 9
    said = capsys.readouterr().err
    assert "out of memory" in said and "choose" in said


# what is not there


def test_a_model_that_is_damaged_is_refused(tmp_path: Path, speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(embedded_lite(), tmp_path / "model")
    bend(tmp_path / "model" / "lips.safetensors", 400_000)
    arguments = ("dub", clip(tmp_path), "--audio", f"fr={speech}", "-o", tmp_path / "out.mp4", "--device", "cpu")
    assert musetalk(*arguments, "--model", tmp_path / "model") == 4
    said = capsys.readouterr().err
    assert "lips.safetensors" in said and "sha256" in said
    assert not (tmp_path / "out.mp4").exists()


@pytest.fixture
def other_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put a folder before PATH's others, or in place of them."""

    def choose(path: str) -> None:
        monkeypatch.setenv("PATH", path)
        find_ffmpeg.cache_clear()

    yield choose
    find_ffmpeg.cache_clear()


def test_no_ffmpeg_is_a_missing_dependency(
    tmp_path: Path,
    speech: Path,
    other_ffmpeg: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film = clip(tmp_path)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent/ffmpeg")
    other_ffmpeg("/nonexistent")
    assert musetalk("dub", film, "--audio", f"fr={speech}", "-o", tmp_path / "out.mp4", *FLAGS) == 4
    assert "let IMAGEIO_FFMPEG_EXE name an ffmpeg, or unset it" in capsys.readouterr().err


def test_an_ffmpeg_without_an_encoder_is_a_missing_dependency(
    tmp_path: Path, speech: Path, work: Path, other_ffmpeg: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A build without Opus, which a voice in WebM needs."""
    film, real = clip(tmp_path, suffix=".webm", codec="libvpx-vp9", options={"cpu-used": "8"}), find_ffmpeg()
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *libopus*) echo "Unknown encoder \'libopus\'" >&2; exit 1;; esac\nexec "{real}" "$@"\n'
    )
    program.chmod(0o755)
    other_ffmpeg(f"{program.parent}:{os.environ['PATH']}")
    assert musetalk("dub", film, "--audio", f"fr={speech}", "-o", tmp_path / "out.webm", "--work-dir", work, *FLAGS) == 4
    said = capsys.readouterr().err
    assert "libopus" in said and str(program) in said
    assert not (tmp_path / "out.webm").exists()


def test_a_libav_without_the_films_encoder_is_a_missing_dependency(
    tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another codec would be a change in silence."""
    real = av.Codec

    def codec(name: str, mode: Literal["r", "w"] = "r") -> Any:
        if name == "libx264":
            raise av.codec.codec.UnknownCodecError(name)
        return real(name, mode)

    monkeypatch.setattr(av, "Codec", codec)
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    assert musetalk("dub", clip(tmp_path), "--audio", f"fr={speech}", "-o", tmp_path / "out.mp4", *FLAGS) == 4
    said = capsys.readouterr().err
    assert "libx264" in said and "pip install --force-reinstall --no-deps av" in said


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path: Path, speech: Path) -> None:
    """By a process that may not override permissions, as root may."""
    film, closed = clip(tmp_path), tmp_path / "closed"
    closed.mkdir(mode=0o555)
    prctl = ctypes.CDLL(None).prctl

    def as_anyone() -> None:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; fails where we have none

    command = [sys.executable, "-m", "musetalk_cli", "dub", str(film), "--audio", str(speech), "-o", str(closed / "out.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=as_anyone, env=environment())
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"musetalk: {closed}",
        "  not a folder that can be written",
        "  make it, or choose another -o",
    ]


@pytest.mark.parametrize(
    "name", ["a film.mp4", 'it\'s "here".mp4', "фильм 映画.mp4", "two\nlines.mp4", "-y.mp4", "%d [x] a:b.mp4"]
)
def test_names_are_only_names(
    name: str, tmp_path: Path, speech: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of film, voice and output."""
    monkeypatch.chdir(tmp_path)
    clip(tmp_path).rename(name)
    voice = f"{name}.wav"
    Path(voice).write_bytes(speech.read_bytes())
    assert musetalk("dub", "--audio", f"fr={voice}", "--work-dir", work, *FLAGS, "--", name) == 0
    out = Path(name).with_suffix(".fr.mp4")
    told = capsys.readouterr().out
    assert Path(told.rstrip("\n")) == out
    assert musetalk("verify", "--", name, out) == 0
    mouth_changed(Dubbed(Path(name), speech, out, "", []), films.MOUTH)

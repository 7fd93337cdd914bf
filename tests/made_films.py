"""Made films of one clip, each with one thing that films have and tools stumble over. In: a folder. Out: a file by real codecs.

The clip: 8 frames of 160x160 at 25 a second, a portrait whose mouth is in the middle of MOUTH.
"""

import wave
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from conftest import make_film, make_speech, run_tool
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
FRAMES = 8
SIZE = (160, 160)
MOUTH = (0.5, 0.58)  # of the portrait's width and height
PQ = {"colorspace": "bt2020nc", "color_primaries": "bt2020", "color_trc": "smpte2084", "color_range": "tv"}
HLG = {**PQ, "color_trc": "arib-std-b67"}
BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
X265 = "log-level=none:pools=1:frame-threads=1"
MASTERING = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"
COPY = ("-c", "copy")


@cache
def portrait(width: int = SIZE[0], height: int = SIZE[1]) -> Rgb:
    """(height, width, 3)."""
    from skimage import data

    pictures: Any = data
    return np.asarray(cv2.resize(pictures.astronaut()[16:240, 112:336], (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@cache
def face(number: int) -> Rgb:
    """The clip's frame: the portrait drifts to the right."""
    return np.roll(portrait(), number // 2, axis=1)


def wall(size: tuple[int, int] = SIZE) -> Rgb:
    """Nobody."""
    return np.full((size[1], size[0], 3), 90, np.uint8)


def clip(folder: Path, suffix: str = ".mp4", **more: Any) -> Path:
    """The clip with something changed: see conftest.make_film."""
    return make_film(folder / f"film{suffix}", **{"frames": FRAMES, "size": SIZE, "picture": face, **more})


def passed(folder: Path, arguments: Sequence[str], *, suffix: str = ".mp4", before: Sequence[str] = (), **more: Any) -> Path:
    """The clip through ffmpeg. arguments: of the output, before: of the input."""
    folder.joinpath("given").mkdir()
    given, path = clip(folder / "given", **{"suffix": suffix, "audio": "aac", **more}), folder / f"film{suffix}"
    run_tool(*before, "-i", str(given), *arguments, str(path))
    return path


def turned(folder: Path, degrees: int) -> Path:
    """Stored so that the tag `degrees` shows it upright, and not square."""
    upright = portrait(160, 192)
    stored = np.ascontiguousarray(np.rot90(upright, -degrees // 90))
    size = (stored.shape[1], stored.shape[0])
    before = ("-display_rotation", str(degrees))
    return passed(folder, COPY, before=before, size=size, picture=lambda _: stored, options={"crf": "12"})


def squeezed(folder: Path) -> Path:
    """Three quarters as wide as it is to be seen."""
    return passed(folder, (*COPY, "-aspect", "1:1"), size=(120, 160), picture=lambda _: portrait(120, 160))


def two_people(folder: Path, frames: int = 14) -> Path:
    """One above and one below who change sides: Anna from left to right, Bert, who is Anna in negative, from right to left."""

    def picture(number: int) -> Rgb:
        rgb, moved = wall((320, 288)), 160 * number // (frames - 1)
        rgb[:144, moved : moved + 144] = portrait(144, 144)
        rgb[144:, 160 - moved : 304 - moved] = 255 - portrait(144, 144)
        return rgb

    return clip(folder, frames=frames, size=(320, 288), picture=picture)


def cuts(folder: Path) -> Path:
    """A cut every 12 frames: left and light, right and dark, left and tinted."""

    def picture(number: int) -> Rgb:
        shot = number // 12
        rgb = np.full((144, 256, 3), ((200, 200, 190), (20, 25, 60), (60, 140, 60))[shot], np.uint8)
        left = (0, 112, 0)[shot]
        rgb[:, left : left + 144] = portrait(144, 144) if shot < 2 else portrait(144, 144)[..., ::-1]
        return rgb

    return clip(folder, frames=36, size=(256, 144), picture=picture)


def fading(folder: Path) -> Path:
    """To black over 10 frames, and 4 that are black."""
    return clip(folder, frames=14, picture=lambda n: np.asarray(portrait() * max(1 - n / 10, 0), np.uint8))


def talking(folder: Path, sound: Path | None = None) -> Path:
    """Two seconds of the example in which lips move, under the sound that they go with or another one."""
    example, first, count = Path(__file__).parents[1] / "examples" / "film.mp4", 96, 50
    with av.open(str(example)) as file:
        seen = [frame.to_ndarray(format="rgb24")[:576, 320:960] for frame in islice(file.decode(video=0), first, first + count)]
    pictures = [np.asarray(cv2.resize(rgb, (320, 288), interpolation=cv2.INTER_AREA), np.uint8) for rgb in seen]
    silent = make_film(folder / "silent.mp4", frames=count, size=(320, 288), picture=lambda number: pictures[number])
    heard = ("-ss", str(first / 25), "-i", str(example)) if sound is None else ("-i", str(sound))
    path = folder / "film.mp4"
    run_tool(
        *(
            "-i",
            str(silent),
            *heard,
            "-map",
            "0:v",
            "-map",
            "1:a",
            "-t",
            str(count / 25),
            "-c:v",
            "copy",
            "-c:a",
            "aac",
            str(path),
        )
    )
    return path


def transparent(folder: Path) -> Path:
    """ProRes 4444, clear at the left and opaque at the right."""
    ramp = "format=yuva444p10le,geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='1023*X/W'"
    coded = ("-c:v", "prores_ks", "-profile:v", "4444", "-alpha_bits", "16")
    return passed(folder, ("-vf", ramp, *coded), suffix=".mov")


def everything(folder: Path) -> Path:
    """Three tracks of sound, two of subtitles, chapters, a font: as a release has them."""
    film = clip(folder, ".mp4", audio="aac", options={"bf": "2"})
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,200\nHello\n")
    (folder / "font.ttf").write_bytes(bytes(range(256)) * 8)
    (folder / "chapters.txt").write_text(
        ";FFMETADATA1\ntitle=A film\n"
        + "".join(f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={n * 160}\nEND={n * 160 + 160}\ntitle=Part {n}\n" for n in range(2))
    )
    inputs = [str(film), str(film), str(film), str(folder / "a.srt"), str(folder / "a.srt"), str(folder / "chapters.txt")]
    maps = ["0:v", "0:a", "1:a", "2:a", "3:s", "4:s"]
    named = [
        f"{kind}:{n}={language}"
        for kind, languages in (("a", ("eng", "ger", "jpn")), ("s", ("eng", "spa")))
        for n, language in enumerate(languages)
    ]
    run_tool(
        *(part for path in inputs for part in ("-i", path)),
        *(part for stream in maps for part in ("-map", stream)),
        *("-map_metadata", "5", "-map_chapters", "5", "-c", "copy", "-c:s", "srt"),
        *("-attach", str(folder / "font.ttf"), "-metadata:s:t", "mimetype=application/x-truetype-font"),
        *(part for tag in named for part in (f"-metadata:s:{tag.partition('=')[0]}", f"language={tag.partition('=')[2]}")),
        str(folder / "film.mkv"),
    )
    return folder / "film.mkv"


def late_sound(folder: Path, seconds: str) -> Path:
    """The film's own sound begins later than its picture; negative: the picture later than the sound."""
    given = clip(folder, ".mov", audio="aac")
    early, late = ("0:v", "1:a") if not seconds.startswith("-") else ("0:a", "1:v")
    path = folder / "late.mov"
    run_tool(
        *(
            "-i",
            str(given),
            "-itsoffset",
            seconds.lstrip("-"),
            "-i",
            str(given),
            "-map",
            early,
            "-map",
            late,
            "-c",
            "copy",
            str(path),
        )
    )
    return path


def without_last_duration(folder: Path) -> Path:
    """An MP4 whose last frame lasts nought: its table of durations says so."""
    path = clip(folder, vfr_pts=[n * 512 for n in range(FRAMES)], time_base=Fraction(1, 12_800), options={"bf": "0"})
    data = path.read_bytes()
    at = data.index(b"stts") + 4
    entries = (0).to_bytes(4) + (1).to_bytes(4) + FRAMES.to_bytes(4) + (512).to_bytes(4)
    assert data[at : at + 16] == entries
    size = int.from_bytes(data[at - 8 : at - 4])
    longer = (0).to_bytes(4) + (2).to_bytes(4) + (FRAMES - 1).to_bytes(4) + (512).to_bytes(4) + (1).to_bytes(4) + (0).to_bytes(4)
    return _with_box(path, data, at - 8, size, b"stts" + longer)


def _with_box(path: Path, data: bytes, start: int, size: int, content: bytes) -> Path:
    """An MP4 whose `moov` is last, with one box of it replaced by a longer one."""
    moov = data.rindex(b"moov") - 4
    assert data.index(b"mdat") < moov, "the data would move"
    grown = len(content) + 4 - size
    changed = bytearray(data)
    changed[start : start + size] = (len(content) + 4).to_bytes(4) + content
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        box = changed.index(name, moov) - 4
        changed[box : box + 4] = (int.from_bytes(changed[box : box + 4]) + grown).to_bytes(4)
    path.write_bytes(changed)
    return path


def two_hours(path: Path, frames: int) -> Path:
    """24 tiny frames at 24000/1001 again and again, as copies: an MP4 as long as a film, and no pixel more."""
    once = make_film(
        path.with_name("once.mp4"), frames=24, fps=Fraction(24_000, 1001), size=(32, 32), options={"bf": "0", "g": "24"}
    )
    with av.open(str(once)) as given, av.open(str(path), "w", options={"video_track_timescale": "24000"}) as film:
        stream: Any = given.streams.video[0]
        packets = [(bytes(packet), packet.is_keyframe) for packet in given.demux(stream) if packet.size]
        copied = film.add_stream_from_template(stream)
        copied.time_base = Fraction(1, 24_000)
        for number in range(frames):
            data, key = packets[number % len(packets)]
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = copied, Fraction(1, 24_000), key
            packet.pts = packet.dts = number * 1001
            packet.duration = 1001
            film.mux(packet)
    return path


def six_channels(folder: Path) -> Path:
    """A voice in 5.1: in the middle the speech, elsewhere nothing."""
    speech, path = make_speech(folder / "mono.wav", seconds=0.5), folder / "fr.wav"
    run_tool("-i", str(speech), "-af", "pan=5.1|FL=0*c0|FR=0*c0|FC=c0|LFE=0*c0|BL=0*c0|BR=0*c0", "-c:a", "pcm_s16le", str(path))
    return path


def silence(folder: Path, seconds: float) -> Path:
    path = folder / "fr.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * round(seconds * 16_000)))
    return path

"""A long film for trials, out of short clips. In: a folder of talking-face clips, a voice. Out: FILM.mp4 and VOICE.wav of any length.

    python examples/long_film.py CLIPS VOICE OUT [--minutes 30]

24000/1001 frames a second, 10-bit HEVC in closed GOPs, a cut every three to seven seconds; one person, two in a frame, nobody; three
tracks of sound, subtitles, chapters. The voice speaks for 20 s and pauses for 8. The same seed makes the same film.
"""

import argparse
import random
import subprocess
from pathlib import Path

from musetalk_cli.media.ffmpeg import find_ffmpeg

RATE = "24000/1001"
SIZE = (640, 360)
SHOTS = 48  # different ones; the film repeats them in any order
X265 = "log-level=none:open-gop=0:keyint=48:bframes=3"
EMPTY = ("mandelbrot=size=640x360:rate=24", "testsrc2=size=640x360:rate=24", "gradients=size=640x360:rate=24:speed=0.02")


def main() -> None:
    """Parse, build, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("voice", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    given = parser.parse_args()
    (given.out / "shots").mkdir(parents=True, exist_ok=True)
    chance = random.Random(4)
    clips = sorted(path for path in given.clips.iterdir() if path.suffix in (".mp4", ".avi", ".mkv"))
    shots = [_shot(given.out / "shots" / f"{number:02}.mp4", number, clips, chance) for number in range(SHOTS)]
    _join(shots, given.out, given.minutes * 60, given.voice, chance)
    print(given.out / "film.mp4")


def _shot(path: Path, number: int, clips: list[Path], chance: random.Random) -> Path:
    """One of three is empty, one in four of the others shows two people."""
    seconds = chance.uniform(3, 7)
    if number % 3 == 2:
        source = ["-f", "lavfi", "-i", EMPTY[number // 3 % len(EMPTY)]]
        graph = f"[0:v]{_framed(*SIZE)}[v]"
    elif number % 4 == 1:
        left, right = chance.sample(clips, 2)
        source = ["-stream_loop", "-1", "-i", str(left), "-stream_loop", "-1", "-i", str(right)]
        half = _framed(SIZE[0] // 2, SIZE[1])
        graph = f"[0:v]{half}[l];[1:v]{half}[r];[l][r]hstack[v]"
    else:
        source = ["-stream_loop", "-1", "-i", str(chance.choice(clips))]
        graph = f"[0:v]{_framed(*SIZE)}[v]"
    if not path.exists():
        sound = ["-map", "[v]", "-t", f"{seconds:.3f}", "-an"]
        _run(*source, "-filter_complex", graph, *sound, *_picture(), str(path))
    return path


def _framed(width: int, height: int) -> str:
    return f"fps={RATE},scale={width}:{height}:force_original_aspect_ratio=increase,crop={width}:{height},setsar=1"


def _picture() -> list[str]:
    colour = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    x265 = ["-c:v", "libx265", "-preset", "superfast", "-crf", "20", "-x265-params", X265, "-tag:v", "hvc1"]
    return [*x265, "-pix_fmt", "yuv420p10le", "-video_track_timescale", "24000", *colour]


def _join(shots: list[Path], out: Path, seconds: float, voice: Path, chance: random.Random) -> None:
    order: list[Path] = []
    while len(order) < seconds / 5:
        order += chance.sample(shots, len(shots))
    listing = out / "shots.txt"
    listing.write_text("".join(f"file 'shots/{path.name}'\n" for path in order))
    subtitles = out / "subtitles.srt"
    subtitles.write_text(
        "".join(f"{n + 1}\n{_clock(5 * n)} --> {_clock(5 * n + 4)}\nLine {n + 1}\n\n" for n in range(int(seconds // 5)))
    )
    chapters = out / "chapters.txt"
    marks = (
        f"[CHAPTER]\nTIMEBASE=1/1\nSTART={60 * n}\nEND={60 * n + 60}\ntitle=Part {n + 1}\n" for n in range(int(seconds // 60))
    )
    chapters.write_text(";FFMETADATA1\ntitle=A long film\n" + "".join(marks))
    spoken = "[1:a]volume=enable='gt(mod(t,28),20)':volume=0,aresample=48000[a]"
    inputs = [
        "-f",
        "concat",
        "-i",
        str(listing),
        "-stream_loop",
        "-1",
        "-i",
        str(voice),
        "-i",
        str(subtitles),
        "-i",
        str(chapters),
    ]
    music = [
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=220:sample_rate=48000",
        "-f",
        "lavfi",
        "-i",
        "anoisesrc=amplitude=0.01:sample_rate=48000",
    ]
    maps = ["-map", "0:v", "-map", "1:a", "-map", "4:a", "-map", "5:a", "-map", "2:s", "-map_metadata", "3", "-map_chapters", "3"]
    codecs = [
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        "-b:a",
        "96k",
        "-c:s",
        "mov_text",
        "-tag:v",
        "hvc1",
        "-video_track_timescale",
        "24000",
    ]
    languages = ["-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=zxx", "-metadata:s:s:0", "language=eng"]
    _run(*inputs, *music, *maps, *codecs, *languages, "-t", str(seconds), str(out / "film.mp4"))
    _run("-stream_loop", "-1", "-i", str(voice), "-filter_complex", spoken.replace("1:a", "0:a"), "-map", "[a]", "-ac", "1",
         "-t", str(seconds), str(out / "voice.wav"))  # fmt: skip


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},000"


def _run(*arguments: str) -> None:
    subprocess.run([str(find_ffmpeg()), "-v", "error", "-y", *arguments], check=True)


if __name__ == "__main__":
    main()

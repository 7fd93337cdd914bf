"""Films and voices for the fuzz harness, made when it runs, and how they are broken. In: a folder. Out: small files of every common kind.

Knows nothing of how they are read.
"""

import subprocess
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzz.mutate import mutated
from musetalk_cli.media.ffmpeg import find_ffmpeg

PICTURES = {
    "a.mp4": "-c:v libx264 -g 4 -c:a aac",
    "b.mov": "-c:v prores_ks -c:a pcm_s16le",
    "c.mkv": "-c:v libx265 -x265-params log-level=none -c:a flac",
    "d.webm": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus",
    "e.avi": "-c:v mpeg4 -c:a libmp3lame",
    "f.ts": "-c:v libx264 -g 4 -c:a aac",
    "g.mkv": "-c:v ffv1 -c:a libvorbis",
    "h.mp4": "-c:v mpeg4 -movflags +frag_keyframe+empty_moov -c:a aac",
    "i.mxf": "-c:v mpeg2video -c:a pcm_s16le -ar 48000",
    "j.mov": "-c:v mjpeg -c:a pcm_s24le",
    "k.nut": "-c:v libx264 -g 4 -c:a pcm_s16le",
    "l.flv": "-c:v flv1 -ar 44100 -c:a libmp3lame",
}
SOUNDS = {
    "m.wav": "-c:a pcm_s16le",
    "n.mp3": "-c:a libmp3lame",
    "o.flac": "-c:a flac",
    "p.ogg": "-c:a libvorbis",
    "q.opus": "-c:a libopus",
    "r.m4a": "-c:a aac",
    "s.aiff": "-c:a pcm_s16be",
    "t.ac3": "-c:a ac3",
}
PICTURE = "testsrc2=size=64x48:rate=25:duration=0.4"
SOUND = "sine=frequency=300:sample_rate=48000:duration=0.4"
BLOCK = 188  # of an MPEG transport stream; as good a length as any elsewhere
BOXES = (
    b"moov",
    b"trak",
    b"stsz",
    b"stco",
    b"stts",
    b"stsd",
    b"ctts",
    b"mdhd",
    b"tkhd",
    b"elst",
    b"mdat",
    b"ftyp",
    b"avcC",
    b"stsc",
    b"dref",
)


class Seed(NamedTuple):
    name: str
    data: bytes
    is_film: bool


def corpus(folder: Path) -> list[Seed]:
    """What this machine's ffmpeg can make of them."""
    found = []
    for name, codec in {**PICTURES, **SOUNDS}.items():
        path, film = folder / name, name in PICTURES
        given = ["-f", "lavfi", "-i", PICTURE] if film else []
        command = [str(find_ffmpeg()), "-v", "error", "-y", *given, "-f", "lavfi", "-i", SOUND, *codec.split()]
        done = subprocess.run(
            [*command, "-threads", "1", "-shortest", str(path)], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode == 0:
            found.append(Seed(name, path.read_bytes(), film))
        path.unlink(missing_ok=True)
    return found


def broken(data: bytes, chance: Random) -> bytes:
    """Its header is hit more often than what follows: there the lengths are."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        match chance.randrange(8):
            case 0:
                data = _box(data, chance)
            case 1:
                data = _blocks_swapped(data, chance)
            case 2 | 3:
                data = _header(data, chance)
            case 4:
                data = _tail(data, chance)
            case _:
                data = mutated(data, chance)
    return data


def _box(data: bytes, chance: Random) -> bytes:
    """The size of an MP4 box, or a number in it, set to an extreme."""
    places = [at for name in BOXES if (at := data.find(name)) >= 4]
    if not places:
        return _header(data, chance)
    at = chance.choice(places) + chance.choice((-4, -4, 4, 8, 12, 16, 20, 28))
    return data[:at] + chance.choice(_EXTREMES) + data[at + 4 :]


_EXTREMES = tuple(value.to_bytes(4, "big") for value in (0, 1, 7, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000000, 0x00010000))


def _blocks_swapped(data: bytes, chance: Random) -> bytes:
    a, b = (chance.randrange(max(len(data) // BLOCK, 1)) * BLOCK for _ in range(2))
    found = bytearray(data)
    found[a : a + BLOCK], found[b : b + BLOCK] = data[b : b + BLOCK], data[a : a + BLOCK]
    return bytes(found)


def _header(data: bytes, chance: Random) -> bytes:
    head = min(len(data), chance.choice((64, 256, 1024)))
    return mutated(data[:head], chance) + data[head:]


def _tail(data: bytes, chance: Random) -> bytes:
    """MP4 and AVI have their index there."""
    head = max(len(data) - chance.choice((64, 512, 2048)), 0)
    return data[:head] + mutated(data[head:], chance)

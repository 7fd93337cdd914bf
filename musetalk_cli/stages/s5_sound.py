"""The new soundtrack. In: voices, and music and effects where they are given. Out: Sound: one file. Knows nothing of pictures.

    voices -- a channel of it -- 48 kHz --.
                                          |-- added in floats -- as a whole lower where its peak is over full scale -- FLAC, 24 bits
    music and effects --------- 48 kHz ---'

Each begins with the film. Nothing is normalised, compressed or clipped.
"""

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import Any, NamedTuple

import av
import ffmpeg
import numpy as np

from musetalk_cli.config import Runtime
from musetalk_cli.media.audio import ALL_CHANNELS, voice_of
from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg
from musetalk_cli.media.video import earliest_start, open_film, sync_file
from musetalk_cli.types import Sound
from musetalk_cli.work import stage

MIX_HZ = 48_000  # film's own
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
CEILING = 0.999  # of full scale, where a sum had to be lowered


class Channels(NamedTuple):
    """Which channel of each voice, ALL_CHANNELS for all."""

    of: tuple[int, ...]


@stage(version=2)
def sound(
    voices: Sequence[Path], channels: Channels, beds: Sequence[Path], *, config: None, runtime: Runtime, out: Path
) -> Sound:
    """The sum of voices and beds (none or one), as long as the longest, in the bed's layout, else in that of the widest voice.

    Raises InputError where one has no sound.
    """
    layout = LAYOUTS.get(max(map(_channels, beds), default=_widest(voices, channels)), "stereo")
    parts = [_part(path, channel, layout) for path, channel in zip(voices, channels.of, strict=True)]
    parts += [_part(path, ALL_CHANNELS, layout) for path in beds]
    summed, path = out / "sum.wav", out / "sound.flac"
    mixed = ffmpeg.filter(parts, "amix", inputs=len(parts), normalize=0, duration="longest")
    as_given = {"copyts": None}  # else ffmpeg moves each file to zero by itself, and `_part` would do it a second time
    run_ffmpeg(_to(mixed, summed, {"c:a": "pcm_f32le", "rf64": "auto", **as_given}), purpose="lay the voices together")
    peak = _peak(summed)
    gain = CEILING / peak if peak > 1 else 1.0
    lowered = ffmpeg.input(media_url(summed), **AS_FILE)["a:0"].filter("volume", gain, precision="double")
    options = {"c:a": "flac", "sample_fmt": "s32", "bits_per_raw_sample": 24}
    run_ffmpeg(_to(lowered, path, options), purpose="write the new sound")
    summed.unlink()
    sync_file(path)
    return Sound(path, round(20 * log10(gain), 2))


def _to(node: Any, path: Path, options: dict[str, Any]) -> Any:
    return ffmpeg.output(node, media_url(path), map_metadata=-1, fflags="+bitexact", **{"flags:a": "+bitexact"}, **options)


def _channels(path: Path) -> int:
    with open_film(path) as file:
        return voice_of(file, path).codec_context.channels


def _widest(voices: Sequence[Path], channels: Channels) -> int:
    return max(_channels(path) if channel == ALL_CHANNELS else 1 for path, channel in zip(voices, channels.of, strict=True))


def _part(path: Path, channel: int, layout: str) -> Any:
    """One file from the film's start on, in the layout of the whole."""
    with open_film(path) as file:
        index, start = voice_of(file, path).index, earliest_start(file)
    sound = ffmpeg.input(media_url(path), **AS_FILE, itsoffset=f"{-float(start):.6f}")[str(index)]
    if channel != ALL_CHANNELS:
        sound = sound.filter("pan", f"mono|c0<c{channel}")  # "<" makes the gains add up to 1; "=" would come out escaped
    sound = sound.filter("aresample", MIX_HZ, first_pts=0, **{"async": 1})
    return sound.filter("aformat", sample_fmts="flt", channel_layouts=layout)


def _peak(path: Path) -> float:
    with av.open(media_url(path), options=AS_FILE) as file:
        return max((float(np.abs(frame.to_ndarray()).max()) for frame in file.decode(audio=0)), default=0.0)

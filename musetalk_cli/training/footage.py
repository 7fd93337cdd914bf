"""A video as training wants it. In: any file with a picture. Out: its frames at 25 a second, its sound at 16 kHz from the first one.

    frames of any rate -- nearest in presentation time --> frame k shows what is on screen at k / 25 s after the first picture
    sound of any rate, wherever it starts -------------> sample 640 k belongs to frame k

Everything streams: a two-hour film costs the memory of a few frames. Knows nothing of faces.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.crop import upright
from musetalk_cli.errors import InputError
from musetalk_cli.media.audio import SPEECH_HZ, speech_blocks
from musetalk_cli.media.video import clock, earliest_start, open_film, picture_of, scan, to_rgb
from musetalk_cli.stages.s1_demux import MATRIX, RANGE
from musetalk_cli.types import Colour

FPS = 25
SAMPLES_PER_FRAME = SPEECH_HZ // FPS  # 640
BLOCK = 30 * SPEECH_HZ

See = Callable[[int, av.VideoFrame], None]


@dataclass(frozen=True, slots=True)
class Footage:
    """What one full decode found. F frames at 25 a second."""

    video: Path
    picked: NDArray[np.int64]  # (F,) number of the film's own frame that each one shows, ascending
    size: tuple[int, int]  # (width, height) as it is to be seen, upright
    rotation: int  # degrees counterclockwise that put the stored picture upright: 0, 90, 180, 270
    colour: Colour
    lead: Fraction  # seconds from the beginning of the file's timeline, where its sound starts, to the first picture
    has_sound: bool

    @property
    def frames(self) -> int:
        return len(self.picked)

    def rgb(self, frame: av.VideoFrame, *, quick: bool = False) -> NDArray[np.uint8]:
        """(H, W, 3), upright; quick: see media.video.to_rgb."""
        return upright(to_rgb(frame, self.colour, quick=quick), self.rotation)


def watch(video: Path, see: Callable[[Footage, int, av.VideoFrame], None]) -> Footage:
    """Decodes the whole picture once; `see` is given each frame at 25 a second, in order, with the footage as known so far.

    Raises InputError where the file is no film, is damaged, changes its size or is interlaced.
    """
    with open_film(video) as film:
        stream = picture_of(film, video)
        matrix, colour_range = stream.codec_context.colorspace, stream.codec_context.color_range
        start, has_sound = earliest_start(film), bool(film.streams.audio)
    known: list[Footage] = []

    def begin(frame: av.VideoFrame) -> Footage:
        colour = Colour(frame.format.name, _name(MATRIX, matrix), range=_name(RANGE, colour_range))
        turned = frame.rotation % 360
        size = (frame.height, frame.width) if turned % 180 else (frame.width, frame.height)
        return Footage(video, np.zeros(0, np.int64), size, turned, colour, _time(frame) - start, has_sound)

    def show(number: int, frame: av.VideoFrame) -> None:
        known[:] = known or [begin(frame)]
        _check_form(video, known[0], frame)
        see(known[0], number, frame)

    rate = Rate25(show)
    scan(video, rate.watch)
    rate.finish()
    first = known[0]
    return Footage(video, np.array(rate.picked, np.int64), first.size, first.rotation, first.colour, first.lead, has_sound)


def watch_again(footage: Footage, wanted: NDArray[np.bool_], see: See) -> None:
    """The same frames once more, those that are wanted (F,)."""
    numbers = iter(range(1 << 62))

    def show(frame: av.VideoFrame) -> None:
        number = next(numbers)
        first, stop = (int(i) for i in np.searchsorted(footage.picked, [number, number + 1]))
        for k in range(first, stop):
            if wanted[k]:
                see(k, frame)

    scan(footage.video, show)


class Rate25:
    """Frames of any rate in, frames at 25 a second out: each the nearest in presentation time."""

    def __init__(self, see: See) -> None:
        self._see = see
        self._last: av.VideoFrame | None = None
        self._first_s = self._last_s = self._step_s = Fraction(0)
        self._number = -1
        self.picked: list[int] = []

    def watch(self, frame: av.VideoFrame) -> None:
        """The film's next frame; its pts later than the last one's."""
        now = _time(frame)
        if self._last is None:
            self._first_s = now
        else:
            self._step_s = now - self._first_s - self._last_s
            self._show_until(self._last_s + self._step_s / 2)
        self._last, self._last_s, self._number = frame, now - self._first_s, self._number + 1

    def finish(self) -> None:
        """Shows the last frame for as long as it lasts: as long as the one before, where the film does not say."""
        if self._last is not None:
            own = self._last.duration * cast(Fraction, self._last.time_base)
            self._show_until(self._last_s + (own or self._step_s or Fraction(1, FPS)))

    def _show_until(self, time_s: Fraction) -> None:
        while Fraction(len(self.picked), FPS) < time_s:
            assert self._last is not None
            self.picked.append(self._number)
            self._see(len(self.picked) - 1, self._last)


def spool_sound(footage: Footage, path: Path) -> NDArray[np.int16]:
    """The sound as raw 16-bit mono 16 kHz in `path`, mapped, not read: (S,), S = 640 F, silence where the film has none.

    Sample 0 is heard when the first picture is seen. Raises InputError where the sound is absent or damaged.
    """
    samples = np.memmap(path, np.int16, "w+", shape=(max(footage.frames * SAMPLES_PER_FRAME, 1),))
    at = -round(footage.lead * SPEECH_HZ)
    for block in speech_blocks(footage.video, BLOCK):
        first, stop = max(at, 0), min(at + len(block), len(samples))
        if first < stop:
            samples[first:stop] = to_pcm(block[first - at : stop - at])
        at += len(block)
    return samples


def to_pcm(speech: NDArray[np.float32]) -> NDArray[np.int16]:
    """[-1, 1] -> 16 bits."""
    return np.asarray(np.clip(np.rint(speech * 32768), -32768, 32767), np.int16)


def from_pcm(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """16 bits -> [-1, 1]."""
    return np.asarray(samples, np.float32) / np.float32(32768)


def frames_25fps(video: Path) -> Iterator[NDArray[np.uint8]]:
    """(H, W, 3) RGB frames at 25 a second, all kept at once: for clips of a few seconds."""
    found: list[NDArray[np.uint8]] = []
    watch(video, lambda footage, _, frame: found.append(footage.rgb(frame)))
    yield from found


def _check_form(video: Path, known: Footage, frame: av.VideoFrame) -> None:
    size = (frame.height, frame.width) if known.rotation % 180 else (frame.width, frame.height)
    if size != known.size:
        raise InputError(
            f"{video.name} at {clock(_time(frame))}: the picture changes from {known.size} to {size}",
            "make it one size first: ffmpeg -i FILM -vf scale=WIDTH:HEIGHT -crf 8 -c:a copy NEW.mp4",
        )
    if frame.interlaced_frame:
        raise InputError(
            f"{video.name} at {clock(_time(frame))}: the picture is interlaced, a face in it has two positions at once",
            "deinterlace it first: ffmpeg -i FILM -vf bwdif -crf 8 -c:a copy NEW.mp4",
        )


def _time(frame: av.VideoFrame) -> Fraction:
    return cast(int, frame.pts) * cast(Fraction, frame.time_base)


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else ""

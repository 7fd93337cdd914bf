"""What is heard in a result. In: the film, the result, voices. Out: Sounds: where the voice is the film's own; Wanted: what it asks of lips.
Knows nothing of pictures.

A dub has another voice; where it has not, the mouth may stay as it is, and a shift of sound against picture is known to the millisecond.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import Runtime
from musetalk_cli.media.audio import ALL_CHANNELS, SPEECH_HZ, speech_blocks
from musetalk_cli.media.video import open_film
from musetalk_cli.metrics.same_sound import moved
from musetalk_cli.metrics.sync import Asked
from musetalk_cli.models.lip_judge import RATE_HZ, LipJudge
from musetalk_cli.types import Source
from musetalk_cli.work import stage

HZ = SPEECH_HZ // 2  # a voice is told by what is below 4 kHz
HOP = HZ // 2
WINDOW = 2 * HZ  # of sound compared at once
REACH = HZ  # by which it may be moved
HOPS_PER_SECOND = HZ // HOP
LOUD_HOP = SPEECH_HZ // RATE_HZ  # 400 samples


@dataclass(frozen=True, slots=True)
class Sounds:
    """The result's first sound beside the film's, HOPS_PER_SECOND, from the film's beginning: lag (T,) float32, seconds by which it comes
    later; likeness (T,) float32, 0..1 at that lag, 0 where either is silent or the film has no sound."""

    lag: NDArray[np.float32]
    likeness: NDArray[np.float32]


@stage(version=1)
def sounds(video: Path, result: Path, source: Source, *, config: None, runtime: Runtime, out: Path) -> Sounds:
    """Each hop by the WINDOW around it, as long as the picture."""
    hops = ceil((source.time(source.frames - 1) + 1 / source.fps) * HOPS_PER_SECOND)
    was, now = _windows(_heard(video, 2 * HOP), REACH), _windows(_heard(result, 2 * HOP), 0)
    found = [moved(piece, around) for piece, around in islice(zip(now, was, strict=False), hops)]
    lags, likeness = ([one.lag / HZ for one in found], [one.likeness for one in found])
    return Sounds(np.array(lags, np.float32), np.array(likeness, np.float32))


def _heard(audio: Path, block: int, channel: int = ALL_CHANNELS) -> Iterator[NDArray[np.float32]]:
    """16 kHz; nothing of a file without sound."""
    with open_film(audio) as file:
        silent = not file.streams.audio
    return iter(()) if silent else speech_blocks(audio, block, channel)


def _windows(blocks: Iterator[NDArray[np.float32]], reach: int) -> Iterator[NDArray[np.float32]]:
    """Pieces of 2 * HOP samples at 16 kHz -> (WINDOW + 2 * reach,) at HZ around each hop, without end: silence goes before and follows."""
    held = np.zeros((WINDOW - HOP) // 2 + reach, np.float32)
    for block in chain(blocks, repeat(np.zeros(2 * HOP, np.float32))):
        whole = np.pad(block, (0, 2 * HOP - len(block)))
        held = np.concatenate([held, whole.reshape(-1, 2).mean(1)])
        if len(held) >= WINDOW + 2 * reach:
            yield held[: WINDOW + 2 * reach]
            held = held[HOP:]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the lip judge asks for, from the voice's beginning: numbers (T, 4) float32, voice (T,) float32 as in metrics.sync.Asked; loudness (T,) float32,
    root mean square, full scale 1."""

    numbers: NDArray[np.float32]
    voice: NDArray[np.float32]
    loudness: NDArray[np.float32]
    rate_hz: int

    @property
    def asked(self) -> Asked:
        return Asked(self.numbers, self.voice, self.rate_hz)

    def loud(self, times_s: NDArray[np.floating]) -> NDArray[np.float64]:
        """(M,) seconds -> (M,) loudness; 0 outside the voice."""
        known = np.concatenate([self.loudness, np.zeros(1, np.float32)])
        return np.asarray(np.interp(times_s * self.rate_hz, np.arange(len(known)), known, 0, 0), np.float64)


class JudgedBy(NamedTuple):
    """Weights of the lip judge: other weights, other answers."""

    sha256: str


@stage(version=1)
def wanted(audio: Path, channel: int, *, config: JudgedBy, runtime: Runtime, out: Path) -> Wanted:
    """channel: of the file's sound, from 0; ALL_CHANNELS mixes them. A file without sound asks for nothing."""
    loudness: list[NDArray[np.float32]] = []

    def listening() -> Iterator[NDArray[np.float32]]:
        for block in _heard(audio, SPEECH_HZ, channel):
            whole = np.pad(block, (0, -len(block) % LOUD_HOP)).reshape(-1, LOUD_HOP)
            loudness.append(np.sqrt((whole**2).mean(1)))
            yield block

    asked = LipJudge().asked(listening())
    heard = np.concatenate([np.zeros(0, np.float32), *loudness])
    return Wanted(asked.numbers, asked.voice, heard[: len(asked.numbers)], asked.rate_hz)

"""The records that flow between stages. numpy only. Frozen, with slots; each checks itself once and prints what it saw.

Ranges are half-open, [start, stop), in frames of the source. One row = one face in one frame: a frame without a face has no
row, two faces in a frame are two rows with different `track`; Faces, Latents and Mouths of a shot have the same rows.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.errors import InternalError


class DubJob(NamedTuple):
    """One film, one voice, one result."""

    video: Path
    audio: Path
    output: Path
    language: str = ""  # tag of the new voice, "fr"; "" where unknown


class Shot(NamedTuple):
    """Frames [start, stop) that belong together; never longer than a chunk, never across a cut."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    start: int
    stop: int
    lead: int = 0  # frames before start that smoothing may look at; never written
    tail: int = 0  # frames after stop likewise

    @property
    def frames(self) -> int:
        return self.stop - self.start


class Stream(NamedTuple):
    """One stream of the film as the container names it."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    kind: str  # "video", "audio", "subtitle", "data", "attachment"
    codec: str
    language: str = ""
    title: str = ""


class Colour(NamedTuple):
    """Colour tags of the picture, by ffmpeg's names; "" where the film carries none. Kept as they are, never guessed into the file."""

    pix_fmt: str = "yuv420p"
    matrix: str = ""  # colorspace: bt709, smpte170m, bt2020nc, ...
    primaries: str = ""
    transfer: str = ""
    range: str = ""  # tv | pc
    chroma_location: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """The film as demux found it. The voice is not here: a second language must find the same Source.

    fps: exact average rate. size: (width, height) of decoded pixels. time_base: seconds a tick of pts. pts: (F,) int64
    presentation timestamps as the film has them, ascending. durations: (F,) int64 ticks, 0 where the film gives none.
    start: seconds at which the film's timeline begins (its earliest stream); the voice's first sample belongs there.
    shots: cover [0, F) without gap or overlap.
    """

    fps: Fraction
    size: tuple[int, int]
    time_base: Fraction
    start: Fraction
    pts: NDArray[np.int64]
    durations: NDArray[np.int64]
    shots: tuple[Shot, ...]
    streams: tuple[Stream, ...]
    video_stream: int  # index of the picture among streams; attached cover art is not it
    codec: str  # of the picture, ffmpeg's name
    colour: Colour
    sar: Fraction = Fraction(1)  # sample aspect ratio
    rotation: int = 0  # degrees, display matrix; pixels stay as coded, the tag is carried

    def __post_init__(self) -> None:
        _same("pts, durations", len(self.pts), len(self.durations))
        _check(bool(np.all(np.diff(self.pts) > 0)), "timestamps do not ascend")
        edges = [0, *(shot.stop for shot in self.shots)]
        _check(edges[-1] == self.frames, f"shots end at {edges[-1]}, the film at {self.frames}")
        _check(all(s.start == e for s, e in zip(self.shots, edges, strict=False)), "shots leave a gap")

    @property
    def frames(self) -> int:
        return len(self.pts)

    def time(self, frame: int) -> Fraction:
        """Exact seconds from the film's start to this frame: also the voice's clock."""
        return int(self.pts[frame]) * self.time_base - self.start


@dataclass(frozen=True, slots=True)
class Speech:
    """What whisper-tiny hears in the new voice, from the film's start: features (T, 5, 384) float16, 50 a second, five hidden
    states each."""

    features: NDArray[np.float16]

    def __post_init__(self) -> None:
        _shape("features", self.features, (None, 5, 384))


@dataclass(frozen=True, slots=True)
class Faces:
    """Faces of a shot, flat: one row a face and frame."""

    shot: Shot
    frame: NDArray[np.int32]  # (N,) ascending, numbered from the film's first frame
    track: NDArray[np.int16]  # (N,) the same person within a shot
    box: NDArray[np.int32]  # (N, 4) x1 y1 x2 y2, source pixels, inside the frame, x2 and y2 exclusive
    landmarks: NDArray[np.float32]  # (N, 68, 2) source pixels

    def __post_init__(self) -> None:
        _same("frame, track, box, landmarks", len(self.frame), len(self.track), len(self.box), len(self.landmarks))
        _shape("box", self.box, (None, 4))
        _shape("landmarks", self.landmarks, (None, 68, 2))
        _check(bool(np.all(np.diff(self.frame) >= 0)), "frames do not ascend")
        inside = (self.frame >= self.shot.start) & (self.frame < self.shot.stop)
        _check(bool(inside.all()), f"frames outside {self.shot}")

    @property
    def rows(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, slots=True)
class Latents:
    """Face crops as the U-Net sees them: masked and reference, (N, C, 32, 32) float16 each, scaled; C is 4 for v1 and v15, more for lite."""

    masked: NDArray[np.float16]
    reference: NDArray[np.float16]

    def __post_init__(self) -> None:
        _shape("masked", self.masked, (None, None, 32, 32))
        _shape("reference", self.reference, self.masked.shape)


@dataclass(frozen=True, slots=True)
class Masks:
    """Where a generated mouth may show: blend weight in a square around the face, from the analysis alone, so that a second
    language parses nothing again.

    alpha: (N, S, S) uint8, 0..255, feathered; S = 256. square: (N, 4) int32 x1 y1 x2 y2 of that square in source pixels, may reach
    outside the frame.
    """

    alpha: NDArray[np.uint8]
    square: NDArray[np.int32]

    def __post_init__(self) -> None:
        _same("alpha, square", len(self.alpha), len(self.square))
        _shape("alpha", self.alpha, (None, None, None))
        _shape("square", self.square, (None, 4))


@dataclass(frozen=True, slots=True)
class Mouths:
    """What the U-Net answered: latents (N, C, 32, 32) float16, scaled, the same rows as Faces."""

    latents: NDArray[np.float16]

    def __post_init__(self) -> None:
        _shape("latents", self.latents, (None, None, 32, 32))
        _check(bool(np.isfinite(self.latents).all()), "latents hold NaN or infinity")


@dataclass(frozen=True, slots=True)
class Segment:
    """One shot, encoded: a file of exactly `frames` frames, its timestamps those of the source (NUT: no rounding)."""

    path: Path
    shot: Shot
    frames: int

    def __post_init__(self) -> None:
        _same("frames of the shot and of the segment", self.shot.stop - self.shot.start, self.frames)


@dataclass(frozen=True, slots=True)
class Film:
    """The finished film, before it is moved to where the user wants it."""

    path: Path
    frames: int


def _check(true: bool, fact: str) -> None:
    if not true:
        raise InternalError(fact)


def _same(what: str, *values: int) -> None:
    _check(len(set(values)) == 1, f"{what} should be equal, are {values}")


def _shape(name: str, array: NDArray[np.generic], shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    _check(fits, f"{name} has shape {array.shape}, should be {shape}")

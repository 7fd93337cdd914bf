"""The records that flow between stages. numpy only. Frozen, with slots; each checks itself once and prints what it saw.

Ranges are half-open, [start, stop), in frames of the source. One row = one face in one frame: a frame without a face has no
row, two faces in a frame are two rows with different `track`; Faces, Latents and Mouths of a shot have the same rows.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import Silence
from musetalk_cli.errors import InternalError


class DubJob(NamedTuple):
    """One film, one voice or a cast of them, one result."""

    video: Path
    audio: Path  # the voice; of a cast the first of them
    output: Path
    language: str = ""  # tag of the new voice, "fr"; "" where unknown
    cast: Path | None = None  # a cast map
    voices: tuple[tuple[str, Path], ...] = ()  # (person, voice) in place of those in the map
    bed: Path | None = None  # music and effects, over which the voices are laid


Outcome = Literal["synced", "passed through", "needs review"]
PASS = -1  # a voice that is none: the film's own mouth
CLOSED = -2  # likewise: a generated mouth that is shut


class Stretch(NamedTuple):
    """Frames [start, stop)."""

    start: int
    stop: int


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
    profile: str = ""  # of ProRes its four letters (apch), of DNxHD its compression id (1237)
    mastering: str = (
        ""  # display of an HDR10 film, as x265 takes it: G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min), in 0.00002 and 0.0001 cd/m2
    )
    light: str = ""  # its MaxCLL,MaxFALL in cd/m2
    own: int = 0  # frames that the film has, where more follow; 0: all are its own
    turns_at: int = 0  # of these more: the last frame is held (own - 1), or the picture runs back to this one and forth again

    def __post_init__(self) -> None:
        _same("pts, durations", len(self.pts), len(self.durations))
        _check(bool(np.all(np.diff(self.pts) > 0)), "timestamps do not ascend")
        edges = [0, *(shot.stop for shot in self.shots)]
        _check(edges[-1] == self.frames, f"shots end at {edges[-1]}, the film at {self.frames}")
        _check(all(s.start == e for s, e in zip(self.shots, edges, strict=False)), "shots leave a gap")

    @property
    def frames(self) -> int:
        return len(self.pts)

    def shows(self, frame: int) -> int:
        """The film's own frame whose picture this one has."""
        if not self.own or frame < self.own:
            return frame
        way = self.own - 1 - self.turns_at
        step = (frame - self.own + 1) % (2 * way) if way else 0
        return self.own - 1 - (step if step <= way else 2 * way - step)

    def time(self, frame: int) -> Fraction:
        """Exact seconds from the film's start to this frame: also the voice's clock."""
        return int(self.pts[frame]) * self.time_base - self.start


@dataclass(frozen=True, slots=True)
class Speech:
    """What is heard in the new voice, from the film's start, 50 times a second: features (T, 5, 384) float16, whisper-tiny's five
    hidden states; activity (T,) float16, 0..1, how surely somebody speaks."""

    features: NDArray[np.float16]
    activity: NDArray[np.float16]

    def __post_init__(self) -> None:
        _shape("features", self.features, (None, 5, 384))
        _shape("activity", self.activity, (len(self.features),))


@dataclass(frozen=True, slots=True)
class Faces:
    """Faces of a shot, flat: one row a face and frame.

    A tilted head is seen upright: its box lies in the picture turned by -roll about the middle of its landmarks.
    """

    shot: Shot
    frame: NDArray[np.int32]  # (N,) ascending, numbered from the film's first frame
    track: NDArray[np.int16]  # (N,) the same person within a shot
    box: NDArray[np.int32]  # (N, 4) x1 y1 x2 y2, source pixels, x2 and y2 exclusive; inside the frame where roll is 0
    landmarks: NDArray[np.float32]  # (N, 68, 2) source pixels
    identity: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 128), np.float32))  # (tracks, 128), NaN: not known
    roll: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros(0, np.float32)
    )  # (N,) degrees clockwise; none given: upright
    hidden: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # (N,) share of the lower face, 0..1

    def __post_init__(self) -> None:
        for name in ("roll", "hidden"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.zeros(len(self.frame), np.float32))
        of_rows = (self.frame, self.track, self.box, self.landmarks, self.roll, self.hidden)
        _same("frame, track, box, landmarks, roll, hidden", *(len(rows) for rows in of_rows))
        _shape("box", self.box, (None, 4))
        _shape("landmarks", self.landmarks, (None, 68, 2))
        _check(bool(np.all(np.diff(self.frame) >= 0)), "frames do not ascend")
        inside = (self.frame >= self.shot.start) & (self.frame < self.shot.stop)
        _check(bool(inside.all()), f"frames outside {self.shot}")

    @property
    def rows(self) -> int:
        return len(self.frame)


class Part(NamedTuple):
    """What the cast asks of a track of a shot in frames [start, stop)."""

    track: int
    start: int
    stop: int
    voice: int = 0  # number among the voices that this shot hears, or PASS
    why: str = ""  # of PASS: "outside the cast", ...
    silence: Silence = "auto"


class Casting(NamedTuple):
    """Who in a shot gets which voice; tracks that no part names are outside the cast."""

    parts: tuple[Part, ...] = ()


class Line(NamedTuple):
    """Frames [start, stop) in which a track's mouth is generated."""

    track: int
    start: int
    stop: int
    voice: int  # whose words it speaks, or CLOSED
    fade_in: int = 0  # frames over which the generated mouth appears
    fade_out: int = 0


class Voicing(NamedTuple):
    """Every line of a shot; the lines of one track lie apart."""

    lines: tuple[Line, ...] = ()

    def without_fades(self) -> "Voicing":
        """The same for the ear: how mouths appear does not change what they say."""
        return Voicing(tuple(line._replace(fade_in=0, fade_out=0) for line in self.lines))

    def voice(self, frame: NDArray[np.integer], track: NDArray[np.integer]) -> NDArray[np.int16]:
        """(N,) of the rows of Faces -> (N,) number of the voice that each follows, PASS outside of the lines."""
        found = np.full(len(frame), PASS, np.int16)
        for line in self.lines:
            found[(track == line.track) & (frame >= line.start) & (frame < line.stop)] = line.voice
        return found

    def opacity(self, frame: NDArray[np.integer], track: NDArray[np.integer]) -> NDArray[np.float32]:
        """(N,) -> (N,) 0..1, how much of the generated mouth each row shows; never 0 within a line."""
        shown = np.zeros(len(frame), np.float32)
        for line in self.lines:
            within = (track == line.track) & (frame >= line.start) & (frame < line.stop)
            rise = (frame[within] - line.start + 1) / (line.fade_in + 1)
            fall = (line.stop - frame[within]) / (line.fade_out + 1)
            t = np.clip(np.minimum(rise, fall), 0, 1)
            shown[within] = t * t * (3 - 2 * t)
        return shown


class Verdict(NamedTuple):
    """What becomes of a track in frames [start, stop), and why, for people."""

    track: int
    start: int
    stop: int
    what: Outcome
    why: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """What is done with every face of a shot. verdicts: of each track for all frames in which it has a row, once; of one that nobody
    could dub from its first frame to its last."""

    shot: Shot
    voicing: Voicing
    verdicts: tuple[Verdict, ...]


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
    """Frames [start, stop), encoded to a file of their own that begins a closed GOP, timestamps those of the source (NUT: no
    rounding)."""

    path: Path
    start: int
    stop: int
    frames: int

    def __post_init__(self) -> None:
        _same("frames asked for and of the segment", self.stop - self.start, self.frames)


@dataclass(frozen=True, slots=True)
class Sound:
    """The new soundtrack where it is not simply the voice file: voices laid together, or over music and effects."""

    path: Path
    gain_db: float  # 0, or by how much all of it was lowered so that nothing clips


@dataclass(frozen=True, slots=True)
class Film:
    """The finished film, before it is moved to where the user wants it."""

    path: Path
    frames: int

    @property
    def sidecar(self) -> Path | None:
        """Its manifest, where the container holds none."""
        beside = sidecar_of(self.path)
        return beside if beside.is_file() else None


def sidecar_of(film: Path) -> Path:
    """Where a film's manifest lies, if it is not in the film."""
    return film.with_name(f"{film.name}.c2pa")


def _check(true: bool, fact: str) -> None:
    if not true:
        raise InternalError(fact)


def _same(what: str, *values: int) -> None:
    _check(len(set(values)) == 1, f"{what} should be equal, are {values}")


def _shape(name: str, array: NDArray[np.generic], shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    _check(fits, f"{name} has shape {array.shape}, should be {shape}")

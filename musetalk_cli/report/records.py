"""What a report says. In: nothing. Out: records, as JSON through cattrs. Knows nothing of how they were measured or how they look.

Times are seconds of the film, frames its numbers from 0, ranges [start, stop). A figure that could not be measured is None, never 0.
"""

from dataclasses import dataclass
from typing import Literal

from musetalk_cli.types import Outcome

VERSION = 1  # of the JSON; raised when a field changes its meaning

Role = Literal["film", "voice", "result", "model"]
Kind = Literal["no-op", "shift", "frozen mouth", "weak sync", "jitter", "blurred", "seam", "needs review", "not verified"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one track in one shot, or of the film."""

    rows: int  # faces in frames whose mouth was generated
    seconds: float  # of them that were measured
    confidence: float | None = None  # of the sync judge for the result with its voice
    distance: float | None = None
    offset_ms: float | None = None  # by which the lips come after the voice, beyond what they do in the film with its own sound
    film_confidence: float | None = None  # the same judge for the film with its own sound
    film_offset_ms: float | None = None
    lip_r: float | None = None  # correlation of the lips' opening with what the voice asks for
    jitter: float | None = None  # metrics.jitter, of the result
    film_jitter: float | None = None
    movement: float | None = None  # standard deviation of the lips' opening in eye distances while the voice speaks
    film_movement: float | None = None
    change: float | None = None  # mean absolute difference of the mouth's luma, of 255
    sharpness: float | None = None  # of the mouth, in that of the film
    seam: float | None = None  # colour step over the mask's edge, in that of the film at the same place


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should look at. Every kind but "needs review" fails the rows that it covers."""

    kind: Kind
    shot: int | None  # None: of the whole film
    track: int | None
    start: int
    stop: int
    value: float | None
    limit: float | None
    text: str  # one sentence: the fact with its figure, and what to do


@dataclass(frozen=True, slots=True)
class TrackReport:
    """One person in one shot."""

    track: int
    person: str  # name or letter of the cast, "" where unknown
    start: int
    stop: int
    what: Outcome
    why: str
    figures: Figures | None  # None: the mouth is the film's own


@dataclass(frozen=True, slots=True)
class ShotReport:
    shot: int
    start: int
    stop: int
    start_s: float
    stop_s: float
    what: Outcome
    why: str
    tracks: tuple[TrackReport, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A track of a shot as a plot: one number a frame, NaN as None."""

    shot: int
    track: int
    times_s: tuple[float, ...]
    film_opening: tuple[float | None, ...]  # eye distances
    opening: tuple[float | None, ...]  # of the result
    asked: tuple[float | None, ...]  # what the voice asks for by the judge, in the same scale
    voice: tuple[float, ...]  # root mean square of the voice, 0..1 of its loudest frame


@dataclass(frozen=True, slots=True)
class Pair:
    """A face before and after."""

    shot: int
    track: int
    frame: int
    time_s: float
    why: str  # "worst: seam 3.1", "random"
    film_jpeg: bytes  # base64 in JSON
    dubbed_jpeg: bytes


@dataclass(frozen=True, slots=True)
class FileFact:
    name: str  # as given, no folder of the maker
    role: Role
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Report:
    """One result beside its film. score: 0..100, the share of generated mouths that no finding covers; 100 where there are none."""

    version: int
    tool: str  # "musetalk 0.4.0"
    made_at: str  # ISO 8601
    film: str
    result: str
    frames: int
    seconds: float
    fps: float
    score: float
    findings: tuple[Finding, ...]
    totals: Figures
    shots: tuple[ShotReport, ...]
    curves: tuple[Curve, ...]
    pairs: tuple[Pair, ...]
    files: tuple[FileFact, ...]
    settings: dict[str, str]
    stage_seconds: dict[str, float]
    judge: str  # what judged the lips, by its plain name

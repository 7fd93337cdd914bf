"""Whether a film carries the mark of `dub --watermark`. In: a film, a key. Out: Found. Needs neither the original nor a work folder.

    film -- faces -- what the frames around do not tell of each -- folded onto the pattern -- z -- chance

The mark is a sum of signs that the key draws by lot, weighted by what the picture does. Whatever the picture: that a sum of weighted
random signs lies z deviations off has at most 3.18 times a Gaussian's chance (Bentkus and Dzindzalieta, A tight Gaussian bound for
weighted sums of Rademacher random variables, Bernoulli 21(2), 2015), and for given weights the chance can be computed (Davies,
Numerical inversion of a characteristic function, Biometrika 60(2), 1973). So what is told is a bound on the chance that a film that
was never marked scores as much, all places in time and all faces that were tried counted in.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import DemuxConfig, FacesConfig, Runtime
from musetalk_cli.media.planes import luma_weights, region_rgb
from musetalk_cli.media.video import read_frames
from musetalk_cli.media.watermark import (
    COLUMNS,
    EXPECTED,
    PERIOD_S,
    ROWS,
    SLOTS,
    picture_of,
    quick_cells,
    reach,
    signs_of,
    slot_at,
    trust_of,
)
from musetalk_cli.report.windows import Span, sampled
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_faces import faces
from musetalk_cli.types import Faces, Shot, Source

THRESHOLD = 3.0  # score from which a film is marked: an unmarked one gets there with a chance of 1 in 1000 at most
SECONDS = 60.0  # of a film that are looked at, in windows spread over it
STEP_S = 0.04  # in which a cut-off beginning is searched: half of a flip
PLACES = round(SLOTS * PERIOD_S / STEP_S)  # 64: where in the pattern a film may begin
RADEMACHER = 3.18  # times a Gaussian's tail, see above
UNSURE = 0.1  # chance below which it is worth computing
WIDENED = 0.03  # deviations of the noise that makes a sum of signs smooth
LOWERED = 1.5  # of its deviations by which that noise may fall
STEP = 0.3  # of the integral, which so repeats itself after 21 deviations
LEAST_CHANCE = 1e-11  # that the integral can tell; its error is 1e-13
LEAST_FRAMES = 12  # of a face, half a second
SMALL_FACE = 16  # pixels of box width: a face of 32, the least that is dubbed, in a film of half the size
SPREAD = 6.0  # of a cell's usual variance added to each direction: so few frames do not tell more of how a face moves


@dataclass(frozen=True, slots=True)
class Found:
    """What is seen of a key's mark in a film.

    score: minus the decimal logarithm of the chance that a film without the mark scores as much or more; at least 0. z: of the best
    place, in deviations. offset_s: by how much the film began later when it was marked, within the pattern's 2.56 s. frames:
    faces that were read.
    """

    score: float
    z: float
    offset_s: float
    frames: int

    @property
    def marked(self) -> bool:
        return self.score >= THRESHOLD


class Track(NamedTuple):
    """One face: when it is seen (N,) seconds, by how much its cells are unlike the frames around (N, ROWS * COLUMNS), and how much
    of a mark each frame can show (N,)."""

    seconds: NDArray[np.float64]
    quick: NDArray[np.float64]
    trust: NDArray[np.float64]


class Read(NamedTuple):
    """A face in a frame: the picture of its grid, and how much of a mark the frame can show."""

    picture: NDArray[np.uint8]
    trust: float


class Evidence(NamedTuple):
    """What a film says of every sign, whatever the key. groups: (G, places in time, SLOTS, cells), all faces together and then each
    alone, where there are several; frames: faces that were read."""

    groups: NDArray[np.float64]
    frames: int


def detect(video: Path, key: str, runtime: Runtime, *, seconds: float | None = SECONDS) -> Found:
    """seconds: of the film that are looked at; None: all. Raises InputError where the film cannot be read."""
    return found_in(evidence_of(read_tracks(video, runtime, seconds=seconds)), key)


def read_tracks(video: Path, runtime: Runtime, *, seconds: float | None = SECONDS) -> list[Track]:
    """Every face of the film, or of windows of it, by its cells."""
    with TemporaryDirectory(prefix="musetalk-detect-") as folder:
        source = demux(video, config=DemuxConfig(), runtime=runtime, out=Path(folder))
        spans = [Span(shot.index, 0, shot.start, shot.stop) for shot in source.shots]
        tracks: list[Track] = []
        for span in sampled(spans, float(source.fps), seconds):
            shot = Shot(span.shot, span.start, span.stop)
            seen = faces(video, source, shot, config=FacesConfig(min_face=SMALL_FACE), runtime=runtime, out=Path(folder))
            tracks += _tracks_of(video, source, seen)
        return tracks


def evidence_of(tracks: Sequence[Track]) -> Evidence:
    """Tracks of one film: they share its clock. Only some of its faces may be dubbed."""
    told = [track for track in tracks if len(track.seconds) >= LEAST_FRAMES]
    folded = np.array([_folded(track) for track in told]).reshape(len(told), PLACES, SLOTS, ROWS * COLUMNS)
    groups = np.concatenate([folded.sum(0, keepdims=True), folded]) if len(told) > 1 else folded
    return Evidence(groups, sum(len(track.seconds) for track in told))


def found_in(evidence: Evidence, key: str) -> Found:
    """All faces and places are tried; half of the trust is for all faces together, and for a film that begins as it was marked."""
    if not len(evidence.groups):
        return Found(0.0, 0.0, 0.0, 0)
    spread = np.maximum(np.sqrt(np.square(evidence.groups).sum((2, 3))), 1e-12)
    z = np.einsum("gpsc,sc->gp", evidence.groups, signs_of(key)) / spread
    faces, places = _shares(len(z)), _shares(z.shape[1])
    trials = 1 / (faces[:, None] * places)
    chances = np.array([_bound(float(each)) for each in z.flat]).reshape(z.shape) * trials
    best = np.unravel_index(int(chances.argmin()), z.shape)
    chance = float(chances[best])
    if chance < UNSURE:
        chance = min(chance, _tail(evidence.groups[best].reshape(-1) / spread[best], float(z[best])) * float(trials[best]))
    score = max(0.0, -math.log10(max(chance, 1e-300)))
    return Found(score, float(z[best]), float(best[1]) * STEP_S, evidence.frames)


def _shares(count: int) -> NDArray[np.float64]:
    """(count,), together 1: half for the first, the rest alike."""
    return np.array([1.0]) if count == 1 else np.array([0.5, *[0.5 / (count - 1)] * (count - 1)])


def _bound(z: float) -> float:
    """On the chance that a weighted sum of random signs lies z deviations up or more, whatever the weights."""
    return RADEMACHER * _gaussian_tail(z)


def _tail(weights: NDArray[np.float64], z: float) -> float:
    """The same for these weights, whose squares add up to 1; LEAST_CHANCE or more, and of no use beyond z of 7.

    A little Gaussian noise is added, which makes Davies' sum for the law converge; that it falls by LOWERED deviations has a known
    chance and is independent of the signs. Some 10 ms, a third of `_bound`.
    """
    low = z - LOWERED * WIDENED
    at = (np.arange(math.ceil(7 / WIDENED / STEP)) + 0.5) * STEP
    law = np.exp(-0.5 * np.square(WIDENED * at))
    for some in np.array_split(weights, 16):
        law *= np.cos(np.outer(at, some)).prod(1)
    smooth = 0.5 - float((np.sin(at * low) / at * law).sum()) * STEP / math.pi
    return max(smooth, LEAST_CHANCE) / (1 - _gaussian_tail(LOWERED))


def _gaussian_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def _tracks_of(video: Path, source: Source, seen: Faces) -> Iterator[Track]:
    read = _read(video, source, seen)
    for track in np.unique(seen.track):
        rows = [int(row) for row in np.flatnonzero(seen.track == track) if row in read]
        if rows:
            seconds = np.array([float(source.time(int(seen.frame[row]))) for row in rows])
            trust = np.array([read[row].trust for row in rows])
            yield Track(seconds, quick_cells(np.stack([read[row].picture for row in rows]), seconds, trust), trust)


def _read(video: Path, source: Source, seen: Faces) -> dict[int, Read]:
    """Each row, but those outside the picture."""
    read: dict[int, Read] = {}
    if not seen.rows:
        return read
    first, stop = int(seen.frame[0]), int(seen.frame[-1]) + 1
    kr, kb = luma_weights(source.colour, source.size[1])
    weights = np.array([kr, 1 - kr - kb, kb], np.float32)
    for number, frame in enumerate(read_frames(video, source, first, stop), first):
        for row in np.flatnonzero(seen.frame == number):
            region = reach(seen.landmarks[row], source.size)
            if region is not None:
                luma = region_rgb(frame, region, source.colour) @ weights
                read[int(row)] = Read(picture_of(luma, region[0], region[1], seen.landmarks[row]), trust_of(frame))
    return read


def _folded(track: Track) -> NDArray[np.float64]:
    """(places in time, SLOTS, cells): the track's evidence for each sign of the pattern, for each place at which it may have begun."""
    evidence = _evidence(track) * EXPECTED
    folded = np.zeros((PLACES, SLOTS, ROWS * COLUMNS))
    for place in range(PLACES):
        slot, half = slot_at(track.seconds + place * STEP_S)
        np.add.at(folded[place], slot, evidence * half[:, None])
    return folded


def _evidence(track: Track) -> NDArray[np.float64]:
    """(N, cells): the quick cells, each direction of them and each moment as it can be trusted; a track with less noise counts more."""
    covariance = np.cov(track.quick.T, aweights=track.trust)
    covariance /= max(float(np.median(np.diag(covariance))), 1e-12)
    steady = np.linalg.solve(covariance + SPREAD * np.eye(len(covariance)), track.quick.T).T
    return np.asarray(steady * track.trust[:, None], np.float64)

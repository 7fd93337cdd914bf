"""Whether a film carries the mark of `dub --watermark`. In: a film, a key. Out: Found. Needs neither the original nor a work folder.

    film -- faces -- cells of each frame -- what is quick and unlike the rest of the face -- folded onto the pattern -- z -- chance

The mark is a sum of signs that the key draws by lot, weighted by what the picture does. Whatever the picture: that a sum of weighted
random signs lies z deviations off has at most 3.18 times a Gaussian's chance (Bentkus and Dzindzalieta, A tight Gaussian bound for
weighted sums of Rademacher random variables, Bernoulli 21(2), 2015). So what is told is a bound on the chance that a film that
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
from musetalk_cli.media.watermark import COLUMNS, EXPECTED, PERIOD_S, ROWS, SLOTS, cells_of, reach, signs_of, slot_at
from musetalk_cli.report.windows import Span, sampled
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_faces import faces
from musetalk_cli.types import Faces, Shot, Source

THRESHOLD = 4.0  # score from which a film is marked: an unmarked one gets there with a chance of 1 in 10 000 at most
SECONDS = 60.0  # of a film that are looked at, in windows spread over it
STEP_S = 0.04  # in which a cut-off beginning is searched: half of a flip
PLACES = round(SLOTS * PERIOD_S / STEP_S)  # 64: where in the pattern a film may begin
RADEMACHER = 3.18  # times a Gaussian's tail, see above
LEAST_FRAMES = 12  # of a face, half a second
SLOW_S = 0.08  # sigma; slower changes are speech and light
SMALL_FACE = 16  # pixels of box width: a face of 32, the least that is dubbed, in a film of half the size
SPREAD = 1.0  # of a cell's usual variance added to each direction: so few frames do not tell more of how a face moves
BURST_S = 0.1  # sigma over which it is seen how restless a cell is at the time
BURST_CELLS = 0.7  # the same across the face
BURST_FLOOR = 3.0  # of the usual restlessness, below which no cell counts more


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
    """One face: when it is seen (N,) seconds, and its cells (N, ROWS * COLUMNS)."""

    seconds: NDArray[np.float64]
    cells: NDArray[np.float64]


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
    """All places and faces are tried; half of the trust is for films that begin as they did when they were marked."""
    if not len(evidence.groups):
        return Found(0.0, 0.0, 0.0, 0)
    spread = np.sqrt(np.square(evidence.groups).sum((2, 3)))
    z = np.einsum("gpsc,sc->gp", evidence.groups, signs_of(key)) / np.maximum(spread, 1e-12)
    trials = np.full(z.shape, 2.0 * z.size)
    trials[:, 0] = 2.0 * len(z)
    chances = np.array([_tail(float(each)) for each in z.flat]).reshape(z.shape) * trials
    group, place = np.unravel_index(int(chances.argmin()), z.shape)
    score = max(0.0, -math.log10(max(float(chances[group, place]), 1e-300)))
    return Found(score, float(z[group, place]), float(place) * STEP_S, evidence.frames)


def _tail(z: float) -> float:
    """Bound on the chance that a weighted sum of random signs lies z deviations up or more."""
    return RADEMACHER * 0.5 * math.erfc(z / math.sqrt(2))


def _tracks_of(video: Path, source: Source, seen: Faces) -> Iterator[Track]:
    read = _read(video, source, seen)
    for track in np.unique(seen.track):
        rows = [row for row in np.flatnonzero(seen.track == track) if row in read]
        if rows:
            seconds = np.array([float(source.time(int(seen.frame[row]))) for row in rows])
            yield Track(seconds, np.stack([read[int(row)] for row in rows]))


def _read(video: Path, source: Source, seen: Faces) -> dict[int, NDArray[np.float64]]:
    """Cells of each row, but of those outside the picture."""
    read: dict[int, NDArray[np.float64]] = {}
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
                read[int(row)] = cells_of(luma, region[0], region[1], seen.landmarks[row])
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
    """(N, cells): what is left of the cells without what is slow, each direction and each moment as it can be trusted."""
    rate = 1 / float(np.median(np.diff(track.seconds)))
    quick = track.cells - _smooth(track.cells, SLOW_S * rate)
    covariance = np.cov(quick.T)
    usual = float(np.median(np.diag(covariance)))
    steady = np.linalg.solve(covariance + np.eye(len(covariance)) * max(SPREAD * usual, 1e-9), quick.T).T
    energy = np.square(steady)
    across = _smooth(energy.reshape(len(energy), ROWS, COLUMNS).transpose(1, 0, 2).reshape(ROWS, -1), BURST_CELLS)
    across = across.reshape(ROWS, len(energy), COLUMNS).transpose(2, 1, 0).reshape(COLUMNS, -1)
    across = _smooth(across, BURST_CELLS).reshape(COLUMNS, len(energy), ROWS).transpose(1, 2, 0).reshape(len(energy), -1)
    restless = _smooth(across, BURST_S * rate)
    return np.asarray(steady / (restless + BURST_FLOOR * max(float(np.median(restless)), 1e-12)), np.float64)


def _smooth(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """(N, C) -> the same, averaged over the first axis by a Gaussian; nothing lies beyond both ends."""
    at = np.arange(-int(3 * sigma) - 1, int(3 * sigma) + 2)
    weights = np.exp(-0.5 * np.square(at / sigma))
    rows = np.arange(len(values))
    total, weight = np.zeros_like(values), np.zeros((len(values), 1))
    for shift, share in zip(at, weights, strict=True):
        inside = (rows + shift >= 0) & (rows + shift < len(values))
        total[inside] += share * values[rows[inside] + shift]
        weight[inside] += share
    return np.asarray(total / weight, np.float64)

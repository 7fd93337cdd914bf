"""One video as the judges see it. In: a video, where the film's face is. Out: Watched: lips, identity, features, moment by moment.

    Faces of the film -- Trail: the largest person of each shot, by time --.
    film -------------------------------------------------------------------|-- watch -- Watched
    a system's result, of any frame rate and size --------------------------|-- watch -- Watched
    film and its own self-reconstruction -----------------------------------'-- liken -- Likeness

Every result is looked at where the film has its face, so that no system is judged on another crop. One frame after the other: memory
does not grow with the video but for its figures. Knows nothing of voices or tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.config import Runtime
from musetalk_cli.evaluation.judges import SYNC_EXPERT, JudgeNames, open_identity, open_pictures
from musetalk_cli.media.audio import speech_blocks
from musetalk_cli.media.video import read_frames, to_rgb
from musetalk_cli.metrics.likeness import psnr, ssim
from musetalk_cli.metrics.lse import offsets
from musetalk_cli.metrics.seam import seam
from musetalk_cli.metrics.sharpness import sharpness
from musetalk_cli.models.analysis import EmbeddedAnalyser
from musetalk_cli.models.lpips import lpips, open_lpips
from musetalk_cli.models.sync_expert import FPS, FRAMES, RATE_HZ, SAMPLES_PER_FRAME, Embeddings, SyncExpert, face_crops
from musetalk_cli.tracks import around, iou
from musetalk_cli.types import Faces, Source
from musetalk_cli.weights import folder as weights_folder
from musetalk_cli.work import stage

Rgb = NDArray[np.uint8]
CROP_PX = 256  # of the face, for features and likeness
SQUARE = 1.3  # its side, in the longer side of the landmarks' box
SAMPLE_S = Fraction(1, 5)  # between two pictures that identity and features are taken of
BATCH = 16
SAME_FACE_IOU = 0.3  # of landmarks and where the film has the face
MASK_POINTS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 35, 33, 31)  # lower face: every system pastes about there


@dataclass(frozen=True, slots=True)
class Trail:
    """Where the film's face is. Times ascend; places in shares of the picture's width and height."""

    time_s: NDArray[np.float64]  # (M,) of the film's frames in which it is
    landmarks: NDArray[np.float32]  # (M, 68, 2)
    reach_s: float  # half a frame of the film: so near a moment must be


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """judges: who embeds. seconds: of the video at most, None: all of it."""

    judges: JudgeNames
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """N moments in which the face is to be seen, K of them sampled for the judges."""

    time_s: NDArray[np.float64]  # (N,)
    landmarks: NDArray[np.float32]  # (N, 68, 2) pixels of this video; NaN where the landmarker sees no face, or another
    sampled: NDArray[np.int32]  # (K,) numbers among the N
    slot: NDArray[np.int32]  # (K,) which SAMPLE_S of the clock each is of
    identity: NDArray[np.float32]  # (K, D) of length 1; NaN where no face is seen
    features: NDArray[np.float32]  # (K, 2048), or (K, 0) without an Inception
    sharpness: NDArray[np.float32]  # (K,)
    seam: NDArray[np.float32]  # (K,)


@dataclass(frozen=True, slots=True)
class Likeness:
    """A result beside its film, on the face's crop, at K moments."""

    psnr: NDArray[np.float32]  # (K,) dB
    ssim: NDArray[np.float32]  # (K,)
    lpips: NDArray[np.float32]  # (K,), or (0,) without its weights


@dataclass(frozen=True, slots=True)
class Published:
    """LSE by the published SyncNet, of the longest run in which the face is seen; 0 moments: it is too short."""

    distance: float  # LSE-D
    confidence: float  # LSE-C
    offset_s: float  # positive: the lips come after the voice
    moments: int


class Moment(NamedTuple):
    """A frame in which the face is to be seen."""

    time_s: float
    rgb: Rgb
    points: NDArray[np.float32]  # (68, 2) pixels of this video, where the film has the face


def trail_of(source: Source, shots: Sequence[Faces]) -> Trail:
    """Of each shot the person whose face is largest by and large; nobody where none is fit to be dubbed."""
    size = np.array(source.size, np.float32)
    rows = [(shot, int(row)) for shot in shots for row in _largest(shot)]
    time = np.array([float(source.time(int(shot.frame[row]))) for shot, row in rows])
    points = [shot.landmarks[row] / size for shot, row in rows]
    return Trail(time, np.array(points, np.float32).reshape(-1, 68, 2), float(1 / source.fps / 2))


@stage(version=1)
def watch(video: Path, shown: Source, trail: Trail, *, config: WatchConfig, runtime: Runtime, out: Path) -> Watched:
    """shown: of this video. A frame without a moment of the trail near it is left out."""
    root = weights_folder(runtime.weights)
    embed, features = open_identity(config.judges, root), open_pictures(config.judges, root, runtime.device)
    time, landmarks, seen, crops = [], [], _Sampled([], [], [], [], [], []), list[Rgb]()
    with EmbeddedAnalyser() as analyser:
        for number, moment in enumerate(_moments(video, shown, trail, config.seconds)):
            points = _landmarks(analyser, moment)
            time.append(moment.time_s)
            landmarks.append(points)
            slot = int(Fraction(moment.time_s) / SAMPLE_S)
            if seen.slot and seen.slot[-1] >= slot:
                continue
            vector = None if np.isnan(points).any() else embed(moment.rgb, points)
            seen.number.append(number)
            seen.slot.append(slot)
            seen.identity.append(vector)
            seen.sharpness.append(sharpness(moment.rgb, moment.points))
            seen.seam.append(_seam(moment))
            crops.append(crop_of(moment))
            if features is not None and len(crops) == BATCH:
                seen.features.append(features(np.stack(crops)))
                crops.clear()
    if features is not None and crops:
        seen.features.append(features(np.stack(crops)))
    return Watched(np.array(time), np.array(landmarks, np.float32).reshape(-1, 68, 2), *seen.arrays())


@stage(version=2)
def liken(
    video: Path, result: Path, source: Source, shown: Source, trail: Trail, *, config: WatchConfig, runtime: Runtime, out: Path
) -> Likeness:
    """Both must have the same frames."""
    net = None
    if config.judges.lpips:
        import torch

        net = open_lpips(weights_folder(runtime.weights), torch.device(runtime.device))
    found, unlike, last = [], [], -1
    pairs = (_moments(path, one, trail, config.seconds) for path, one in ((video, source), (result, shown)))
    for was, now in zip(*pairs, strict=True):
        slot = int(Fraction(was.time_s) / SAMPLE_S)
        if slot > last:
            last = slot
            one, other = crop_of(was), crop_of(now)
            found.append((psnr(one, other), ssim(one, other)))
            if net is not None:
                unlike.append(lpips(net, one[None], other[None])[0])
    values = np.array(found, np.float32).reshape(-1, 2)
    return Likeness(values[:, 0], values[:, 1], np.array(unlike, np.float32))


@stage(version=1)
def published(
    video: Path, voice: Path, shown: Source, trail: Trail, *, config: WatchConfig, runtime: Runtime, out: Path
) -> Published:
    """As syncnet_python's run_pipeline.py and SyncNetInstance.evaluate do, on 25 frames a second, each the nearest in time."""
    import torch

    judge = SyncExpert.load(weights_folder(runtime.weights) / SYNC_EXPERT, torch.device(runtime.device))
    first_s, count = _longest(trail, config.seconds)
    speech = _from(voice, first_s, count)
    moments = _at_25(_moments(video, shown, trail, config.seconds), first_s, count)
    boxes = _boxes(trail, shown, first_s, count)
    found = judge.embed(face_crops(moments, boxes), speech) if count > FRAMES else Embeddings(*np.zeros((2, 0, 1), np.float32))
    if not len(found.lips):
        return Published(0.0, 0.0, 0.0, 0)
    sync = offsets(found.lips, found.sound)
    return Published(sync.distance, sync.confidence, sync.offset / FPS, len(found.lips))


def crop_of(moment: Moment) -> Rgb:
    """(256, 256, 3) of a square about the face, black beyond the picture."""
    low, high = moment.points.min(0), moment.points.max(0)
    middle, side = (low + high) / 2, max(float((high - low).max()) * SQUARE, 2.0)
    matrix = np.array([[CROP_PX / side, 0, 0], [0, CROP_PX / side, 0]])
    matrix[:, 2] = CROP_PX / 2 - matrix[:, :2] @ middle
    if side > CROP_PX:  # many pixels of the film to one of the crop: averaged, else they alias
        wide = round(side)
        shift = np.array([[1, 0, wide / 2 - middle[0]], [0, 1, wide / 2 - middle[1]]])
        return np.asarray(
            cv2.resize(cv2.warpAffine(moment.rgb, shift, (wide, wide)), (CROP_PX, CROP_PX), interpolation=cv2.INTER_AREA),
            np.uint8,
        )
    return np.asarray(cv2.warpAffine(moment.rgb, matrix, (CROP_PX, CROP_PX), flags=cv2.INTER_CUBIC), np.uint8)


class _Sampled(NamedTuple):
    number: list[int]
    slot: list[int]
    identity: list[NDArray[np.float32] | None]
    features: list[NDArray[np.float32]]
    sharpness: list[float]
    seam: list[float]

    def arrays(
        self,
    ) -> tuple[
        NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]
    ]:
        width = next((len(vector) for vector in self.identity if vector is not None), 1)
        identity = [np.full(width, np.nan, np.float32) if vector is None else vector for vector in self.identity]
        count = len(self.number)
        features = np.concatenate(self.features) if self.features else np.zeros((count, 0), np.float32)
        return (
            np.array(self.number, np.int32),
            np.array(self.slot, np.int32),
            np.array(identity, np.float32).reshape(count, -1),
            features,
            np.array(self.sharpness, np.float32),
            np.array(self.seam, np.float32),
        )


def _largest(shot: Faces) -> NDArray[np.intp]:
    """Rows of the track that has the largest boxes, summed over its frames."""
    if not shot.rows:
        return np.zeros(0, np.intp)
    areas = np.prod((shot.box[:, 2:] - shot.box[:, :2]).astype(np.float64), axis=1)
    tracks = np.unique(shot.track)
    best = tracks[int(np.argmax([areas[shot.track == track].sum() for track in tracks]))]
    return np.flatnonzero(shot.track == best)


def _moments(video: Path, shown: Source, trail: Trail, seconds: float | None) -> Iterator[Moment]:
    if not len(trail.time_s):
        return
    size = np.array(shown.size, np.float32)
    reach = max(trail.reach_s, float(1 / shown.fps / 2)) + 1e-6
    for number, frame in enumerate(read_frames(video, shown, 0, shown.frames)):
        time = float(shown.time(number))
        if seconds is not None and time > seconds:
            return
        row = int(np.argmin(np.abs(trail.time_s - time)))
        if abs(trail.time_s[row] - time) <= reach:
            yield Moment(time, to_rgb(frame, shown.colour, quick=True), trail.landmarks[row] * size)


def _longest(trail: Trail, seconds: float | None) -> tuple[float, int]:
    """The longest run of the trail without a gap: its first second, and how many frames of 25 a second it has."""
    times = trail.time_s if seconds is None else trail.time_s[trail.time_s <= seconds]
    if not len(times):
        return 0.0, 0
    runs = np.split(times, np.flatnonzero(np.diff(times) > 3 * max(trail.reach_s, 0.5 / FPS)) + 1)
    run = max(runs, key=lambda one: float(one[-1] - one[0]))
    return float(run[0]), int((run[-1] - run[0]) * FPS) + 1


def _at_25(moments: Iterator[Moment], first_s: float, count: int) -> Iterator[Rgb]:
    """The picture nearest to each 25th of a second; frames come in order, so the one before is all that is kept."""
    before: Moment | None = None
    wanted = 0
    for moment in moments:
        while wanted < count and moment.time_s >= first_s + wanted / FPS - 1e-6:
            time = first_s + wanted / FPS
            near = before if before is not None and time - before.time_s < moment.time_s - time else moment
            yield near.rgb
            wanted += 1
        before = moment
    while wanted < count and before is not None:
        yield before.rgb
        wanted += 1


def _boxes(trail: Trail, shown: Source, first_s: float, count: int) -> NDArray[np.float64]:
    """(count, 4) pixels of this video."""
    at = first_s + np.arange(count) / FPS
    size = np.array(shown.size, np.float64)
    low, high = trail.landmarks.min(1) * size, trail.landmarks.max(1) * size
    return (
        np.stack([np.interp(at, trail.time_s, column) for column in np.hstack([low, high]).T], 1) if count else np.zeros((0, 4))
    )


def _from(voice: Path, first_s: float, count: int) -> NDArray[np.float32]:
    """(count * 640,) of the voice at 16 kHz, silence where it has ended."""
    first, wanted = round(first_s * RATE_HZ), count * SAMPLES_PER_FRAME
    held, at = [np.zeros(0, np.float32)], 0
    for block in speech_blocks(voice, RATE_HZ):
        held.append(block[max(first - at, 0) : max(first + wanted - at, 0)])
        at += len(block)
        if at >= first + wanted:
            break
    found = np.concatenate(held)
    return np.pad(found, (0, wanted - len(found)))


def _landmarks(analyser: EmbeddedAnalyser, moment: Moment) -> NDArray[np.float32]:
    box = around(moment.points)
    points = analyser.landmarks(moment.rgb, box)
    if points is None or iou(around(points), box) < SAME_FACE_IOU:
        return np.full((68, 2), np.nan, np.float32)
    return points


def _seam(moment: Moment) -> float:
    """At the outline of the lower face, in the crop."""
    low, high = moment.points.min(0), moment.points.max(0)
    middle, side = (low + high) / 2, max(float((high - low).max()) * SQUARE, 2.0)
    outline = (moment.points[list(MASK_POINTS)] - middle) * (CROP_PX / side) + CROP_PX / 2
    alpha = np.zeros((CROP_PX, CROP_PX), np.uint8)
    cv2.fillPoly(alpha, [np.round(outline).astype(np.int32)], 255)
    return seam(crop_of(moment), alpha)

"""Prepared clips as training sees them. In: a data folder. Out: crops, latents, lip codes and pairs of frames, drawn at random.

68 landmarks -> mouth in the face's own frame -> opening + 7 shape numbers      lip codes
frame -> another frame of like pose and unlike mouth                            Informative Frame Sampling
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from musetalk_cli.landmarks import INNER_LIPS, INNER_PAIRS, JAW, MOUTH, RIGID, STILL, in_crop
from musetalk_cli.training.dataset import PreparedClip, Sample, crops_of, prepared_clip, read_samples

T = TypeVar("T")

MIRRORED = np.array([6, 5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 16, 15, 14, 13, 12, 19, 18, 17])  # of MOUTH
SHAPES = 7
CODE_SIZE = 1 + SHAPES
CODE_LIMIT = 4.0
CROPS = "crops"  # folder of a run
IFS_SHARE = 0.5  # of the frames of a clip, by pose and by mouth; the paper's best
NEAR_SHARE = 0.15  # of the frames of a clip, by pose: the lite net has too few steps to learn to turn heads
NEAREST = 6  # frames at least


@dataclass(frozen=True, slots=True)
class CodeBasis:
    """How landmarks become lip codes; fitted on the training clips once."""

    template: NDArray[np.float32]  # (68, 2) mean face, eyes one apart
    slope: NDArray[np.float32]  # (42,) mouth shape for one unit of opening
    shapes: NDArray[np.float32]  # (SHAPES, 42) principal components of what the opening leaves over
    spread: NDArray[np.float32]  # (CODE_SIZE,) standard deviations; codes are in these units


def read_clips(folders: list[Path]) -> Iterator[tuple[Sample, PreparedClip]]:
    """All samples of sets that are trained on, held-out identities left out."""
    for sample in read_samples(folders, "train"):
        yield sample, prepared_clip(sample)


def fit_basis(landmarks: list[NDArray[np.float32]]) -> CodeBasis:
    """The basis of many clips: (F, 68, 2) each, NaN where there is no face."""
    faces = [clip[~np.isnan(clip[:, 0, 0])] for clip in landmarks]
    template = _mean_face(faces)
    mouths = [mouth_shapes(face, template) for face in faces]
    opened = [openings(face, template) for face in faces]
    x, y = np.concatenate(opened), np.concatenate([mouth - np.median(mouth, 0) for mouth in mouths])
    centred = np.concatenate([clip - np.median(clip) for clip in opened])
    slope = (centred @ y) / (centred @ centred)
    left = y - centred[:, None] * slope
    left *= np.minimum(1, 0.3 / np.maximum(np.linalg.norm(left, axis=1), 1e-6))[:, None]
    _, _, rows = np.linalg.svd(left[:: max(len(left) // 20000, 1)], full_matrices=False)
    shapes = rows[:SHAPES]
    spread = np.maximum(np.concatenate([[x.std()], (left @ shapes.T).std(0)]), 1e-3)
    return CodeBasis(*(np.asarray(a, np.float32) for a in (template, slope, shapes, spread)))


def write_basis(path: Path, basis: CodeBasis) -> None:
    """The basis as a `.npz`."""
    np.savez(path, template=basis.template, slope=basis.slope, shapes=basis.shapes, spread=basis.spread)


def read_basis(path: Path) -> CodeBasis:
    """What `write_basis` wrote."""
    with np.load(path) as file:
        return CodeBasis(file["template"], file["slope"], file["shapes"], file["spread"])


def lip_codes(landmarks: NDArray[np.float32], basis: CodeBasis) -> NDArray[np.float32]:
    """(F, 68, 2) of one clip -> (F, CODE_SIZE), NaN where there is no face. Number 0 is the opening, 0 where closed."""
    codes = np.full((len(landmarks), CODE_SIZE), np.nan, np.float32)
    valid = ~np.isnan(landmarks[:, 0, 0])
    if not valid.any():
        return codes
    opened = openings(landmarks[valid], basis.template)
    mouth = mouth_shapes(landmarks[valid], basis.template)
    left = mouth - np.median(mouth, 0) - (opened - np.median(opened))[:, None] * basis.slope
    raw = np.concatenate([opened[:, None], left @ basis.shapes.T], 1) / basis.spread
    codes[valid] = np.clip(raw, -CODE_LIMIT, CODE_LIMIT)
    return codes


def openings(landmarks: NDArray[np.float32], template: NDArray[np.float32]) -> NDArray[np.float32]:
    """(F, 68, 2) -> (F,) inner-lip distance in eye distances, less what the clip shows where it is closed."""
    points = canonical(landmarks, template)
    gaps = [np.linalg.norm(points[:, low] - points[:, high], axis=1) for high, low in INNER_PAIRS]
    mean = np.mean(gaps, 0)
    return np.asarray(np.maximum(mean - min(float(np.percentile(mean, 5)), 0.03), 0), np.float32)


def mouth_shapes(landmarks: NDArray[np.float32], template: NDArray[np.float32]) -> NDArray[np.float32]:
    """(F, 68, 2) -> (F, 42): mouth and chin in the face's own frame, left and right made equal: a mirrored face is the same."""
    points = canonical(landmarks, template)
    mouth, middle = points[:, MOUTH], template[RIGID, 0].mean()
    mirrored = mouth[:, MIRRORED] * np.array([-1, 1], np.float32) + np.array([2 * middle, 0], np.float32)
    chin = points[:, 8:9] * np.array([0, 1], np.float32)
    return np.asarray(np.concatenate([(mouth + mirrored) / 2, chin], 1).reshape(len(points), -1), np.float32)


def canonical(landmarks: NDArray[np.float32], template: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each face on the template by the affine map that fits its rigid points best: no place, size or roll, little yaw."""
    rigid = landmarks[:, RIGID]
    ones = np.ones((*rigid.shape[:2], 1), np.float32)
    maps = np.linalg.pinv(np.concatenate([rigid, ones], 2).astype(np.float64)) @ template[RIGID]
    whole = np.concatenate([landmarks, np.ones((len(landmarks), 68, 1), np.float32)], 2)
    return np.asarray(whole @ maps, np.float32)


def _mean_face(faces: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(68, 2): mean of all faces turned level, eyes one apart, made symmetric about x = 0."""
    total = []
    for face in faces:
        right, left = face[:, 36:42].mean(1), face[:, 42:48].mean(1)
        along = left - right
        turn = np.stack([along[:, 0], along[:, 1], -along[:, 1], along[:, 0]], 1).reshape(-1, 2, 2)
        level = np.einsum("fij,fpj->fpi", turn, face - ((left + right) / 2)[:, None]) / (along**2).sum(1)[:, None, None]
        total.append(np.median(level, 0))
    mean = np.mean(total, 0)
    return np.asarray(mean, np.float32)


def windows_of(features: NDArray[np.float16], frames: NDArray[np.integer], fps: int = 25) -> NDArray[np.float16]:
    """(T, 5, 384) -> (N, 10, 5, 384): tokens [2i - 4, 2i + 6) of 25 fps frames; zeros outside the voice."""
    first = (50 * frames.astype(np.int64)) // fps - 4
    index = first[:, None] + np.arange(10)
    inside = (index >= 0) & (index < len(features))
    found = features[np.clip(index, 0, max(len(features) - 1, 0))]
    return np.asarray(np.where(inside[..., None, None], found, 0), np.float16)


def informative_frames(target: int, jaw: NDArray[np.float32], lips: NDArray[np.float32]) -> NDArray[np.intp]:
    """Frames of a clip to refer to for `target`: the half nearest in pose that is also in the half furthest in mouth.

    jaw: (K, 17, 2), lips: (K, 8, 2), in box coordinates. Never the target itself; empty where the halves do not meet.
    """
    keep = max(int(IFS_SHARE * len(jaw)), 1)
    pose = np.linalg.norm(jaw - jaw[target], axis=2).mean(1)
    mouth = np.linalg.norm(lips - lips[target], axis=2).mean(1)
    near = np.argsort(pose, kind="stable")[1 : keep + 1]
    unlike = np.argsort(-mouth, kind="stable")[:keep]
    chosen: NDArray[np.intp] = np.intersect1d(near, unlike)
    return np.asarray(chosen[chosen != target], np.intp)


def near_frames(target: int, points: NDArray[np.float32]) -> NDArray[np.intp]:
    """Informative frames for a net that will refer to the frame itself: few by pose, of these the half with the least like mouth.

    points: (K, 68, 2) in box coordinates.
    """
    still, lips = points[:, STILL], points[:, INNER_LIPS] - points[:, STILL].mean(1, keepdims=True)
    pose = np.linalg.norm(still - still[target], axis=2).mean(1)
    mouth = np.linalg.norm(lips - lips[target], axis=2).mean(1)
    near = np.argsort(pose, kind="stable")[1 : max(int(NEAR_SHARE * len(points)), NEAREST) + 1]
    near = near[near != target]
    return np.asarray(near[np.argsort(-mouth[near], kind="stable")][: max(len(near) // 2, 1)], np.intp)


def similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2, 3): shift, turn and scale that carry points onto others best."""
    a, b = one.mean(0).astype(np.float64), other.mean(0).astype(np.float64)
    z, w = (one - a) @ np.array([1, 1j]), (other - b) @ np.array([1, 1j])
    turn = (z.conj() @ w) / max((z.conj() @ z).real, 1e-9)
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.concatenate([matrix, (b - matrix @ a)[:, None]], 1)


def lower_face(points: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float32]:
    """(256, 256): 1 on mouth and chin of both faces, 0 from the nose up, on the cheeks' sides and well below; soft between."""
    top = float(points[33, 1])
    bottom = float(max(points[8, 1], others[8, 1])) + 14
    centre_x, half_x = float(points[48:60, 0].mean()), 0.42 * float(np.ptp(points[JAW, 0]))
    centre_y, half_y = (top + bottom) / 2, max((bottom - top) / 2, 8.0)
    rows, columns = np.mgrid[0:256, 0:256].astype(np.float32)
    away = ((columns - centre_x) / half_x) ** 2 + ((rows - centre_y) / half_y) ** 4
    return np.asarray(np.clip((1.2 - away) / 0.4, 0, 1), np.float32)


def ahead(batches: Iterator[T], count: int = 2) -> Iterator[T]:
    """The same batches, made by a thread of its own while the net works on those before."""
    ready: Queue[T] = Queue(count)

    def fill() -> None:
        for batch in batches:
            ready.put(batch)

    Thread(target=fill, daemon=True).start()
    while True:
        yield ready.get()


@dataclass(frozen=True, slots=True)
class FaceClip:
    """The frames of a clip that have crops. K rows."""

    name: str
    crops: NDArray[np.uint8]  # (K, 256, 256, 3), mapped
    points: NDArray[np.float32]  # (K, 68, 2) in the crop
    codes: NDArray[np.float32]  # (K, CODE_SIZE)
    frame: NDArray[np.int32]  # (K,)

    @property
    def rows(self) -> int:
        return len(self.frame)

    def reference(self, target: int, random: np.random.Generator) -> int:
        """A row to refer to: of those nearest in pose one of the half that is furthest in mouth."""
        chosen = near_frames(target, self.points)
        return int(random.choice(chosen)) if len(chosen) else target

    def with_lips_of(self, row: int, target: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(256, 256, 3): crop `target` with the mouth and chin of `row`, as if the same frame had said something else.

        And (68, 2): where its points are.

        So that the net learns lips and nothing but lips: two frames of a clip differ in pose and light too, and those differences
        are most of the loss (0.1 of L1 for the nearest pair of an ordinary clip, hardly less with the pair aligned).
        """
        near = similarity(self.points[row, STILL], self.points[target, STILL])
        mixed, said = np.array(self.crops[target]), np.array(self.crops[row])
        other = cv2.warpAffine(said, near, (256, 256), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        moved = self.points[row] @ near[:, :2].T + near[:, 2]
        alpha = lower_face(self.points[target], moved)[96:, :, None]
        light = (mixed[64:128, 64:192].mean((0, 1)) - other[64:128, 64:192].mean((0, 1))).astype(np.float32)
        lower = mixed[96:] * (1 - alpha) + (other[96:] + light) * alpha
        mixed[96:] = np.clip(np.rint(lower), 0, 255).astype(np.uint8)
        return mixed, moved.astype(np.float32)


def face_clips(folders: list[Path], basis: CodeBasis, crops: Path) -> list[FaceClip]:
    """All clips with enough frames; their crops are kept in the folder `crops`. Those hardly seen to speak are closed mouths."""
    found = []
    for sample, clip in read_clips(folders):
        rows = clip.crop_frame
        codes = lip_codes(clip.landmarks, basis)[rows]
        if len(rows) >= 8 and not np.isnan(codes).any():
            found.append(FaceClip(clip.name, crops_of(sample, crops), in_crop(clip.landmarks[rows], clip.box[rows]), codes, rows))
    return found

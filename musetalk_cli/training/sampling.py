"""Which frame to refer to, how much chin to show, where the lips are. In: landmarks, a random generator. Out: indices, pixels, boxes.

    landmarks in box coordinates -> frames of like pose and unlike lips -> one of them     Informative Frame Sampling, section 3.3
    N(10, 10) px within one standard deviation, for source and reference apart             Dynamic Margin Sampling, section 3.4
    landmarks in the 256 px crop -> 128 x 64 about the mouth                               region of the lip discriminator

Pure functions; the paper's rules, and beside them the released code's where it does otherwise. Knows nothing of files or pictures.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.crop import CROP_PX
from musetalk_cli.training.config import MarginRule, ReferenceRule

CHIN = slice(0, 17)
INNER_LIPS = slice(60, 68)
LIPS = slice(48, 68)
LIP_WIDTH_PX, LIP_HEIGHT_PX = 128, 64

RELEASED_CHIN, RELEASED_INNER_LIPS, RELEASED_LIPS = slice(0, 16), slice(60, 67), slice(48, 67)  # one point short each
RELEASED_NEAREST = 5  # frames: a reference nearer in time is drawn again
RELEASED_REACH = 5  # windows to either side, in which it is
RELEASED_LIP_ROOM_PX = 10


class Margins(NamedTuple):
    """Pixels of the source that are seen below the chin: N windows, K references each."""

    source: NDArray[np.int64]  # (N,)
    reference: NDArray[np.int64]  # (N, K)


def draw_references(
    targets: NDArray[np.integer],
    points: NDArray[np.floating],
    generator: np.random.Generator,
    *,
    rule: ReferenceRule = "informative",
    share: float = 0.5,
) -> NDArray[np.int64]:
    """(M,) frames of a clip -> (M,) frames to refer to. points: (K, 68, 2) of the whole clip, see `in_crop`.

    informative: any of `informative_frames`, all alike. random: any other frame. released: what the official code does, see
    `_released_references`; a window is all of `targets`. A clip of one frame refers to itself.
    """
    if len(points) == 1:
        return np.zeros(len(targets), np.int64)
    if rule == "random":
        return _any_other(np.asarray(targets, np.int64), len(points), generator)
    if rule == "released":
        return _released_references(np.asarray(targets, np.int64), points, share, generator)
    candidates = _candidates(np.asarray(targets, np.int64), points, share)
    return np.array([generator.choice(np.flatnonzero(row)) for row in candidates], np.int64)


def informative_frames(target: int, points: NDArray[np.floating], share: float = 0.5) -> NDArray[np.int64]:
    """Frames that are worth referring to for `target`, those with the least like lips first. Section 3.3 of the paper.

    points: (K, 68, 2) of a clip, see `in_crop`. The k = share * K frames nearest by the chin (points 0 to 16) that are also among
    the k furthest by the inner lips (60 to 67), by the mean distance of points. Where the two sets do not meet, k grows until they
    do, on which the paper is silent: the result is empty only for a clip of one frame. Never the target itself.
    """
    found = np.flatnonzero(_candidates(np.array([target]), points, share)[0])
    away = _distances(np.array([target]), points[:, INNER_LIPS])[0]
    return np.asarray(found[np.argsort(-away[found], kind="stable")], np.int64)


def draw_margins(
    count: int,
    generator: np.random.Generator,
    *,
    references: int = 1,
    mean_px: float = 10.0,
    std_px: float = 10.0,
    shared: bool = False,
    rule: MarginRule = "truncated",
) -> Margins:
    """Margins of `count` windows, from mean - std to mean + std, whole pixels. Section 3.4 of the paper.

    One for all source frames of a window (the picture would jump otherwise) and one for each of its references. shared: the
    references take their source's. truncated: a normal distribution drawn again where it falls outside. clipped: moved to the
    bounds, which 16 % each of N(10, 10) are then, and rounded down: the released code.
    """
    source = _normal((count,), generator, mean_px, std_px, rule)
    if shared:
        return Margins(source, np.repeat(source[:, None], references, axis=1))
    return Margins(source, _normal((count, references), generator, mean_px, std_px, rule))


def lip_region(points: NDArray[np.floating]) -> NDArray[np.int64]:
    """(..., 68, 2) in the 256 px crop -> (..., 4): x1 y1 x2 y2, always 128 wide and 64 high, inside the crop.

    The paper's *expand* rule (supplement): the mouth's width is the longer side, half of it the shorter, and this is extended to
    128 x 64 alike on both sides; so its middle is the mouth's. Nothing is resized, so lips keep their shape. At the crop's edge
    the region is shifted inside.
    """
    lips = points[..., LIPS, :]
    middle = (lips.min(-2) + lips.max(-2)) / 2
    size = np.array([LIP_WIDTH_PX, LIP_HEIGHT_PX])
    corner = np.clip(np.rint(middle - size / 2), 0, CROP_PX - size).astype(np.int64)
    return np.concatenate([corner, corner + size], axis=-1, dtype=np.int64)


def released_lip_region(points: NDArray[np.floating]) -> NDArray[np.int64]:
    """(..., 68, 2) in the 256 px crop -> (..., 4): the lips and 10 px at either side, half as high as wide, cut at the crop's edge.

    The released code's rule, which then resizes it to a square. Its shift by the margin is left out: landmarks are in the crop.
    """
    lips = points[..., RELEASED_LIPS, :]
    low, high = lips.min(-2), lips.max(-2)
    half_width = (high[..., 0] - low[..., 0]) / 2 + RELEASED_LIP_ROOM_PX
    half = np.stack([half_width, half_width / 2], axis=-1)
    middle = (low + high) / 2
    return np.asarray(np.clip(np.rint(np.concatenate([middle - half, middle + half], axis=-1)), 0, CROP_PX), np.int64)


def _candidates(targets: NDArray[np.int64], points: NDArray[np.floating], share: float) -> NDArray[np.bool_]:
    """(M, K): which frames are informative for which target."""
    frames = len(points)
    itself = targets[:, None] == np.arange(frames)
    pose = np.where(itself, np.inf, _distances(targets, points[:, CHIN]))
    lips = np.where(itself, -np.inf, _distances(targets, points[:, INNER_LIPS]))
    worse = np.maximum(_ranks(pose), _ranks(-lips))  # a frame is in both sets of k where this is below k
    k = np.maximum(max(int(share * frames), 1), worse.min(axis=1, where=~itself, initial=frames) + 1)
    return np.asarray((worse < k[:, None]) & ~itself)


def _distances(targets: NDArray[np.int64], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """(M,), (K, P, 2) -> (M, K): mean distance of the points."""
    apart = points[None].astype(np.float64) - points[targets, None]
    return np.asarray(np.sqrt(np.square(apart).sum(-1)).mean(-1))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(M, K) -> (M, K): 0 for the least of a row; of equals the earlier frame first."""
    return np.asarray(np.argsort(np.argsort(values, axis=1, kind="stable"), axis=1, kind="stable"), np.int64)


def _any_other(targets: NDArray[np.int64], frames: int, generator: np.random.Generator) -> NDArray[np.int64]:
    drawn = generator.integers(0, frames - 1, len(targets))
    return np.asarray(drawn + (drawn >= targets), np.int64)


def _released_references(
    targets: NDArray[np.int64], points: NDArray[np.floating], share: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """The released get_src_idx: any frame of the two sets' intersection; where that is empty, or the frame is fewer than 5 away,
    any frame within 5 windows that is not, cut to the clip. Its sets lack the last point of chin and lips, and its lips' set may
    hold the target."""
    keep, reach = int(share * len(points)), RELEASED_REACH * len(targets)
    near = np.argsort(_distances(targets, points[:, RELEASED_CHIN]), axis=1)[:, 1 : keep + 1]
    unlike = np.argsort(-_distances(targets, points[:, RELEASED_INNER_LIPS]), axis=1)[:, :keep]
    found = np.empty(len(targets), np.int64)
    for row, target in enumerate(targets):
        common = np.intersect1d(near[row], unlike[row])
        frame = generator.choice(common) if len(common) else target
        while abs(frame - target) < RELEASED_NEAREST:
            frame = generator.integers(target - reach, target + reach + 1)
        found[row] = frame
    return np.clip(found, 0, len(points) - 1)


def _normal(
    shape: tuple[int, ...], generator: np.random.Generator, mean: float, std: float, rule: MarginRule
) -> NDArray[np.int64]:
    drawn = generator.normal(mean, std, shape)
    if rule == "clipped":
        return np.clip(drawn, mean - std, mean + std).astype(np.int64)
    while (outside := np.abs(drawn - mean) > std).any():
        drawn[outside] = generator.normal(mean, std, int(outside.sum()))
    return np.rint(drawn).astype(np.int64)

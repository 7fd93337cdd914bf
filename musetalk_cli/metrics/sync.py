"""Whether lips follow a voice, and how late. In: landmarks at their times, and what a lip judge hears. Out: LSE of a stand-in judge.

    landmarks (N, 68, 2) -> 4 numbers of lips -> 25 moments a second, less their slow trend -> windows of 0.32 s   what is seen
    what the judge asks of the same numbers                                                 -> windows of 0.32 s   what is heard
    both -> metrics.lse's distances over shifts of 0.6 s to either side -> distance, confidence, offset

The figures are computed as LSE-D and LSE-C are (Chung and Zisserman 2016), but by another judge: `LSE-D (lip judge)`, not comparable
with those of the published SyncNet. Knows nothing of the network that hears.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from musetalk_cli.metrics.lips import correlation, opening
from musetalk_cli.metrics.lse import REACH, distances

MOMENTS_PER_SECOND = 25
NUMBERS = 4  # opening, width, height of the lips themselves, way from nose to chin
WEIGHTS = np.array([0.55, 0.43, 0.28, 0.45])  # how well each is heard: r on people whom the judge had not seen
WINDOW = 8  # moments, 0.32 s
QUIET = 0.1  # a window counts in full when it moves more than this share of the mean, so that pauses say little
TREND_S = 1.0  # sigma; what changes more slowly is pose and mood
LIMIT = 4.0  # standard deviations; what is beyond is no lip
LONGEST_GAP_S = 0.13  # without landmarks that is filled in: three frames of 25 a second
SPEECH = 0.5  # of voice activity
VOICED = 0.25  # of the seconds about a moment
LEAST_S = 1.5  # of moments that can be judged; fewer say nothing at all
NEAR_S = 0.08  # a shift up to this is nobody's fault: untouched films have it, and the eye does not see it
SURE = 0.65  # of confidence * sqrt(seconds); at most 0.5 % of foreign voices reach it, from 2 to 14 s alike
LEAST_RISE = 0.1  # of the same kind: how much nearer the lips are at the offset than anywhere near none
LIPS = ((50, 61), (51, 62), (52, 63), (58, 67), (57, 66), (56, 65))


class Asked(NamedTuple):
    """What a voice asks of lips, from second 0 of the voice on."""

    numbers: NDArray[np.float32]  # (T, NUMBERS) of variance 1 over the training voices; the opening is the first
    voice: NDArray[np.float32]  # (T,) voice activity, 0..1
    rate_hz: int

    def at(self, times_s: NDArray[np.floating]) -> NDArray[np.float64]:
        """(M,) -> (M, NUMBERS); zeros outside the voice."""
        place = np.asarray(times_s, np.float64) * self.rate_hz
        rows = np.arange(len(self.numbers))
        found = [np.interp(place, rows, column, 0.0, 0.0) for column in self.numbers.T.astype(np.float64)]
        return np.stack(found, 1)


class LipSync(NamedTuple):
    """A voice and lips beside each other."""

    distance: float  # LSE-D (lip judge): 0 the same, 0.75 to 0.95 a voice and its own lips, 1.0 to 1.1 another's
    confidence: float  # LSE-C (lip judge)
    offset_s: float  # positive: the lips come after the voice; to a part of a moment
    r: float  # correlation of the opening with the one that is asked for, at the offset
    rise: float  # by how much the distance is less there than anywhere within NEAR_S of no offset; 0: it is within
    seconds: float  # of moments that were judged
    voiced: float  # share of the seconds with landmarks in which somebody was heard, 0..1
    curve: NDArray[np.float64]  # (2 * REACH + 1,) mean distance; entry k is of REACH - k moments that the lips come later


def lip_numbers(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 68, 2) -> (N, NUMBERS) in eye distances; NaN where the landmarks are NaN."""
    points = landmarks.astype(np.float64)
    eyes = np.linalg.norm(points[:, 36:42].mean(1) - points[:, 42:48].mean(1), axis=1)

    def apart(one: int, other: int) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(points[:, one] - points[:, other], axis=1) / np.maximum(eyes, 1e-6), np.float64)

    height = np.mean([apart(outer, inner) for outer, inner in LIPS], 0)
    return np.stack([opening(points).astype(np.float64), apart(48, 54), height, apart(33, 8)], 1)


def seen_lips(landmarks: NDArray[np.floating], times_s: NDArray[np.floating]) -> tuple[NDArray[np.float64], float]:
    """(N, 68, 2), ascending (N,) -> (G, NUMBERS) at 25 moments a second, and the second of the first of them.

    Each stretch without a gap longer than LONGEST_GAP_S less its slow trend; all of it in units of its own spread, so that a
    person's habits do not count. NaN in gaps. Moments are whole 25ths of a second.
    """
    numbers = lip_numbers(landmarks)
    valid = np.isfinite(numbers).all(1)
    numbers, times = numbers[valid], np.asarray(times_s, np.float64)[valid]
    if not len(times):
        return np.zeros((0, NUMBERS)), 0.0
    first, last = np.ceil(times[0] * MOMENTS_PER_SECOND - 1e-6), np.floor(times[-1] * MOMENTS_PER_SECOND + 1e-6)
    grid = np.full((int(last - first) + 1, NUMBERS), np.nan)
    moments = (first + np.arange(len(grid))) / MOMENTS_PER_SECOND
    for run in np.split(np.arange(len(times)), np.flatnonzero(np.diff(times) > LONGEST_GAP_S) + 1):
        inside = (moments >= times[run[0]] - 1e-6) & (moments <= times[run[-1]] + 1e-6)
        if inside.any():
            grid[inside] = without_trend(np.stack([np.interp(moments[inside], times[run], row) for row in numbers[run].T], 1))
    return _in_own_units(grid), float(first) / MOMENTS_PER_SECOND


def _in_own_units(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """By the middle nine tenths, which are 3.3 standard deviations of a normal number: a few wrong landmarks do not shrink the rest."""
    found = grid[np.isfinite(grid).all(1)]
    if not len(found):
        return grid
    low, high = np.quantile(found, (0.05, 0.95), axis=0)
    return np.asarray(np.clip(grid / np.maximum((high - low) / 3.29, 1e-6), -LIMIT, LIMIT), np.float64)


def without_trend(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """(G, D) at 25 a second -> the same less what changes over more than TREND_S, mean 0."""
    values = rows.astype(np.float64)
    fast = values - gaussian_filter1d(values, TREND_S * MOMENTS_PER_SECOND, axis=0, mode="nearest")
    return np.asarray(fast - fast.mean(0), np.float64)


def judge_lips(landmarks: NDArray[np.floating], times_s: NDArray[np.floating], asked: Asked) -> LipSync | None:
    """(N, 68, 2) of one person, any pixels, NaN without a face; ascending (N,) seconds of the voice's clock, at any rate -> LipSync.

    None where less than LEAST_S of them can be judged: too few landmarks, or nobody is heard.
    """
    seen, first_s = seen_lips(landmarks, times_s)
    moments = first_s + np.arange(-REACH, len(seen) + REACH) / MOMENTS_PER_SECOND
    voice = (
        np.interp(moments * asked.rate_hz, np.arange(len(asked.voice)), asked.voice, 0, 0) if len(asked.voice) else 0 * moments
    )
    heard = asked.at(moments) if len(asked.numbers) else np.zeros((len(moments), NUMBERS))
    return _judged(seen, heard, voice > SPEECH)


def sure(sync: LipSync) -> bool:
    """Whether lips and voice belong together so well that the offset may be believed.

    Noise of the mean distance falls as the root of the length, and so does the confidence of a voice that is not theirs: with the
    root it is the same for 2 and for 14 s. weights/judge/README.md has the rates. Not sure does not mean out of sync.
    """
    return sync.confidence * float(np.sqrt(sync.seconds)) >= SURE


def shifted(sync: LipSync, usual_s: float = 0.0) -> bool:
    """Whether one may say that the lips are more than NEAR_S away from `usual_s`: 0, or the offset of the film with its own sound.

    Sure, beyond it by the parabola, and clearly nearer there than anywhere within NEAR_S.
    """
    beyond = abs(sync.offset_s - usual_s) > NEAR_S
    return sure(sync) and beyond and _rise(sync.curve, usual_s) * float(np.sqrt(sync.seconds)) >= LEAST_RISE


def _judged(seen: NDArray[np.float64], heard: NDArray[np.float64], voiced: NDArray[np.bool_]) -> LipSync | None:
    """(G, NUMBERS) seen, (G + 2 * REACH, NUMBERS) and (G + 2 * REACH,) heard from REACH moments before on."""
    if len(seen) < WINDOW:
        return None
    own = slice(REACH, REACH + len(seen))
    near = np.convolve(voiced, np.ones(MOMENTS_PER_SECOND) / MOMENTS_PER_SECOND, "same")[own] > VOICED
    middle = slice(WINDOW // 2, WINDOW // 2 + len(seen) - WINDOW + 1)
    faces = np.isfinite(seen).all(1)
    lips, sound = _windows(seen), _windows(heard)
    rows = np.isfinite(lips).all(1) & near[middle]
    seconds = float(rows.sum()) / MOMENTS_PER_SECOND
    if seconds < LEAST_S:
        return None
    beside = np.pad(np.where(rows[:, None], lips, 0), ((REACH, REACH), (0, 0)))
    curve = distances(beside, sound)[REACH : REACH + len(lips)][rows].mean(0)
    found = _of_curve(curve, seconds, float(voiced[own][faces].mean()))
    shift = round(found.offset_s * MOMENTS_PER_SECOND)
    opened = np.where(near, seen[:, 0], np.nan)
    return found._replace(r=correlation(opened, heard[REACH - shift : REACH - shift + len(seen), 0]))


def _windows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(G, NUMBERS) -> (G - WINDOW + 1, NUMBERS * WINDOW): each about its mean and of length 1, but near 0 where little moves."""
    parts = sliding_window_view(rows, WINDOW, axis=0) * WEIGHTS[:, None]
    whole = (parts - parts.mean(2, keepdims=True)).reshape(len(parts), -1)
    usual = WINDOW * float((WEIGHTS**2).sum())
    return np.asarray(whole / np.sqrt((whole**2).sum(1, keepdims=True) + QUIET * usual), np.float64)


def _of_curve(curve: NDArray[np.float64], seconds: float, voiced: float) -> LipSync:
    nearest = int(curve.argmin())
    least = float(curve[nearest])
    offset_s = (REACH - _lowest(curve, nearest)) / MOMENTS_PER_SECOND
    return LipSync(least, float(np.median(curve)) - least, offset_s, 0.0, _rise(curve, 0.0), seconds, voiced, curve)


def _rise(curve: NDArray[np.float64], usual_s: float) -> float:
    moments = (REACH - np.arange(len(curve))) / MOMENTS_PER_SECOND
    near = np.abs(moments - usual_s) <= NEAR_S + 1e-6
    return float(curve[near].min() - curve.min()) if near.any() else float(np.ptp(curve))


def _lowest(curve: NDArray[np.float64], at: int) -> float:
    """Where the parabola through the least value and those beside it is lowest."""
    if not 0 < at < len(curve) - 1:
        return float(at)
    before, least, after = curve[at - 1 : at + 2]
    bend = before - 2 * least + after
    return at + float((before - after) / 2 / bend if bend > 0 else 0.0)


def together(parts: Sequence[LipSync]) -> LipSync | None:
    """Several stretches, such as the shots of a film, as one that is as long as all of them; None of none.

    Distances are averaged before the least is looked for: ten shots that say little alone may say much together.
    """
    if not parts:
        return None
    seconds = np.array([part.seconds for part in parts])
    share = seconds / seconds.sum()
    curve = share @ np.stack([part.curve for part in parts])
    r, voiced = (float(share @ np.array([getattr(part, name) for part in parts])) for name in ("r", "voiced"))
    return _of_curve(curve, float(seconds.sum()), voiced)._replace(r=r)

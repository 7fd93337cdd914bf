"""A patch as sharp and as grainy as the film. In: the same part of a face as the film and as a network shows it. Out: what to add.

    film, patch -- luma -- two bands, differences of Gaussians -- where both show the same thing
        all of it: the gain that makes the patch's band like the film's       -> an unsharp mask
        flat places: median absolute deviation of the film over the patch's   -> noise of this strength and grain size

Everything is averaged over a track, so that nothing flickers but the grain itself. Knows nothing of faces or files.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SIGMAS = (1.0, 2.0)  # source pixels; the bands are finer than the first, and between the two
REACH = 8  # pixels around those that are asked for, on which their bands depend
SAME = 12.0  # code values between the film and the patch, both smooth; more is another mouth, or a hand
FEWEST = 100  # pixels of such skin, below which nothing can be told
SAMPLES = 4096  # pixels; half of them flat, enough to know a deviation to 3 % from one face
MEMORY = 12  # faces over which a track is averaged
SHARPEST = 1.6  # gain of a band; what lacks more has lost it for good, and only ringing would grow
LARGEST = 2.0  # sigma of grain in pixels; the bands tell nothing of larger ones
MAD = 0.6745  # median of the absolute value of a normal distribution of standard deviation 1
QUIET = 0.25  # variance that is left out: rounding to 8 bits adds 0.11 by itself, and a compressed skin moves by so much


class Look(NamedTuple):
    """One face of a track. film, patch: (h, w, 3) float32 RGB 0..255 of the same pixels, the film as decoded."""

    film: NDArray[np.float32]
    patch: NDArray[np.float32]
    skin: NDArray[np.bool_]  # (h, w) where both should show the same thing
    generated: NDArray[np.bool_]  # (h, w) where the patch is to show; elsewhere a network may only have copied, grain and all
    frame: int
    corner: tuple[int, int]  # source pixels: left, top
    middle: tuple[float, float]  # of the face, source pixels: what has moved by as much as this is the same skin


class Bands(NamedTuple):
    """(h, w) each."""

    fine: NDArray[np.float32]
    coarse: NDArray[np.float32]
    base: NDArray[np.float32]  # what is left; the three add up to the picture


class Seen(NamedTuple):
    """What to know of a face to finish its patch."""

    patch: Bands
    since: int  # the frame since which the film shows the same: films of 24 frames a second are shown 60 times, grain and all


class Detail:
    """What the patches of one track lack of the film's fine detail.

    Grain is what a film has beyond the patch in flat places, and what is new in every frame: skin has pores, which stay, and would
    boil were they made up anew. So it is the lesser of the two. What was seen last counts most, as grain and focus change slowly.
    """

    def __init__(self, *, grain: float, sharpen: float) -> None:
        """grain, sharpen: share of what is missing that is added; 0 is off."""
        self._grain, self._sharpen = np.float32(grain), np.float32(sharpen)
        self._edges, self._flats, self._changes = _Average(), _Average(), _Average()
        self._before: tuple[Look, Bands, Bands] | None = None
        self._since = 0

    @property
    def wanted(self) -> bool:
        return bool(self._grain or self._sharpen)

    def seen(self, look: Look) -> Seen:
        """Learns of one more face; faces come frame by frame."""
        film, patch = _bands(_luma(look.film)), _bands(_luma(look.patch))
        same = look.skin & (np.abs(film.base - patch.base) < SAME)
        again = np.count_nonzero(same) >= FEWEST and self._learn(look, film, patch, same)
        self._since = self._since if again else look.frame
        self._before = (look, film, patch)
        return Seen(patch, self._since)

    def missing(self, seen: Seen, part: tuple[slice, slice], alpha: NDArray[np.uint8], *, track: int) -> NDArray[np.float32]:
        """(h, w) to add to each component of a part of the patch; the same for the same frame and track. alpha: (h, w) of that part.

        Where the film shows through, its own grain is weaker; what is added is stronger there, so that both make up the whole.
        """
        fine, coarse = self._gains() - 1
        strength, size = self._grain_missing()
        added = np.zeros(alpha.shape, np.float32)
        if fine or coarse:
            np.multiply(seen.patch.fine[part], fine, out=added)
            added += coarse * seen.patch.coarse[part]
        if strength:
            noise = np.random.Generator(np.random.PCG64((seen.since, track))).standard_normal(alpha.shape, np.float32)
            added += _grown(noise, size) * (self._grain * np.float32(strength) * _BESIDE_FILM)[alpha]
        return added

    def _learn(self, look: Look, film: Bands, patch: Bands, same: NDArray[np.bool_]) -> bool:
        """Whether the film shows the same again."""
        pairs = _pairs(film, patch, *_some(same))
        sums = np.array([[np.vdot(a, b) for a, b in ((f, f), (f, p), (p, p))] for f, p in pairs]).T
        self._edges.add(sums / len(pairs[0][0]))
        painted = same & look.generated
        rows, columns = _some(painted if np.count_nonzero(painted) >= FEWEST else same)
        flat = _flat(film.base, rows, columns)
        rows, columns = rows[flat], columns[flat]
        pairs = _pairs(film, patch, rows, columns)
        self._flats.add(np.array([[_variance(band) for band in values] for values in zip(*pairs, strict=True)]))
        changes = self._changed(look, film, patch, rows, columns)
        if changes is not None and changes[0].any():
            self._changes.add(changes)
        return changes is not None and not changes[0].any()

    def _changed(
        self, look: Look, film: Bands, patch: Bands, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> NDArray[np.float64] | None:
        """(2, 2) variance that is new since the frame before, of film and patch, fine and coarse; None where that was not seen."""
        if self._before is None or self._before[0].frame != look.frame - 1:
            return None
        before, old_film, old_patch = self._before
        right, down = (round(now - then) for now, then in zip(look.middle, before.middle, strict=True))
        old_rows = rows + (look.corner[1] - before.corner[1] - down)
        old_columns = columns + (look.corner[0] - before.corner[0] - right)
        height, width = old_film.base.shape
        inside = (old_rows >= 0) & (old_rows < height) & (old_columns >= 0) & (old_columns < width)
        if np.count_nonzero(inside) < FEWEST:
            return None
        now, then = (rows[inside], columns[inside]), (old_rows[inside], old_columns[inside])
        pairs = ((film[:2], old_film[:2]), (patch[:2], old_patch[:2]))
        return np.array([[_variance(a[now] - b[then]) / 2 for a, b in zip(*pair, strict=True)] for pair in pairs])

    def _gains(self) -> NDArray[np.float32]:
        """(2,) of the fine and the coarse band.

        Between two answers, whose geometric mean it is: as strong as the film's without its grain, and nearest to the film.
        """
        if not self._edges.weight:
            return np.ones(2, np.float32)
        film, shared, patch = self._edges.mean
        in_flats = np.subtract(*self._flats.mean)
        patch = np.maximum(patch, 1e-6)
        nearest = np.maximum(shared / patch, 0)
        as_strong = np.sqrt(np.maximum(film - np.maximum(in_flats, 0), nearest**2 * patch) / patch)
        gains = np.clip(np.sqrt(as_strong * nearest), 1, SHARPEST).astype(np.float32)
        return np.asarray(1 + self._sharpen * (gains - 1), np.float32)

    def _grain_missing(self) -> tuple[float, float]:
        """Standard deviation of white noise, and the sigma it is to be smoothed with, that the sharpened patches lack."""
        if not self._flats.weight:
            return 0.0, 0.0
        sizes, shares = _grains()
        gains = self._gains().astype(np.float64) ** 2
        seen = [film - gains * patch for film, patch in (of.mean for of in (self._flats, self._changes) if of.weight)]
        lacks = np.min(seen, axis=0)
        fine, coarse = np.maximum(lacks, 0)
        visible = fine + coarse - QUIET * shares[0].sum()
        if visible <= 0:
            return 0.0, 0.0
        size = float(np.interp(coarse / max(fine, 1e-9), shares[:, 1] / shares[:, 0], sizes))
        share = sum(float(np.interp(size, sizes, shares[:, band])) for band in range(2))
        return float(np.sqrt(visible / share)), size


class _Average:
    """Of the last MEMORY faces or so."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._total: NDArray[np.float64] = np.zeros(())

    def add(self, values: NDArray[np.float64]) -> None:
        self._total = self._total * (1 - 1 / MEMORY) + values
        self.weight = self.weight * (1 - 1 / MEMORY) + 1

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._total / self.weight


def _luma(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)


def _bands(luma: NDArray[np.float32]) -> Bands:
    first, second = (np.asarray(cv2.GaussianBlur(luma, (0, 0), sigma), np.float32) for sigma in SIGMAS)
    return Bands(luma - first, first - second, second)


def _some(where: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of SAMPLES pixels or so, evenly."""
    pixels = np.flatnonzero(where)
    pixels = pixels[:: max(len(pixels) // SAMPLES, 1)]
    return pixels // where.shape[1], pixels % where.shape[1]


def _pairs(
    film: Bands, patch: Bands, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The fine and the coarse band of both at these pixels."""
    return [(f[rows, columns], p[rows, columns]) for f, p in zip(film[:2], patch[:2], strict=True)]


def _flat(base: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.bool_]:
    """The half of these pixels where the picture rises least."""
    slopes = np.hypot(*(cv2.Sobel(base, cv2.CV_32F, *along)[rows, columns] for along in ((1, 0), (0, 1))))
    return np.asarray(slopes <= np.median(slopes), np.bool_)


def _variance(values: NDArray[np.float32]) -> float:
    """Of what most values are like; a few others tell nothing."""
    middle = len(values) // 2
    return float(np.partition(np.abs(values), middle)[middle] / MAD) ** 2


def _grown(noise: NDArray[np.float32], size: float) -> NDArray[np.float32]:
    return noise if size <= 0 else np.asarray(cv2.GaussianBlur(noise, (0, 0), size), np.float32)


@lru_cache(maxsize=1)
def _grains() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sigmas of grain (K,), and the variance (K, 2) that is in each band of white noise of variance 1 so smoothed."""
    sizes = np.linspace(0, LARGEST, 41)
    grain = np.zeros((65, 65), np.float32)
    grain[32, 32] = 1
    bands = [_bands(_grown(grain, float(size)))[:2] for size in sizes]
    return sizes, np.array([[np.square(band, dtype=np.float64).sum() for band in pair] for pair in bands])


_WEIGHT = np.maximum(np.arange(256, dtype=np.float32), 1) / 255
_BESIDE_FILM = np.sqrt(2 / _WEIGHT - 1)  # (1 - weight)^2 of the film's variance and (weight * this)^2 are 1

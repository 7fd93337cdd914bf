"""Mean and covariance of vectors that come in batches, and how far two Gaussians are apart. In: (N, D) arrays. Out: Moments, a distance.

Float64, in one pass: each batch is centred on its own mean and merged (Chan, Golub and LeVeque 1979), so that large means cost no
digits, and what was seen takes D x D numbers however much it was. Knows nothing of what the vectors are of.
"""

import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Self

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.errors import InputError
from musetalk_cli.work import sync

DAMAGE = (  # what numpy raises on files with bytes changed or cut off
    *(OSError, ValueError, LookupError, TypeError, EOFError, SyntaxError, TokenError, MemoryError, NotImplementedError),
    *(RuntimeError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile),
)


@dataclass(frozen=True, slots=True)
class Moments:
    """What is known of `count` vectors; a value, never changed in place."""

    count: int
    mean: NDArray[np.float64]  # (D,)
    scatter: NDArray[np.float64]  # (D, D) sum of the outer products of the differences from the mean

    @classmethod
    def none(cls, width: int) -> Self:
        """Of no vector yet."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(D, D) as numpy.cov has it: over count - 1. Raises ValueError below two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two vectors, there are {self.count}")
        return self.scatter / (self.count - 1)

    def append(self, batch: NDArray[np.floating]) -> Self:
        """With (N, D) more; N may be 0. Raises ValueError for another D and for numbers that are not finite."""
        rows = np.asarray(batch, np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise ValueError(f"vectors of {len(self.mean)} numbers are due, these are {rows.shape}")
        if not np.isfinite(rows).all():
            raise ValueError("a vector is not finite")
        if not len(rows):
            return self
        mean = rows.mean(0)
        apart = rows - mean
        return self.merge(type(self)(len(rows), mean, apart.T @ apart))

    def merge(self, other: Self) -> Self:
        """With all that another has seen."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.count * other.count / count)
        return type(self)(count, self.mean + apart * (other.count / count), self.scatter + other.scatter + between)

    def save(self, path: Path) -> None:
        """As .npz, whole or not at all."""
        part = path.with_name(f"part.{path.name}")
        with part.open("wb") as file:
            np.savez(file, count=self.count, mean=self.mean, scatter=self.scatter)
        sync(part)
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote, to the bit. Raises InputError where the file is something else or damaged."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                found = cls(int(file["count"]), np.asarray(file["mean"]), np.asarray(file["scatter"]))
        except DAMAGE as error:
            raise InputError(f"{path}: no statistics in it: {error}", "delete it, it is made again") from error
        width = len(found.mean) if found.mean.ndim == 1 else -1
        if found.scatter.shape != (width, width) or found.mean.dtype != np.float64 or found.scatter.dtype != np.float64:
            raise InputError(f"{path}: no statistics in it", "delete it, it is made again")
        return found


def frechet_distance(one: Moments, other: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)): Heusel et al. 2017, equation 6; Dowson and Landau 1982.

    With C = R R^T the trace of the root of C1 C2 is the sum of the singular values of R1^T R2. So nothing needs to be inverted or
    nudged where there are fewer vectors than dimensions, and nothing imaginary can come out. Raises ValueError below two vectors.
    """
    apart = one.mean - other.mean
    roots = [_root(moments.covariance) for moments in (one, other)]
    overlap = float(np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum())
    return float(apart @ apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * overlap)


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D, D) -> (D, K), K its rank: R with R R^T = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    real = values > values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, real] * np.sqrt(values[real]), np.float64)

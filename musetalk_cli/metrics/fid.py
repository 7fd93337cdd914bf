"""Fréchet inception distance (Heusel et al. 2017). In: features of pictures, batch by batch. Out: FID, and statistics that are kept.

It is FID only where the features are those of the standard Inception (models/inception.py); of another network's the same number is
a Fréchet distance, to be named after that network. Biased by the number of pictures: compare only the same number. Knows no network.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.metrics.stats import Moments, frechet_distance

LEAST = 2  # pictures of which there is a covariance
VERSION = 1  # of what is kept; raised when the same makers would give other statistics


def fid(one: Moments, other: Moments) -> float | None:
    """Of two sets of pictures, by their features' statistics, 0 or more; None where one has fewer than two pictures."""
    if min(one.count, other.count) < LEAST:
        return None
    return max(frechet_distance(one, other), 0.0)  # of a set with itself rounding leaves some 1e-13 of the traces, of either sign


def statistics(batches: Iterable[NDArray[np.floating]], width: int) -> Moments:
    """(N, width) features a batch -> their statistics, in memory that does not grow."""
    found = Moments.none(width)
    for batch in batches:
        found = found.append(batch)
    return found


def kept_statistics(folder: Path, made_of: Mapping[str, str], make: Callable[[], Moments]) -> Moments:
    """make()'s answer, from the file of an earlier call where that was made of the same: {what: its hash or version}.

    The file is named by the hash of all that made it and appears whole, so that a killed run or two at a time do no harm.
    """
    told = json.dumps([VERSION, sorted(made_of.items())])
    path = folder / f"statistics-{hashlib.sha256(told.encode()).hexdigest()[:32]}.npz"
    if path.is_file():
        return Moments.load(path)
    found = make()
    folder.mkdir(parents=True, exist_ok=True)
    found.save(path)
    return found

"""CSIM: whether a dub still shows the same person. In: identity embeddings of film and result. Out: their mean cosine.

The cosine similarity of MuseTalk's section 4.1, by ArcFace (Deng et al. 2019). By another network it is `CSIM (its name)`, and
not comparable: each has its own scale. Knows no network.
"""

import numpy as np
from numpy.typing import NDArray


def cosines(film: NDArray[np.floating], result: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, D), (N, D) of the same moments -> (N,) -1..1; NaN where either has NaN or nothing but zeros."""
    if film.shape != result.shape:
        raise ValueError(f"embeddings of the same moments are needed: {film.shape} of the film, {result.shape} of the result")
    a, b = film.astype(np.float64), result.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)), np.float64)


def csim(film: NDArray[np.floating], result: NDArray[np.floating]) -> float | None:
    """Mean of `cosines` over the moments in which both show a face; None where there is none."""
    found = cosines(film, result)
    found = found[~np.isnan(found)]
    return float(found.mean()) if len(found) else None

"""Lip-sync error: confidence, distance and offset (Chung and Zisserman 2016, section 3.2; LSE-C and LSE-D of Prajwal et al. 2020).

In: an embedding of the lips and one of the sound a moment. Out: how far apart they are, and by how many moments they are shifted.
Computed as SyncNetInstance.evaluate of syncnet_python does. Knows nothing of the network that embedded them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REACH = 15  # moments to either side, vshift of the published evaluation: 0.6 s at its 25 a second
EPSILON = 1e-6  # torch.nn.functional.pairwise_distance adds it to each difference


class Sync(NamedTuple):
    """LSE-D, LSE-C, and the shift at which lips and sound are nearest."""

    distance: float  # LSE-D: the least of `curve`
    confidence: float  # LSE-C: the median of `curve` minus that
    offset: int  # moments by which the lips come after the voice; negative: before it
    curve: NDArray[np.float64]  # (2 * reach + 1,) mean distance; entry k is of offset reach - k


def offsets(video: NDArray[np.floating], audio: NDArray[np.floating], reach: int = REACH) -> Sync:
    """(M, D) embeddings of the lips and of the sound at the same M moments -> Sync. Raises ValueError where M is 0 or shapes differ.

    Each moment's lips are compared with the sound from `reach` moments before to `reach` after. Beyond the ends the sound is zeros,
    as published: on clips shorter than some 3 * reach moments this weighs on the outer shifts.
    """
    found = distances(video, audio, reach)
    curve = found.mean(0)
    nearest = int(curve.argmin())
    return Sync(float(curve[nearest]), float(np.median(curve) - curve[nearest]), reach - nearest, curve)


def distances(video: NDArray[np.floating], audio: NDArray[np.floating], reach: int = REACH) -> NDArray[np.float64]:
    """(M, D), (M, D) -> (M, 2 * reach + 1) Euclidean distance of moment i's lips to the sound of moment i + k - reach."""
    if video.shape != audio.shape or video.ndim != 2 or not len(video):
        raise ValueError(f"embeddings of the same moments are needed: {video.shape} of the lips, {audio.shape} of the sound")
    lips = video.astype(np.float64) + EPSILON
    sound = np.pad(audio.astype(np.float64), ((reach, reach), (0, 0)))
    apart = [np.linalg.norm(lips - sound[k : k + len(lips)], axis=1) for k in range(2 * reach + 1)]
    return np.stack(apart, 1)

"""Whether one sound is another, moved. In: two sounds at the same rate. Out: by how much, and how alike they are then.

The normalised cross-correlation, as acoustic delays are found (Knapp and Carter 1976), of the sounds' differences from sample to
sample: hum and rumble, alike in all recordings, say nothing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import correlate

QUIET = 1e-4  # root mean square of the differences, full scale 1: below is silence, which is like any other


class Moved(NamedTuple):
    """lag: samples by which the sound comes later than the other does. likeness: correlation there, 0..1; 0 for silence."""

    lag: int
    likeness: float


def moved(sound: NDArray[np.floating], other: NDArray[np.floating]) -> Moved:
    """(S,) and (S + 2 * reach,): what `sound` is beside what the other has from `reach` samples before to `reach` after."""
    piece, around = np.diff(sound.astype(np.float64)), np.diff(other.astype(np.float64))
    reach = (len(around) - len(piece)) // 2
    energy = np.cumsum(np.concatenate([[0.0], around**2]))
    power = np.maximum(energy[len(piece) :] - energy[: -len(piece)], 0)  # of each stretch of the other that long
    least = len(piece) * QUIET**2
    if float(piece @ piece) < least or power.max() < least:
        return Moved(0, 0.0)
    likeness = correlate(around, piece, "valid", "fft") / np.sqrt(np.maximum(power, least) * (piece @ piece))
    best = int(likeness.argmax())
    return Moved(reach - best, float(np.clip(likeness[best], 0, 1)))

"""Values over time without jitter and without lag. In: rows of frames and tracks. Out: the same rows, smoothed both ways.

Pure rules; knows nothing of what the values mean.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt


def runs(frame: NDArray[np.integer], *apart: NDArray[np.integer]) -> list[NDArray[np.intp]]:
    """(N,) frames and what keeps rows apart (track, voice), (N,) each -> rows of each unbroken run of frames, ascending."""
    order = np.lexsort((frame, *apart))
    breaks = np.diff(frame[order]) != 1
    for key in apart:
        breaks |= np.diff(key[order]) != 0
    return [rows for rows in np.split(order, np.flatnonzero(breaks) + 1) if len(rows)]


def smooth(values: NDArray[np.floating], cutoff_hz: float, fps: float) -> NDArray[np.float32]:
    """(K, ...) of neighbouring frames -> the same without what is faster than cutoff_hz: a Butterworth low-pass of second order, run
    forwards and backwards, so that nothing lags. A cutoff of 0, or beyond half the frame rate, changes nothing.

    Speech moves lips at up to 5 or 6 Hz; trembling is faster, and acceleration grows with the square of frequency. A Gaussian that
    halves acceleration takes a third of the syllables' opening with it.
    """
    given = np.asarray(values, np.float32)
    if cutoff_hz <= 0 or cutoff_hz >= fps / 2 or len(given) < 3:
        return given
    low_pass = butter(2, cutoff_hz, fs=fps, output="sos")
    pad = min(len(given) - 1, ceil(2 * fps / cutoff_hz))
    return np.asarray(sosfiltfilt(low_pass, given.astype(np.float64), axis=0, padtype="even", padlen=pad), np.float32)

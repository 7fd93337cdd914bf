"""Is something before the mouth? In: small upright pictures of one face over time. Out: how much of its lower half looks unlike itself.

A hand, a microphone or a glass stands out against how this very face mostly looks; light that changes on the whole face does not.
Blind to what covers a mouth most of the time, for then that is how the face looks, and to a bare hand in even light, which has the
colour of the face. Knows nothing of films.
"""

import numpy as np
from numpy.typing import NDArray

LOOK_PX = 24
UPPER = (slice(4, 12), slice(6, 18))  # rows and columns that tell the light
UNLIKE = 40.0  # levels; shading of a moving jaw stays below 30
_ROWS, _COLUMNS = np.mgrid[:LOOK_PX, :LOOK_PX]
LOWER = (((_COLUMNS - 12) / 5) ** 2 + ((_ROWS - 16) / 6) ** 2 <= 1) & (_ROWS > 12)  # from the nose to the chin


def hidden_share(looks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(K, 24, 24, 3) of one face -> (K,) share 0..1 of the lower face that is not as it mostly is."""
    if not len(looks):
        return np.zeros(0, np.float32)
    seen = looks.astype(np.float32)
    difference = seen - np.median(seen, axis=0)
    light = np.median(difference[:, *UPPER].reshape(len(looks), -1, 3), axis=1)
    unlike = np.abs(difference - light[:, None, None]).max(3) > UNLIKE
    return np.asarray(unlike[:, LOWER].mean(1), np.float32)

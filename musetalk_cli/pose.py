"""Where a head looks. In: 68 landmarks. Out: angles. Knows nothing of films."""

import numpy as np
from numpy.typing import NDArray

# A head in millimetres or so, x to the picture's right, y down, z away from the camera; origin at the nose's tip. The usual six points of
# head pose estimation, which speech moves least, less the chin.
POINTS = np.array([30, 27, 36, 39, 42, 45, 31, 35])
HEAD = np.array(
    [
        [0, 0, 0],
        [0, -42, 14],
        [-45, -36, 30],
        [-17, -34, 25],
        [17, -34, 25],
        [45, -36, 30],
        [-13, 9, 14],
        [13, 9, 14],
    ],
    np.float64,
)


def yaw_of(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, 68, 2) -> (N,) degrees that the head is turned to a side; 0 from the front, positive to the picture's right.

    Weak perspective: the 2x3 matrix that maps the head onto the picture best (least squares), made orthonormal; its third column
    tells where the nose points. A turn of the picture changes nothing.
    """
    if not len(landmarks):
        return np.zeros(0, np.float32)
    seen = landmarks[:, POINTS].astype(np.float64)
    seen = seen - seen.mean(1, keepdims=True)
    head = HEAD - HEAD.mean(0)
    matrix = np.einsum("kj,nki->nij", np.linalg.pinv(head).T, seen)  # (N, 2, 3)
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    rotation = u @ vt  # (N, 2, 3): the nearest rows of a rotation
    nose = -np.cross(rotation[:, 0], rotation[:, 1])  # where the face looks, in the head's own axes: the camera's axis
    return np.asarray(np.degrees(np.arctan2(-nose[:, 0], -nose[:, 2])), np.float32)

"""Which frame of a chunk lends a face its mouth. In: landmarks as they are and as they should be. Out: a row for each row.

The paper refers each frame to itself at work. A small net gains from a frame of like pose whose mouth is almost the one wanted: teeth,
tongue and closed lips are then the person's own, and little is left to paint. Knows nothing of pictures or nets.
"""

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.landmarks import INNER_LIPS, MOUTH, STILL

POSE_WEIGHT = 0.7  # of a pixel at the still points, in pixels at the lips
INNER_WEIGHT = 2.0  # of the inner lips' eight points: open or closed is seen first
LEAP = 2.0  # px that a leap from one stretch of film to another must gain, so that mouths move as mouths do
NEIGHBOURS = (-1, 0, 1)  # rows to which going on costs nothing


def choose_lenders(points: NDArray[np.float32], wanted: NDArray[np.float32], track: NDArray[np.integer]) -> NDArray[np.intp]:
    """(N, 68, 2) landmarks in the crops and where they are wanted, (N,) persons -> (N,) rows, each of the same person.

    The path of least cost through the rows of each person: how far mouth and still points are off once a frame lies on the other by
    shift, turn and scale, and LEAP for every cut. Ties go to the earlier row, so the answer is the same on every machine.
    """
    chosen = np.arange(len(points))
    for person in np.unique(track):
        rows = np.flatnonzero(track == person)
        chosen[rows] = rows[cheapest_path(lending_costs(points[rows], points[rows], wanted[rows]))]
    return chosen


def lending_costs(lending: NDArray[np.float32], points: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float64]:
    """(K, 68, 2) of those who may lend, (N, 68, 2) of those who take and where theirs are wanted -> (N, K) px.

    Points as complex numbers, so that a turn and scale is one factor.
    """
    still, mouth = (_centred(lending, part) for part in (STILL, MOUTH))
    taking, goal = _centred(points, STILL), _centred(wanted, MOUTH, points)
    weight = np.where(np.isin(MOUTH, INNER_LIPS), INNER_WEIGHT, 1.0)
    weight /= weight.sum()
    size = (np.abs(still) ** 2).sum(1)
    overlap = still.conj() @ taking.T  # (K, N)
    turn = overlap / size[:, None]
    pose = np.maximum((np.abs(taking) ** 2).sum(1)[None] - np.abs(overlap) ** 2 / size[:, None], 0) / still.shape[1]
    cross = (turn.conj() * ((weight * mouth.conj()) @ goal.T)).real
    apart = (
        (weight * np.abs(goal) ** 2).sum(1)[None] - 2 * cross + np.abs(turn) ** 2 * (weight * np.abs(mouth) ** 2).sum(1)[:, None]
    )
    return np.asarray((np.sqrt(np.maximum(apart, 0)) + POSE_WEIGHT * np.sqrt(pose)).T, np.float64)


def cheapest_path(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """(N, K) cost of row k at step n -> (N,) the row of each step (Viterbi)."""
    steps, count = costs.shape
    came_from = np.zeros((steps, count), np.intp)
    total = costs[0].copy()
    for step in range(1, steps):
        cheapest = int(total.argmin())
        before, origin = np.full(count, total[cheapest] + LEAP), np.full(count, cheapest)
        for shift in NEIGHBOURS:
            there = np.arange(max(shift, 0), min(count + shift, count))
            better = there[total[there - shift] < before[there]]
            before[better], origin[better] = total[better - shift], better - shift
        total, came_from[step] = before + costs[step], origin
    path = np.empty(steps, np.intp)
    path[-1] = total.argmin()
    for step in range(steps - 1, 0, -1):
        path[step - 1] = came_from[step, path[step]]
    return path


def _centred(
    points: NDArray[np.float32], part: NDArray[np.integer], about: NDArray[np.float32] | None = None
) -> NDArray[np.complex128]:
    """(N, 68, 2) -> (N, P) about the middle of the still points, of `about` where that is another face."""
    middle = _complex((points if about is None else about)[:, STILL]).mean(1, keepdims=True)
    return np.asarray(_complex(points[:, part]) - middle, np.complex128)


def _complex(points: NDArray[np.float32]) -> NDArray[np.complex128]:
    return points[..., 0].astype(np.float64) + 1j * points[..., 1]

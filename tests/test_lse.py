"""Sync of embeddings with a known shift. Figures of the published code were measured with syncnet_python's calc_pdist."""

import numpy as np
import pytest
from numpy.typing import NDArray

from musetalk_cli.metrics.lse import REACH, distances, offsets


def walk(moments: int, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings that differ from moment to moment, as those of speech do."""
    return np.random.default_rng(seed).normal(size=(moments, 16)).astype(np.float32)


@pytest.mark.parametrize("late", [-15, -5, -1, 0, 1, 5, 15])
def test_known_shift_is_found_and_positive_where_lips_come_after_the_voice(late: int) -> None:
    both = walk(200)
    at = np.arange(30, 150)
    noise = np.random.default_rng(1).normal(size=(120, 16)) * 0.3
    found = offsets(both[at - late] + noise, both[at])  # the lips show at moment i what was heard at i - late
    assert found.offset == late
    assert found.confidence > 1
    assert found.curve[REACH - late] == found.distance == found.curve.min()


def test_confidence_falls_when_the_voice_is_another() -> None:
    lips = walk(120)
    assert offsets(lips, walk(120, 5)).confidence < 0.5 < offsets(lips, lips).confidence


def test_distances_are_those_of_the_definition() -> None:
    lips, sound = walk(9), walk(9, 3)
    found = distances(lips, sound, 2)
    assert found.shape == (9, 5)
    for i in range(9):
        for k in range(5):
            other = sound[i + k - 2] if 0 <= i + k - 2 < 9 else np.zeros(16, np.float32)  # zeros beyond the ends, as published
            assert found[i, k] == pytest.approx(np.linalg.norm(lips[i] - other), rel=1e-5)


def test_figures_are_those_of_the_published_code() -> None:
    lips, sound = walk(40), np.roll(walk(40), 3, 0) * 0.8
    found = offsets(lips, sound)
    assert (found.offset, found.distance, found.confidence) == (
        -3,
        pytest.approx(1.038290, abs=1e-5),
        pytest.approx(3.790515, abs=1e-5),
    )


@pytest.mark.parametrize("shapes", [((3, 4), (4, 4)), ((0, 4), (0, 4)), ((4,), (4,))])
def test_embeddings_that_are_not_of_the_same_moments_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="same moments"):
        offsets(np.zeros(shapes[0]), np.zeros(shapes[1]))

"""PSNR and SSIM against scikit-image's."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from musetalk_cli.metrics.likeness import psnr, ssim

RNG = np.random.default_rng(0)
SMOOTH = np.clip(np.add.outer(np.arange(40) * 4, np.arange(53) * 1.5)[..., None] + [0, 20, 40], 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "other",
    [
        np.clip(SMOOTH + RNG.normal(0, 12, SMOOTH.shape), 0, 255).astype(np.uint8),
        RNG.integers(0, 256, SMOOTH.shape, np.uint8),
        (SMOOTH * 0.5).astype(np.uint8),
    ],
    ids=["noisy", "another", "darker"],
)
def test_figures_are_those_of_scikit_image(other: NDArray[np.uint8]) -> None:
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "channel_axis": 2}
    assert psnr(SMOOTH, other) == pytest.approx(peak_signal_noise_ratio(SMOOTH, other), rel=1e-12)
    assert ssim(SMOOTH, other) == pytest.approx(structural_similarity(SMOOTH, other, **gaussian), abs=1e-12)


def test_the_same_picture_is_alike_without_end() -> None:
    assert psnr(SMOOTH, SMOOTH) == math.inf
    assert ssim(SMOOTH, SMOOTH) == pytest.approx(1)


def test_pictures_of_other_sizes_or_depths_or_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        psnr(SMOOTH, SMOOTH[:-1])
    with pytest.raises(ValueError, match="8-bit"):
        ssim(SMOOTH, SMOOTH.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="11 by 11"):
        ssim(SMOOTH[:10], SMOOTH[:10])
